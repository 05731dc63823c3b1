"""Events that a log holds twice, and users who meet an item again.

Both put an item that is to be found into the history before it. A copied row should not
be there; a second visit is what the log is about. Times tell them apart.
"""

from typing import NamedTuple

import numpy as np

from recall_jax.data.log import Interactions
from recall_jax.types import InputError

CHOICES = ("auto", "kept", "dropped", "repeats")
"""Of data.duplicates: what happens to rows that equal another in user, item, time, action
and session. "auto" drops them where at most RARE of the others repeat an item of their
user, or, where no times tell, where they are so few themselves; "repeats" drops all but
the first event of a user and an item, whenever they are."""

RARE = 0.01
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, random bits
COMPARED = ("user", "item", "time", "action", "session")


def check(choice: str) -> None:
    if choice not in CHOICES:
        raise InputError(
            f"unknown data.duplicates {choice!r}; there are: {', '.join(CHOICES)}"
        )


class Count(NamedTuple):
    """Of a log's rows."""

    rows: int
    equal: int  # to an earlier one in all that is compared
    again: int  # of the others, of a user and an item that an earlier one has
    timed: bool  # the times of a user's events mostly differ
    compared: tuple[str, ...]  # of COMPARED

    def dropped(self, choice: str) -> int:
        """How many rows a choice drops."""
        if choice == "repeats":
            return self.equal + self.again
        if choice == "auto":
            # Without times a second visit cannot be told from a copy.
            often = self.again if self.timed else self.equal
            return self.equal if often <= RARE * self.rows else 0
        return self.equal if choice == "dropped" else 0


def drop(log: Interactions, choice: str) -> tuple[Interactions, Count]:
    """A log without the rows that a choice drops, and how many were equal before."""
    check(choice)
    equal, count = count_of(log)
    if count.dropped(choice):
        gone = _later(log) if choice == "repeats" else equal
        log = log.select(~gone)
    return log, count


def count_of(log: Interactions) -> tuple[np.ndarray, Count]:
    """Mask of the rows that equal an earlier one, and how many there are."""
    columns = {
        "user": log.user,
        "item": log.item,
        "time": log.time,
        "nanoseconds": log.nanoseconds,
    }
    columns = {name: x for name, x in columns.items() if x is not None}
    more = {
        name: column
        for name in ("action", "session")
        if isinstance(column := log.events.get(name), np.ndarray)
    }
    equal = is_copy(list(columns.values()))
    if equal.any() and more:
        codes = [np.unique(x, return_inverse=True)[1] for x in more.values()]
        equal = is_copy([*columns.values(), *codes])
    number = int(equal.sum())
    again = repeats(log.user, log.item, num_items=len(log.items)) - number
    timed = log.time is not None
    if timed and number:
        of_users = [x for name, x in columns.items() if name != "item"]
        moments = num_distinct(of_users)
        timed = tells_apart(moments, rows=len(log) - number)
    names = tuple(name for name in (*columns, *more) if name in COMPARED)
    return equal, Count(len(log), number, again, timed, names)


def tells_apart(moments: int, *, rows: int) -> bool:
    """Whether a clock that gives the users' events so many moments tells a second visit
    from a copy."""
    return 2 * moments >= rows


def num_distinct(columns: list[np.ndarray]) -> int:
    """Distinct rows, but for the few that only look alike."""
    ordered = np.sort(_mixed(columns))
    return len(ordered) - int((ordered[1:] == ordered[:-1]).sum())


def repeats(user: np.ndarray, item: np.ndarray, *, num_items: int) -> int:
    """How many events are of a user and an item that another one has."""
    pairs = np.sort(user.astype(np.int64) * num_items + item)
    return int((pairs[1:] == pairs[:-1]).sum())


def _later(log: Interactions) -> np.ndarray:
    """Mask of the events that are not the first of their user and item."""
    order = np.arange(len(log))
    if log.time is not None:
        keys = [x for x in (log.nanoseconds, log.time) if x is not None]
        order = np.lexsort(keys)
    later = np.zeros(len(log), bool)
    later[order] = is_copy([log.user[order], log.item[order]])
    return later


def is_copy(columns: list[np.ndarray]) -> np.ndarray:
    """Mask of rows that equal an earlier one in all columns of integers."""
    mixed = _mixed(columns)
    copies = np.zeros(len(mixed), bool)
    some = _repeated(mixed)
    if not len(some):
        return copies
    columns, mixed = [column[some] for column in columns], mixed[some]
    order = np.argsort(mixed, kind="stable")
    alike = mixed[order[1:]] == mixed[order[:-1]]
    same = _same(columns, order)
    if (alike & ~same).any():  # two rows that only look alike may part equal ones
        order = np.lexsort((np.arange(len(some)), *columns))
        same = _same(columns, order)
    copies[some[order[1:][same]]] = True
    return copies


def _mixed(columns: list[np.ndarray]) -> np.ndarray:
    """A number for each row; rows that differ hardly ever share one."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.int64).view(np.uint64)) * MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _repeated(numbers: np.ndarray) -> np.ndarray:
    """The rows whose number another one has; all of them where these are many."""
    # A sort takes a third of the time of argsort, and is mostly all there is to do.
    ordered = np.sort(numbers)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice) > len(numbers) // 16:
        return np.arange(len(numbers))
    likely = np.zeros(1 << 22, bool)  # by the last bits, before the others are compared
    last = np.uint64(len(likely) - 1)
    likely[twice & last] = True
    some = np.flatnonzero(likely[numbers & last])
    at = np.minimum(np.searchsorted(twice, numbers[some]), len(twice) - 1)
    return some[twice[at] == numbers[some]]


def _same(columns: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Mask of rows, in an order, that equal the one before them."""
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        same &= column[order[1:]] == column[order[:-1]]
    return same
