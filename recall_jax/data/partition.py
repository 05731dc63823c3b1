"""A log larger than memory as a folder of flat arrays, equal to what `prepare.in_memory`
makes of it in memory.

Two passes over the events: the first gives raw ids codes (`coded`), from which users are
counted and put in order; the second cuts the events into buckets of consecutive users,
each sorted on its own, so that everything is read and written from front to back. In
memory are the ids, a few numbers a user and an item, and one bucket.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

from recall_jax import schema as schema_lib
from recall_jax.data import coded as coded_lib
from recall_jax.data import columns as columns_lib
from recall_jax.data import cuts as cuts_lib
from recall_jax.data import describe, duplicates, log
from recall_jax.data.coded import SLICE, Coded
from recall_jax.data.cuts import Cuts
from recall_jax.data.log import Entities
from recall_jax.data.sources import logs
from recall_jax.data.sources.times import SECOND


class Side(NamedTuple):
    """Users or items in catalogue order."""

    codes: np.ndarray  # [V]
    ids: np.ndarray  # [U] catalogue id of each code; 0: it has no event
    known: int  # of them with training events, which come first


@dataclasses.dataclass
class Tally:
    """What the second pass counts, by item code."""

    events: np.ndarray  # [I] all events of each item
    trained: np.ndarray  # [I] training events
    examples: np.ndarray  # [I] training examples
    repeats: int = 0  # of a user and an item that an earlier one has
    equal: int = 0  # of them, to one in time and action too
    moments: int = 0  # times of users' events that differ
    last: int = 0  # last events of users who have another one
    tied: int = 0  # those that share their time with it
    weights: tuple[float, float] | None = None  # of training examples, from and to

    def add(
        self, records: np.ndarray, *, trains: np.ndarray, examples: np.ndarray
    ) -> None:
        """Events of whole users, sorted, and masks of those that train."""
        user, item, num = records["user"], records["item"], len(self.events)
        self.events += np.bincount(item, minlength=num)
        self.trained += np.bincount(item[trains], minlength=num)
        self.examples += np.bincount(item[examples], minlength=num)
        self.repeats += duplicates.repeats(user, item, num_items=num)
        self.equal += int(copies(records).sum())
        self.moments += len(records) - int(same_moment(records).sum())
        if "weight" in records.dtype.names and examples.any():
            weights = np.append(records["weight"][examples], self.weights or ())
            self.weights = weights.min(), weights.max()
        if "time" in records.dtype.names:
            time, same = records["time"], user[1:] == user[:-1]
            last = np.flatnonzero(same & np.append(~same[1:], True)) + 1
            self.last += len(last)
            self.tied += int((time[last] == time[last - 1]).sum())


class Spans(NamedTuple):
    """Where each user's events begin, and his parts end, by catalogue id."""

    offsets: np.ndarray  # [U + 2]
    train_stop: np.ndarray  # [U + 1]
    test_start: np.ndarray  # [U], of ids from 1


def write(config: logs.Config, folder: pathlib.Path, *, min_history: int) -> dict:
    """The arrays of a log in `folder`, which is there and empty; returns what
    `prepared.Log` needs to know beside them."""
    scratch = folder / "scratch"
    scratch.mkdir()
    coded = coded_lib.code(config, scratch / "coded.bin")
    kind, laid = coded.records.dtype, lay_out(coded, scratch, config, min_history)
    count, choice = counted(laid.tally, coded), config.duplicates
    report = describe.equal_rows(count, choice)
    if count.dropped(choice):
        coded = without_copies(coded, scratch, laid=laid, choice=choice)
        coded = coded._replace(span=span_of(coded))
        laid = lay_out(coded, scratch, config, min_history)
    cuts, users, spans, tally = laid
    cuts_lib.check(cuts, config=config)  # not before: copies move a cut in time
    (scratch / "coded.bin").unlink()
    if tally.weights is not None:
        log.check_weights(*tally.weights, column=config.weight, source=config.path)
    items = number(tally.trained, tally.events)
    as_npy(scratch / "item.bin", folder / "items.npy", kind=np.int32, ids=items.ids)
    if "weight" in kind.names:
        as_npy(scratch / "weight.bin", folder / "weights.npy", kind=np.float32)
    shutil.rmtree(scratch)
    popularity, count = (
        np.append(0, x[items.codes]) for x in (tally.trained, tally.examples)
    )
    arrays = {**spans._asdict(), "popularity": popularity, "item_count": count}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    report += write_catalogue(
        config, folder, coded, users=users, items=items, cuts=cuts, tally=tally
    )
    return {
        "report": [*coded.report, *coded.span.lines(), *report],
        "events": int(spans.offsets[-1]),
        "protocol": cuts.description.format(
            ties=f"{tally.tied / max(tally.last, 1):.0%}"
        ),
        "repeats": tally.repeats,
        "known_users": users.known,
        "known_items": items.known,
        "sha256": digest(folder),
    }


class Laid(NamedTuple):
    """The second pass's result; the arrays of events lie in the scratch folder."""

    cuts: Cuts
    users: Side
    spans: Spans
    tally: Tally


def lay_out(
    coded: Coded, scratch: pathlib.Path, config: logs.Config, min_history: int
) -> Laid:
    cuts = cuts_lib.cut(coded, config=config)
    users = number(cuts.train, cuts.count)
    spans = spans_of(cuts, users)
    tally = sort(
        by_bucket(coded, scratch, users=users, offsets=spans.offsets),
        scratch,
        kind=coded.records.dtype,
        spans=spans,
        num_items=len(coded.items),
        min_history=min_history,
    )
    return Laid(cuts, users, spans, tally)


def counted(tally: Tally, coded: Coded) -> duplicates.Count:
    rows, equal = len(coded.records), tally.equal
    timed = not equal or duplicates.tells_apart(tally.moments, rows=rows - equal)
    names = [x for x in duplicates.COMPARED if x in coded.records.dtype.names]
    again = tally.repeats - equal
    return duplicates.Count(rows, equal, again, coded.timed and timed, tuple(names))


def copies(records: np.ndarray) -> np.ndarray:
    """Mask of rows that equal an earlier one. Rows of whole users, by user and time."""
    names = [x for x in duplicates.COMPARED if x in records.dtype.names]
    some = np.arange(len(records))
    if "time" in names:  # a copy stands beside its like, or among others of their time
        tied = same_moment(records)
        some = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
    mask = np.zeros(len(records), bool)
    mask[some] = duplicates.is_copy([records[name][some] for name in names])
    return mask


def span_of(coded: Coded) -> describe.Span:
    """The times of the records, said anew."""
    span = describe.Span()
    for block in coded.blocks() if coded.timed else ():
        nanoseconds = block["time"] % SECOND
        some = nanoseconds if nanoseconds.any() else None
        span.add(block["time"] // SECOND, some)
    return span


def same_moment(records: np.ndarray) -> np.ndarray:
    """Mask [n - 1] of the records whose user and time the one before has."""
    same = records["user"][1:] == records["user"][:-1]
    if "time" in records.dtype.names:
        same &= records["time"][1:] == records["time"][:-1]
    return same


def without_copies(
    coded: Coded, scratch: pathlib.Path, *, laid: Laid, choice: str
) -> Coded:
    """The records less those that a choice of data.duplicates drops, users together."""
    kind, path = coded.records.dtype, scratch / "kept.bin"
    buckets = by_bucket(coded, scratch, users=laid.users, offsets=laid.spans.offsets)
    with open(path, "wb") as file:
        for bucket in buckets:
            records = sorted_records(np.fromfile(bucket, kind))
            bucket.unlink()
            gone = copies(records)
            if choice == "repeats":
                gone = duplicates.is_copy([records["user"], records["item"]])
            records["user"] = laid.users.codes[records["user"] - 1]
            records[~gone].tofile(file)
    path.replace(scratch / "coded.bin")
    return coded._replace(records=np.memmap(scratch / "coded.bin", kind, "r"))


def spans_of(cuts: Cuts, users: Side) -> Spans:
    count, train, before = (x[users.codes] for x in cuts[:3])
    offsets = np.concatenate([[0, 0], np.cumsum(count)])
    start = offsets[1:-1]
    return Spans(offsets, np.append(0, start + train), start + before)


def digest(folder: pathlib.Path) -> str:
    """SHA-256 of the files that say which events there are, in which order, and how
    they are split and described."""
    hasher = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        hasher.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                hasher.update(block)
    return hasher.hexdigest()


def number(trained: np.ndarray, events: np.ndarray) -> Side:
    """Catalogue ids by falling training frequency, ties by code; those without events
    have none."""
    order = np.argsort(-trained, kind="stable")
    codes = order[events[order] > 0]
    ids = columns_lib.inverse(codes, num=len(events))
    return Side(codes, ids, int(np.count_nonzero(trained)))


# The second pass: buckets of consecutive users, each sorted on its own.


def by_bucket(
    coded: Coded, scratch: pathlib.Path, *, users: Side, offsets: np.ndarray
) -> list[pathlib.Path]:
    """The events, users by catalogue id, in files of about SLICE, file order kept."""
    of_user = np.append(0, offsets[1:-1] // SLICE)
    paths = [scratch / f"bucket-{j}.bin" for j in range(int(of_user[-1]) + 1)]
    for path in paths:
        path.touch()
    for block in coded.blocks():
        block = block.copy()
        block["user"] = users.ids[block["user"]]
        bucket = of_user[block["user"]]
        block = block[np.argsort(bucket, kind="stable")]
        count = np.bincount(bucket, minlength=len(paths))
        stop = np.cumsum(count)
        for j in np.flatnonzero(count):
            with open(paths[j], "ab") as file:
                block[stop[j] - count[j] : stop[j]].tofile(file)
    return paths


def sort(
    buckets: list[pathlib.Path],
    scratch: pathlib.Path,
    *,
    kind: np.dtype,
    spans: Spans,
    num_items: int,
    min_history: int,
) -> Tally:
    """Each bucket by user, then time: its item codes, and weights where there are any,
    go to files of bare numbers. Buckets are removed."""
    tally, done = Tally(*np.zeros((3, num_items), np.int64)), 0
    columns = [name for name in ("item", "weight") if name in kind.names]
    first = spans.offsets[:-1] + min_history
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(scratch / f"{c}.bin", "wb")) for c in columns]
        for path in buckets:
            records = sorted_records(np.fromfile(path, kind))
            path.unlink()
            user, at = records["user"], done + np.arange(len(records))
            trains = at < spans.train_stop[user]
            tally.add(records, trains=trains, examples=trains & (at >= first[user]))
            for column, file in zip(columns, files, strict=True):
                records[column].tofile(file)
            done += len(records)
    return tally


def sorted_records(records: np.ndarray) -> np.ndarray:
    """By user, then time, then as they stood."""
    names = [name for name in ("user", "time") if name in records.dtype.names]
    return records[log.order_by(*(records[name] for name in names))]


def as_npy(
    source: pathlib.Path,
    target: pathlib.Path,
    *,
    kind: type,
    ids: np.ndarray | None = None,
) -> None:
    """A file of bare numbers as an .npy file, a block at a time; with `ids` the numbers
    are codes, of which those are kept."""
    number = source.stat().st_size // np.dtype(kind).itemsize
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(kind)),
        "fortran_order": False,
        "shape": (number,),
    }
    with open(source, "rb") as values, open(target, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(0, number, SLICE):
            block = np.fromfile(values, kind, SLICE)
            (block if ids is None else ids[block]).astype(kind).tofile(file)


# The catalogue: vocabularies and features.


def write_catalogue(
    config: logs.Config,
    folder: pathlib.Path,
    coded: Coded,
    *,
    users: Side,
    items: Side,
    cuts: Cuts,
    tally: Tally,
) -> list[str]:
    """vocabularies.json, schema.json, and the columns of features by catalogue id;
    returns lines for people on what they hold."""
    vocabularies: dict[str, schema_lib.Vocabulary] = {}
    schema: dict[str, list] = {}
    report: list[str] = []
    read: dict[str, Entities] = {}
    for name, ids, side, weight, count in (
        ("user", coded.users, users, cuts.train, cuts.count),
        ("item", coded.items, items, tally.trained, tally.events),
    ):
        entities, lines = logs.read_entities(ids, side=name, config=config)
        report += lines
        read[name] = entities
        report += describe.entities(entities, count, side=name)
        columns, described, more = columns_lib.feature_columns(
            entities, codes=side.codes, weight=weight, text_buckets=config.text_buckets
        )
        own = schema_lib.Vocabulary(entities.id[side.codes], side.known)
        vocabularies |= {name: own} | more
        schema[name] = [list(column) for column in described]
        # By place, as in `described`: a column's name need not be one of a file.
        np.savez(folder / f"{name}_columns.npz", *columns.values())
    logs.check_named({}, read["user"], read["item"], config=config)
    (folder / "schema.json").write_text(json.dumps(schema), "utf-8")
    (folder / "vocabularies.json").write_text(
        schema_lib.dump_vocabularies(vocabularies), "utf-8"
    )
    return report
