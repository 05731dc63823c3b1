"""What towers are made of."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from recall_jax.features import Column, Table
from recall_jax.tables import TableParam
from recall_jax.types import Columns, InputError

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
    """Weighted means of a history, one for each named kind.

    "mean" weighs all items alike (Covington et al. 2016). "recency" learns a logit for
    each distance from the end, a softmax over the items that are there.
    """

    KINDS = ("mean", "recency")

    def __init__(self, kinds: Sequence[str], *, length: int):
        for kind in kinds:
            if kind not in self.KINDS:
                raise InputError(
                    f"unknown model.history {kind!r}; there are: "
                    + ", ".join(self.KINDS)
                )
        self.kinds = tuple(kinds)
        # The last column is the most recent: logit 0 there, falling by 1/10 a place.
        decay = jnp.arange(1 - length, 1) / 10
        self.recency = nnx.Param(decay) if "recency" in kinds else None

    def __call__(
        self, x: Float[Array, "b h d"], where: Bool[Array, "b h"]
    ) -> Float[Array, "b n"]:
        weights = []
        for kind in self.kinds:
            logits = 0.0 if kind == "mean" else self.recency[...][None, :]
            logits = jnp.where(where, logits, -jnp.inf)
            top = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
            weight = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0.0))
            total = weight.sum(-1, keepdims=True)
            weights.append(weight / jnp.where(total > 0, total, 1.0))
        pooled = jnp.einsum("bhd,bkh->bkd", x, jnp.stack(weights, 1))
        return pooled.reshape(*pooled.shape[:-2], -1)


def concat_columns(
    columns: Columns, embeddings: nnx.Module, *, reads: Sequence[tuple[Column, str]]
) -> Float[Array, "... n"]:
    """Embedded columns side by side: ids as they are, multi-valued fields as their
    mean, dense features as one number. `reads` pairs a column with its table."""
    parts = []
    for column, table in reads:
        values = columns[column.name]
        if not column.vocabulary:
            parts.append(values[..., None])
        elif column.width:
            parts.append(masked_mean(embeddings[table](values), values != 0))
        else:
            parts.append(embeddings[table](values))
    return jnp.concatenate(parts, axis=-1)
