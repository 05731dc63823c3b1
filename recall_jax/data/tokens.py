"""Words that users searched, as one flat array beside the events."""

from typing import NamedTuple

import numpy as np

from recall_jax import features
from recall_jax.data import interactions
from recall_jax.data.interactions import Bag, Interactions
from recall_jax.types import InputError


class Tokens(NamedTuple):
    """Look-up ids; event e's are ids[offsets[e]:offsets[e + 1]]."""

    ids: np.ndarray  # [total] int32
    offsets: np.ndarray  # [events + 1]
    vocabulary: features.Vocabulary


def make(
    log: Interactions, name: str, *, order: np.ndarray, in_train: np.ndarray
) -> Tokens:
    """The event column `name` of the log in flat order, numbered by how often its tokens
    stand in training events; the others share the unknown row.

    `order` [events] are positions in the log, `in_train` [events] a mask of the flat
    events. A column with one value an event has that for its token, "" for none. Raises
    InputError where there is no such column.
    """
    if name not in log.events:
        raise InputError(
            f"data.tokens: {log.source} has no event column {name!r}; there are: "
            + (", ".join(log.events) or "none")
        )
    bag = log.events[name]
    if not isinstance(bag, Bag):
        some = bag != "" if bag.dtype.kind in "US" else np.ones(len(bag), bool)
        bag = Bag(bag[some], np.append(0, np.cumsum(some)))
    bag = interactions.take(bag, order)
    codes, distinct = interactions.factorize(bag.values)
    trains = np.repeat(in_train, np.diff(bag.offsets))
    by_frequency, known = features.frequency_order(codes[trains], num=len(distinct))
    vocabulary = features.Vocabulary(distinct[by_frequency], known)
    inner = np.empty(len(distinct), np.int32)
    inner[by_frequency] = np.arange(1, len(distinct) + 1)
    return Tokens(vocabulary.lookup(inner[codes]), bag.offsets, vocabulary)
