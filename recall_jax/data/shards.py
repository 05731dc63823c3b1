"""Rows of Parquet and CSV files, where each of them stands, and columns as arrays.

For `logs`. Whatever is wrong with a file is an InputError.
"""

import contextlib
import dataclasses
import difflib
import glob
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from recall_jax.data.interactions import Bag
from recall_jax.types import InputError, MissingData

if TYPE_CHECKING:
    import polars as pl

LONGEST = 1000  # letters of an id, and of a value that is not a text
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
        raise InputError(
            f"{self.where(row)}: column {column!r} should be {expected}, is "
            f"{self.rows[column][row]!r}; so in {bad.sum():,} of {len(bad):,} rows"
        )


def read_source(path: str, *, columns: dict[str, str], separator: str) -> Source:
    """The columns asked for ({option that names it: column}; none: all) of all shards.

    `path` is a file, a folder or a glob; numbers in names count as numbers, so that
    part-10 follows part-9. Raises InputError for whatever is wrong with the files.
    """
    shards = find_shards(path)
    if len(separator.encode()) != 1:
        raise InputError(f"data.separator is {separator!r}; expected one character")
    headers = {shard: read_header(shard, separator=separator) for shard in shards}
    names = headers[shards[0]]
    for shard, header in headers.items():
        if odd := sorted({*header} ^ {*names}):
            raise InputError(
                f"{shard} and {shards[0]} differ in the columns {shown(odd)}; shards "
                "have all the same"
            )
    check_columns(columns, there=names, path=str(shards[0]))
    names = list(dict.fromkeys(columns.values())) or names
    frames = [read_shard(shard, names=names, separator=separator) for shard in shards]
    if not sum(map(len, frames)):
        raise InputError(f"{path} has a header but no rows")
    with plain_errors(path):
        rows = import_polars().concat(frames, how="vertical_relaxed")
    counts = tuple((str(shard), len(f)) for shard, f in zip(shards, frames))
    return Source(rows, counts, is_text(shards[0]))


def find_shards(path: str) -> list[pathlib.Path]:
    place = pathlib.Path(path).expanduser()
    if place.is_dir():
        found = [p for p in place.rglob("*") if p.name.endswith(SUFFIXES)]
    else:
        found = [pathlib.Path(p) for p in glob.glob(str(place), recursive=True)]
        found = [place] if place.is_file() else found  # its name may have a [
    if not path or not found:
        raise MissingData(
            f"there is no log at {path!r}; expected a file, a folder of shards or a "
            f"glob, with names that end in {', '.join(SUFFIXES)}"
        )
    if odd := [p for p in found if not p.name.endswith(SUFFIXES)]:
        raise InputError(f"{odd[0]}: its name should end in {', '.join(SUFFIXES)}")
    if len({is_text(p) for p in found}) > 1:
        raise InputError(f"{path} holds Parquet and text files; name one kind, *.csv")
    return sorted(found, key=in_numeric_order)


def in_numeric_order(path: pathlib.Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def is_text(path: pathlib.Path) -> bool:
    return not path.name.endswith((".parquet", ".pq"))


def read_header(path: pathlib.Path, *, separator: str) -> list[str]:
    polars = import_polars()
    with plain_errors(path):
        if not is_text(path):
            return list(polars.read_parquet_schema(path))
        return read_text(path, names=None, separator=separator, num_rows=0).columns


def read_shard(
    path: pathlib.Path, *, names: list[str], separator: str
) -> "pl.DataFrame":
    polars = import_polars()
    with plain_errors(path):
        if not is_text(path):
            return polars.read_parquet(path, columns=names)
        rows = read_text(path, names=names, separator=separator, num_rows=None)
        # A quoted '' is as empty as one without quotes; lines at the end may be blank.
        rows = rows.with_columns(polars.all().replace("", None)).select(names)
        filled = rows.select(polars.any_horizontal(polars.all().is_not_null()))
        return rows.head(len(rows) - (filled.to_series().reverse().arg_max() or 0))


def read_text(
    path: pathlib.Path,
    *,
    names: list[str] | None,
    separator: str,
    num_rows: int | None,
) -> "pl.DataFrame":
    return import_polars().read_csv(
        path,
        columns=names,
        separator="\t" if ".tsv" in path.suffixes else separator,
        infer_schema=False,
        n_rows=num_rows,
    )


@contextlib.contextmanager
def plain_errors(path: str | pathlib.Path) -> Iterator[None]:
    """What polars raises, its panics on corrupt Parquet included, as InputError."""
    kinds = import_polars().exceptions
    try:
        yield
    except (kinds.PolarsError, kinds.PanicException, OSError) as error:
        said = str(error).strip().split("\n")[0][:200]
        raise InputError(
            f"{path} could not be read: {said}. Is it whole, and if text, UTF-8 with "
            "the separator that --config.data.separator gives?"
        ) from error


def check_columns(columns: dict[str, str], *, there: list[str], path: str) -> None:
    for option, name in columns.items():
        if name not in there:
            raise InputError(
                f"{path} has no column {name!r} (data.{option})"
                f"{nearest(name, there)} It has {shown(there)}; a file without a line "
                "of column names needs one"
            )


def nearest(name: str, there: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, there, n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else "."


def shown(names: list[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(repr(name[:40]) for name in names[:20]) + more


# Values.


def as_whole(values: "pl.Series") -> "pl.Series":
    """Strings as integers, if that loses nothing: '7' but not '007' or '+7'."""
    whole = values.cast(int, strict=False)
    same = (whole.cast(str) == values).fill_null(False) | values.is_null()
    return whole if same.all() else values


def as_number(values: "pl.Series") -> "pl.Series":
    """Strings as integers or floats, if all are numbers; '007' stays a string."""
    whole = as_whole(values)
    if whole.dtype.is_integer() or values.str.contains(r"^[+-]?0\d").any():
        return whole
    numbers = values.cast(float, strict=False)
    return numbers if numbers.null_count() == values.null_count() else values


def is_dense(values: "pl.Series") -> bool:
    return values.dtype.is_float() or values.dtype.is_decimal()


def as_strings(values: "pl.Series") -> np.ndarray:
    """NumPy's strings, '' for null: all of them take the memory of the longest, so
    InputError for one that must be a text."""
    strings = values.cast(str).fill_null("")
    if (most := longest(strings)) > LONGEST:
        raise InputError(
            f"column {values.name!r} has a value of {most:,} letters, and values that are "
            f"told apart have at most {LONGEST:,}; if it is a feature and a text, name it "
            "in --config.data.text, else leave it out"
        )
    return strings.to_numpy().astype(str)


def as_texts(values: "pl.Series") -> np.ndarray:
    """Python's strings, '' for null: each takes the memory of its own length."""
    if values.dtype.is_nested():
        raise InputError(
            f"column {values.name!r} is in data.text and holds {values.dtype}; a text is "
            "one string: leave it out there, or join it in the file"
        )
    return values.cast(str).fill_null("").to_numpy().astype(object)


def longest(strings: "pl.Series") -> int:
    """Letters of the longest; 0 without any."""
    return strings.str.len_chars().max() or 0


def refuse_long(source: Source, ids: "pl.Series", *, column: str) -> None:
    """Raise InputError at the first id that is too long to be one."""
    if longest(ids) <= LONGEST:
        return
    letters = ids.str.len_chars()
    row = (letters > LONGEST).arg_max()
    raise InputError(
        f"{source.where(row)}: column {column!r} should be an id of at most {LONGEST:,} "
        f"letters, has {letters[row]:,}, which begin {ids[row][:40]!r}; is a quotation "
        "mark open, or the column another one?"
    )


def as_bag(values: "pl.Series", *, separator: str) -> Bag:
    polars = import_polars()
    if not values.dtype.is_nested():
        values = values.cast(str).str.split(separator)
    rows = values.to_frame("value").with_row_index("row").explode("value").drop_nulls()
    if is_dense(rows["value"]) or rows["value"].dtype.is_nested():
        raise InputError(
            f"column {values.name!r} holds {values.dtype}; lists of strings or whole "
            "numbers can be read. Give each float a column of its own"
        )
    is_whole = rows["value"].dtype.is_integer()
    if not is_whole:
        rows = rows.with_columns(polars.col("value").cast(str))
        rows = rows.filter(polars.col("value") != "")
    lengths = np.bincount(rows["row"].to_numpy(), minlength=len(values))
    flat = rows["value"].to_numpy() if is_whole else as_strings(rows["value"])
    return Bag(flat, np.concatenate([[0], np.cumsum(lengths)]))
