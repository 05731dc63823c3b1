"""What the two-tower models share: the user tower and how columns become tables."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from recall_jax.models import histories, layers
from recall_jax.schema import Column, Schema, Table, tables_of
from recall_jax.types import Columns, bounded, check_fields, choice


@dataclasses.dataclass
class Config:
    """A user tower: pooled history and profile through an MLP."""

    every_position: ClassVar[bool] = False
    query: tuple[str, ...] = ()  # query columns; () takes features and the history
    history: tuple[str, ...] = choice(
        ("mean", "recency"), layers.HistoryPool.KINDS, filled=True
    )
    text: str = choice("mean", ("mean", *histories.ENCODERS))  # of letter trigrams
    history_length: int = bounded(50, 0)
    # A table of its own, or that of the items.
    history_table: str = choice("own", ("own", "shared"))
    min_history: int = bounded(1, 0)  # events that must stand before a training example
    id_width: int = bounded(64, 1)  # of user, item and history embeddings
    feature_width: int = bounded(16, 1)  # of all other embeddings
    hidden: tuple[int, ...] = bounded((128,), 1)
    width: int = bounded(64, 1)  # d, of the vectors
    activation: str = choice("relu", layers.Activation.NAMES)
    norm: str = choice("none", layers.NORMS)  # of hidden layers
    dropout: float = bounded(0.0, 0, below=1)
    gates: str = choice("none", ("none", "senet"))  # a learned weight a field
    normalize: str = choice("l2", layers.NORMALIZATIONS)
    init_scale: float = bounded(0.05, above=0)  # deviation of the tables at the start


Plan = tuple[tuple[Column, str], ...]  # a column and the table it reads


def columns_of(
    names: Sequence[str], *, schema: Schema, side: str
) -> tuple[Column, ...]:
    """The named columns of a side; without names its features and the history."""
    every = tuple(
        column.name
        for column in getattr(schema, side)
        if column.kind == "feature" or column.name == "history"
    )
    return schema.pick(tuple(names) or every, side=side)


def reads(config: Config, columns: Sequence[Column]) -> Plan:
    """Which table each column reads: its vocabulary's, the history perhaps its own."""
    own = {"history": "history"} if config.history_table == "own" else {}
    return tuple((c, own.get(c.name, c.vocabulary)) for c in columns)


def column_width(config: Config, column: Column) -> int:
    """Of a column's embedding; a dense feature is one number."""
    if not column.has_ids:
        return 1
    ids = column.vocabulary in ("user", "item")
    return config.id_width if ids else config.feature_width


def tables_for(
    config: Config, columns: Sequence[Column], *, widths: dict[str, int] | None = None
) -> tuple[Table, ...]:
    """The tables of a model; `widths` overrides the config's by column name."""
    widths = widths or {}
    return tables_of(
        (column, table, widths.get(column.name, column_width(config, column)))
        for column, table in reads(config, columns)
        if column.has_ids
    )


def pool(config: Config, column: Column, *, rngs: nnx.Rngs) -> nnx.Module | None:
    """What makes one vector of a column's values; None where their mean does."""
    width = column_width(config, column)
    if column.name == "history":
        return layers.HistoryPool(
            config.history, length=column.width, width=width, rngs=rngs
        )
    if column.kind != "text" or config.text == "mean":
        return None
    return histories.ENCODERS[config.text](width, rngs=rngs)


def mlp(config: Config, widths: Sequence[int], *, rngs: nnx.Rngs) -> layers.MLP:
    """An MLP with the config's activation, normalisation and dropout."""
    return layers.MLP(
        widths,
        activation=config.activation,
        norm=config.norm,
        dropout=config.dropout,
        rngs=rngs,
    )


def normalization(name: str) -> Callable[[Array], Array]:
    """ "l2" or "none"."""
    return {"l2": layers.l2_normalize, "none": lambda x: x}[name]


class Fields(nnx.Module):
    """Columns as vectors: ids embedded, of several values one vector by `pool` or their
    mean, a dense feature as one number; with config.gates each weighed by all of them.
    `widths` are those of the parts."""

    def __init__(
        self,
        config: Config,
        columns: Sequence[Column],
        *,
        id_dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        check_fields(config, "--config.model")
        gated = config.gates == "senet"
        self.gates = layers.Gates(len(columns), rngs=rngs) if gated else None
        self.plan = reads(config, columns)
        dropped = layers.DropWhole(id_dropout, rngs=rngs) if id_dropout else None
        self.id_dropout = dropped
        self.pools = nnx.List(pool(config, column, rngs=rngs) for column in columns)
        self.widths = tuple(
            column_width(config, column)
            * (len(config.history) if column.name == "history" else 1)
            for column in columns
        )

    def parts(self, batch: Columns, tables: nnx.Dict) -> list[Float[Array, "... n"]]:
        """The vectors, one for each column, in the order in which they were given."""
        parts = []
        for (column, table), encode in zip(self.plan, self.pools, strict=True):
            values = batch[column.name]
            if not column.has_ids:
                parts.append(values[..., None])
                continue
            vectors = tables[table](values)
            if column.width:
                vectors = (encode or layers.masked_mean)(vectors, values != 0)
            if self.id_dropout is not None and column.name == "item":
                vectors = self.id_dropout(vectors)
            parts.append(vectors)
        return parts if self.gates is None else self.gates(parts)

    def __call__(self, batch: Columns, tables: nnx.Dict) -> Float[Array, "... n"]:
        """The vectors side by side."""
        return jnp.concatenate(self.parts(batch, tables), axis=-1)


class QueryTower(nnx.Module):
    """The columns of the query side, the history before the profile, and an MLP."""

    def __init__(self, config: Config, columns: Sequence[Column], *, rngs: nnx.Rngs):
        ordered = sorted(columns, key=lambda column: column.name != "history")
        self.fields = Fields(config, ordered, rngs=rngs)
        widths = (sum(self.fields.widths), *config.hidden, config.width)
        self.mlp = mlp(config, widths, rngs=rngs)

    def __call__(self, batch: Columns, tables: nnx.Dict) -> Float[Array, "b d"]:
        return self.mlp(self.fields(batch, tables))
