"""MF: a vector a user, a vector an item, their inner product (Koren et al. 2009)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from recall_jax.models import layers, tower
from recall_jax.schema import Schema, Table, tables_of
from recall_jax.types import Columns, bounded, check_fields, choice

BIASES = ("none", "item", "both")


@dataclasses.dataclass
class Config:
    """`normalize` l2 scores by the cosine, none by the inner product. A bias is one
    number more in its row; the user's leaves his ranking as it is and serves losses that
    compare scores with labels."""

    every_position: ClassVar[bool] = False
    width: int = bounded(64, 1)
    normalize: str = choice("l2", layers.NORMALIZATIONS)
    biases: str = choice("none", BIASES)  # both: and the mean of all
    init_scale: float = bounded(0.05, above=0)  # deviation of the tables at the start
    history_length: int = bounded(0, 0)
    min_history: int = bounded(0, 0)  # events that must stand before a training example

    def make(self, schema: Schema, rngs: nnx.Rngs) -> tuple["MF", tuple[Table, ...]]:
        """The model and the tables it reads."""
        check_fields(self, "--config.model")
        user = schema.pick(("user",), side="query")[0]
        item = schema.pick(("item",), side="item")[0]
        tables = tables_of(
            [
                (user, "user", self.width + (self.biases == "both")),
                (item, "item", self.width + (self.biases != "none")),
            ]
        )
        return MF(self, tables=tables, rngs=rngs), tables


class MF(nnx.Module):
    """With biases the vectors are [u ; 1 ; b_u + mean] and [v ; b_i ; 1], so that their
    inner product is the whole score and an index can serve it."""

    def __init__(self, config: Config, *, tables, rngs: nnx.Rngs):
        self.tables = layers.embeds(tables, scale=config.init_scale, rngs=rngs)
        self.mean = nnx.Param(jnp.zeros(())) if config.biases == "both" else None
        self.width, self.biases = config.width, config.biases
        self.finish = tower.normalization(config.normalize)

    def query(self, batch: Columns) -> Float[Array, "... d"]:
        row = self.tables["user"](batch["user"])
        vector, one = self._vector(row), jnp.ones_like(row[..., :1])
        if self.biases == "none":
            return vector
        if self.biases == "item":
            return jnp.concatenate([vector, one], axis=-1)
        bias = row[..., self.width :] + self.mean[...]
        return jnp.concatenate([vector, one, bias], axis=-1)

    def item(self, items: Columns) -> Float[Array, "... d"]:
        row = self.tables["item"](items["item"])
        if self.biases == "none":
            return self._vector(row)
        parts = [self._vector(row), row[..., self.width :]]
        parts += [jnp.ones_like(row[..., :1])] if self.biases == "both" else []
        return jnp.concatenate(parts, axis=-1)

    def _vector(self, row: Float[Array, "... n"]) -> Float[Array, "... d"]:
        return self.finish(row[..., : self.width])
