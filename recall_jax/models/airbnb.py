"""Airbnb's listing embeddings: skip-gram over click sessions that learn from what was
booked, and from negatives of the same market (Grbovic and Cheng 2018).

The loss is in `pairs.corpus` and `pairs.skipgram`; the tables are Item2Vec's.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from recall_jax.data.prepared import Data
from recall_jax.models import item2vec, itemwise
from recall_jax.models.itemwise import PairsConfig
from recall_jax.schema import Column, Schema, Table
from recall_jax.types import InputError

NEAREST = 3  # items whose mean an item without training events takes


@dataclasses.dataclass
class Config(item2vec.Config):
    """The paper's sessions and windows. Any log with actions serves: name the column of
    its markets in pairs.market (without one, no negatives are of the same market) and
    what was booked in pairs.sequences.conversions.

    The `cold_*` fields name item columns of `with_cold_start`; without cold_market,
    items that had no training events keep the zero vector.
    """

    pairs: PairsConfig = dataclasses.field(
        default_factory=lambda: PairsConfig(
            window=5,
            global_context=1.0,
            sequences=itemwise.SequencesConfig(
                cut="conversion", gap=1800, conversions=("buy",), oversample=5
            ),
        )
    )
    cold_market: str = ""
    cold_type: str = ""
    cold_price: str = ""  # buckets
    cold_distance: str = ""  # dense, nearest by |difference|; "": the most popular

    def make(
        self, schema: Schema, rngs: nnx.Rngs
    ) -> tuple[item2vec.Item2Vec, tuple[Table, ...]]:
        """The model and the tables it reads."""
        check_cold_start(self, schema)
        return super().make(schema, rngs)

    def complete(self, vectors: Float[Array, "V d"], data: Data):
        """Vectors of the whole catalogue as they are served (`encode.Towers`)."""
        return with_cold_start(vectors, data, self)


def check_cold_start(config: Config, schema: Schema) -> None:
    """Raise InputError for columns that say nothing about which items are alike."""
    names = ("cold_market", "cold_type", "cold_price", "cold_distance")
    for name in names[1:]:
        if getattr(config, name) and not config.cold_market:
            raise InputError(
                f"model.{name} is of the items of a market; name the column of markets "
                "in model.cold_market"
            )
    for name in filter(lambda name: getattr(config, name), names):
        column = schema.pick((getattr(config, name),), side="item")[0]
        wanted = "dense" if name == "cold_distance" else "categorical"
        if column.width or column.name == "item" or _kind(column) != wanted:
            raise InputError(
                f"model.{name} {column.name!r} must be a {wanted} item column with one "
                "value an item"
            )


def _kind(column: Column) -> str:
    return "categorical" if column.has_ids else "dense"


def with_cold_start(
    vectors: Float[Array, "V d"], data: Data, config: Config
) -> Float[Array, "V d"]:
    """Vectors of catalogue ids 1..V in which each item without training events has the
    mean of its three nearest trained items, of its market, type and price bucket.

    Where fewer than three agree in all of these the price bucket is given up, then the
    type; a market of fewer has the mean of what it holds, or zero. The mean is not
    normalised again, so that such an item scores the mean of what its neighbours score:
    at their length it would stand before them in most lists. A distance that the log
    lacks stands at the column's mean.
    """
    cold = data.popularity[1:] == 0
    if not config.cold_market or not cold.any():
        return vectors
    filled, left = np.array(vectors), np.flatnonzero(cold)
    filled[cold] = 0.0
    popular = np.argsort(-data.popularity[1:], kind="stable")[: np.count_nonzero(~cold)]
    columns = {name: np.asarray(x)[1:] for name, x in data.dataset.item_columns.items()}
    alike = _alike(config)
    for names in alike:
        key = _groups([columns[name] for name in names])
        size = np.bincount(key[popular], minlength=len(key))[key[left]]
        served = size >= (1 if names == alike[-1] else NEAREST)
        for group in np.unique(key[left[served]]):
            rows = left[served & (key[left] == group)]
            near = _nearest(
                popular[key[popular] == group],
                rows,
                distance=columns.get(config.cold_distance),
            )
            filled[rows] = filled[near].mean(axis=1)
        left = left[~served]
    return jnp.asarray(filled)


def _alike(config: Config) -> list[list[str]]:
    """Columns that must agree, from the most of them to the market alone."""
    names = [config.cold_market, config.cold_type, config.cold_price]
    every = [list(filter(None, names[:stop])) for stop in (3, 2, 1)]
    return [x for j, x in enumerate(every) if x not in every[:j]]


def _groups(columns: list[np.ndarray]) -> np.ndarray:
    """A number for each combination of values, below the number of rows."""
    rows = np.stack(columns, axis=1)
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel()


def _nearest(
    trained: np.ndarray, rows: np.ndarray, *, distance: np.ndarray | None
) -> np.ndarray:
    """[rows, 3 or what there is] of `trained`, which come the most popular first."""
    if distance is None:
        return np.tile(trained[:NEAREST], (len(rows), 1))
    apart = (np.abs(distance[trained] - distance[row]) for row in rows)
    return np.stack([trained[np.argsort(x, kind="stable")[:NEAREST]] for x in apart])
