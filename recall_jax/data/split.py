"""Protocols: which events of a log train, validate and test."""

import dataclasses
from typing import NamedTuple

import numpy as np

from recall_jax.data import log as log_lib
from recall_jax.data.log import Config, Interactions
from recall_jax.types import InputError, unknown


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
    tie_texts = {
        "file": "ties in file order",
        "shuffled": f"ties shuffled by seed {seed}",
    }
    how = f"{tie_texts[ties]} ({tied:.0%} of test items share their time with the event before)"
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
    times = ", ".join(str(np.datetime64(int(cut), "s")) for cut in cuts)
    return Split(
        log,
        start,
        valid=start[:-1] + counts[0],
        test=start[:-1] + counts[1],
        protocol=f"temporal, cut at {times}",
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
    validation = (
        f"{valid_share:.0%} of each user's training events, by seed {seed}, validate"
    )
    return Split(
        dataclasses.replace(log.select(order), time=None, nanoseconds=None),
        start,
        valid=test - cut,
        test=test,
        protocol="given, train and test as published; "
        + (validation if valid_share else "all of train trains"),
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
    codes = np.unique(log.item)
    rng = np.random.default_rng([config.hidden_seed, len(codes)])
    items = np.zeros(len(log.items), bool)
    number = round(config.hidden_share * len(codes))
    items[rng.choice(codes, number, replace=False)] = True
    return Hidden(items, config.hidden_seed)


def _sorted(
    log: Interactions, *, ties: str, seed: int
) -> tuple[Interactions, np.ndarray, float]:
    """The log by user, then time, where users begin, and how many last events tie."""
    if ties not in ("file", "shuffled"):
        raise unknown("--config.data.ties", ties, log_lib.TIES)
    if ties == "shuffled":
        if log.time is None:
            raise InputError(
                "data.ties=shuffled needs times: without a time column the order in "
                "the file is all the order there is"
            )
        position = np.random.default_rng([seed, len(log)]).permutation(len(log))
        log = log.select(log_lib.order_by(position))
    keys = [x for x in (log.user, log.time, log.nanoseconds) if x is not None]
    log = log.select(log_lib.order_by(*keys))
    count = np.bincount(log.user, minlength=len(log.users))
    start = np.concatenate([[0], np.cumsum(count)])
    last = start[1:][count >= 2] - 1
    if log.time is None or not len(last):
        return log, start, 0.0
    tied = log.time[last] == log.time[last - 1]
    if log.nanoseconds is not None:
        tied &= log.nanoseconds[last] == log.nanoseconds[last - 1]
    return log, start, float(np.mean(tied))


def by_protocol(log: Interactions, *, config: Config) -> Split:
    """Filter and split a log as its config says."""
    if not len(log):
        raise InputError(f"{log.source}: no events are left after the filters")
    _check_hidden(config)
    if config.protocol == "file_order":
        return by_file_order(log, config=config)
    if config.protocol == "given" and config.min_user_events + config.min_item_events:
        raise InputError(
            "data.min_user_events and data.min_item_events would change test files that "
            "are published; set them to 0 under protocol given"
        )
    number = len(log)
    log = log_lib.min_count_filter(
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
    raise unknown("--config.data.protocol", config.protocol, log_lib.PROTOCOLS)


MIN_ROWS = 10  # of a user; who has fewer is dropped
METRICS = tuple(f"{kind}@{k}" for k in (5, 10) for kind in ("hr", "ndcg", "precision"))
"""What the published table shows."""
WINDOW = 200  # examples next to the test one that are taken, less the farthest of them
TOLD = (
    "rows as they stand in the file, a user's last row tests (an artificial order: "
    "compares tables, not models)"
)


def by_file_order(log: Interactions, *, config: log_lib.Config) -> Split:
    """Each user's last row tests; the examples are of the WINDOW rows before it.

    With data.valid_share above 0 the row before the last validates, one a user whatever
    the share; with 0 it trains. Rows before the window are never predicted, but are
    history and count as training events. Raises InputError for filters, ties and shares
    that the protocol does not have, and where nobody has MIN_ROWS rows.
    """
    _check_file_order(config)
    log = _of_long_users(log)
    count = np.bincount(log.user, minlength=len(log.users))
    start = np.concatenate([[0], np.cumsum(count)])
    test = start[1:] - (count > 0)
    # A first row has no history, so that it is no example.
    farthest = np.maximum(start[:-1] + 1, test - WINDOW)
    validation = (
        "the row before it validates" if config.valid_share else "the rest trains"
    )
    return Split(
        log,
        start,
        valid=test - (count > 0) * (config.valid_share > 0),
        test=test,
        protocol=f"file_order, {TOLD}; {validation}",
        first=np.minimum(farthest + 1, test),
        keeps_seen=True,
    )


def _of_long_users(log: Interactions) -> Interactions:
    """The rows of users with MIN_ROWS of them, by user, then place in the file, without
    times: by them they are in no order."""
    count = np.bincount(log.user, minlength=len(log.users))
    rows = np.flatnonzero(count[log.user] >= MIN_ROWS)
    if not len(rows):
        raise InputError(
            f"{log.source}: no user has {MIN_ROWS} rows (the most is {count.max()}), which "
            "protocol file_order asks of each; choose leave_one_out with "
            "--config.data.protocol"
        )
    rows = rows[np.argsort(log.user[rows], kind="stable")]
    return dataclasses.replace(log.select(rows), time=None)


def _check_file_order(config: log_lib.Config) -> None:
    if config.min_user_events or config.min_item_events:
        raise InputError(
            "data.min_user_events and data.min_item_events are not of protocol "
            f"file_order, which takes the log whole but for users with fewer than "
            f"{MIN_ROWS} rows; set them to 0"
        )
    if config.ties != "file":
        raise InputError(
            f"data.ties={config.ties} is of events in one second, and protocol "
            "file_order reads no times; set data.ties=file"
        )
    if not 0 <= config.valid_share < 1:
        raise InputError(
            f"data.valid_share is {config.valid_share}; it must be at least 0 and below "
            "1, and above 0 the row before a user's last validates"
        )
