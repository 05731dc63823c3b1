"""DSSM: a tower a side over all of its features (Huang et al. 2013; Yi et al. 2019)."""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float

from recall_jax.models import layers, tower
from recall_jax.schema import Schema, Table
from recall_jax.types import Columns, InputError, bounded


@dataclasses.dataclass
class Config(tower.Config):
    """What `tower.Config` has, and an item side of the same kind.

    With `id_dropout` the other features learn to do without the id, as they must for an
    item that was never trained on (Volkovs et al. 2017, DropoutNet).
    """

    item: tuple[str, ...] = ()  # item columns; () takes all features
    item_hidden: tuple[int, ...] = bounded((128,), 1)
    # Chance that training takes an item for a new one.
    id_dropout: float = bounded(0.0, 0, below=1)

    def make(self, schema: Schema, rngs: nnx.Rngs) -> tuple["DSSM", tuple[Table, ...]]:
        """The model and the tables it reads."""
        query = tower.columns_of(self.query, schema=schema, side="query")
        item = tower.columns_of(self.item, schema=schema, side="item")
        if self.id_dropout and "item" not in [column.name for column in item]:
            raise InputError(
                'model.id_dropout drops the id that model.item reads, and "item" is not '
                f"among {', '.join(self.item)}; set it to 0"
            )
        reads = tower.tables_for(self, query + item)
        return DSSM(self, query=query, item=item, tables=reads, rngs=rngs), reads


class DSSM(nnx.Module):
    """Both towers end in the same width, L2-normalised unless the config says not."""

    def __init__(self, config: Config, *, query, item, tables, rngs: nnx.Rngs):
        self.tables = layers.embeds(tables, scale=config.init_scale, rngs=rngs)
        self.query_tower = tower.QueryTower(config, query, rngs=rngs)
        self.item_fields = tower.Fields(
            config, item, id_dropout=config.id_dropout, rngs=rngs
        )
        widths = (sum(self.item_fields.widths), *config.item_hidden, config.width)
        self.item_mlp = tower.mlp(config, widths, rngs=rngs)
        self.finish = tower.normalization(config.normalize)

    def query(self, batch: Columns) -> Float[Array, "... d"]:
        return self.finish(self.query_tower(batch, self.tables))

    def item(self, items: Columns) -> Float[Array, "... d"]:
        return self.finish(self.item_mlp(self.item_fields(items, self.tables)))
