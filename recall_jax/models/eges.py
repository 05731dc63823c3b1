"""BGE, GES, EGES: an item as the weighted mean of its id's and its side information's
embeddings, trained by skip-gram on walks over the graph of sessions (Wang et al. 2018)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from recall_jax.models import itemwise, layers, tower
from recall_jax.models.itemwise import PairsConfig
from recall_jax.schema import Column, Schema, Table, tables_of
from recall_jax.types import Columns, InputError, check_fields, choice

KINDS = ("eges", "ges", "bge")
OWN_TABLES = ("context", "weights")


@dataclasses.dataclass
class Config(itemwise.Config):
    """`side` names categorical item columns, several values too; () takes all of them."""

    kind: str = choice("eges", KINDS)  # "ges": equal weights; "bge": the id alone
    side: tuple[str, ...] = ()
    pairs: PairsConfig = dataclasses.field(
        default_factory=lambda: PairsConfig(corpus="walks", block=10)
    )

    def make(self, schema: Schema, rngs: nnx.Rngs) -> tuple["EGES", tuple[Table, ...]]:
        """The model and the tables it reads."""
        check_fields(self, "--config.model")
        item, side = itemwise.item_column(schema), self._side(schema)
        tables = tables_of((c, c.vocabulary, self.width) for c in (item, *side))
        tables += (itemwise.own_table("context", item, width=self.width),)
        if self.kind == "eges":
            tables += (itemwise.own_table("weights", item, width=1 + len(side)),)
        return EGES(self, side=side, tables=tables, rngs=rngs), tables

    def _side(self, schema: Schema) -> tuple[Column, ...]:
        every = tuple(
            column.name
            for column in schema.item
            if column.kind == "feature" and column.has_ids and column.name != "item"
        )
        side = schema.pick(self.side or every, side="item")
        for column in side:
            if column.name in OWN_TABLES and self.kind != "bge":
                raise InputError(
                    f"model.side {column.name!r} has the name of a table of the model's "
                    "own; rename the column, or leave it out: model.side lists those to "
                    "take"
                )
            if not column.has_ids or column.name == "item":
                raise InputError(
                    f"model.side {column.name!r} is not categorical; cut a number into "
                    "buckets, and leave the item's id out"
                )
        return () if self.kind == "bge" else side


class EGES(nnx.Module):
    """H_i = sum_j exp(a_ij) W_ij / sum_j exp(a_ij), over the id and the side information
    that the item has; a is a table [V, F + 1] that starts at 0, where EGES is GES.

    A field without a value, or with one never trained on, is left out. In use, an item
    without training events has no id vector and no weights: it is the mean of its side
    information, and zero without any.
    """

    def __init__(self, config: Config, *, side, tables, rngs: nnx.Rngs):
        embeds = {
            table.name: layers.Embed(
                table, scale=config.init_scale * (table.name != "weights"), rngs=rngs
            )
            for table in tables
        }
        self.tables = nnx.Dict(embeds)
        self.side = tuple((column.name, column.vocabulary) for column in side)
        self.unknown = {table.name: table.rows - 1 for table in tables}
        self.weighs = config.kind == "eges"
        self.finish = tower.normalization(config.normalize)
        self.recency = config.recency

    def item(self, items: Columns) -> Float[Array, "... d"]:
        return self._pool(items, trained=items["item"] > 0)

    def context(self, items: Columns) -> Float[Array, "... d"]:
        return self.tables["context"](items["context"])

    def item_vector(self, items: Columns) -> Float[Array, "... d"]:
        trained = (items["item"] > 0) & (items["item"] < self.unknown["item"])
        # Values that only new items have were never trained on.
        seen = {
            name: jnp.where(items[name] < self.unknown[table], items[name], 0)
            for name, table in self.side
        }
        return self.finish(self._pool(items | seen, trained=trained))

    def user_vector(
        self, vectors: Float[Array, "b h d"], where: Bool[Array, "b h"]
    ) -> Float[Array, "b d"]:
        return itemwise.user_vector(vectors, where, recency=self.recency)

    def _pool(
        self, items: Columns, *, trained: Bool[Array, "..."]
    ) -> Float[Array, "... d"]:
        ids = items["item"]
        vectors, where = [self.tables["item"](ids)], [trained]
        for name, table in self.side:
            value, vector = items[name], self.tables[table](items[name])
            present = value > 0
            if value.ndim > ids.ndim:
                vector = layers.masked_mean(vector, present)
                present = present.any(axis=-1)
            vectors.append(vector)
            where.append(present)
        where = jnp.stack(where, axis=-1)
        logits = jnp.zeros(where.shape)
        if self.weighs:
            logits = self.tables["weights"](items.get("weights", ids))
            logits = jnp.where(trained[..., None], logits, 0.0)
        return attention_pool(jnp.stack(vectors, axis=-2), logits, where=where)


def attention_pool(
    vectors: Float[Array, "... f d"],
    logits: Float[Array, "... f"],
    *,
    where: Bool[Array, "... f"] | None = None,
) -> Float[Array, "... d"]:
    """sum_j exp(a_j) v_j / sum_j exp(a_j) over the fields of `where`; zero without any
    (Wang et al. 2018, EGES).

    >>> import jax.numpy as jnp
    >>> attention_pool(jnp.array([[2.0], [4.0]]), jnp.zeros(2))
    Array([3.], dtype=float32)
    """
    where = jnp.ones(logits.shape, bool) if where is None else where
    logits = jnp.where(where, logits, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weight = jnp.where(where, jnp.exp(logits - jnp.where(top > -jnp.inf, top, 0)), 0)
    total = jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-12)
    return jnp.einsum("...fd,...f->...d", vectors, weight / total)
