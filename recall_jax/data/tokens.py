"""Words that users searched, as one flat array beside the events."""

from typing import NamedTuple

import numpy as np

from recall_jax import features
from recall_jax.data import interactions, text
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
    events. A column of strings is split into words, lower case; one of integers has a
    token an event. Raises InputError where there is no such column, or nothing in it.
    """
    if name not in log.events:
        raise InputError(
            f"data.tokens: {log.source} has no event column {name!r}; there are: "
            + (", ".join(log.events) or "none")
        )
    bag = interactions.take(_as_bag(log.events[name], name=name), order)
    if not len(bag.values):
        raise InputError(
            f"data.tokens: the event column {name!r} of {log.source} is empty; set "
            "data.tokens to nothing, or to another column"
        )
    codes, distinct = interactions.factorize(bag.values)
    trains = np.repeat(in_train, np.diff(bag.offsets))
    by_frequency, known = features.frequency_order(codes[trains], num=len(distinct))
    vocabulary = features.Vocabulary(distinct[by_frequency], known)
    inner = np.empty(len(distinct), np.int32)
    inner[by_frequency] = np.arange(1, len(distinct) + 1)
    return Tokens(vocabulary.lookup(inner[codes]), bag.offsets, vocabulary)


def _as_bag(column: np.ndarray | Bag, *, name: str) -> Bag:
    if isinstance(column, Bag):
        return column
    if column.dtype.kind not in "USiu":
        raise InputError(
            f"data.tokens: the event column {name!r} holds numbers with fractions; words "
            "or whole numbers are wanted"
        )
    if column.dtype.kind in "iu":
        return Bag(column, np.arange(len(column) + 1))
    distinct, codes = np.unique(column, return_inverse=True)
    words = text.split_words(distinct.tolist())
    starts = np.cumsum([0] + [len(each) for each in words])
    flat = Bag(np.array([word for each in words for word in each], str), starts)
    return interactions.take(flat, codes)
