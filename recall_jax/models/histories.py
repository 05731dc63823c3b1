"""What a history says: means, recurrent and convolutional encoders, attention."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from recall_jax.types import InputError


def masked_softmax(
    logits: Float[Array, "*#b m"], where: Bool[Array, "*b m"]
) -> Float[Array, "*b m"]:
    """Softmax over the unmasked of m; zeros where all are masked."""
    logits = jnp.where(where, logits, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    weight = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0.0))
    total = weight.sum(-1, keepdims=True)
    return weight / jnp.where(total > 0, total, 1.0)


class AttentionPool(nnx.Module):
    """The mean of x weighed by softmax(q . tanh(W x + b)), the query q learned
    (Yang et al. 2016, Hierarchical attention networks)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(width, width, rngs=rngs)
        self.query = nnx.Linear(width, 1, use_bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*b m d"], where: Bool[Array, "*b m"]
    ) -> Float[Array, "*b d"]:
        logits = self.query(jnp.tanh(self.hidden(x)))[..., 0]
        return jnp.einsum("...md,...m->...d", x, masked_softmax(logits, where))


class GRU(nnx.Module):
    """The last state of a gated recurrent unit (Cho et al. 2014), from a zero state:

        z, r = sigmoid(W x + U h + b), c = tanh(W x + b + r * (U h)),
        h = z * h + (1 - z) * c, each with a W, U and b of its own.

    The reset gate r is applied behind the product with U, so that one product serves
    all three. Masked steps leave the state as it is, wherever they stand.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.inputs = nnx.Linear(width, 3 * width, rngs=rngs)
        self.states = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*b m d"], where: Bool[Array, "*b m"]
    ) -> Float[Array, "*b d"]:
        kernel = self.states.kernel[...]

        def step(h, at):
            inputs, present = at
            keep, reset, new = jnp.split(inputs, 3, axis=-1)
            keep_h, reset_h, new_h = jnp.split(h @ kernel, 3, axis=-1)
            keep = jax.nn.sigmoid(keep + keep_h)
            new = jnp.tanh(new + jax.nn.sigmoid(reset + reset_h) * new_h)
            return jnp.where(present, keep * h + (1 - keep) * new, h), None

        inputs = jnp.moveaxis(self.inputs(x), -2, 0)
        mask = jnp.moveaxis(where, -1, 0)[..., None]
        start = jnp.zeros((*x.shape[:-2], x.shape[-1]), inputs.dtype)
        return jax.lax.scan(step, start, (inputs, mask))[0]


class CNN(nnx.Module):
    """tanh(W [x before, x, x after] + b) at each position, of that the largest value in
    each coordinate (CDSSM, Shen et al. 2014).

    Beyond the ends, and at masked positions between them, a window sees zeros.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.window = nnx.Linear(3 * width, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*b m d"], where: Bool[Array, "*b m"]
    ) -> Float[Array, "*b d"]:
        where = where[..., None]
        x = jnp.where(where, x, 0)
        beyond = jnp.zeros_like(x[..., :1, :])
        before = jnp.concatenate([beyond, x[..., :-1, :]], axis=-2)
        after = jnp.concatenate([x[..., 1:, :], beyond], axis=-2)
        seen = jnp.tanh(self.window(jnp.concatenate([before, x, after], axis=-1)))
        # No tanh is below -1, so a masked position is never the largest.
        largest = jnp.where(where, seen, -2).max(axis=-2)
        return jnp.where(where.any(axis=-2), largest, 0)


ENCODERS: dict[str, Callable[..., nnx.Module]] = {
    "attention": AttentionPool,
    "gru": GRU,
    "cnn": CNN,
}

EXPANSION = 2  # of a block's feed-forward layer, in widths


class Transformer(nnx.Module):
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
            TransformerBlock(
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


class TransformerBlock(nnx.Module):
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


class LastPosition(nnx.Module):
    """What one block says at the last position that is there; zero where none is."""

    def __init__(self, width: int, *, length: int, rngs: nnx.Rngs):
        self.encoder = Transformer(
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
