"""A factorised Markov chain: the last item says what comes next (Rendle et al. 2010)."""

import dataclasses
from typing import ClassVar

from flax import nnx

from recall_jax.models import layers, tower
from recall_jax.schema import tables_of
from recall_jax.types import bounded, check_fields, choice


@dataclasses.dataclass
class Config:
    every_position: ClassVar[bool] = False
    history_length: int = bounded(1, 0)
    min_history: int = bounded(1, 0)  # events that must stand before a training example
    width: int = bounded(64, 1)
    init_scale: float = bounded(0.05, above=0)  # deviation of the tables at the start
    normalize: str = choice("l2", layers.NORMALIZATIONS)

    def make(self, schema, rngs):
        """The model and the tables it reads."""
        check_fields(self, "--config.model")
        (last,) = schema.pick(("history",), side="query")
        (item,) = schema.pick(("item",), side="item")
        reads = [(last, "history", self.width), (item, "item", self.width)]
        tables = tables_of(reads)
        return Markov(self, tables=tables, rngs=rngs), tables


class Markov(nnx.Module):
    def __init__(self, config, *, tables, rngs):
        self.tables = layers.embeds(tables, scale=config.init_scale, rngs=rngs)
        self.finish = tower.normalization(config.normalize)

    def query(self, batch):
        return self.finish(self.tables["history"](batch["history"][..., -1]))

    def item(self, items):
        return self.finish(self.tables["item"](items["item"]))
