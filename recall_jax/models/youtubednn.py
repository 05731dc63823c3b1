"""YoutubeDNN: a user tower over watches and profile, one table of items
(Covington et al. 2016)."""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float

from recall_jax.models import layers, tower
from recall_jax.schema import Schema, Table
from recall_jax.types import Columns


@dataclasses.dataclass
class Config(tower.Config):
    """What `tower.Config` has; the item side is a table of the output's width."""

    def make(
        self, schema: Schema, rngs: nnx.Rngs
    ) -> tuple["YoutubeDNN", tuple[Table, ...]]:
        """The model and the tables it reads."""
        query = tower.columns_of(self.query, schema=schema, side="query")
        item = schema.pick(("item",), side="item")
        reads = tower.tables_for(self, query + item, widths={"item": self.width})
        return YoutubeDNN(self, query=query, tables=reads, rngs=rngs), reads


class YoutubeDNN(nnx.Module):
    """The item vector is its row, L2-normalised unless the config says not."""

    def __init__(self, config: Config, *, query, tables, rngs: nnx.Rngs):
        self.tables = layers.embeds(tables, scale=config.init_scale, rngs=rngs)
        self.query_tower = tower.QueryTower(config, query, rngs=rngs)
        self.finish = tower.normalization(config.normalize)

    def query(self, batch: Columns) -> Float[Array, "... d"]:
        return self.finish(self.query_tower(batch, self.tables))

    def item(self, items: Columns) -> Float[Array, "... d"]:
        return self.finish(self.tables["item"](items["item"]))
