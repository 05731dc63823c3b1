"""Causal self-attention over sequences of items (Vaswani et al. 2017; Kang and McAuley
2018, SASRec)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from recall_jax.types import InputError

EXPANSION = 2  # of a block's feed-forward layer, in widths


class Encoder(nnx.Module):
    """Blocks of causal self-attention and a feed-forward layer, normalised before each
    and after the last. Every position looks at itself and what stands before it in its
    segment."""

    def __init__(
        self,
        *,
        width: int,
        length: int,
        blocks: int,
        heads: int,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        if width % heads:
            raise InputError(
                f"model.heads {heads} does not divide the width {width} of the history; "
                "choose a divisor"
            )
        self.blocks = nnx.List(
            Block(
                width=width,
                length=length,
                heads=heads,
                dropout=dropout,
                rngs=rngs,
            )
            for _ in range(blocks)
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h d"], segment: Int[Array, "b h"]
    ) -> Float[Array, "b h d"]:
        where = visible(segment)
        for block in self.blocks:
            x = block(x, where)
        return self.norm(x)


def visible(segment: Int[Array, "b h"]) -> Bool[Array, "b h h"]:
    """What each position looks at: not what comes after it, nor another segment."""
    at = jnp.arange(segment.shape[1])
    earlier = at[:, None] >= at[None, :]
    return (segment[:, :, None] == segment[:, None, :]) & earlier[None]


class Block(nnx.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)).

    Where a position stands is told by how far back it is: a learned number for each
    distance and head is added to the attention's logits (Shaw et al. 2018; Raffel et al.
    2020), so that a sequence means the same wherever it begins.
    """

    def __init__(self, *, width, length, heads, dropout, rngs):
        self.heads, self.length = heads, length
        self.norms = nnx.List(nnx.LayerNorm(width, rngs=rngs) for _ in range(2))
        self.parts = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((heads, length)))
        self.wide = nnx.Linear(width, EXPANSION * width, rngs=rngs)
        self.narrow = nnx.Linear(EXPANSION * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h d"], where: Bool[Array, "b h h"]
    ) -> Float[Array, "b h d"]:
        x = x + self.dropout(self.attend(self.norms[0](x), where))
        hidden = jax.nn.gelu(self.wide(self.norms[1](x)))
        return x + self.dropout(self.narrow(hidden))

    def attend(
        self, x: Float[Array, "b h d"], where: Bool[Array, "b h h"]
    ) -> Float[Array, "b h d"]:
        """Softmax-weighted means of the values that each position sees."""
        b, h, d = x.shape
        parts = self.parts(x).reshape(b, h, 3, self.heads, d // self.heads)
        query, key, value = (parts[:, :, j].transpose(0, 2, 1, 3) for j in range(3))
        logits = query @ key.transpose(0, 1, 3, 2) / (d // self.heads) ** 0.5
        at = jnp.arange(h)
        distance = jnp.clip(at[:, None] - at[None, :], 0, self.length - 1)
        logits = logits + self.bias[...][None, :, distance]
        logits = jnp.where(where[:, None], logits, -jnp.inf)  # itself is always there
        mixed = jax.nn.softmax(logits, axis=-1) @ value
        return self.out(mixed.transpose(0, 2, 1, 3).reshape(b, h, d))


class Last(nnx.Module):
    """What one block says at the last position that is there; zero where none is."""

    def __init__(self, width: int, *, length: int, rngs: nnx.Rngs):
        self.encoder = Encoder(
            width=width,
            length=length,
            blocks=1,
            heads=1,
            dropout=0.0,
            rngs=rngs,
        )

    def __call__(
        self, x: Float[Array, "b h d"], where: Bool[Array, "b h"]
    ) -> Float[Array, "b d"]:
        h = x.shape[1]
        out = self.encoder(x, where.astype(jnp.int32))
        at = jnp.max(jnp.where(where, jnp.arange(h)[None, :], 0), axis=-1)
        last = jnp.take_along_axis(out, at[:, None, None], axis=1)[:, 0]
        return jnp.where(where.any(-1, keepdims=True), last, 0.0)
