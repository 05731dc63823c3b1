"""FM recall: a factorisation machine split into two towers without losing a term
(Rendle 2010).

With x the feature values of a user (s) and an item (t), w their weights, v their vectors,

    FM(x) = sum_t w_t x_t + sum over pairs (v_a . v_b) x_a x_b + terms of the user alone

and the pairs are those between the sides, (sum_s x_s v_s) . (sum_t x_t v_t), and those
within the item, 1/2 sum_d [(sum_t x_t v_td)^2 - sum_t (x_t v_td)^2]. So the score is the
inner product of

    query = [1 ; sum_s x_s v_s]    item = [weights and pairs of the item ; sum_t x_t v_t]

What is the user's alone cannot change his ranking and is left out.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from recall_jax.models import layers, tower
from recall_jax.schema import Column, Schema, Table, tables_of
from recall_jax.types import Columns, bounded, check_fields


@dataclasses.dataclass
class Config:
    """A vector of `width` for every feature of both sides. Scores are not cosines: train
    them at loss.temperature 1 or so."""

    every_position: ClassVar[bool] = False
    query: tuple[str, ...] = ()  # query columns; () takes features and the history
    item: tuple[str, ...] = ()  # item columns; () takes all features
    width: int = bounded(64, 1)
    history_length: int = bounded(50, 0)
    min_history: int = bounded(1, 0)  # events that must stand before a training example
    init_scale: float = bounded(0.05, above=0)  # deviation of the tables at the start

    def make(self, schema: Schema, rngs: nnx.Rngs) -> tuple["FM", tuple[Table, ...]]:
        """The model and the tables it reads: an item feature's row is [v ; w]."""
        check_fields(self, "--config.model")
        query = tower.columns_of(self.query, schema=schema, side="query")
        item = tower.columns_of(self.item, schema=schema, side="item")
        # An item in a history is another feature than the item itself.
        own = {"history": "history"}
        tables = tables_of(
            (column, own.get(column.name, column.vocabulary), self.width + extra)
            for columns, extra in ((query, 0), (item, 1))
            for column in columns
            if column.has_ids
        )
        return FM(self, query=query, item=item, tables=tables, rngs=rngs), tables


class FM(nnx.Module):
    """A categorical feature has value 1, each of the m values of a multi-valued field
    1/m, a dense feature its own."""

    def __init__(self, config: Config, *, query, item, tables, rngs: nnx.Rngs):
        self.tables = layers.embeds(tables, scale=config.init_scale, rngs=rngs)
        arguments = {"scale": config.init_scale, "rngs": rngs}
        self.query_terms = Terms(query, tables, width=config.width, **arguments)
        self.item_terms = Terms(item, tables, width=config.width + 1, **arguments)

    def query(self, batch: Columns) -> Float[Array, "... d"]:
        total, _ = self.query_terms(batch, self.tables)
        return jnp.concatenate([jnp.ones_like(total[..., :1]), total], axis=-1)

    def item(self, items: Columns) -> Float[Array, "... d"]:
        total, squares = self.item_terms(items, self.tables)
        vector, linear = total[..., :-1], total[..., -1]
        pairs = (vector**2 - squares[..., :-1]).sum(-1) / 2
        return jnp.concatenate([(linear + pairs)[..., None], vector], axis=-1)


class Terms(nnx.Module):
    """sum_t x_t v_t and sum_t (x_t v_t)^2 over the features of a side."""

    def __init__(
        self,
        columns: Sequence[Column],
        tables: Sequence[Table],
        *,
        width: int,
        scale: float,
        rngs: nnx.Rngs,
    ):
        self.columns = tuple(columns)
        self.table_of = {name: table.name for table in tables for name in table.reads}
        dense = [column.name for column in columns if not column.has_ids]
        self.dense = nnx.Dict(
            {
                name: nnx.Param(scale * jax.random.normal(rngs.params(), (width,)))
                for name in dense
            }
        )

    def __call__(self, columns: Columns, tables: nnx.Dict):
        total = squares = 0.0
        for column in self.columns:
            values = columns[column.name]
            if not column.has_ids:
                vector = self.dense[column.name][...]
                terms = jnp.einsum("...,d->...d", values, vector)[..., None, :]
            else:
                terms = tables[self.table_of[column.name]](values)
                if not column.width:
                    terms = terms[..., None, :]
                else:
                    number = jnp.maximum((values != 0).sum(-1), 1)
                    terms = terms / number[..., None, None]
            total = total + terms.sum(-2)
            squares = squares + (terms**2).sum(-2)
        return total, squares
