"""A log of who met what and when, its filters, and its splits into parts."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recall_jax.types import InputError


class Bag(NamedTuple):
    """A multi-valued column: row r holds values[offsets[r]:offsets[r + 1]]."""

    values: np.ndarray  # [total] raw values, strings or integers
    offsets: np.ndarray  # [rows + 1] int64


@dataclasses.dataclass(frozen=True)
class Entities:
    """Users or items: raw ids with feature columns aligned.

    A column is a `Bag`, a float array (a dense feature) or an array of strings or
    integers (a categorical one). `text` is for people to read and for text encoders.
    """

    id: np.ndarray  # [m] raw ids, unique; strings or integers
    columns: dict[str, np.ndarray | Bag] = dataclasses.field(default_factory=dict)
    text: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.id)


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Events in file order. `user` and `item` are codes: positions in `users.id` and
    `items.id`. Every array of `events` is aligned with them."""

    user: np.ndarray  # [n] int32
    item: np.ndarray  # [n] int32
    users: Entities
    items: Entities
    time: np.ndarray | None = None  # [n] int64, seconds
    weight: np.ndarray | None = None  # [n] float32
    events: dict[str, np.ndarray | Bag] = dataclasses.field(default_factory=dict)
    source: str = ""  # where it came from, for people

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: np.ndarray) -> "Interactions":
        """The events at `rows` (a mask or positions), entities unchanged."""
        return dataclasses.replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            time=None if self.time is None else self.time[rows],
            weight=None if self.weight is None else self.weight[rows],
            events={name: take(column, rows) for name, column in self.events.items()},
        )


def take(column: np.ndarray | Bag, rows: np.ndarray) -> np.ndarray | Bag:
    """Rows of a column, single- or multi-valued."""
    if not isinstance(column, Bag):
        return column[rows]
    starts, stops = column.offsets[:-1][rows], column.offsets[1:][rows]
    lengths = stops - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Bag(column.values[index], offsets)


def factorize(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 [n] and the distinct raw values in order of first appearance."""
    distinct, first, codes = np.unique(raw, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[codes], distinct[order]
