"""What towers are made of."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from recall_jax.models import histories
from recall_jax.schema import Table
from recall_jax.tables import layout
from recall_jax.tables.rows import TableParam
from recall_jax.types import unknown

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
}


class Activation(nnx.Module):
    """The activation of that name; prelu (He et al. 2015) learns a slope a unit for what
    is below 0, from 0.25."""

    NAMES = *ACTIVATIONS, "prelu"

    def __init__(self, name: str, *, width: int):
        if name not in self.NAMES:
            raise unknown("--config.model.activation", name, self.NAMES)
        self.name = name
        self.slope = nnx.Param(jnp.full(width, 0.25)) if name == "prelu" else None

    def __call__(self, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        if self.slope is None:
            return ACTIVATIONS[self.name](x)
        below = jnp.einsum("...n,n->...n", jnp.minimum(x, 0), self.slope[...])
        return jnp.maximum(x, 0) + below


def _unchanged(x: Array) -> Array:
    return x


NORMS = ("none", "batch", "layer")
NORMALIZATIONS = ("l2", "none")  # of vectors


def make_norm(name: str, *, width: int, rngs: nnx.Rngs) -> Callable[[Array], Array]:
    """ "none"; "batch" (Ioffe and Szegedy 2015), by the batch in training and by running
    statistics in use; "layer" (Ba et al. 2016)."""
    if name not in NORMS:
        raise unknown("--config.model.norm", name, NORMS)
    kinds = {
        "none": lambda: _unchanged,
        "batch": lambda: nnx.BatchNorm(width, momentum=0.9, rngs=rngs),
        "layer": lambda: nnx.LayerNorm(width, rngs=rngs),
    }
    return kinds[name]()


def l2_normalize(x: Float[Array, "... d"], *, eps: float = 1e-8) -> Array:
    """x / max(|x|, sqrt(eps)): a zero vector stays zero, its gradient at most 1e4."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), eps))


class Embed(nnx.Module):
    """A table of vectors read by ids, stored as `tables.layout` has it; in training the rows
    that a batch touches, [r, d], in its place.

    Row 0 is padding, the last is the unknown row; both start at zero, where what was
    never trained says nothing instead of something random.
    """

    def __init__(self, table: Table, *, scale: float, rngs: nnx.Rngs):
        def block(key, ids):
            values = scale * jax.random.normal(key, (len(ids), table.width))
            trains = (ids > 0) & (ids < table.rows - 1)
            return jnp.where(trains[:, None], values, 0)

        rows = -(-table.rows // layout.SHARDS)
        values = layout.made_by_block(
            block, rngs.params(), rows=rows, width=table.width
        )
        self.table = TableParam(values)

    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... d"]:
        return layout.look_up(self.table[...], ids)


def embeds(tables: Sequence[Table], *, scale: float, rngs: nnx.Rngs) -> nnx.Module:
    """A model's tables by name, where training finds them: `model.tables`."""
    return nnx.Dict(
        {table.name: Embed(table, scale=scale, rngs=rngs) for table in tables}
    )


class MLP(nnx.Module):
    """Linear layers; after each but the last normalisation, activation, dropout."""

    def __init__(
        self,
        widths: Sequence[int],
        *,
        activation: str,
        norm: str,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        self.layers = nnx.List(
            nnx.Linear(n, m, rngs=rngs) for n, m in itertools.pairwise(widths)
        )
        hidden = widths[1:-1]
        self.norms = nnx.List(make_norm(norm, width=n, rngs=rngs) for n in hidden)
        self.activations = nnx.List(Activation(activation, width=n) for n in hidden)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        *hidden, last = self.layers
        for layer, norm, activation in zip(
            hidden, self.norms, self.activations, strict=True
        ):
            x = self.dropout(activation(norm(layer(x))))
        return last(x)


class DropWhole(nnx.Module):
    """In training, now and then no vector at all, and the others as they are: zero is what
    an unknown id reads in use."""

    def __init__(self, rate: float, *, rngs: nnx.Rngs):
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        kept = self.dropout(jnp.ones_like(x[..., :1])) > 0
        return jnp.where(kept, x, 0)


class Gates(nnx.Module):
    """A weight from 0 to 2 for each field, told by all of them together: squeeze and
    excitation over feature fields (Hu et al. 2018; Huang et al. 2019, FiBiNET).

    weight = 2 sigma(W2 relu(W1 z)), z the means of the fields' vectors; W2 starts at zero,
    where every field counts as it is.
    """

    def __init__(self, num_fields: int, *, rngs: nnx.Rngs):
        hidden = max(2, num_fields // 2)
        zeros = nnx.initializers.zeros_init()
        self.squeeze = nnx.Linear(num_fields, hidden, rngs=rngs)
        self.excite = nnx.Linear(hidden, num_fields, kernel_init=zeros, rngs=rngs)

    def __call__(self, fields: Sequence[Float[Array, "... _"]]) -> list[Array]:
        means = jnp.stack([field.mean(-1) for field in fields], axis=-1)
        logits = self.excite(jax.nn.relu(self.squeeze(means)))
        weights = 2 * jax.nn.sigmoid(logits)
        return [
            field * weights[..., j : j + 1].astype(field.dtype)
            for j, field in enumerate(fields)
        ]


def masked_mean(x: Float[Array, "... m d"], where: Bool[Array, "... m"]) -> Array:
    """Mean over m of the unmasked; zero where all are masked."""
    weight = where / jnp.maximum(where.sum(-1, keepdims=True), 1)
    return jnp.einsum("...md,...m->...d", x, weight.astype(x.dtype))


class HistoryPool(nnx.Module):
    """A history by each of the named kinds, side by side.

    "mean" weighs all items alike (Covington et al. 2016). "recency" learns a logit for
    each distance from the end, a softmax over the items that are there. The others are
    `histories.ENCODERS` and "self_attention", the last position of one causal block
    (`histories.Transformer`); their vectors stand behind the two means.
    """

    MEANS = ("mean", "recency")
    KINDS = (*MEANS, *histories.ENCODERS, "self_attention")

    def __init__(
        self, kinds: Sequence[str], *, length: int, width: int, rngs: nnx.Rngs
    ):
        for kind in kinds:
            if kind not in self.KINDS:
                raise unknown("--config.model.history", kind, self.KINDS)
        self.means = tuple(kind for kind in kinds if kind in self.MEANS)
        # The last column is the most recent: logit 0 there, falling by 1/10 a place.
        decay = jnp.arange(1 - length, 1) / 10
        self.recency = nnx.Param(decay) if "recency" in kinds else None
        make = histories.ENCODERS | {
            "self_attention": functools.partial(histories.LastPosition, length=length)
        }
        self.encoders = nnx.List(
            make[kind](width, rngs=rngs) for kind in kinds if kind in make
        )

    def __call__(
        self, x: Float[Array, "b h d"], where: Bool[Array, "b h"]
    ) -> Float[Array, "b n"]:
        parts = [encoder(x, where) for encoder in self.encoders]
        if self.means:
            parts = [self._weighted(x, where), *parts]
        return jnp.concatenate(parts, axis=-1)

    def _weighted(self, x: Array, where: Array) -> Float[Array, "b n"]:
        """The means, by one product for all of them."""
        logits = {"mean": jnp.zeros((1, x.shape[-2]))}
        if self.recency is not None:
            logits["recency"] = self.recency[...][None, :]
        weights = [histories.masked_softmax(logits[kind], where) for kind in self.means]
        learned = tuple(kind == "recency" for kind in self.means)
        pooled = _weighted_sums(learned, x, jnp.stack(weights, 1))
        return pooled.reshape(*pooled.shape[:-2], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_sums(
    learned: tuple[bool, ...], x: Float[Array, "b h d"], weights: Float[Array, "b k h"]
) -> Float[Array, "b k d"]:
    """Sums of x by each row of weights; only weights that are learned have a gradient.

    On a CPU the gradients that JAX would derive are products of many small matrices; not
    to make them saves a sixth of a two-tower model's step (BUILD_NOTES.md, record 21).
    """
    return jnp.einsum("bhd,bkh->bkd", x, weights)


def _weighted_forward(learned, x, weights):
    return _weighted_sums(learned, x, weights), (x, weights)


def _weighted_backward(learned, kept, gradient):
    x, weights = kept
    rows = [gradient[:, k] for k in range(len(learned))]
    of_x = sum(weights[:, k, :, None] * row[:, None] for k, row in enumerate(rows))
    of_weights = [
        jnp.einsum("bhd,bd->bh", x, row)
        if is_learned
        else jnp.zeros_like(weights[:, 0])
        for row, is_learned in zip(rows, learned, strict=True)
    ]
    return of_x.astype(x.dtype), jnp.stack(of_weights, 1).astype(weights.dtype)


_weighted_sums.defvjp(_weighted_forward, _weighted_backward)
