"""Columns of features and events as arrays: numbers, categories, several values a cell."""

import ast
import json
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recall_jax.data.log import Bag
from recall_jax.data.sources.shards import Source, import_polars
from recall_jax.types import InputError

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "-", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "\\n", "<na>")
"""Words, in lower case, that stand for no value."""
ZEROS = r"^[+-]?0\d"  # codes, such as 007
THOUSANDS = r"^[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?$"
DECIMAL_COMMA = r"^[+-]?\d+,\d+$"
CURRENCY = r"^([+-]?)[$€£¥₹] ?| ?[$€£¥₹]$"
POINTS = r"^[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d+)?$"  # thousands parted by points
LIST = r"^(\[.*\]|\(.*\)|\{.*\})$"
EXACT = 2**53  # from here on floats skip whole numbers
LONGEST = 1000  # letters of an id, and of a value that is not a text


# What a column holds.


def cleaned(values: "pl.Series") -> "pl.Series":
    """Strings without blanks around them; null what says that there is no value."""
    polars = import_polars()
    if values.dtype.is_float():
        return values.fill_nan(None)
    if values.dtype in (polars.Categorical, polars.Enum):
        values = values.cast(polars.String)
    if values.dtype != polars.String:
        return values
    values = values.str.strip_chars()
    words = values.str.to_lowercase().is_in(MISSING)
    return values.to_frame("x").select(
        polars.when(~words).then(polars.col("x")).alias(values.name)
    )[values.name]


class Numbers(NamedTuple):
    values: "pl.Series"  # Float64, null missing
    are_codes: bool  # whole, and written as codes are


def as_numbers(values: "pl.Series") -> Numbers | None:
    """The numbers that cleaned values are; None where some are none, or are '007'.

    Thousands may be parted by commas, and a decimal comma stand for a point, if it does
    everywhere; a currency's sign is left out.
    """
    polars = import_polars()
    codes = True
    if values.dtype == polars.String:
        if values.str.contains(ZEROS).any():
            return None
        text = values.str.replace(CURRENCY, "${1}")
        if (~text.str.contains(THOUSANDS) & text.str.contains(",")).any():
            decimal = text.str.contains(DECIMAL_COMMA) | text.str.contains(POINTS)
            if not (decimal | ~text.str.contains(",")).all():
                return None
            points = text.str.contains(".", literal=True)
            if (points & ~text.str.contains(POINTS)).any():
                return None
            text = text.str.replace_all(".", "", literal=True)
            text = text.str.replace(",", ".", literal=True)
        numbers = text.str.replace_all(",", "").cast(float, strict=False)
        codes = not (text.str.contains(",") | (text != values)).any()
        if numbers.null_count() > values.null_count():
            return None
    elif values.dtype.is_numeric():
        numbers = values.cast(float)
    else:
        return None
    whole = bool(((numbers == numbers.floor()) & (numbers.abs() < EXACT)).all())
    return Numbers(numbers, codes and whole)


def as_codes(values: "pl.Series") -> "pl.Series":
    """Cleaned values as strings, whole floats as their integers: '3' for 3.0."""
    if values.dtype.is_float() or values.dtype.is_decimal():
        whole = values.cast(int, strict=False)
        if (whole == values).all():
            return whole.cast(str)
    if values.dtype == import_polars().String:
        return values.str.replace(r"^([+-]?\d+)\.0*$", "${1}")
    return values.cast(str)


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


def is_name(column: "pl.Series") -> "pl.Series":
    """Mask of cells that hold the column's own name."""
    return column.str.to_lowercase() == column.name.lower()


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


# Several values a cell.


def are_lists(values: "pl.Series") -> bool:
    """Whether most cleaned cells are lists in writing, such as ['a', 'b']."""
    if values.dtype != import_polars().String or values.null_count() == len(values):
        return False
    cells = values.filter(values.str.contains(LIST))
    if 2 * len(cells) <= len(values) - values.null_count():
        return False
    # {3F25-...} and (0) are no lists; [a b] is one that somebody wrote in another way.
    return cells[0].startswith("[") or _read_list(cells[0]) is not None


def as_bag(source: Source, *, column: str, separator: str) -> Bag:
    """Lists of a Parquet column, lists in writing (JSON's or Python's), or the values
    that a separator parts, blanks around them left out."""
    polars = import_polars()
    values = source.rows[column]
    if not values.dtype.is_nested():
        values = cleaned(values.cast(str))
        if are_lists(values):
            values = _read_lists(source, values, column=column)
        else:
            values = values.str.split(separator)
    rows = values.to_frame("value").with_row_index("row")
    if isinstance(values.dtype, polars.List | polars.Array):
        rows = rows.explode("value").drop_nulls()
    inner = rows["value"].dtype
    if inner.is_float() or inner.is_decimal() or inner.is_nested():
        raise InputError(
            f"{source.where(0)}: column {column!r} holds {values.dtype}; lists of strings "
            "or whole numbers can be read. Give each float a column of its own, or leave "
            "the column out"
        )
    is_whole = inner.is_integer()
    if not is_whole:
        text = polars.col("value").cast(str).str.strip_chars()
        rows = rows.with_columns(text).filter(polars.col("value") != "")
    lengths = np.bincount(rows["row"].to_numpy(), minlength=len(values))
    flat = rows["value"].to_numpy() if is_whole else as_strings(rows["value"])
    return Bag(flat, np.concatenate([[0], np.cumsum(lengths)]))


def _read_lists(source: Source, values: "pl.Series", *, column: str) -> "pl.Series":
    """Lists of strings, by what is written in the cells."""
    lists = [_read_list(cell) for cell in values.to_list()]
    bad = import_polars().Series([x is None for x in lists])
    source.refuse(
        bad,
        column=column,
        expected="a list of words or whole numbers as JSON writes it, "
        'such as ["a", "b"]; if these are no lists, name the column in '
        "data.categorical or data.text",
    )
    kind = import_polars().List(import_polars().String)
    return import_polars().Series(column, lists, dtype=kind)


def _read_list(cell: str | None) -> list[str] | None:
    """None where a cell cannot be read; what is plainly no list is one value."""
    if cell is None:
        return []
    if not re.match(LIST, cell, re.DOTALL):
        return None if cell[:1] in "[({" else [cell]
    try:
        content = json.loads(cell)
    except ValueError:
        try:
            content = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if not isinstance(content, list | tuple | set):
        return None
    kept = [x for x in content if x is not None]
    parted_by_blanks = re.search(r"""(['"])\s+\1""", cell)  # as NumPy prints: no list
    if parted_by_blanks or not all(isinstance(x, str | int) for x in kept):
        return None
    return [str(x) for x in kept]
