"""Rows of Parquet and CSV files, and where each of them stands.

For `logs`. Whatever is wrong with a file is an InputError.
"""

import contextlib
import dataclasses
import difflib
import glob
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from recall_jax.data.sources import text_files
from recall_jax.types import InputError, MissingData

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".parquet", ".pq", ".csv", ".tsv", ".csv.gz", ".tsv.gz")


def import_polars():
    try:
        import polars
    except ImportError as error:
        raise InputError(
            "reading Parquet and CSV needs polars: pip install 'polars>=1.20'"
        ) from error
    return polars


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows of all shards, one after another."""

    rows: "pl.DataFrame"
    shards: tuple[tuple[str, int], ...]  # path and number of rows
    is_text: bool  # every column is of strings then

    def where(self, row: int) -> str:
        """For people: the line of a text file (its header is line 1; a line break
        within quotes does not count), the row of a Parquet file from 0."""
        for path, count in self.shards:
            if row < count:
                break
            row -= count
        return f"{path}, line {row + 2}" if self.is_text else f"{path}, row {row}"

    def refuse(self, bad: "pl.Series", *, column: str, expected: str) -> None:
        """Raises at the first bad row, if there is one."""
        if not bad.any():
            return
        row = bad.arg_max()
        value = repr(self.rows[column][row])
        value = value if len(value) < 100 else f"{value[:80]}..."
        raise InputError(
            f"{self.where(row)}: column {column!r} should be {expected}, is "
            f"{value}; so in {bad.sum():,} of {len(bad):,} rows"
        )


def read_source(path: str, *, columns: dict[str, str], separator: str) -> Source:
    """The columns asked for ({option that names it: column}; none: all) of all shards.

    `path` is a file, a folder or a glob; numbers in names count as numbers, so that
    part-10 follows part-9. Raises InputError for whatever is wrong with the files.
    """
    shards = find_shards(path)
    separator = "\t" if separator == "\\t" else separator
    if len(separator.encode()) != 1 or separator in '"\n\r':
        raise InputError(
            f"data.separator is {separator!r}; expected one character that is no quote "
            "and no line break"
        )
    headers = {shard: read_header(shard, separator=separator) for shard in shards}
    names = headers[shards[0]]
    for shard, header in headers.items():
        if odd := sorted({*header} ^ {*names}):
            raise InputError(
                f"{shard} and {shards[0]} differ in the columns {shown(odd)}; shards "
                "have all the same"
            )
    check_columns(columns, header=names, path=str(shards[0]))
    names = list(dict.fromkeys(columns.values())) or names
    frames = [read_shard(shard, names=names, separator=separator) for shard in shards]
    if not sum(map(len, frames)):
        raise InputError(f"{path} has a header but no rows")
    rows = one_frame(frames, shards=shards)
    counts = tuple((str(shard), len(f)) for shard, f in zip(shards, frames))
    return Source(rows, counts, is_text(shards[0]))


def one_frame(
    frames: list["pl.DataFrame"], *, shards: list[pathlib.Path]
) -> "pl.DataFrame":
    """Rows of all shards. Raises InputError, with column and files, for types that do
    not go together."""
    polars = import_polars()
    columns = []
    for name in frames[0].columns:
        parts = [frame.get_column(name) for frame in frames]
        try:
            parts = of_one_type(parts)
            columns.append(
                polars.concat([x.to_frame() for x in parts], how="vertical_relaxed")
            )
        except polars.exceptions.PolarsError as error:
            types = {part.dtype: path for part, path in zip(parts, shards, strict=True)}
            text = ", ".join(f"{kind} in {path}" for kind, path in types.items())
            raise InputError(
                f"column {name!r} holds {text}; write one type in all shards"
            ) from error
    return polars.concat(columns, how="horizontal")


def of_one_type(parts: list["pl.Series"]) -> list["pl.Series"]:
    """A column's parts in a type that loses nothing of any, where polars' common one
    would: floats that are whole among whole numbers, moments of unlike precision."""
    polars = import_polars()
    kinds = {part.dtype for part in parts}
    if len(kinds) < 2:
        return parts
    if len({k.is_temporal() for k in kinds if k.is_numeric() or k.is_temporal()}) > 1:
        raise polars.exceptions.SchemaError("dates and numbers have no common type")
    if any(kind.is_float() for kind in kinds) and not all(k.is_float() for k in kinds):
        floats = [part for part in parts if part.dtype.is_float()]
        if all(is_whole(part) for part in floats):
            parts = [x.cast(int) if x.dtype.is_float() else x for x in parts]
    if all(isinstance(kind, polars.Datetime) for kind in kinds):
        unit = next(x for x in ("ns", "us", "ms") if x in {k.time_unit for k in kinds})
        parts = [part.dt.cast_time_unit(unit) for part in parts]
    return parts


def is_whole(values: "pl.Series") -> bool:
    """Whether floats are whole numbers, none of them so large that floats skip some."""
    whole = (values == values.floor()) & (values.abs() <= exact(values.dtype))
    return bool(whole.all())


def exact(kind: "pl.DataType") -> int:
    """Up to where floats hold every whole number."""
    return 2**24 if kind == import_polars().Float32 else 2**53


def find_shards(path: str) -> list[pathlib.Path]:
    """The files of a log, each once. Hidden ones, which begin with a dot or an
    underscore or stand in a folder that does, are no part of it, unless named."""
    place = pathlib.Path(path).expanduser()
    if path and place.is_dir():
        paths = [p for p in place.rglob("*") if not is_hidden(p.relative_to(place))]
        paths = [p for p in paths if is_shard(p)]
    elif place.is_file():  # its name may have a [
        paths = [place]
    else:
        fixed = len(
            list(itertools.takewhile(lambda x: not glob.has_magic(x), place.parts))
        )
        paths = [pathlib.Path(p) for p in glob.glob(str(place), recursive=True)]
        paths = [p for p in paths if p.is_file()]
        paths = [p for p in paths if not is_hidden(pathlib.Path(*p.parts[fixed:]))]
    if "://" in path:
        raise InputError(f"{path} is not on this machine's disk; copy the log there")
    if not path or not paths:
        raise MissingData(
            f"there is no log at {path!r}; expected a file, a folder of shards or a "
            f"glob, with names that end in {', '.join(SUFFIXES)} and begin with neither "
            ". nor _"
        )
    if odd := [p for p in paths if not is_shard(p)]:
        raise InputError(f"{odd[0]}: its name should end in {', '.join(SUFFIXES)}")
    if len({is_text(p) for p in paths}) > 1:
        raise InputError(f"{path} holds Parquet and text files; name one kind, *.csv")
    ordered = sorted(paths, key=in_numeric_order)
    return list({p.resolve(): p for p in reversed(ordered)}.values())[::-1]


def is_hidden(path: pathlib.Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def is_shard(path: pathlib.Path) -> bool:
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def in_numeric_order(path: pathlib.Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def is_text(path: pathlib.Path) -> bool:
    return not path.name.lower().endswith((".parquet", ".pq"))


def text_file(path: pathlib.Path, *, separator: str) -> text_files.File:
    tabs = ".tsv" in path.name.lower()
    return text_files.File(path, "\t" if tabs else separator)


def read_header(path: pathlib.Path, *, separator: str) -> list[str]:
    if is_text(path):
        return text_files.header(text_file(path, separator=separator))
    with plain_errors(path):
        with open(path, "rb") as file:
            start = file.read(64)
        if not start.startswith(b"PAR1"):
            text_files.check_kind(path, start)
            raise InputError(
                f"{path} is no Parquet file, whatever its name says; if it is text, its "
                "name should end in .csv"
            )
        return scan(path).collect_schema().names()


def scan(path: pathlib.Path) -> "pl.LazyFrame":
    """A Parquet file by its very name, with the columns that stand in it."""
    return import_polars().scan_parquet(path, glob=False, hive_partitioning=False)


def read_shard(
    path: pathlib.Path, *, names: list[str], separator: str
) -> "pl.DataFrame":
    with plain_errors(path):
        if is_text(path):
            return text_files.read(text_file(path, separator=separator), names=names)
        return scan(path).select(names).collect()


@contextlib.contextmanager
def plain_errors(path: str | pathlib.Path) -> Iterator[None]:
    """What polars raises, its panics on corrupt Parquet included, as InputError."""
    kinds = import_polars().exceptions
    try:
        yield
    except (kinds.PolarsError, kinds.PanicException, OSError) as error:
        said = str(error).strip().split("\n")[0][:200]
        raise InputError(f"{path} could not be read: {said}. Is it whole?") from error


def check_columns(columns: dict[str, str], *, header: list[str], path: str) -> None:
    for option, name in columns.items():
        if name not in header:
            raise InputError(
                f"{path} has no column {name!r} (data.{option})"
                f"{nearest(name, header)} It has {shown(header)}; a file without a line "
                "of column names needs one"
                + partition_hint(name, path=path)
                + separated(header)
            )


def separated(header: list[str]) -> str:
    """What to say of a single column whose name seems to be several."""
    others = [x for x in ",;|\t" if len(header) == 1 and x in header[0]]
    if not others:
        return ""
    return f"; if its columns are parted by {others[0]!r}, say --config.data.separator"


def partition_hint(name: str, *, path: str) -> str:
    """What to say where a folder's name holds a column, as Hive and Spark write it."""
    if f"{name}=" not in path:
        return ""
    return (
        f". {name!r} stands in the names of folders alone; write the column into the "
        "files too"
    )


def nearest(name: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else "."


def shown(names: list[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(repr(name[:40]) for name in names[:20]) + more
