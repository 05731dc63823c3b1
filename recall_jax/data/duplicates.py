"""Events that a log holds twice, and users who meet an item again.

Both put an item that is to be found into the history before it. A copied row should not
be there; a second visit is what the log is about. Times tell them apart.
"""

from typing import NamedTuple

import numpy as np

from recall_jax.data.log import Interactions, order_by

CHOICES = ("auto", "kept", "dropped", "repeats")
"""Of data.duplicates: what happens to rows that equal another in user, item, time, action
and session. "auto" drops them where at most RARE of the others repeat an item of their
user, or, where no times tell, where they are so few themselves; "repeats" drops all but
the first event of a user and an item, whenever they are."""

RARE = 0.01
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, random bits
BLOCK = 1 << 16  # rows at a time
COMPARED = ("user", "item", "time", "action", "session")


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
    equal, count = count_of(log)
    if count.dropped(choice):
        gone = _later(log) if choice == "repeats" else equal
        log = log.select(~gone)
    return log, count


def count_of(log: Interactions) -> tuple[np.ndarray, Count]:
    """Mask of the rows that equal an earlier one, and how many there are."""
    pair = {"user": log.user, "item": log.item}
    times = {"time": log.time, "nanoseconds": log.nanoseconds}
    times = {name: x for name, x in times.items() if x is not None}
    more = {
        name: column
        for name in ("action", "session")
        if isinstance(column := log.events.get(name), np.ndarray)
    }
    some, repeated = _alike(log, list(times.values()))
    compared = [x[some] for x in (*pair.values(), *times.values())]
    if len(some):
        compared += [np.unique(x[some], return_inverse=True)[1] for x in more.values()]
    equal = np.zeros(len(log), bool)
    equal[some] = _later_equal(compared)
    number = int(equal.sum())
    timed = bool(times)
    if timed and number:
        moments = num_distinct([log.user, *times.values()])
        timed = tells_apart(moments, rows=len(log) - number)
    names = tuple(name for name in (*pair, *times, *more) if name in COMPARED)
    return equal, Count(len(log), number, repeated - number, timed, names)


def _alike(log: Interactions, times: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """Rows that may equal another in user, item and times, none missing; and how many
    are of a user and an item that an earlier one has."""
    # One sort tells both. Of a row's 64 bits the first hold user and item, the others a
    # part of the mixed times.
    bits = 64 - (len(log.users) * len(log.items) - 1).bit_length() if times else 0
    numbers = _mixed(times) if times else np.zeros(len(log), np.uint64)
    numbers >>= np.uint64(64 - bits)
    pairs = log.user.astype(np.uint64)
    pairs *= np.uint64(len(log.items))
    pairs += log.item.astype(np.uint64)
    numbers |= np.left_shift(pairs, np.uint64(bits), out=pairs)
    ordered = np.sort(numbers)
    some = _among(numbers, _twice(ordered))
    ordered >>= np.uint64(bits)
    return some, int(np.count_nonzero(ordered[1:] == ordered[:-1]))


def tells_apart(moments: int, *, rows: int) -> bool:
    """Whether a clock that gives the users' events so many moments tells a second visit
    from a copy."""
    return 2 * moments >= rows


def num_distinct(columns: list[np.ndarray]) -> int:
    """Distinct rows, but for the few that only look alike."""
    ordered = np.sort(_mixed(columns))
    return len(ordered) - len(_twice(ordered))


def repeats(user: np.ndarray, item: np.ndarray, *, num_items: int) -> int:
    """How many events are of a user and an item that another one has. The events of a
    user stand together."""
    ends = np.append(np.flatnonzero(user[1:] != user[:-1]) + 1, len(user))
    start, number = 0, 0
    while start < len(user):  # blocks of whole users, which stay in the cache
        stop = ends[np.searchsorted(ends, min(start + BLOCK, len(user)))]
        pairs = user[start:stop].astype(np.int64) * num_items + item[start:stop]
        pairs.sort()
        number += int(np.count_nonzero(pairs[1:] == pairs[:-1]))
        start = stop
    return number


def _later(log: Interactions) -> np.ndarray:
    """Mask of the events that are not the first of their user and item."""
    order = np.arange(len(log))
    if log.time is not None:
        order = order_by(*(x for x in (log.time, log.nanoseconds) if x is not None))
    later = np.zeros(len(log), bool)
    later[order] = is_copy([log.user[order], log.item[order]])
    return later


def is_copy(columns: list[np.ndarray]) -> np.ndarray:
    """Mask of rows that equal an earlier one in all columns of integers."""
    numbers = _mixed(columns)
    # A sort takes a third of the time of argsort, and is mostly all there is to do.
    some = _among(numbers, _twice(np.sort(numbers)))
    copies = np.zeros(len(numbers), bool)
    copies[some] = _later_equal([column[some] for column in columns])
    return copies


def _later_equal(columns: list[np.ndarray]) -> np.ndarray:
    """As `is_copy`, for rows most of which equal another: without its first sort."""
    numbers = _mixed(columns)
    copies = np.zeros(len(numbers), bool)
    order = np.argsort(numbers, kind="stable")
    alike = numbers[order[1:]] == numbers[order[:-1]]
    same = _same(columns, order)
    if (alike & ~same).any():  # two rows that only look alike may part equal ones
        order = order_by(*columns)
        same = _same(columns, order)
    copies[order[1:][same]] = True
    return copies


def _mixed(columns: list[np.ndarray]) -> np.ndarray:
    """A number for each row; rows that differ hardly ever share one."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for start in range(0, len(mixed), BLOCK):  # they stay in the cache
        part = mixed[start : start + BLOCK]
        for column in columns:
            part ^= column[start : start + BLOCK].astype(np.int64).view(np.uint64)
            part *= MIX
            part ^= part >> np.uint64(29)
    return mixed


def _twice(ordered: np.ndarray) -> np.ndarray:
    """Of sorted numbers, each that equals the one before."""
    return ordered[1:][ordered[1:] == ordered[:-1]]


def _among(numbers: np.ndarray, twice: np.ndarray) -> np.ndarray:
    """The rows whose number is one of `twice`, sorted; all where these are many."""
    if not len(twice) or len(twice) > len(numbers) // 16:
        return np.arange(len(numbers) if len(twice) else 0)
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
