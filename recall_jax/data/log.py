"""Logs in memory: who met what and when, what is known of users and items; which events
are positive, and how a log is filtered."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recall_jax.types import InputError, bounded, choice


class Bag(NamedTuple):
    """A multi-valued column: row r holds values[offsets[r]:offsets[r + 1]]."""

    values: np.ndarray  # [total] raw values, strings or integers
    offsets: np.ndarray  # [rows + 1] int64


@dataclasses.dataclass(frozen=True)
class Entities:
    """Users or items: raw ids with feature columns aligned.

    A column is a `Bag`, a float array (a dense feature, NaN missing) or an array of strings or
    integers (a categorical one). `text` is for people to read and for text encoders:
    strings, best of dtype object, which take no more memory than they are long.
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
    nanoseconds: np.ndarray | None = None  # [n] int32, beside those; None: all 0
    weight: np.ndarray | None = None  # [n] float32
    events: dict[str, np.ndarray | Bag] = dataclasses.field(default_factory=dict)
    source: str = ""  # where it came from, for people
    shown: "Interactions | None" = None  # exposures passed over: same users and items
    report: tuple[str, ...] = ()  # lines for people on how it was read

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: np.ndarray) -> "Interactions":
        """The events at `rows` (a mask or positions), entities unchanged."""
        return dataclasses.replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            time=None if self.time is None else self.time[rows],
            nanoseconds=None if self.nanoseconds is None else self.nanoseconds[rows],
            weight=None if self.weight is None else self.weight[rows],
            events={name: take(column, rows) for name, column in self.events.items()},
        )

    def reported(self, *lines: str) -> "Interactions":
        """The same with more lines for people."""
        return dataclasses.replace(self, report=(*self.report, *lines))


def take(column: np.ndarray | Bag, rows: np.ndarray) -> np.ndarray | Bag:
    """Rows of a column, single- or multi-valued."""
    if not isinstance(column, Bag):
        return column[rows]
    starts, stops = column.offsets[:-1][rows], column.offsets[1:][rows]
    offsets = np.concatenate([[0], np.cumsum(stops - starts)])
    return Bag(column.values[ranges(starts, stops)], offsets)


def ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """All integers of starts[j]:stops[j], one range after the other.

    >>> ranges(np.array([3, 7]), np.array([5, 8])).tolist()
    [3, 4, 7]
    """
    lengths = stops - starts
    ends = np.cumsum(lengths)
    shift = np.repeat(starts - (ends - lengths), lengths)
    return np.arange(len(shift)) + shift


def order_by(*keys: np.ndarray) -> np.ndarray:
    """Positions of rows sorted by columns of integers that int64 holds, by the first
    column first; equal rows as they stand.

    >>> order_by(np.array([2, 1, 2, 1]), np.array([5, 9, 3, 9])).tolist()
    [1, 3, 2, 0]
    """
    # One number a row, where its bits suffice, sorts in a third of lexsort's time.
    packed, free = np.zeros(len(keys[0]), np.uint64), 64
    for key in keys if len(packed) else ():
        numbers = key.astype(np.int64)
        numbers = (numbers - numbers.min()).view(np.uint64)
        while (bits := int(numbers.max()).bit_length()) > free:
            if (numbers % np.uint64(1000)).any():
                return np.lexsort(keys[::-1])
            numbers //= np.uint64(1000)  # nanoseconds may be whole seconds: order stays
        free -= bits
        packed <<= np.uint64(bits)
        packed |= numbers
    return np.argsort(packed, kind="stable")


def factorize(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 [n] and the distinct raw values in order of first appearance."""
    distinct, first, codes = np.unique(raw, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[codes], distinct[order]


def min_count_filter(log: Interactions, *, users: int, items: int) -> Interactions:
    """Drop users with fewer than `users` events and items with fewer than `items`,
    again and again until all that is left has enough (the k-core of the log)."""
    while True:
        user_count = np.bincount(log.user, minlength=len(log.users))
        item_count = np.bincount(log.item, minlength=len(log.items))
        keep = (user_count[log.user] >= users) & (item_count[log.item] >= items)
        if keep.all():
            return log
        log = log.select(keep)


PROTOCOLS = ("leave_one_out", "temporal", "file_order", "given")
TIES = ("file", "shuffled", "both")
CONTEXTS = ("past", "around")
"""What the history of a training example holds: what came before it, as in use; or what
stands around it, a random hold-out whose leak an ablation shows."""


@dataclasses.dataclass(kw_only=True)
class Config:
    """How a log is filtered and split. Each source's Config adds its own fields."""

    protocol: str = choice("leave_one_out", PROTOCOLS)  # "given": two parts
    # Order of events at one time, or "both" in two runs.
    ties: str = choice("file", TIES)
    ties_seed: int = bounded(0, 0)
    min_user_events: int = bounded(0, 0)  # k-core; 0 keeps everybody
    min_item_events: int = bounded(0, 0)
    valid_share: float = bounded(
        0.1, 0, below=1
    )  # of all events (temporal), of a user's training (given)
    valid_seed: int = bounded(0, 0)  # which of them, for protocol "given"
    test_share: float = bounded(
        0.1, 0, below=1
    )  # of all events, for protocol "temporal"
    label: str = ""  # event column of labels; exposures then train too, label 0
    hidden_share: float = bounded(
        0.0, 0, below=1
    )  # of items kept from training (leave_one_out)
    hidden_seed: int = bounded(0, 0)
    # How many of them train, drawn once by examples_seed; 0: all.
    examples_per_user: int = bounded(0, 0)
    examples_seed: int = bounded(0, 0)
    context: str = choice("past", CONTEXTS)  # of an example's history
    tokens: str = ""  # event column of searched words
    tokens_length: int = bounded(20, 1)  # of the last of them
    # Rows that letter trigrams share; 0 leaves texts out.
    text_buckets: int = bounded(16384, 0)


LARGEST_WEIGHT = 1e-25, 1e25
"""Between which the largest weight must be: float32 then holds the sum of a batch's
weights and losses, of which the ratios alone matter."""


def filter_positives(
    log: Interactions,
    *,
    actions: Sequence[str | int] = (),
    min_rating: float | None = None,
    min_weight: float | None = None,
    min_dwell: float | None = None,
) -> Interactions:
    """The events that pass every filter given; entities stay.

    Reads the event columns `action`, `rating` and `dwell`, and the log's weight. A
    missing (NaN) rating or dwell time fails its filter. Whoever wants the rest, such
    as exposures for hard negatives, takes it from `log` itself.
    """
    keep = np.ones(len(log), bool)
    if actions:
        keep &= is_one_of(event_column(log, "action"), values=actions)
    bounds = {"rating": min_rating, "weight": min_weight, "dwell": min_dwell}
    for name, least in bounds.items():
        if least is not None:
            keep &= event_column(log, name) >= least
    if not keep.any():
        limits = {name: least for name, least in bounds.items() if least is not None}
        raise InputError(
            f"none of the {len(log):,} events has an action in {list(actions)} and at "
            f"least {limits}; lower a bound or name other actions"
        )
    return log if keep.all() else log.select(keep)


def set_apart(
    log: Interactions, *, exposures: Sequence[str | int]
) -> tuple[Interactions, Interactions | None]:
    """The log without the exposures, which are events of these actions, and those; None
    where there are no such actions. Neither has entities of its own."""
    if not exposures:
        return log, None
    shown = is_one_of(event_column(log, "action"), values=exposures)
    if shown.all():
        raise InputError(
            f"data.exposures {list(exposures)} are the actions of all {len(log):,} events; "
            "leave out those that are positive"
        )
    return log.select(~shown), log.select(shown)


def labels(log: Interactions, name: str) -> np.ndarray:
    """Float32 labels of the events of a column."""
    column = log.events.get(name)
    if not isinstance(column, np.ndarray) or column.dtype.kind not in "iuf":
        arrays = {n: c for n, c in log.events.items() if isinstance(c, np.ndarray)}
        numbers = [n for n, c in arrays.items() if c.dtype.kind in "iuf"]
        raise InputError(
            f"data.label {name!r} is no column of numbers among the events of "
            f"{log.source}; there are: {', '.join(numbers) or 'none'}"
        )
    if not np.isfinite(column).all():
        raise InputError(f"data.label {name!r}: some events have no label")
    if log.weight is not None:
        raise InputError("data.label and data.weight exclude each other; drop one")
    if log.shown is not None and log.time is None:
        raise InputError(
            "data.label makes exposures examples, which needs times to tell them from "
            "later ones; name the column in data.time, or drop data.exposures"
        )
    return column.astype(np.float32)


def check_weights(low: float, high: float, *, column: str, source: str) -> None:
    """Raise InputError where weights of training examples, which run from `low` to
    `high`, cannot weigh anything; `column` is what they are called, if they are."""
    named = f"data.weight={column}" if column else "the weights"
    subject = f"{source}: {named} of the training examples"
    if low == high == 0:
        raise InputError(
            f"{subject} are all 0, so there is nothing to train on; leave the weights out, "
            "or bring others"
        )
    least, most = LARGEST_WEIGHT
    if not (low >= 0 and least <= high <= most):  # NaN too
        raise InputError(
            f"{subject} run from {low:g} to {high:g}; they must be at least 0, and the "
            f"largest {least:g} to {most:g}, or sums of a batch are lost to rounding. "
            "Only their ratios matter: scale the column"
        )


def event_column(log: Interactions, name: str) -> np.ndarray:
    column = log.weight if name == "weight" else log.events.get(name)
    if not isinstance(column, np.ndarray):
        field = "actions or data.exposures" if name == "action" else f"min_{name}"
        names = ["weight"] * (log.weight is not None) + sorted(log.events)
        raise InputError(
            f"data.{field} needs a {name!r} column of events; the log from "
            f"{log.source or 'nowhere named'} has {', '.join(names) or 'none'}. In "
            f"Parquet or CSV, --config.data.{name}=COLUMN names it"
        )
    return column


def is_one_of(column: np.ndarray, *, values: Sequence[str | int]) -> np.ndarray:
    """Mask of rows; a value that no row has raises, for it is most often a typo."""
    masks = [column == as_kind(value, column=column) for value in values]
    for value, mask in zip(values, masks):
        if not mask.any():
            names = ", ".join(str(name) for name in np.unique(column)[:20])
            raise InputError(f"no event has the action {value!r}; there are {names}")
    return np.logical_or.reduce(masks)


def as_kind(value: str | int, *, column: np.ndarray) -> np.generic | None:
    """'4' as 4 where the column holds integers, 4 as '4' where it holds strings."""
    try:
        return column.dtype.type(value)
    except (ValueError, OverflowError):
        return None


def check_usable(log: Interactions, *, min_events: int = 3) -> None:
    """Raises where leave-one-out has nothing to do: it needs users with an event each
    to train, validate and test on, and others to compare them with."""
    counts = np.bincount(log.user)
    if (counts > 0).sum() < 2:
        raise InputError(
            f"all {len(log):,} events of {log.source or 'the log'} are one user's: is "
            "the user column the right one?"
        )
    if counts.max() < min_events:
        raise InputError(
            f"no user of {log.source or 'the log'} has {min_events} events (the most "
            f"is {counts.max()}): leave-one-out needs one each to train, validate and "
            "test; loosen the filters or use another protocol"
        )
