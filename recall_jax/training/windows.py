"""Training on a log larger than memory: windows of it on the device, one after another.

The examples of a log, numbered as its events are, are cut into *chunks* of neighbours. An
epoch puts the chunks in a random order and takes so many of them at a time as a
*window*: the events of their users and the examples, laid out as `Events` of one
static shape, which goes to the device while the one before it trains. Within a window
examples are shuffled. All of it is a function of (key, epoch), so the step alone says
where in the log training stands, and each example is in one window of an epoch.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from recall_jax.data import prepared
from recall_jax.data.log import ranges
from recall_jax.devices import mesh
from recall_jax.losses.negatives import StepData
from recall_jax.training import loop
from recall_jax.types import InputError, Key

T = TypeVar("T")


class Cut(NamedTuple):
    """How an epoch is cut, the same for each epoch."""

    plan: loop.Plan
    windows: int  # an epoch
    chunks: int  # a window
    slots: int  # examples that a window has room for
    events: int  # the same for events

    @property
    def steps(self) -> int:
        """Of a window."""
        return self.plan.steps_per_epoch // self.windows

    def description(self, log: prepared.Log) -> str:
        """For people."""
        room = self.slots * self.windows
        return (
            f"{self.windows:,} an epoch, of {self.chunks:,} chunks and {self.steps:,} "
            f"steps each; {room - log.num_examples:,} of {room:,} places are filled up"
        )

    def bounds(self, log: prepared.Log) -> np.ndarray:
        """Where chunks begin and end, in numbers of examples: their sizes differ by 1
        at most."""
        total = self.windows * self.chunks
        return np.arange(total + 1) * log.num_examples // total


def make_cut(
    config: loop.TrainConfig,
    log: prepared.Log,
    *,
    window: int,
    chunk: int,
) -> Cut:
    """Windows of about `window` examples, made of chunks of about `chunk`.

    All windows take the same number of equal dispatches. What is left of the last ones
    is filled up with examples of the window that are drawn again and have weight 0: they
    are met as other examples' negatives, once more than they would, and their rows by
    whatever a rule does without a gradient (decay, lazy Adam's momentum).
    """
    loop.make_plan(config, num_rows=log.num_examples)  # checks
    size = config.batch_size
    if window < size:
        raise InputError(
            f"data.window_examples {window:,} is less than train.batch_size {size:,}, so "
            "that most of a batch would be filled up; make windows of many batches"
        )
    windows = max(1, round(log.num_examples / window))
    chunks = max(1, round(log.num_examples / (windows * chunk)))
    largest = math.ceil(log.num_examples / (windows * chunks))
    steps = math.ceil(chunks * largest / size)
    scan, dispatches = _equal(steps, about=config.scan_steps)
    plan = loop.Plan(scan, dispatches * windows, size, config.epochs)
    cut = Cut(plan, windows, chunks, scan * dispatches * size, 0)
    return cut._replace(events=_most_events(cut, log, chunks=chunks))


def _equal(steps: int, *, about: int) -> tuple[int, int]:
    """Steps of a dispatch, at most `about`, and dispatches: at least `steps` together,
    and as few more as up to twice the dispatches allow.

    >>> _equal(65, about=8)
    (5, 13)
    """
    fewest = math.ceil(steps / about)
    sizes = [(math.ceil(steps / n), n) for n in range(fewest, 2 * fewest + 1)]
    return min(sizes, key=lambda size: (size[0] * size[1], size[1]))


def _most_events(cut: Cut, log: prepared.Log, *, chunks: int) -> int:
    """No `chunks` chunks have more: the events of as many, the longest there are."""
    first, last = _users(log, cut.bounds(log))
    length = np.sort(log.offsets[last + 1] - log.offsets[first])
    return int(length[-chunks:].sum())


def _users(log: prepared.Log, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last user of each chunk, catalogue ids. An empty chunk, of more
    chunks than examples, has those of the example before its end."""
    begin, end = bounds[:-1], bounds[1:]
    last = np.maximum(end - 1, 0)
    first = np.minimum(begin, last)
    find = log.example_start
    return (
        np.searchsorted(find, first, side="right") - 1,
        np.searchsorted(find, last, side="right") - 1,
    )


def chunk_order(cut: Cut, *, seed: tuple[int, ...]) -> np.ndarray:
    """Chunks of each window of an epoch, [windows, chunks]; `seed` holds the epoch."""
    order = np.random.default_rng(seed).permutation(cut.windows * cut.chunks)
    return order.reshape(cut.windows, cut.chunks)


class Read(NamedTuple):
    """What one process reads of a window: users with all of their events, and examples;
    users of no events and examples of no user fill up."""

    user: np.ndarray  # [u] int32 catalogue ids, rising
    length: np.ndarray  # [u] int32 events of each
    trains: np.ndarray  # [u] int32 of them that train
    items: np.ndarray  # [events] int32
    weights: np.ndarray | None  # [events] float32
    example_user: np.ndarray  # [n] int32
    example_place: np.ndarray  # [n] int32 among the user's events


class Window(NamedTuple):
    """Some users' events and some of their examples, as `Events` has them."""

    items: np.ndarray  # [events] int32, and 0
    weights: np.ndarray | None  # [events] float32
    offsets: np.ndarray  # [U + 2] int32; of other users 0
    train_stop: np.ndarray  # [U + 1] int32; the same
    example_user: np.ndarray  # [slots] int32
    example_position: np.ndarray  # [slots] int32
    counted: np.ndarray  # int32, number of examples; behind them some stand again


def read(log: prepared.Log, bounds: np.ndarray, chunks: np.ndarray) -> Read:
    """The examples of `chunks`, numbers of bounds[j]:bounds[j + 1], and whatever events
    their users have, in the order of the log."""
    chunks = np.sort(chunks)
    chunks = chunks[bounds[chunks] < bounds[chunks + 1]]
    first, last = _users(log, bounds)
    runs = _runs(first[chunks], last[chunks])
    users = ranges(runs[:, 0], runs[:, 1] + 1)
    spans = np.stack([log.offsets[runs[:, 0]], log.offsets[runs[:, 1] + 1]], axis=1)
    num = int((spans[:, 1] - spans[:, 0]).sum())
    user, place = _examples(log, bounds, chunks, first=first, last=last)
    begin = log.offsets[users]
    return Read(
        users.astype(np.int32),
        (log.offsets[users + 1] - begin).astype(np.int32),
        (log.train_stop[users] - begin).astype(np.int32),
        _copied(log.items, spans, num=num),
        None if log.weights is None else _copied(log.weights, spans, num=num),
        user.astype(np.int32),
        place.astype(np.int32),
    )


def filled_up(part: Read, log: prepared.Log, cut: Cut, *, processes: int) -> Read:
    """The same in the shapes that every one of so many processes's has."""
    chunks = -(-cut.chunks // processes)
    largest = math.ceil(log.num_examples / (cut.windows * cut.chunks))
    events = _most_events(cut, log, chunks=chunks)
    room = dict.fromkeys(("items", "weights"), events)
    return Read(
        **{
            name: x
            if x is None
            else np.pad(x, (0, room.get(name, chunks * largest) - len(x)))
            for name, x in part._asdict().items()
        }
    )


def lay_out(
    parts: Sequence[Read], cut: Cut, *, num_users: int, rng: np.random.Generator
) -> Window:
    """The window that all parts are, whichever process has read which of its chunks."""
    joined = parts[0]
    if len(parts) > 1:
        arrays = zip(*parts, strict=True)
        joined = Read(*(None if x[0] is None else np.concatenate(x) for x in arrays))
    begin = np.concatenate(
        [
            np.cumsum(part.length) - part.length + j * len(part.items)
            for j, part in enumerate(parts)
        ]
    )
    users, at = np.unique(joined.user, return_index=True)  # two may have read one
    users, at = users[users > 0], at[users > 0]
    length, begin = joined.length[at], begin[at]
    offsets = np.zeros(num_users + 2, np.int32)
    train_stop = np.zeros(num_users + 1, np.int32)
    offsets[users] = np.cumsum(length) - length
    train_stop[users] = offsets[users] + joined.trains[at]
    events = ranges(begin, begin + length)
    order = np.lexsort((joined.example_place, joined.example_user))
    order = order[joined.example_user[order] > 0]
    number = len(order)
    order = np.append(order, order[rng.integers(0, number, cut.slots - number)])
    user = joined.example_user[order]

    def padded(column):
        return np.pad(column[events], (0, cut.events - len(events)))

    return Window(
        padded(joined.items),
        None if joined.weights is None else padded(joined.weights),
        offsets,
        train_stop,
        user,
        offsets[user] + joined.example_place[order],
        np.int32(number),
    )


def _runs(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Sorted ranges of users, first and last, those that overlap made one: [r, 2]."""
    begins = first > np.append(-1, last)[: len(first)]
    ends = np.append(begins[1:], True)[: len(first)]
    return np.stack([first[begins], last[ends]], axis=1)


def _copied(events: np.ndarray, spans: np.ndarray, *, num: int) -> np.ndarray:
    """Spans of mapped events one behind the other, and 0 up to `num` of them."""
    filled, done = np.zeros(num, events.dtype), 0
    for start, stop in spans:
        filled[done : done + stop - start] = events[start:stop]
        done += stop - start
    return filled


def _examples(
    log: prepared.Log,
    bounds: np.ndarray,
    chunks: np.ndarray,
    *,
    first: np.ndarray,
    last: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """User and place among his events of each example of some chunks."""
    user = ranges(first[chunks], last[chunks] + 1)
    begin, end = (
        np.repeat(bounds[chunks + j], last[chunks] + 1 - first[chunks]) for j in (0, 1)
    )
    own = log.example_start[user]
    low = np.maximum(begin, own)
    high = np.maximum(np.minimum(end, log.example_start[user + 1]), low)
    shift = log.min_history - own
    return np.repeat(user, high - low), ranges(low + shift, high + shift)


class Share(NamedTuple):
    """Which process this is, of how many that read a window together; `gather` gives
    every process the parts of all, in their order."""

    process: int
    processes: int
    gather: Callable[[Read], Sequence[Read]]


ALONE = Share(0, 1, lambda part: [part])


class Portions(NamedTuple):
    """A window on the device, and in which order it is trained on."""

    source: StepData
    order: np.ndarray  # [dispatches, scan, size] int32


def feed(
    base: StepData, log: prepared.Log, cut: Cut, *, key: Key, share: Share = ALONE
) -> loop.Feed:
    """Windows of a log in the place of `base`'s events; its catalogue and its samplers
    stay. A window is the same however many processes read it."""
    seed = tuple(int(word) for word in np.asarray(jax.random.key_data(key)).ravel())
    bounds = cut.bounds(log)
    # A reading thread has no mesh of its own.
    where = mesh.on_each_shape((), np.int32).sharding

    def read_share(number: int) -> tuple[int, Read]:
        epoch, window = divmod(number, cut.windows)
        chunks = chunk_order(cut, seed=(*seed, epoch))[window]
        part = read(log, bounds, chunks[share.process :: share.processes])
        if share.processes > 1:
            part = filled_up(part, log, cut, processes=share.processes)
        return number, part

    def finish(number: int, part: Read) -> Portions:
        rng = np.random.default_rng((*seed, *divmod(number, cut.windows)))
        window = lay_out(share.gather(part), cut, num_users=log.num_users, rng=rng)
        if share.processes > 1:
            window = mesh.on_each(window)
        order = rng.permutation(cut.slots).astype(np.int32)
        order = order.reshape(-1, cut.plan.scan, cut.plan.size)
        return Portions(_with_events(base, jax.device_put(window, where)), order)

    def windows(numbers: range) -> Iterator[Portions]:
        if share.processes == 1:
            yield from ahead(lambda number: finish(*read_share(number)), numbers)
            return
        # Processes meet where all of them stand in the same order: not in a thread.
        with contextlib.closing(ahead(read_share, numbers)) as parts:
            for number, part in parts:
                yield finish(number, part)

    def portions(step: int) -> Iterator[tuple[StepData, np.ndarray]]:
        first, rest = divmod(step, cut.steps)
        numbers = range(first, cut.windows * cut.plan.epochs)
        skipped = rest // cut.plan.scan
        with contextlib.closing(windows(numbers)) as stream:
            for source, order in stream:
                yield from ((source, part) for part in order[skipped:])
                skipped = 0

    return loop.Feed(_with_events(base, _shapes(log, cut)), portions)


def _with_events(base: StepData, window: Window) -> StepData:
    return base._replace(dataset=dataclasses.replace(base.dataset, **window._asdict()))


def _shapes(log: prepared.Log, cut: Cut) -> Window:
    """What a window is made of, by shape and type."""

    def ints(*shape: int) -> Any:
        return mesh.on_each_shape(shape, np.int32)

    return Window(
        ints(cut.events),
        None if log.weights is None else mesh.on_each_shape((cut.events,), np.float32),
        ints(log.num_users + 2),
        ints(log.num_users + 1),
        ints(cut.slots),
        ints(cut.slots),
        ints(),
    )


def ahead(make: Callable[[int], T], numbers: range) -> Iterator[T]:
    """make(j) for each number, the next one made by a thread while one is used.

    What `make` raises is raised here. The thread ends with the iterator, closed or not.
    """
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="window")
    waiting: collections.deque = collections.deque()
    try:
        for number in numbers:
            waiting.append(pool.submit(make, number))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
