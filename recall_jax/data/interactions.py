"""A log of who met what and when, its filters, and its splits into parts."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Split:
    """A log sorted by user, then time, and where each user's parts begin.

    `ordered` says whether a user's events stand in an order that means something.
    `first[u]` is where u's training examples begin, if not at his start: what stands
    before it is history, and counts as training events.

    User u's events are start[u]:start[u + 1]: training up to valid[u], validation up
    to test[u], test from there on. Whatever stands before a target may be its history.
    """

    log: Interactions
    start: np.ndarray  # [U + 1] int64
    valid: np.ndarray  # [U] int64
    test: np.ndarray  # [U] int64
    protocol: str  # one line for people: what was held out, how ties were broken
    ordered: bool = True
    first: np.ndarray | None = None  # [U] int64
    keeps_seen: bool = False  # lists keep what a user had, whatever the log repeats
    hidden: np.ndarray | None = None  # mask of items that are ranked but never train


def leave_one_out(
    log: Interactions,
    *,
    ties: str,
    seed: int,
    hidden: "Hidden | None" = None,
) -> Split:
    """The last event of a user tests, the last but one validates, the rest trains.

    Users with fewer than three events only train. `ties` says what decides between
    events of one user at the same time: "file", their order in the file, or
    "shuffled", a random order from `seed`. Items that are `hidden` keep their test events
    alone, so that nothing but their features can find them.
    """
    log, start, tied = _sorted(log, ties=ties, seed=seed)
    if hidden is not None:
        log, start = _without(log, start, hidden=hidden.items)
    stop, long = start[1:], np.diff(start) >= 3
    if not long.any():
        field = "min_item_events" if hidden is None else "hidden_share"
        raise InputError(
            "no user has three events, and leave_one_out needs one to train, one to "
            f"validate, one to test; lower --config.data.{field} or bring a longer log"
        )
    told = {"file": "ties in file order", "shuffled": f"ties shuffled by seed {seed}"}
    how = f"{told[ties]} ({tied:.0%} of test items share their time with the event before)"
    if log.time is None:
        how = "without times, in file order"
    if hidden is not None:
        if not hidden.items[log.item[stop[long] - 1]].any():
            raise InputError(
                "no test item is among those that data.hidden_share hides; raise it, or "
                "set another data.hidden_seed"
            )
        how += f"; {hidden.items.sum():,} items hidden from training, by seed {hidden.seed}"
    return Split(
        log,
        start,
        valid=np.where(long, stop - 2, stop),
        test=np.where(long, stop - 1, stop),
        protocol=f"leave_one_out, {how}",
        hidden=None if hidden is None else hidden.items,
    )


def temporal(
    log: Interactions, *, ties: str, seed: int, valid_share: float, test_share: float
) -> Split:
    """One global cut in time: the last `test_share` of all events test, the
    `valid_share` before them validates. Each user's events after a cut are his
    targets, together, and his history ends at the cut."""
    if log.time is None:
        raise InputError(
            "protocol temporal needs a time column; name it with --config.data.time"
        )
    if not (0 < valid_share and 0 < test_share and valid_share + test_share < 1):
        raise InputError(
            f"data.valid_share {valid_share} and data.test_share {test_share} must be "
            "positive and leave something to train on"
        )
    log, start, _ = _sorted(log, ties=ties, seed=seed)
    shares = [1 - test_share - valid_share, 1 - test_share]
    cuts = np.quantile(log.time, shares, method="higher")
    user_of = np.repeat(np.arange(len(start) - 1), np.diff(start))
    counts = [
        np.bincount(user_of[log.time < cut], minlength=len(start) - 1) for cut in cuts
    ]
    told = ", ".join(str(np.datetime64(int(cut), "s")) for cut in cuts)
    return Split(
        log,
        start,
        valid=start[:-1] + counts[0],
        test=start[:-1] + counts[1],
        protocol=f"temporal, cut at {told}",
    )


def given(log: Interactions, *, valid_share: float, seed: int) -> Split:
    """Train and test as published (event column "part", 1 test), a part of each user's
    training events cut off at random to validate by: `valid_share` of them, at least
    one where he has three. A share of 0 cuts nothing and trains on all.

    Neither part has an order, so a user's history is a set.
    """
    if "part" not in log.events:
        raise InputError(
            f"protocol given needs train and test files as published, and {log.source} "
            "is one log; choose leave_one_out or temporal with --config.data.protocol"
        )
    if not 0 <= valid_share < 1:
        raise InputError(
            f"data.valid_share is {valid_share}; it must be at least 0 and below 1"
        )
    part = log.events["part"]
    if part.dtype.kind not in "iub" or not np.isin(part, (0, 1)).all():
        raise InputError(
            f'{log.source}: the column "part" must hold 0 (train), 1 (test)'
        )
    train, test_rows = np.flatnonzero(part == 0), np.flatnonzero(part)
    train = np.random.default_rng([seed, len(train)]).permutation(train)
    order = np.concatenate([train, test_rows])
    order = order[np.argsort(log.user[order], kind="stable")]
    num_users = len(log.users)
    start = np.concatenate([[0], np.cumsum(np.bincount(log.user, minlength=num_users))])
    length = np.bincount(log.user[train], minlength=num_users)
    test = start[:-1] + length
    cut = np.maximum(np.round(valid_share * length).astype(np.int64), length >= 3)
    cut = np.minimum(cut, np.maximum(length - 1, 0)) * bool(valid_share)
    told = f"{valid_share:.0%} of each user's training events, by seed {seed}, validate"
    return Split(
        dataclasses.replace(log.select(order), time=None, nanoseconds=None),
        start,
        valid=test - cut,
        test=test,
        protocol="given, train and test as published; "
        + (told if valid_share else "all of train trains"),
        ordered=False,
    )


def _without(
    log: Interactions, start: np.ndarray, *, hidden: np.ndarray
) -> tuple[Interactions, np.ndarray]:
    """The sorted log without hidden items, but for the last event of users who have
    two others, and so test on it."""
    kept = ~hidden[log.item]
    others = np.bincount(log.user, weights=kept, minlength=len(start) - 1)
    last = start[1:][np.diff(start) > 0] - 1
    kept[last[others[log.user[last]] >= 2]] = True
    count = np.bincount(log.user[kept], minlength=len(start) - 1)
    return log.select(kept), np.concatenate([[0], np.cumsum(count)])


class Hidden(NamedTuple):
    """Items that are kept from training."""

    items: np.ndarray  # [items] bool
    seed: int  # that drew them


def _check_hidden(config: "Config") -> None:
    share = config.hidden_share
    if not 0 <= share < 1:
        raise InputError(
            f"data.hidden_share is {share}; it must be at least 0 and below 1"
        )
    if share and config.protocol != "leave_one_out":
        raise InputError(
            "data.hidden_share hides items under protocol leave_one_out, not under "
            f"{config.protocol}; set it to 0"
        )


def _hidden(log: Interactions, *, config: "Config") -> Hidden:
    """Drawn among the items that occur."""
    there = np.unique(log.item)
    rng = np.random.default_rng([config.hidden_seed, len(there)])
    items = np.zeros(len(log.items), bool)
    number = round(config.hidden_share * len(there))
    items[rng.choice(there, number, replace=False)] = True
    return Hidden(items, config.hidden_seed)


def _sorted(
    log: Interactions, *, ties: str, seed: int
) -> tuple[Interactions, np.ndarray, float]:
    """The log by user, then time, where users begin, and how many last events tie."""
    if ties not in ("file", "shuffled"):
        raise InputError(
            f'data.ties must be "file", "shuffled" or "both", not {ties!r}'
        )
    time = np.zeros(len(log), np.int8) if log.time is None else log.time
    position = np.arange(len(log))
    if ties == "shuffled":
        if log.time is None:
            raise InputError(
                "data.ties=shuffled needs times: without a time column the order in "
                "the file is all the order there is"
            )
        position = np.random.default_rng([seed, len(log)]).permutation(position)
    parts = (time,) if log.nanoseconds is None else (log.nanoseconds, time)
    order = np.lexsort((position, *parts, log.user))
    log = log.select(order)
    count = np.bincount(log.user, minlength=len(log.users))
    start = np.concatenate([[0], np.cumsum(count)])
    last = start[1:][count >= 2] - 1
    if log.time is None or not len(last):
        return log, start, 0.0
    tied = log.time[last] == log.time[last - 1]
    if log.nanoseconds is not None:
        tied &= log.nanoseconds[last] == log.nanoseconds[last - 1]
    return log, start, float(np.mean(tied))


@dataclasses.dataclass(kw_only=True)
class Config:
    """How a log is filtered and split. Each source's Config adds its own fields."""

    protocol: str = "leave_one_out"  # "temporal", "file_order"; "given" for two parts
    ties: str = "file"  # events at one time: "file" order, "shuffled", or "both" runs
    ties_seed: int = 0
    min_user_events: int = 0  # k-core; 0 keeps everybody
    min_item_events: int = 0
    valid_share: float = 0.1  # of all events (temporal), of a user's training (given)
    valid_seed: int = 0  # which of them, for protocol "given"
    test_share: float = 0.1  # of all events, for protocol "temporal"
    label: str = ""  # event column of labels; exposures then train too, label 0
    hidden_share: float = 0.0  # of items kept from training (leave_one_out)
    hidden_seed: int = 0
    examples_per_user: int = 0  # that train, drawn once by examples_seed; 0: all
    examples_seed: int = 0
    context: str = "past"  # of an example's history; arrays.CONTEXTS
    tokens: str = ""  # event column of searched words
    tokens_length: int = 20  # of the last of them
    text_buckets: int = 16384  # rows that letter trigrams share; 0 leaves texts out


def split(log: Interactions, *, config: Config) -> Split:
    """Filter and split a log as its config says."""
    if not len(log):
        raise InputError(f"{log.source}: no events are left after the filters")
    _check_hidden(config)
    if config.protocol == "file_order":
        from recall_jax.data import file_order  # which is made of this module

        return file_order.split(log, config=config)
    if config.protocol == "given" and config.min_user_events + config.min_item_events:
        raise InputError(
            "data.min_user_events and data.min_item_events would change test files that "
            "are published; set them to 0 under protocol given"
        )
    number = len(log)
    log = min_count_filter(
        log, users=config.min_user_events, items=config.min_item_events
    )
    if len(log) < number:
        bounds = f"{config.min_user_events} a user, {config.min_item_events} an item"
        gone = f"{number - len(log):,} of {number:,} events"
        log = log.reported(
            f"dropped    {gone}, of users or items with fewer than {bounds}"
        )
    if not len(log):
        raise InputError(
            f"{log.source}: nothing is left with min_user_events="
            f"{config.min_user_events} and min_item_events={config.min_item_events}; "
            "lower them"
        )
    if config.protocol == "leave_one_out":
        return leave_one_out(
            log,
            ties=config.ties,
            seed=config.ties_seed,
            hidden=_hidden(log, config=config) if config.hidden_share else None,
        )
    if config.protocol == "temporal":
        return temporal(
            log,
            ties=config.ties,
            seed=config.ties_seed,
            valid_share=config.valid_share,
            test_share=config.test_share,
        )
    if config.protocol == "given":
        if config.ties != "file":
            raise InputError(
                f"data.ties={config.ties} is of events in one second, and protocol given "
                "has no times; set data.ties=file"
            )
        return given(log, valid_share=config.valid_share, seed=config.valid_seed)
    raise InputError(
        f"unknown data.protocol {config.protocol!r}; there are: leave_one_out, temporal, "
        "file_order, given"
    )
