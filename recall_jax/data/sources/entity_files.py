"""Features of users and items from their files: which columns, of which kind."""

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recall_jax.data import describe
from recall_jax.data.log import Bag, Entities, ranges
from recall_jax.data.sources import shards, values
from recall_jax.types import InputError

if TYPE_CHECKING:
    import polars as pl

    from recall_jax.data.sources import logs

NAMELESS = r"^(|Unnamed: [\d.]+|__index_level_\d+__)$"  # an index that pandas wrote
LONG = 256  # letters; what is longer is no category


class Described(NamedTuple):
    """Entities, and lines that say how they were read."""

    entities: Entities
    report: tuple[str, ...]


def read(
    source: shards.Source,
    ids: "pl.Series",
    *,
    raw: np.ndarray,
    keys: "pl.Series",
    side: str,
    names: tuple[str, ...],
    config: "logs.Config",
) -> Described:
    """Features aligned with `ids`, from the rows whose `keys` are these; all columns but
    a nameless index, empty ones and long texts, unless `names` names them."""
    key = getattr(config, side)
    rows, report = find_rows(ids, source=source, keys=keys, key=key, side=side)
    columns: dict[str, np.ndarray | Bag] = {}
    text: dict[str, np.ndarray] = {}
    for name in names or source.rows.columns:
        if name == key:
            continue
        if not names and (why := left_out(source, name, config=config)):
            said = f"{side} feature {name!r} is left out: {why}"
            report.append(describe.note(said))
        elif name in config.text:
            text[name] = values.as_texts(source.rows[name].gather(rows))
        else:
            columns[name] = parse(source, column=name, rows=rows, config=config)
            report += separator_notes(source, name, config=config)
    return Described(Entities(raw, columns, text), tuple(report))


def find_rows(
    ids: "pl.Series", *, source: shards.Source, keys: "pl.Series", key: str, side: str
) -> tuple["pl.Series", list[str]]:
    """Each id's row of features, null if it has none; and how many have one."""
    keys = keys.alias(key)
    others = [x for x in source.rows.columns if x != key]
    if source.is_text and others:
        names = values.is_name(source.rows[key]) & values.is_name(
            source.rows[others[0]]
        )
        source.refuse(
            names, column=key, expected="an id, and no second line of column names"
        )
    twice = ~keys.is_first_distinct()
    source.refuse(twice, column=key, expected="in one row only")
    ids = ids.cast(str).alias(key)
    rows = keys.to_frame().with_row_index("row")
    row_numbers = ids.to_frame().join(rows, on=key, how="left", maintain_order="left")[
        "row"
    ]
    missing = row_numbers.is_null()
    near = near_miss(ids.filter(missing), keys.filter(~keys.is_in(ids.implode())))
    if missing.all():
        raise InputError(
            f"{source.where(0)}: no id in column {key!r}, such as {keys[0]!r}, occurs "
            f"in the log, which has {ids[0]!r}{near}"
        )
    num_matched = len(ids) - missing.sum()
    text = f"{num_matched:,} of {len(ids):,} {side}s ({num_matched / len(ids):.1%}) have a row among "
    text += f"the {len(keys):,} of {source.shards[0][0]}"
    report = [describe.line("features", text)]
    if near:
        text = f"{missing.sum():,} {side}s have no row of features{near}"
        report.append(describe.note(text))
    return row_numbers, report


FORMS = {  # of ids that mean the same, by what they differ in
    "blanks around them": lambda x: x.str.strip_chars(),
    "case": lambda x: x.str.to_lowercase(),
    "zeros before them": lambda x: x.str.replace(r"^0+(\d)", "${1}"),
    ".0 after them": lambda x: x.str.replace(r"^(\d+)\.0+$", "${1}"),
    "quotes around them": lambda x: x.str.strip_chars("'\""),
    "the way Unicode writes them": lambda x: x.str.normalize("NFKC").str.replace_all(
        "[\u200b-\u200d\ufeff]", ""
    ),
}


def near_miss(ids: "pl.Series", keys: "pl.Series") -> str:
    """What tells ids from keys that would be the same but for a way of writing; ''."""
    for what, form in FORMS.items():
        keyed = form(keys)
        same = form(ids).is_in(keyed.implode())
        if not same.any():
            continue
        mine = ids.filter(same)[0]
        other = keys.filter(keyed == form(ids.filter(same).head(1))[0])[0]
        return (
            f"; {same.sum():,} differ from one in the file by {what} alone, such as "
            f"{mine!r} from {other!r}: write both alike"
        )
    return ""


def separator_notes(
    source: shards.Source, name: str, *, config: "logs.Config"
) -> list[str]:
    """A note where the separator parts nothing of several values, or would part most of
    what are taken for single ones."""
    cells, mine = source.rows[name], config.list_separator
    if cells.dtype != shards.import_polars().String or name in config.categorical:
        return []
    if values.are_lists(values.cleaned(cells)):
        return []
    holding = {
        x: int(cells.str.contains(x, literal=True).sum()) for x in (*",;|/", mine)
    }
    if name in config.bags:
        other = max(holding, key=holding.__getitem__)
        if holding[mine] or 2 * holding[other] < len(cells):
            return []
        text = (
            f"no value of {name!r} holds {mine!r}, most hold {other!r}; if that parts "
        )
        flag = f"--config.data.list_separator={other!r}"
        return [describe.note(f"{text}values, {flag}")]
    if not mine.strip() or 2 * holding[mine] < len(cells):
        return []
    text = f"most values of {name!r} hold {mine!r}; if that parts several, "
    return [describe.note(f"{text}--config.data.bags={name} reads each")]


def left_out(source: shards.Source, name: str, *, config: "logs.Config") -> str:
    """Why a column that nobody named is no feature; '' where it is one."""
    column = source.rows[name]
    if re.match(NAMELESS, name) or name == "index" and is_index(column):
        return "it numbers the rows, and has no name of its own; rename it to use it"
    if name in (*config.bags, *config.text, *config.dense, *config.categorical):
        return ""
    cells = values.cleaned(column)
    if cells.null_count() == len(cells):
        return "it holds no value"
    most = values.longest(cells) if cells.dtype == shards.import_polars().String else 0
    if most > LONG and not values.are_lists(cells):
        return (
            f"its values have up to {most:,} letters, which is no category; "
            f"--config.data.text={name} reads it as text"
        )
    return ""


def is_index(column: "pl.Series") -> bool:
    """Whether values count up: 0, 1, 2, ..."""
    numbers = column.cast(int, strict=False)
    steps = numbers.diff().drop_nulls()
    return numbers.null_count() == 0 and bool((steps == 1).all())


def parse(
    source: shards.Source, *, column: str, rows: "pl.Series", config: "logs.Config"
) -> np.ndarray | Bag:
    """A column of the kind that its name or its values say, aligned with `rows`."""
    raw = source.rows[column]
    if raw.dtype in (shards.import_polars().Binary, shards.import_polars().Object):
        raise InputError(
            f"{source.where(0)}: column {column!r} holds {raw.dtype}, which is no feature; "
            "write it as text, or leave it out"
        )
    cells = values.cleaned(raw)
    several = column in config.bags or raw.dtype.is_nested() or values.are_lists(cells)
    if several and column not in config.categorical:
        bag = values.as_bag(source, column=column, separator=config.list_separator)
        return rows_of(bag, rows.cast(int).fill_null(-1).to_numpy())
    numbers = None if column in config.categorical else values.as_numbers(cells)
    if column in config.dense and numbers is None:
        source.refuse(
            cells.cast(float, strict=False).is_null() & cells.is_not_null(),
            column=column,
            expected="a number, as data.dense has it",
        )
        numbers = values.Numbers(cells.cast(float), are_codes=False)
    if numbers is not None and (column in config.dense or not numbers.are_codes):
        bad = numbers.values.is_infinite() | (numbers.values.abs() > 1e38)
        source.refuse(bad, column=column, expected="finite")
        dense = numbers.values.cast(shards.import_polars().Float32)
        return dense.gather(rows).fill_null(math.nan).to_numpy()
    codes = values.as_codes(cells)
    long = codes.str.len_chars() > LONG
    source.refuse(
        long,
        column=column,
        expected=f"a category of at most {LONG} letters (data.text reads longer ones)",
    )
    return values.as_strings(codes.gather(rows))


def rows_of(bag: Bag, rows: np.ndarray) -> Bag:
    """Rows of a bag; those numbered -1 hold no value."""
    starts = bag.offsets[:-1][rows]
    stops = np.where(rows < 0, starts, bag.offsets[1:][rows])
    offsets = np.concatenate([[0], np.cumsum(stops - starts)])
    return Bag(bag.values[ranges(starts, stops)], offsets)
