"""Item2Vec: skip-gram or CBOW over the items of a user (Barkan and Koenigstein 2016)."""

import dataclasses

from flax import nnx
from jaxtyping import Array, Bool, Float

from recall_jax.models import itemwise, layers, tower
from recall_jax.schema import Schema, Table, tables_of
from recall_jax.types import Columns, check_fields


@dataclasses.dataclass
class Config(itemwise.Config):
    """What `itemwise.Config` has; pairs.order=set is the paper's."""

    def make(
        self, schema: Schema, rngs: nnx.Rngs
    ) -> tuple["Item2Vec", tuple[Table, ...]]:
        """The model and the tables it reads."""
        check_fields(self, "--config.model")
        item = itemwise.item_column(schema)
        tables = (
            *tables_of([(item, "item", self.width)]),
            itemwise.own_table("context", item, width=self.width),
        )
        return Item2Vec(self, tables=tables, rngs=rngs), tables


class Item2Vec(nnx.Module):
    """Items never trained on have no vector: theirs is zero."""

    def __init__(self, config: Config, *, tables, rngs: nnx.Rngs):
        self.tables = layers.embeds(tables, scale=config.init_scale, rngs=rngs)
        self.finish = tower.normalization(config.normalize)
        self.recency = config.recency

    def item(self, items: Columns) -> Float[Array, "... d"]:
        return self.tables["item"](items["item"])

    def context(self, items: Columns) -> Float[Array, "... d"]:
        return self.tables["context"](items["context"])

    def item_vector(self, items: Columns) -> Float[Array, "... d"]:
        return self.finish(self.item(items))

    def user_vector(
        self, vectors: Float[Array, "b h d"], where: Bool[Array, "b h"]
    ) -> Float[Array, "b d"]:
        return itemwise.user_vector(vectors, where, recency=self.recency)
