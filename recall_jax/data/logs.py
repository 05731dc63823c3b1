"""The user's own log, from Parquet or CSV files, by way of polars.

A CSV has no types; they are told from values. Ids are integers if all of them read
as such ('7', not '007'). Features, and further columns of events, are dense if all
their values are numbers and not all of those whole.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from recall_jax.data import interactions, positives, shards
from recall_jax.data.interactions import Bag, Entities, Interactions
from recall_jax.types import InputError

if TYPE_CHECKING:
    import polars as pl

ROLES = ("time", "weight", "rating", "action", "dwell", "session")
TICKS = {"ms": 10**3, "us": 10**6, "ns": 10**9}  # a second
ISO_FORMATS = ("%F %T%.f", "%F %T%.f%#z", "%F", "%F %H:%M")


@dataclasses.dataclass
class Config(interactions.Config):
    """Where a log is, what its columns are called ('' none), and what is positive.

    A path is a .csv, .tsv (both may be gzipped) or .parquet file, a folder of such
    shards or a glob. Without `time`, the order of rows is the order of events.
    """

    path: str = ""
    separator: str = ","  # of CSV; TSV has tabs
    user: str = "user"
    item: str = "item"
    time: str = ""
    time_format: str = ""  # '' unix seconds or ISO 8601; or ms, us, ns, or as strptime
    weight: str = ""
    rating: str = ""
    action: str = ""
    dwell: str = ""
    session: str = ""
    events: tuple[str, ...] = ()  # further columns to keep
    user_features: str = ""  # path; the key column has the name it has in the log
    item_features: str = ""
    user_columns: tuple[str, ...] = ()  # (): all
    item_columns: tuple[str, ...] = ()
    bags: tuple[str, ...] = ()  # columns of strings that hold several values
    list_separator: str = "|"  # between those
    text: tuple[str, ...] = ()  # feature columns to be read by people, text encoders
    actions: tuple[str, ...] = ()  # those that are positive; (): all
    exposures: tuple[str, ...] = ()  # those that say: shown, and passed over
    min_rating: float = 0.0  # 0: any
    min_weight: float = 0.0
    min_dwell: float = 0.0

    def load(self) -> Interactions:
        """The positives, exposures apart. `read` gives every event."""
        if both := set(self.exposures) & set(self.actions):
            raise InputError(
                f"{min(both)!r} stands in data.exposures and in data.actions; an "
                "action is one or the other"
            )
        log, shown = positives.set_apart(self.read(), exposures=self.exposures)
        log = positives.filter_positives(
            log,
            actions=self.actions,
            min_rating=self.min_rating or None,
            min_weight=self.min_weight or None,
            min_dwell=self.min_dwell or None,
        )
        positives.check_usable(log, min_events=1)
        return dataclasses.replace(log, shown=shown)

    def read(self) -> Interactions:
        """Every event, in file order.

        `events` has action (strings), rating and dwell (float32, NaN missing) and
        session (codes, -1 missing) under these names, further ones under their own.
        Features of entities are dense float32 (NaN missing), bags, or categorical
        strings ('' missing); rows of features for ids without events are left out.
        """
        roles = {role: getattr(self, role) for role in ROLES if getattr(self, role)}
        if hidden := [name for name in self.events if roles.get(name, name) != name]:
            raise InputError(
                f"data.events keeps a column {hidden[0]!r}, but that is the name of "
                f"data.{hidden[0]}={roles[hidden[0]]}; rename it in the file"
            )
        if self.user == self.item:
            raise InputError(f"data.user and data.item are one column, {self.user!r}")
        asked = {"user": self.user, "item": self.item} | roles
        asked |= {f"events={name}": name for name in self.events}
        source = shards.read_source(self.path, columns=asked, separator=self.separator)
        with shards.plain_errors(self.path):
            return assemble(source, config=self)


def assemble(source: shards.Source, *, config: Config) -> Interactions:
    user, users = factorize(parse_ids(source, column=config.user))
    item, items = factorize(parse_ids(source, column=config.item))
    log = Interactions(
        user=user,
        item=item,
        users=read_entities(users, side="user", config=config),
        items=read_entities(items, side="item", config=config),
        time=parse_time(source, column=config.time, form=config.time_format),
        weight=parse_weight(source, column=config.weight),
        events=parse_events(source, config=config),
        source=config.path,
    )
    there = {**log.events, **log.users.columns, **log.users.text}
    there |= {**log.items.columns, **log.items.text}
    for name in (*config.bags, *config.text):
        if name not in there:
            near = shards.nearest(name, there)
            raise InputError(f"data.bags, data.text: there is no column {name!r}{near}")
    return log


# Ids.


def parse_ids(source: shards.Source, *, column: str) -> "pl.Series":
    """Integers or strings, none missing."""
    ids = source.rows[column]
    source.refuse(ids.is_null(), column=column, expected="an id")
    if ids.dtype.is_integer():
        return ids
    if ids.dtype.is_float():  # what pandas makes of integers, once one was missing
        source.refuse(ids != ids.floor(), column=column, expected="a whole number")
        return ids.cast(int)
    ids = ids.cast(str)
    source.refuse(ids == "", column=column, expected="an id")
    shards.refuse_long(source, ids, column=column)
    return shards.as_whole(ids) if source.is_text else ids


def factorize(ids: "pl.Series") -> tuple[np.ndarray, "pl.Series"]:
    """Codes int32 [n] and distinct values in order of first appearance."""
    distinct = ids.unique(maintain_order=True)
    codes = np.arange(len(distinct), dtype=np.int32)
    return ids.replace_strict(distinct, codes).to_numpy(), distinct


# Events.


def parse_time(source: shards.Source, *, column: str, form: str) -> np.ndarray | None:
    """Whole seconds, int64; a fraction is cut off."""
    if not column:
        return None
    raw = source.rows[column]
    seconds = as_seconds(raw, form=form)
    expected = f"as data.time_format, {form!r}" if form else "unix seconds or ISO 8601"
    source.refuse(seconds.is_null(), column=column, expected=expected)
    low, high = seconds.min(), seconds.max()
    is_date = 19_000_101 <= low and high <= 21_001_231  # these seconds are in 1970
    hint = "%Y%m%d" if is_date else "ms" if high > 10**11 else ""
    if hint and not form and not raw.dtype.is_temporal():
        raise InputError(
            f"{source.where(0)}: times in {column!r} run from {low} to {high}, which "
            f"are not unix seconds; say what they are, --config.data.time_format={hint}"
        )
    return seconds.to_numpy()


def as_seconds(raw: "pl.Series", *, form: str) -> "pl.Series":
    """int64, null where a value is no time."""
    if raw.dtype.is_temporal():
        return raw.dt.epoch("s")
    if form and form not in TICKS:
        return strptime(raw.cast(str), form=form)
    ticks = TICKS.get(form, 1)
    whole = raw.cast(int, strict=False)
    seconds = whole // ticks
    if whole.null_count():
        fraction = (raw.cast(float, strict=False) / ticks).cast(int, strict=False)
        seconds = seconds.zip_with(seconds.is_not_null(), fraction)
    if form or raw.dtype.is_numeric():
        return seconds
    text = raw.str.replace("T", " ").str.replace(r"[zZ]$", "+00:00")
    for iso in ISO_FORMATS if seconds.null_count() else ():
        seconds = seconds.zip_with(seconds.is_not_null(), strptime(text, form=iso))
    return seconds


def strptime(text: "pl.Series", *, form: str) -> "pl.Series":
    moments = text.str.to_datetime(form, strict=False, time_unit="us")
    return moments.dt.epoch("s")


def parse_weight(source: shards.Source, *, column: str) -> np.ndarray | None:
    if not column:
        return None
    weight = parse_numbers(source, column=column)
    good = (weight.is_finite() & (weight >= 0)).fill_null(False)
    source.refuse(~good, column=column, expected="a number of at least 0")
    return weight.to_numpy()


def parse_numbers(source: shards.Source, *, column: str) -> "pl.Series":
    polars = shards.import_polars()
    raw = source.rows[column]
    numbers = raw.cast(polars.Float32, strict=False)
    bad = numbers.is_null() & raw.is_not_null()
    source.refuse(bad, column=column, expected="a number")
    return numbers


def parse_session(source: shards.Source, *, column: str) -> np.ndarray:
    """Codes by first appearance, int32; -1 where there is none."""
    raw = source.rows[column]
    codes = np.full(len(raw), -1, np.int32)
    codes[raw.is_not_null().to_numpy()] = factorize(raw.drop_nulls())[0]
    return codes


def parse_events(source: shards.Source, *, config: Config) -> dict:
    """Further columns by their own names, then those with a role by it."""
    events = {
        name: parse_event(source, column=name, config=config) for name in config.events
    }
    if config.action:
        events["action"] = shards.as_strings(source.rows[config.action])
    for role, column in (("rating", config.rating), ("dwell", config.dwell)):
        if column:
            events[role] = parse_numbers(source, column=column).to_numpy()
    if config.session:
        events["session"] = parse_session(source, column=config.session)
    return events


def parse_event(
    source: shards.Source, *, column: str, config: Config
) -> np.ndarray | Bag:
    """A bag, float32 (NaN missing), int64, or strings ('' missing)."""
    values = source.rows[column]
    if column in config.bags or values.dtype.is_nested():
        return shards.as_bag(values, separator=config.list_separator)
    values = shards.as_number(values) if source.is_text else values
    if shards.is_dense(values):
        return parse_numbers(source, column=column).to_numpy()
    if values.dtype.is_integer() and not values.null_count():
        return values.to_numpy()
    return shards.as_strings(values)


# Features.


def read_entities(ids: "pl.Series", *, side: str, config: Config) -> Entities:
    """Entities of a side, 'user' or 'item', with the features that its file has."""
    path, key = getattr(config, f"{side}_features"), getattr(config, side)
    names = getattr(config, f"{side}_columns")
    raw = ids.to_numpy() if ids.dtype.is_integer() else shards.as_strings(ids)
    if not path and names:
        raise InputError(f"data.{side}_columns is set, data.{side}_features is not")
    if not path:
        return Entities(raw)
    asked = {f"{side}_columns={name}": name for name in names}
    source = shards.read_source(
        path, columns=asked and asked | {side: key}, separator=config.separator
    )
    shards.check_columns({side: key}, there=source.rows.columns, path=path)
    with shards.plain_errors(path):
        rows = find_rows(ids, source=source, key=key)
        columns = {
            name: parse_feature(source, column=name, rows=rows, config=config)
            for name in names or source.rows.columns
            if name != key
        }
    text = {name: columns.pop(name) for name in config.text if name in columns}
    return Entities(raw, columns, text)


def find_rows(ids: "pl.Series", *, source: shards.Source, key: str) -> "pl.Series":
    """Each id's row of features, null if it has none."""
    keys = parse_ids(source, column=key).cast(str).alias(key)
    twice = ~keys.is_first_distinct()
    source.refuse(twice, column=key, expected="in one row only")
    rows = keys.to_frame().with_row_index("row")
    ids = ids.cast(str).alias(key).to_frame()
    found = ids.join(rows, on=key, how="left", maintain_order="left")["row"]
    if found.is_null().all():
        raise InputError(
            f"{source.where(0)}: no id in column {key!r}, such as {keys[0]!r}, occurs "
            f"in the log, which has {ids[key][0]!r}"
        )
    return found


def parse_feature(
    source: shards.Source, *, column: str, rows: "pl.Series", config: Config
) -> np.ndarray | Bag:
    values = source.rows[column]
    if column in config.text:
        return shards.as_texts(values.gather(rows))
    if column in config.bags or values.dtype.is_nested():
        return shards.as_bag(values.gather(rows), separator=config.list_separator)
    number = shards.as_number(values) if source.is_text else values
    if not shards.is_dense(number):
        return shards.as_strings(values.gather(rows))
    dense = parse_numbers(source, column=column)
    source.refuse(dense.is_infinite(), column=column, expected="finite")
    return dense.fill_nan(None).gather(rows).fill_null(math.nan).to_numpy()
