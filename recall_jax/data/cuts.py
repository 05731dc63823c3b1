"""How many events of each user train, validate and test, of a log larger than memory."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from recall_jax.data.coded import Coded
from recall_jax.data.sources import logs
from recall_jax.data.sources.times import SECOND
from recall_jax.types import InputError


class Cuts(NamedTuple):
    """How many events of each user, by code, train and come before the test."""

    count: np.ndarray  # [U] all events
    train: np.ndarray  # [U]
    before_test: np.ndarray  # [U]
    description: str  # the protocol, to be filled with `ties`


def check(cuts: Cuts, *, config: logs.Config) -> None:
    if np.count_nonzero(cuts.count) < 2:
        raise InputError(
            f"all {cuts.count.sum():,} events of {config.path} are one user's: is the "
            "user column the right one?"
        )
    if not cuts.train.any():
        raise InputError(f"{config.path}: the training part is empty")


# Protocols: how many events of each user train.


def cut(coded: Coded, *, config: logs.Config) -> Cuts:
    count = count_users(coded, lambda block: np.ones(len(block), bool))
    if config.protocol == "leave_one_out":
        return leave_one_out(count, config=config)
    shares = [1 - config.test_share - config.valid_share, 1 - config.test_share]
    # At a whole second, as in memory.
    seconds = [quantile(coded, share) // SECOND for share in shares]
    train, before = (
        count_users(coded, lambda block, at=at: block["time"] < at * SECOND)
        for at in seconds
    )
    times = ", ".join(str(np.datetime64(at, "s")) for at in seconds)
    return Cuts(count, train, before, f"temporal, cut at {times}")


def leave_one_out(count: np.ndarray, *, config: logs.Config) -> Cuts:
    long = count >= 3
    if not long.any():
        raise InputError(
            "no user has three events, and leave_one_out needs one to train, one to "
            "validate, one to test; bring a longer log"
        )
    order = (
        "ties in file order ({ties} of test items share their time with the event before)"
        if config.time
        else "without times, in file order"
    )
    return Cuts(count, count - 2 * long, count - long, f"leave_one_out, {order}")


def count_users(coded: Coded, chosen: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    count = np.zeros(len(coded.users), np.int64)
    for block in coded.blocks():
        count += np.bincount(block["user"][chosen(block)], minlength=len(count))
    return count


def quantile(coded: Coded, share: float) -> int:
    """As np.quantile(times, share, method="higher"), by counting in ever finer bins."""
    rank = int(np.ceil((len(coded.records) - 1) * share))
    spans = [(b["time"].min(), b["time"].max()) for b in coded.blocks()]
    low, high = int(min(s[0] for s in spans)), int(max(s[1] for s in spans))
    while low < high:
        width = max(1, -(-(high - low + 1) // (1 << 16)))
        count = np.zeros(-(-(high - low + 1) // width), np.int64)
        for block in coded.blocks():
            time = block["time"]
            bins = (time[(time >= low) & (time <= high)] - low) // width
            count += np.bincount(bins, minlength=len(count))
        before = np.cumsum(count)
        chosen = int(np.searchsorted(before, rank, side="right"))
        rank -= int(before[chosen] - count[chosen])
        low, high = low + chosen * width, min(high, low + (chosen + 1) * width - 1)
    return low
