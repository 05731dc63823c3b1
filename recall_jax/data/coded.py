"""Parquet shards a slice at a time, raw ids made codes, written to one file of records.

The first of two passes of `partition`: what it keeps in memory are the distinct ids.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recall_jax.data import describe
from recall_jax.data.sources import logs, shards, times, values
from recall_jax.types import InputError

if TYPE_CHECKING:
    import polars as pl

SLICE = 1 << 22  # rows read, and records worked on, at a time
FROM_ROW = " from row "


class Coded(NamedTuple):
    """Positives in file order; codes count raw ids by first appearance in the files."""

    records: np.ndarray  # [n], mapped; user, item int32, and time, weight where asked
    users: "pl.Series"  # raw ids by code
    items: "pl.Series"
    report: tuple[str, ...]  # lines for people on what was read
    span: describe.Span
    timed: bool

    def blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.records), SLICE):
            yield np.asarray(self.records[start : start + SLICE])


def code(config: logs.Config, path: pathlib.Path) -> Coded:
    """The positives of a config's shards, as records written to `path`."""
    kind = record_type(config)
    users, items, met = Codes(), Codes(), Met(config.actions)
    span, actions, read = describe.Span(), {}, []
    with open(path, "wb") as file:
        for source in slices(config):
            read += source.shards
            with shards.plain_errors(config.path):
                records = np.empty(len(source.rows), kind)
                records["user"] = users.encode(source, column=config.user)
                records["item"] = items.encode(source, column=config.item)
                moments = None, None
                if config.time:
                    moments = times.parse(
                        source, column=config.time, form=config.time_format
                    )
                    records["time"] = moments.joined()
                if config.weight:
                    records["weight"] = logs.parse_weight(source, column=config.weight)
                if config.action:
                    column = source.rows[config.action]
                    records["action"] = numbered(column, numbering=actions)
                kept = positives(source, records, config=config, met=met)
                if not kept.all():
                    records = records[kept]
                    moments = [x if x is None else x[kept] for x in moments]
                span.add(*moments)
                records.tofile(file)
    met.check()
    if not path.stat().st_size:
        raise InputError(
            f"{config.path}: no events are left after the filters; lower a bound of "
            "data.min_rating, data.min_weight, data.min_dwell, or name other actions"
        )
    users.check(config.path, column=config.user)
    items.check(config.path, column=config.item)
    records = np.memmap(path, kind, "r")
    rows = sum(count for _, count in read)
    report = [
        *describe.file_lines(merged(read)),
        *describe.passed_over(config.path),
        *describe.filters(read=rows, positive=len(records), shown=0),
    ]
    timed = bool(config.time)
    return Coded(records, users.ids, items.ids, tuple(report), span, timed)


def merged(read: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Rows by file, of rows by slice of a file."""
    counts: dict[str, int] = {}
    for name, count in read:
        path = name.split(FROM_ROW)[0]
        counts[path] = counts.get(path, 0) + count
    return list(counts.items())


def numbered(column: "pl.Series", *, numbering: dict[str, int]) -> np.ndarray:
    """Numbers of values as strings, those met before as they were."""
    strings = column.cast(str).fill_null("")
    distinct = strings.unique()
    numbers = [
        numbering.setdefault(name, len(numbering)) for name in distinct.to_list()
    ]
    return strings.replace_strict(distinct, numbers).to_numpy()


def record_type(config: logs.Config) -> np.dtype:
    """A positive on disk; its time in nanoseconds."""
    fields = [("user", np.int32), ("item", np.int32)]
    fields += [("time", np.int64)] if config.time else []
    fields += [("action", np.int32)] if config.action else []
    return np.dtype(fields + ([("weight", np.float32)] if config.weight else []))


def slices(config: logs.Config) -> Iterator[shards.Source]:
    """The columns that are asked for, SLICE rows of one shard at a time."""
    polars = shards.import_polars()
    roles = ("user", "item", "time", "weight", "action", "rating", "dwell")
    columns = {role: getattr(config, role) for role in roles if getattr(config, role)}
    paths = shards.find_shards(config.path)
    for path in paths:
        header = shards.read_header(path, separator=config.separator)
        shards.check_columns(columns, header=header, path=str(path))
    for path in paths:
        with shards.plain_errors(path):
            scan = shards.scan(path).select(set(columns.values()))
            total = scan.select(polars.len()).collect().item()
        for start in range(0, max(total, 1), SLICE):
            with shards.plain_errors(path):
                rows = scan.slice(start, SLICE).collect()
            name = f"{path}{FROM_ROW}{start:,}" if start else str(path)
            yield shards.Source(rows, ((name, len(rows)),), is_text=False)


class Codes:
    """Codes of raw ids by first appearance, slice after slice."""

    def __init__(self):
        self.known: pl.DataFrame | None = None

    @property
    def ids(self) -> "pl.Series":
        return self.known["id"]

    def encode(self, source: shards.Source, *, column: str) -> np.ndarray:
        """Codes int32 of a slice's ids."""
        ids = logs.parse_ids(source, column=column).alias("id")
        if ids.dtype.is_integer():
            ids = self._in_one_type(ids, source=source, column=column)
        if self.known is None:
            self.known = self._numbered(ids.head(0), first=0)
        elif self.known["id"].dtype != ids.dtype:
            raise InputError(
                f"{source.where(0)}: column {column!r} holds {ids.dtype}, and shards "
                f"before it hold {self.known['id'].dtype}; write one kind in all"
            )
        distinct = ids.unique(maintain_order=True).to_frame()
        fresh = distinct.join(self.known, on="id", how="anti", maintain_order="left")
        added = self._numbered(fresh["id"], first=len(self.known))
        self.known = self.known.vstack(added)
        frame = ids.to_frame()
        codes = frame.join(self.known, on="id", how="left", maintain_order="left")
        return codes["code"].to_numpy()

    def check(self, path: str, *, column: str) -> None:
        """Raise InputError for '1.0' beside '1', which a slice alone may not show."""
        if self.ids.dtype != shards.import_polars().String:
            return
        if twice := logs.written_twice(self.ids).arg_true().to_list():
            raise InputError(
                f"{path}: column {column!r} holds {self.ids[twice[0]]!r} and the same "
                "number without .0 elsewhere; ids should be written in one way"
            )

    def _in_one_type(
        self, ids: "pl.Series", *, source: shards.Source, column: str
    ) -> "pl.Series":
        """As int64, or as uint64, the ids before them too, once one is beyond int64."""
        polars = shards.import_polars()
        before = None if self.known is None else self.known["id"]
        is_wide = before is not None and before.dtype == polars.UInt64
        if not is_wide and (ids.max() or 0) <= np.iinfo(np.int64).max:
            return ids.cast(polars.Int64)
        both = [ids] if before is None else [ids, before]
        if any((x.min() or 0) < 0 for x in both if x.dtype.is_integer()):
            raise InputError(
                f"{source.where(0)}: column {column!r} has ids below 0 and ids of 2**63 "
                "and more, which no type of integers holds; write it as strings"
            )
        if before is not None and before.dtype.is_integer():
            self.known = self.known.with_columns(polars.col("id").cast(polars.UInt64))
        return ids.cast(polars.UInt64)

    @staticmethod
    def _numbered(ids: "pl.Series", *, first: int) -> "pl.DataFrame":
        codes = np.arange(first, first + len(ids), dtype=np.int32)
        return ids.to_frame("id").with_columns(
            shards.import_polars().Series("code", codes)
        )


@dataclasses.dataclass
class Met:
    """Which of the actions that were asked for some event has."""

    actions: tuple[str, ...]
    seen: set[str] = dataclasses.field(default_factory=set)
    others: set[str] = dataclasses.field(default_factory=set)

    def among(self, column: np.ndarray) -> np.ndarray:
        """Mask of the events that have one of them."""
        names = set(np.unique(column).tolist())
        self.seen |= names & set(self.actions)
        self.others |= set(sorted(names)[:20])
        return np.isin(column, self.actions)

    def check(self) -> None:
        """Raise InputError where one is nobody's: it is most often a typo."""
        for name in self.actions:
            if name not in self.seen:
                others = ", ".join(sorted(self.others)[:20])
                raise InputError(
                    f"no event has the action {name!r}; there are {others}"
                )


def positives(
    source: shards.Source, records: np.ndarray, *, config: logs.Config, met: Met
) -> np.ndarray:
    """Mask of the events that pass the filters, as `logs.Config.load` has them."""
    keep = np.ones(len(records), bool)
    if config.actions:
        keep &= met.among(values.as_strings(source.rows[config.action]))
    for role in ("rating", "dwell"):
        if (least := getattr(config, f"min_{role}")) and getattr(config, role):
            numbers = logs.parse_numbers(source, column=getattr(config, role))
            keep &= numbers.to_numpy() >= least
    if config.min_weight:
        keep &= records["weight"] >= config.min_weight
    return keep
