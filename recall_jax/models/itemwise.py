"""What the item-to-item models share: they train on pairs of items, and a user is the
mean of the items he met."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from recall_jax.features import Column, Schema, Table
from recall_jax.pairs import PairsConfig
from recall_jax.types import InputError


@dataclasses.dataclass
class Config:
    """Width, how pairs are made (`pairs`), and how a user's vector is."""

    every_position: ClassVar[bool] = False
    min_history: ClassVar[int] = 0
    width: int = 64
    init_scale: float = 0.05  # standard deviation of the tables at the start
    normalize: str = "l2"  # of item vectors in use; or "none"
    history_length: int = 50  # items whose mean is a user's vector
    recency: float = 0.0  # items back at which one counts half; 0: all count alike
    pairs: PairsConfig = dataclasses.field(default_factory=PairsConfig)


def check(config: Config) -> None:
    """Raise InputError for what means nothing."""
    if config.history_length < 1 or config.recency < 0:
        raise InputError(
            f"model.history_length {config.history_length} must be at least 1 and "
            f"model.recency {config.recency:g} at least 0: a user is the mean of his "
            "history"
        )


def item_column(schema: Schema) -> Column:
    return schema.pick(("item",), side="item")[0]


def table(name: str, column: Column, *, width: int) -> Table:
    """A table beside that of the item's id, which reads the ids under its own name."""
    return Table(name, column.rows, width, (name,))


def user_vector(
    vectors: Float[Array, "... h d"], where: Bool[Array, "... h"], *, recency: float
) -> Float[Array, "... d"]:
    """The mean of a history, the most recent last; with a recency, item j from the end
    weighs 2^(-j / recency). Zero where there is none."""
    weight = where.astype(vectors.dtype)
    if recency:
        ago = jnp.arange(where.shape[-1] - 1, -1, -1, dtype=vectors.dtype)
        weight *= jnp.broadcast_to(jnp.exp2(-ago / recency), weight.shape)
    total = jnp.maximum(weight.sum(axis=-1), 1e-12)[..., None]
    return jnp.einsum("...hd,...h->...d", vectors, weight) / total
