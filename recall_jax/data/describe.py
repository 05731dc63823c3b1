"""A log in a few lines, before anything is trained on it: what was read, what it holds,
and, after "note", what looks wrong and what to do."""

import dataclasses
import pathlib
import unicodedata
from collections.abc import Sequence

import numpy as np

from recall_jax.data import duplicates
from recall_jax.data.log import Bag, Entities, Interactions
from recall_jax.data.sources import shards, times
from recall_jax.data.sources import values as values_lib

NULL_LIKE = frozenset((*values_lib.MISSING, "(null)", "undefined", "unknown"))
"""Ids, in lower case, that often stand for a missing one."""
MOST = 200_000  # ids that are compared with each other
MANY = 0.1  # of all events; more are not one person's
INVISIBLE = "\u200b\u200c\u200d\ufeff\xad"


def line(label: str, text: str) -> str:
    return f"{label:<11}{text}"


def note(text: str) -> str:
    return line("note", text)


def file_lines(read: Sequence[tuple[str, int]]) -> list[str]:
    """Files read, and their rows."""
    first, last = read[0][0], read[-1][0]
    rows = sum(count for _, count in read)
    names = first if first == last else f"{first} to {last}"
    number = f"{len(read)} file" + "s" * (len(read) > 1)
    return [line("files", f"{number}, {rows:,} rows: {names}")]


def passed_over(path: str) -> list[str]:
    """What lies in a log's folder and is not read."""
    place = pathlib.Path(path).expanduser()
    if not place.is_dir():
        return []
    inside = [p for p in place.rglob("*") if p.is_file() or p.is_symlink()]
    hidden = [p for p in inside if shards.is_hidden(p.relative_to(place))]
    shown = [p for p in inside if not shards.is_hidden(p.relative_to(place))]
    other = [p for p in shown if not shards.is_shard(p)]
    lines = []
    if hidden:
        lines.append(
            line("", f"{len(hidden)} hidden files left out, such as {hidden[0]}")
        )
    if other:
        text = f"{len(other)} files of other kinds or links to nothing are not read, such as {other[0]}; "
        text += f"if they hold events, write them as {shards.SUFFIXES[0]}"
        lines.append(note(text))
    if (place / "_delta_log").exists():
        lines.append(
            note(
                f"{path} is a Delta table, and files that its log has removed are read "
                "too; write its present rows to another folder"
            )
        )
    return lines


def filters(*, read: int, positive: int, shown: int) -> list[str]:
    """What the filters of positives dropped."""
    if read == positive:
        return []
    text = f"{read - positive - shown:,} of {read:,} rows by filters of positives"
    return [line("dropped", text + (f"; {shown:,} are exposures" if shown else ""))]


def equal_rows(count: duplicates.Count, choice: str) -> list[str]:
    """What happens to equal rows, in a line, and a note where they may be copies;
    without a choice they stay."""
    *names, last = count.compared
    what = f"{', '.join(names)} and {last}"
    if not count.equal and choice != "repeats":
        return [line("equal rows", f"none of {count.rows:,} in {what}")]
    gone = count.dropped(choice)
    how = f" (data.duplicates={choice})" if choice else ""
    if choice == "auto":
        often = count.again if count.timed else count.equal
        share = f"{often / count.rows:.1%} of all repeat an item of their user"
        if not count.timed:
            share += ", and no times tell copies from second visits"
        how = f" (data.duplicates=auto; {share})"
    done = f"{gone:,} dropped" if gone else "kept"
    text = f"{count.equal:,} of {count.rows:,} in {what}: {done}{how}"
    lines = [line("equal rows", text)]
    if choice == "auto" and not gone:
        text = "a copied row puts the item to be found into the history before it; if "
        lines.append(
            note(text + "rows were copied, set --config.data.duplicates=dropped")
        )
    return lines


def events(log: Interactions) -> list[str]:
    """Times, ids and features of the events that are split, and how many are equal
    where a source has not said so."""
    lines = Span().add(log.time, log.nanoseconds).lines()
    if not any(x.startswith("equal rows") for x in log.report):
        lines += equal_rows(duplicates.count_of(log)[1], "")
    for side, codes in (("user", log.user), ("item", log.item)):
        catalogue = getattr(log, f"{side}s")
        lines += entities(
            catalogue, np.bincount(codes, minlength=len(catalogue)), side=side
        )
    return lines


def entities(catalogue: Entities, count: np.ndarray, *, side: str) -> list[str]:
    """Of users or items with `count` events each: their ids and features."""
    return ids(catalogue.id, count, side=side) + features(
        catalogue, count > 0, side=side
    )


@dataclasses.dataclass
class Span:
    """The times of a log, some of them after the other."""

    low: int = np.iinfo(np.int64).max
    high: int = np.iinfo(np.int64).min
    rows: int = 0
    early: int = 0  # before 1973
    in_days: bool = True
    in_seconds: bool = True

    def add(self, seconds: np.ndarray | None, nanoseconds: np.ndarray | None) -> "Span":
        """Takes more times in, as of `times.Times`, and returns itself."""
        if seconds is None or not len(seconds):
            return self
        self.low = min(self.low, int(seconds.min()))
        self.high = max(self.high, int(seconds.max()))
        self.rows += len(seconds)
        self.in_seconds &= nanoseconds is None
        if self.in_days:
            self.in_days = self.in_seconds and not (seconds % 86_400).any()
        if self.low < times.RECENT:
            self.early += int((seconds < times.RECENT).sum())
        return self

    def lines(self) -> list[str]:
        """The span in plain dates, and what is odd about it."""
        if not self.rows:
            return [line("times", "none: the order of rows is the order of events")]
        unit = "whole days" if self.in_days else "whole seconds"
        unit = unit if self.in_seconds else "parts of seconds"
        text = f"{date(self.low)} to {date(self.high)} UTC, in {unit}"
        lines = [line("times", text)]
        if self.low == self.high:
            text = "all events have one time, so nothing says which came last; name "
            lines.append(note(text + "a column of times with --config.data.time"))
        if self.high < times.RECENT:
            text = "these times lie before 1973, as of a clock that starts at 0; dates "
            text += "of a spreadsheet, or years, should be written as ISO 8601"
            lines.append(note(text))
        elif self.early:
            text = f"{self.early:,} of {self.rows:,} times lie before 1973, as where 0 "
            text += "stands for an unknown one; leave those rows out of the file"
            lines.append(note(text))
        if self.high > np.datetime64("now", "s").astype(int):
            text = "the last event lies in the future; look at the unit and the zone "
            lines.append(note(text + "of times (--config.data.time_format)"))
        return lines


def date(seconds: int) -> str:
    return str(np.datetime64(seconds, "s")).replace("T", " ")


def ids(raw: np.ndarray, count: np.ndarray, *, side: str) -> list[str]:
    """Null-like ids and their share; ids that may be one; one with too much."""
    total, lines = int(count.sum()), []
    codes = np.flatnonzero(count)
    null = np.zeros(len(codes), bool)
    if raw.dtype.kind in "OUT":
        names = raw[codes].tolist()
        null = np.array([str(x).strip().lower() in NULL_LIKE for x in names], bool)
        lines += alike(names[:MOST], side=side)
    share = count[codes[null]].sum() / max(total, 1)
    lines.insert(0, line(f"{side} ids", f"{share:.2%} of rows are empty or null-like"))
    if null.any():
        shown = ", ".join(repr(str(x)) for x in raw[codes[null]][:3].tolist())
        text = (
            f"{share:.1%} of rows have the {side} {shown}, which looks like a missing "
        )
        lines.append(note(text + "one and is taken as an id; leave those rows out"))
    most = int(count.argmax())
    if len(codes) >= 20 and count[most] > MANY * total and side == "user":
        text = (
            f"{side} {raw[most].item()!r} has {count[most] / total:.0%} of all events; "
        )
        lines.append(
            note(text + "if that is a robot or stands for nobody, leave it out")
        )
    return lines


def plain(name: str) -> str:
    """An id less what people do not see, or write in several ways."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name)
        name = "".join(x for x in name if x not in INVISIBLE)
    return name.casefold().strip(" \t'\"")


def alike(names: list[str], *, side: str) -> list[str]:
    """A note on ids of which the plain forms are equal."""
    first: dict[str, str] = {}
    pairs = [
        (first[form], name)
        for name in names
        if first.setdefault(form := plain(str(name)), name) != name
    ]
    if not pairs:
        return []
    one, other = pairs[0]
    text = (
        f"{len(pairs):,} {side} ids differ from another only by blanks, case, quotes "
    )
    text += (
        f"or the way Unicode writes them, such as {one!r} and {other!r}; if they are "
    )
    return [note(text + "one, write them alike")]


def features(entities: Entities, present: np.ndarray, *, side: str) -> list[str]:
    """A line a feature: its kind, values, and the share that is missing."""
    lines, num = [], max(int(present.sum()), 1)
    for name, column in entities.columns.items():
        kind, number, missing = kind_of(column, present)
        text = f"{side} {name!r}: {kind}, {number:,} values"
        lines.append(line("feature", f"{text}, {missing / num:.1%} missing"))
        if kind == "categories" and number == num - missing >= 20:
            text = (
                f"{name!r} is another in each {side}, and so tells nothing of others; "
            )
            text += "data.dense takes whole numbers as numbers, data.text reads words, "
            lines.append(note(f"{text}data.{side}_columns leaves the column out"))
        elif number <= 1:
            text = f"{name!r} is the same in each {side}; leave it out with "
            lines.append(note(f"{text}--config.data.{side}_columns"))
    for name, column in entities.text.items():
        missing = int(sum(not text for text in column[present].tolist()))
        text = f"{side} {name!r}: text, {missing / num:.1%} missing"
        lines.append(line("feature", text))
    return lines


def kind_of(column: np.ndarray | Bag, present: np.ndarray) -> tuple[str, int, int]:
    """Kind, distinct values and missing ones of a feature among those that are `present`."""
    if isinstance(column, Bag):
        lengths = np.diff(column.offsets)
        inside = np.repeat(present, lengths)
        values = len(np.unique(column.values[inside]))
        return "several values each", values, int((lengths[present] == 0).sum())
    cells = column[present]
    if column.dtype.kind == "f":
        finite = np.isfinite(cells)
        return "numbers", len(np.unique(cells[finite])), int((~finite).sum())
    missing = cells == "" if column.dtype.kind in "UT" else np.zeros(len(cells), bool)
    return "categories", len(np.unique(cells[~missing])), int(missing.sum())
