"""A sequence tower: causal self-attention over the history (Kang and McAuley 2018)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from recall_jax.models import histories, layers, tower
from recall_jax.schema import Schema, Table, tables_of
from recall_jax.types import Columns, InputError, bounded, check_fields, choice


@dataclasses.dataclass
class Config:
    """The history through blocks of self-attention; the item side is a table."""

    every_position: ClassVar[bool] = True
    width: int = bounded(64, 1)
    blocks: int = bounded(2, 0)
    heads: int = bounded(2, 1)
    history_length: int = bounded(200, 0)
    # A table of its own, or that of the items.
    history_table: str = choice("own", ("own", "shared"))
    min_history: int = bounded(1, 0)  # events that must stand before a training example
    dropout: float = bounded(0.2, 0, below=1)
    normalize: str = choice("l2", layers.NORMALIZATIONS)
    init_scale: float = bounded(0.05, above=0)  # deviation of the tables at the start

    def make(
        self, schema: Schema, rngs: nnx.Rngs
    ) -> tuple["Sequence", tuple[Table, ...]]:
        """The model and the tables it reads."""
        check_fields(self, "--config.model")
        if self.min_history < 1 or self.history_length < 2:
            raise InputError(
                "a sequence tower predicts an item from those before it: "
                "model.min_history must be at least 1 and model.history_length at least "
                f"2, not {self.min_history} and {self.history_length}"
            )
        columns = schema.pick(("history",), side="query")
        columns += schema.pick(("item",), side="item")
        plan = tower.reads(self, columns)
        tables = tables_of((column, table, self.width) for column, table in plan)
        return Sequence(self, tables=tables, rngs=rngs), tables


class Sequence(nnx.Module):
    """`query` gives a vector at every position, of what stands up to there: all are
    trained in one pass, the last serves."""

    def __init__(self, config: Config, *, tables, rngs: nnx.Rngs):
        self.tables = layers.embeds(tables, scale=config.init_scale, rngs=rngs)
        self.history_table = tables[0].name
        self.scale = config.init_scale
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.encoder = histories.Transformer(
            width=config.width,
            length=config.history_length,
            blocks=config.blocks,
            heads=config.heads,
            dropout=config.dropout,
            rngs=rngs,
        )
        self.finish = tower.normalization(config.normalize)

    def query(self, batch: Columns) -> Float[Array, "b h d"]:
        """`history` [b, h], and in training `segment` [b, h], whose borders nothing
        crosses; without one, padding is a segment of its own."""
        ids = batch["history"]
        segment = batch.get("segment", (ids != 0).astype(jnp.int32))
        x = self.tables[self.history_table](ids) / self.scale  # of unit variance
        return self.finish(self.encoder(self.dropout(x), segment))

    def item(self, items: Columns) -> Float[Array, "... d"]:
        return self.finish(self.tables["item"](items["item"]))
