"""What towers are made of."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from recall_jax import encoders
from recall_jax.features import Table
from recall_jax.tables import TableParam
from recall_jax.types import InputError

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
}


def activation(name: str) -> Callable[[Array], Array]:
    """The activation of that name."""
    if name not in ACTIVATIONS:
        raise InputError(
            f"unknown activation {name!r}; there are: " + ", ".join(ACTIVATIONS)
        )
    return ACTIVATIONS[name]


def l2_normalize(x: Float[Array, "... d"], *, eps: float = 1e-8) -> Array:
    """x / max(|x|, sqrt(eps)): a zero vector stays zero, its gradient at most 1e4."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), eps))


class Embed(nnx.Module):
    """A table of vectors read by ids.

    Row 0 is padding, the last is the unknown row; both start at zero, where what was
    never trained says nothing instead of something random.
    """

    def __init__(self, table: Table, *, scale: float, rngs: nnx.Rngs):
        rows = scale * jax.random.normal(rngs.params(), (table.rows, table.width))
        self.table = TableParam(rows.at[jnp.array([0, -1])].set(0))

    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... d"]:
        # Ids are checked when the data set is laid out, so the gather need not be.
        return self.table[...].at[ids].get(mode="promise_in_bounds")


def embeds(tables: Sequence[Table], *, scale: float, rngs: nnx.Rngs) -> nnx.Module:
    """A model's tables by name, where training finds them: `model.tables`."""
    return nnx.Dict(
        {table.name: Embed(table, scale=scale, rngs=rngs) for table in tables}
    )


class MLP(nnx.Module):
    """Linear layers with an activation and dropout after each but the last."""

    def __init__(
        self,
        widths: Sequence[int],
        *,
        activation: Callable[[Array], Array],
        dropout: float,
        rngs: nnx.Rngs,
    ):
        self.layers = nnx.List(
            nnx.Linear(n, m, rngs=rngs) for n, m in itertools.pairwise(widths)
        )
        self.activation = activation
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        for layer in self.layers[:-1]:
            x = self.dropout(self.activation(layer(x)))
        return self.layers[-1](x)


def masked_mean(x: Float[Array, "... m d"], where: Bool[Array, "... m"]) -> Array:
    """Mean over m of the unmasked; zero where all are masked."""
    weight = where / jnp.maximum(where.sum(-1, keepdims=True), 1)
    return jnp.einsum("...md,...m->...d", x, weight.astype(x.dtype))


class HistoryPool(nnx.Module):
    """A history by each of the named kinds, side by side.

    "mean" weighs all items alike (Covington et al. 2016). "recency" learns a logit for
    each distance from the end, a softmax over the items that are there. The others are
    `encoders.ENCODERS`; their vectors stand behind the two means.
    """

    MEANS = ("mean", "recency")
    KINDS = (*MEANS, *encoders.ENCODERS)

    def __init__(
        self, kinds: Sequence[str], *, length: int, width: int, rngs: nnx.Rngs
    ):
        for kind in kinds:
            if kind not in self.KINDS:
                raise InputError(
                    f"unknown model.history {kind!r}; there are: "
                    + ", ".join(self.KINDS)
                )
        self.means = tuple(kind for kind in kinds if kind in self.MEANS)
        # The last column is the most recent: logit 0 there, falling by 1/10 a place.
        decay = jnp.arange(1 - length, 1) / 10
        self.recency = nnx.Param(decay) if "recency" in kinds else None
        self.encoders = nnx.List(
            encoders.ENCODERS[kind](width, rngs=rngs)
            for kind in kinds
            if kind in encoders.ENCODERS
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
        weights = [encoders.masked_softmax(logits[kind], where) for kind in self.means]
        pooled = jnp.einsum("bhd,bkh->bkd", x, jnp.stack(weights, 1))
        return pooled.reshape(*pooled.shape[:-2], -1)
