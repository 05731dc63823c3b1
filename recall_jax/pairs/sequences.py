"""Item sequences ("sentences") made of training events, for skip-gram and graphs.

A user's training events, all together or cut into sessions. Held-out events never come
in: not as items, not as the item a session led to. How to cut: Barkan and Koenigstein
(2016) take all of a user's items, Wang et al. (2018) cut after an hour's pause, Grbovic
and Cheng (2018) after thirty minutes, and where a listing was booked.
"""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recall_jax import schema
from recall_jax.data import log
from recall_jax.data.log import ranges
from recall_jax.data.prepared import Data
from recall_jax.data.sources import synthetic
from recall_jax.models.itemwise import SequencesConfig
from recall_jax.types import InputError, check_fields


class Sequences(NamedTuple):
    """Sequence s holds items[offsets[s]:offsets[s + 1]], in order of users, then time.

    `booked` is the item converted in it, the last if there were several, or 0 in an
    exploratory one. It is one of the sequence's items. Copies of a booked sequence that
    is over-sampled stand side by side.
    """

    items: np.ndarray  # [n] int32 catalogue ids
    offsets: np.ndarray  # [s + 1] int64
    user: np.ndarray  # [s] int32 catalogue ids; 0 of walks
    booked: np.ndarray  # [s] int32 catalogue ids or 0
    ordered: bool  # items of a sequence stand in an order that means something


def make(data: Data, config: SequencesConfig) -> Sequences:
    """The sequences of a data set's training events.

    A conversion that nothing precedes in its session (a user's first event, or the
    second thing he buys at once under cut=conversion) is a booked sequence of one item.

    `ordered` is False where the log has no order, and where it has times but none of the
    sequences holds two that differ: times that are whole days, cut by day or by any gap
    below one. Within a sequence such a log keeps the order of its file.

    Raises InputError for a config that contradicts itself or the log, for a column that
    is missing, and where nothing is left.
    """
    _check(config)
    _check_order(data, config)
    converted = _converted(data, config)
    at = _cleaned(data, config, converted=converted)
    at, begins = _cut(data, config, at=at, converted=converted)
    starts = np.flatnonzero(begins)
    stops = np.append(starts[1:], len(at))
    last = np.where(converted[at], np.arange(len(at)), -1)
    last = np.maximum.reduceat(last, starts)
    booked = np.where(last >= 0, data.items[at[last]], 0).astype(np.int32)
    rows = _kept(stops - starts, booked, config)
    starts, stops, first = starts[rows], stops[rows], at[starts[rows]]
    return Sequences(
        items=data.items[at[ranges(starts, stops)]],
        offsets=np.append(0, np.cumsum(stops - starts)).astype(np.int64),
        user=_users(data)[first],
        booked=booked[rows],
        ordered=data.ordered and _has_order(data, at=at, begins=begins),
    )


class Sessions(NamedTuple):
    """All events of a log, those of a session together; a mask of where one begins."""

    at: np.ndarray  # [events] positions in the flat events
    begins: np.ndarray  # [events] bool, of `at`
    converted: np.ndarray  # [events] bool, of the flat events
    ordered: bool  # as of Sequences


def sessions(data: Data, config: SequencesConfig) -> Sessions:
    """Every event, cut as `make` cuts, held-out ones among them and none cleaned away: to
    measure by, never to train on. Raises what `make` raises for the config."""
    _check(config)
    _check_order(data, config)
    converted, every = _converted(data, config), np.arange(len(data.items))
    at, begins = _cut(data, config, at=every, converted=converted)
    ordered = data.ordered and _has_order(data, at=at, begins=begins)
    return Sessions(at, begins, converted, ordered)


# What a config asks for.


def _check(config: SequencesConfig) -> None:
    """Raise InputError for a config that no log could satisfy."""
    check_fields(config, "--config.model.pairs.sequences")
    needs = {"cut=conversion": config.cut == "conversion"}
    needs[f"oversample={config.oversample}"] = config.oversample > 1
    for text, needed in needs.items():
        if needed and not config.conversions:
            raise InputError(
                f"sequences.{text} needs to know which actions are conversions; name "
                "them in sequences.conversions, such as ('buy',)"
            )


def _check_order(data: Data, config: SequencesConfig) -> None:
    """Raise InputError where the log lacks the order or the times a config needs."""
    if config.cut != "user" and not data.ordered:
        raise InputError(
            f"sequences.cut={config.cut} needs the order of events, and {data.source} "
            f"has none under its protocol ({data.protocol}); set cut=user, where a "
            "sequence may be a set, or bring a log with times"
        )
    needs = {f"cut={config.cut}": config.cut in ("gap", "day", "conversion")}
    needs[f"repeat_seconds={config.repeat_seconds}"] = config.repeat_seconds > 0
    for text, needed in needs.items():
        if needed and data.times is None:
            raise InputError(
                f"sequences.{text} needs times, and {data.source} has none; name the "
                "column with --config.data.time, or set that to its default"
            )
    if config.cut != "conversion" or np.ptp(data.times % synthetic.DAY):
        return
    raise InputError(
        f"sequences.cut=conversion needs to know what came before a conversion, and the "
        f"times of {data.source} are whole days; set cut=day, where a day with a "
        "conversion is a booked sequence"
    )


def _column(data: Data, name: str, *, option: str, remedy: str) -> np.ndarray:
    """An event column; InputError if it is missing or holds several values."""
    column = data.events.get(name)
    if isinstance(column, np.ndarray):
        return column
    names = [n for n, x in data.events.items() if isinstance(x, np.ndarray)]
    raise InputError(
        f"sequences.{option} needs an event column {name!r} of single values; "
        f"{data.source} has {', '.join(names) or 'none'}. Name it with "
        f"--config.data.{name}, or {remedy}"
    )


def _converted(data: Data, config: SequencesConfig) -> np.ndarray:
    """Mask of all flat events; which actions there are is read from all of them."""
    if not config.conversions:
        return np.zeros(len(data.items), bool)
    option = f"conversions={config.conversions}"
    action = _column(data, "action", option=option, remedy="leave conversions empty")
    wanted: list[str | int] = list(config.conversions)
    if action.dtype.kind in "iu":
        codes = {name: code for code, name in enumerate(config.action_names)}
        wanted = [codes.get(name, name) for name in config.conversions]
    try:
        return log.is_one_of(action, values=wanted)
    except InputError as error:
        raise InputError(f"sequences.{option}: {error}") from None


# Which events there are, and where sequences begin.


def _users(data: Data) -> np.ndarray:
    """Whose each flat event is, int32 catalogue ids."""
    lengths = np.diff(data.offsets)
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)


def _cleaned(
    data: Data, config: SequencesConfig, *, converted: np.ndarray
) -> np.ndarray:
    """Positions of the training events that the clean-up leaves; at least one."""
    starts, stops = data.offsets[:-1], data.train_stop
    if most := config.max_user_events:
        calm = stops - starts <= most
        starts, stops = starts[calm], stops[calm]
    at = ranges(starts, stops)
    if config.min_stay:
        option = f"min_stay={config.min_stay}"
        dwell = _column(data, "dwell", option=option, remedy="set min_stay to 0")
        # A missing one is NaN, and smaller than nothing.
        at = at[converted[at] | ~(dwell[at] < config.min_stay)]
    if config.repeat_seconds:
        user, item = _users(data)[at], data.items[at]
        again = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
        again &= _pauses(data, at) <= config.repeat_seconds
        at = at[~np.append(False, again)[: len(at)] | converted[at]]
    if not len(at):
        raise InputError(
            f"{data.source}: the clean-up leaves no training event; raise "
            f"sequences.max_user_events={config.max_user_events} or lower "
            f"sequences.min_stay={config.min_stay}"
        )
    return at


def _cut(
    data: Data, config: SequencesConfig, *, at: np.ndarray, converted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions, those of a sequence together, and a mask of where one begins."""
    user = _users(data)
    if config.cut == "session":
        session = _sessions(data, user, at=at)
        order = np.argsort(session, kind="stable")
        return at[order], _changes(session[order])
    begins = _changes(user[at])
    if config.cut in ("gap", "conversion"):
        begins[1:] |= _pauses(data, at) > config.gap
    if config.cut == "conversion":
        begins[1:] |= converted[at][:-1]
    if config.cut == "day":
        begins |= _changes(data.times[at] // synthetic.DAY)
    return at, begins


def _changes(values: np.ndarray) -> np.ndarray:
    """Mask of values that differ from the one before; the first does."""
    return np.append(True, values[1:] != values[:-1])


def _sessions(data: Data, user: np.ndarray, *, at: np.ndarray) -> np.ndarray:
    """Each event's session of its user, numbered by first appearance."""
    column = _column(data, "session", option="cut=session", remedy="set cut=gap")[at]
    if column.dtype.kind == "f":
        missing = np.isnan(column)
    else:
        missing = column == (-1 if column.dtype.kind in "iu" else "")
    codes, _ = log.factorize(column)
    alone = len(at) + np.arange(len(at))  # codes that no session has
    codes = np.where(missing, alone, codes)
    return log.factorize(user[at] * np.int64(2 * len(at)) + codes)[0]


def _kept(
    lengths: np.ndarray, booked: np.ndarray, config: SequencesConfig
) -> np.ndarray:
    """Sequences long enough, booked ones as often as they count."""
    times = np.where(booked > 0, config.oversample, 1)
    times[lengths < config.min_length] = 0
    if not times.any():
        raise InputError(
            f"no sequence has {config.min_length} items, the longest has "
            f"{lengths.max()}; lower sequences.min_length, or cut less often than at "
            f"each {config.cut}"
        )
    return np.repeat(np.arange(len(lengths)), times)


def _has_order(data: Data, *, at: np.ndarray, begins: np.ndarray) -> bool:
    """Whether any sequence of several events has two times, if there are times."""
    if data.times is None or begins.all():
        return True
    return bool((_pauses(data, at) != 0)[~begins[1:]].any())


def _pauses(data: Data, at: np.ndarray) -> np.ndarray:
    """Seconds between events and those before them."""
    if data.nanoseconds is None:
        return np.diff(data.times[at])
    return np.diff(data.times[at]) + np.diff(data.nanoseconds[at]) / 1e9


# Walks as text.


def read_walks(path: str | pathlib.Path, vocabulary: schema.Vocabulary) -> Sequences:
    """Walks, one a line, raw ids (as the vocabulary of items has them) between blanks.

    Empty lines are passed over. The sequences are nobody's (user 0), exploratory and
    ordered. Raises InputError naming file and line for an id that the vocabulary does
    not have, and for a file that is missing, not UTF-8 or empty.
    """
    inner = {str(value): j for j, value in enumerate(vocabulary.ids.tolist(), start=1)}
    walks = list(_read_lines(pathlib.Path(path), inner))
    if not walks:
        raise InputError(f"{path} holds no walks; expected one a line")
    offsets = np.append(0, np.cumsum([len(walk) for walk in walks])).astype(np.int64)
    nobody = np.zeros(len(walks), np.int32)
    return Sequences(np.concatenate(walks), offsets, nobody, nobody, ordered=True)


def _read_lines(path: pathlib.Path, inner: dict[str, int]) -> Iterator[np.ndarray]:
    """Catalogue ids int32 of each line that is not empty."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                words = line.split()
                walk = [inner.get(word, 0) for word in words]
                if 0 in walk:
                    raise InputError(
                        f"{path}, line {number}: the item {words[walk.index(0)]!r} is "
                        "not in the data set; make the walks of the same log, or take "
                        "it out"
                    )
                if walk:
                    yield np.array(walk, np.int32)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} could not be read as walks: {error}") from error
