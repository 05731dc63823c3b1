"""Events that a log holds twice, and users who meet an item again.

Both put an item that is to be found into the history before it. A copied row should not
be there; a second visit is what the log is about. Times tell them apart.
"""

from typing import NamedTuple

import numpy as np

from recall_jax.data.interactions import Interactions
from recall_jax.types import InputError

CHOICES = ("auto", "kept", "dropped", "repeats")
"""Of data.duplicates: what happens to rows that equal another in user, item, time, action
and session. "auto" drops them where at most RARE of the others repeat an item of their user;
"repeats" drops all but the first event of a user and an item, whenever they are."""

RARE = 0.01
MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)  # odd, random bits


def check(choice: str) -> None:
    if choice not in CHOICES:
        raise InputError(
            f"unknown data.duplicates {choice!r}; there are: {', '.join(CHOICES)}"
        )


class Count(NamedTuple):
    """Of a log's rows."""

    rows: int
    equal: int  # to an earlier one in user, item, time and action
    again: int  # of the others, of a user and an item that an earlier one has
    timed: bool  # the times of a user's events mostly differ

    def dropped(self, choice: str) -> int:
        """How many rows a choice drops."""
        if choice == "repeats":
            return self.equal + self.again
        # Without times a second visit is a copy to look at.
        often = self.again if self.timed else self.equal
        rare = often <= RARE * self.rows
        return self.equal if choice == "dropped" or choice == "auto" and rare else 0


def drop(log: Interactions, choice: str) -> Interactions:
    """A log without the rows that a choice drops, and a report of it."""
    check(choice)
    equal, count = count_of(log)
    if count.dropped(choice):
        gone = _later(log) if choice == "repeats" else equal
        log = log.select(~gone)
    return log.reported(*report(count, choice))


def count_of(log: Interactions) -> tuple[np.ndarray, Count]:
    """Mask of the rows that equal an earlier one, and how many there are."""
    columns = [log.user, log.item, log.time, log.nanoseconds]
    columns = [column for column in columns if column is not None]
    equal = is_copy(columns)
    if equal.any() and (more := _more(log)):
        equal = is_copy([*columns, *more])
    number = int(equal.sum())
    again = repeats(log.user, log.item, num_items=len(log.items)) - number
    timed = log.time is not None
    if timed and number:
        moments = len(log) - int(is_copy([log.user, log.time]).sum())
        timed = tells_apart(moments, rows=len(log) - number)
    return equal, Count(len(log), number, again, timed)


def tells_apart(moments: int, *, rows: int) -> bool:
    """Whether a clock that gives the users' events so many moments tells a second visit
    from a copy."""
    return 2 * moments >= rows


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


def _more(log: Interactions) -> list[np.ndarray]:
    """Columns that tell two events of a user and an item at one time apart."""
    columns = [log.events.get(name) for name in ("action", "session")]
    return [
        np.unique(column, return_inverse=True)[1]
        for column in columns
        if isinstance(column, np.ndarray)
    ]


def is_copy(columns: list[np.ndarray]) -> np.ndarray:
    """Mask of rows that equal an earlier one in all columns of integers."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.int64).view(np.uint64)) * MIX[0]
        mixed ^= mixed >> np.uint64(29)
    ordered = np.sort(mixed)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    copies = np.zeros(len(mixed), bool)
    if not len(twice):
        return copies
    at = np.minimum(np.searchsorted(twice, mixed), len(twice) - 1)
    some = np.flatnonzero(twice[at] == mixed)  # and a few that only look alike
    order = some[np.lexsort((some, *(column[some] for column in columns)))]
    same = np.ones(len(order) - 1, bool)
    for column in columns:
        same &= column[order[1:]] == column[order[:-1]]
    copies[order[1:][same]] = True
    return copies


def report(count: Count, choice: str) -> list[str]:
    """What happens to equal rows, in a line, and a note where they may be copies;
    without a choice they stay."""
    what = "user, item and time" if count.timed else "user and item"
    if not count.equal and choice != "repeats":
        return [f"equal rows none of {count.rows:,} in {what}"]
    gone = count.dropped(choice)
    share = f"{count.again / count.rows:.1%} of all repeat an item of their user"
    if not count.timed:
        share = "no times tell copies from second visits"
    how = {"": "", "auto": f" (data.duplicates=auto; {share})"}
    done = (f"{gone:,} dropped" if gone else "kept") + how.get(
        choice, f" (data.duplicates={choice})"
    )
    lines = [f"equal rows {count.equal:,} of {count.rows:,} in {what}: {done}"]
    if choice == "auto" and not gone:
        lines.append(
            "note       a copied row puts the item to be found into the history before "
            "it; if rows were copied, set --config.data.duplicates=dropped"
        )
    return lines
