"""The user's own log, from Parquet or CSV files, by way of polars.

A CSV has no types; they are told from values. Ids are integers if all of them read
as such ('7', not '007'). Features, and further columns of events, are dense if all
their values are numbers and not all of those whole; data.dense and data.categorical say
otherwise.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from recall_jax.data import describe
from recall_jax.data import duplicates as duplicates_lib
from recall_jax.data import log as log_lib
from recall_jax.data.log import Bag, Entities, Interactions
from recall_jax.data.sources import entity_files, shards, times, values
from recall_jax.types import InputError, check_fields, choice

if TYPE_CHECKING:
    import polars as pl

FLOAT = r"^(-?(?:0|[1-9]\d*))\.0+$"  # a whole number as floats are written
ROLES = ("time", "weight", "rating", "action", "dwell", "session")


@dataclasses.dataclass
class Config(log_lib.Config):
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
    dense: tuple[str, ...] = ()  # feature columns that are numbers, whole as they are
    categorical: tuple[str, ...] = ()  # those that are categories, whatever they hold
    actions: tuple[str, ...] = ()  # those that are positive; (): all
    exposures: tuple[str, ...] = ()  # those that say: shown, and passed over
    min_rating: float = 0.0  # 0: any
    min_weight: float = 0.0
    min_dwell: float = 0.0
    # Rows equal in user, item, time.
    duplicates: str = choice("auto", duplicates_lib.CHOICES)

    def load(self) -> Interactions:
        """The positives, exposures apart. `read` gives every event."""
        check_fields(self, "--config.data")
        if both := set(self.exposures) & set(self.actions):
            raise InputError(
                f"{min(both)!r} stands in data.exposures and in data.actions; an "
                "action is one or the other"
            )
        read = self.read()
        log, shown = log_lib.set_apart(read, exposures=self.exposures)
        log = log_lib.filter_positives(
            log,
            actions=self.actions,
            min_rating=self.min_rating or None,
            min_weight=self.min_weight or None,
            min_dwell=self.min_dwell or None,
        )
        log_lib.check_usable(log, min_events=1)
        counts = {"positive": len(log), "shown": 0 if shown is None else len(shown)}
        log = log.reported(*describe.filters(read=len(read), **counts))
        log, count = duplicates_lib.drop(log, self.duplicates)
        log = log.reported(*describe.equal_rows(count, self.duplicates))
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
        columns = {"user": self.user, "item": self.item} | roles
        columns |= {f"events={name}": name for name in self.events}
        source = shards.read_source(
            self.path, columns=columns, separator=self.separator
        )
        with shards.plain_errors(self.path):
            return assemble(source, config=self)


def assemble(source: shards.Source, *, config: Config) -> Interactions:
    refuse_header(source, config=config)
    user, users = factorize(parse_ids(source, column=config.user))
    item, items = factorize(parse_ids(source, column=config.item))
    moments = None
    if config.time:
        moments = times.parse(source, column=config.time, form=config.time_format)
    sides = {
        side: read_entities(ids, side=side, config=config)
        for side, ids in (("user", users), ("item", items))
    }
    log = Interactions(
        user=user,
        item=item,
        users=sides["user"].entities,
        items=sides["item"].entities,
        time=moments and moments.seconds,
        nanoseconds=moments and moments.nanoseconds,
        weight=parse_weight(source, column=config.weight),
        events=parse_events(source, config=config),
        source=config.path,
        report=(
            *describe.file_lines(source.shards),
            *describe.passed_over(config.path),
            *sides["user"].report,
            *sides["item"].report,
        ),
    )
    check_named(log.events, log.users, log.items, config=config)
    return log


def check_named(
    events: dict, users: Entities, items: Entities, *, config: Config
) -> None:
    """Raise InputError for a column whose kind is named, and that was not read."""
    columns = {**events, **users.columns, **users.text, **items.columns, **items.text}
    for field in ("bags", "text", "dense", "categorical"):
        for name in getattr(config, field):
            if name not in columns:
                raise InputError(
                    f"data.{field}: there is no column {name!r} among the features and "
                    f"events{shards.nearest(name, columns)} There are: "
                    f"{shards.shown(list(columns)) or 'none'}. Features come from the files "
                    "of data.item_features and data.user_features"
                )


def refuse_header(source: shards.Source, *, config: Config) -> None:
    """Raise InputError for a line of column names among the events, of files that were
    put one behind the other."""
    if source.is_text:
        rows = source.rows
        bad = values.is_name(rows[config.user]) & values.is_name(rows[config.item])
        source.refuse(
            bad,
            column=config.user,
            expected="an id, and no second line of column names",
        )


# Ids.


def parse_ids(source: shards.Source, *, column: str) -> "pl.Series":
    """Integers or strings, none missing; floats and decimals that are whole numbers are
    these."""
    polars = shards.import_polars()
    ids = source.rows[column]
    source.refuse(ids.is_null(), column=column, expected="an id")
    if ids.dtype.is_integer():
        return as_one_integer(source, ids, column=column)
    if ids.dtype.is_float():  # what pandas makes of integers, once one was missing
        whole = ids.is_finite() & (ids == ids.floor())
        source.refuse(~whole, column=column, expected="a whole number")
        exact = shards.exact(ids.dtype)
        source.refuse(
            ids.abs() > exact,
            column=column,
            expected=f"at most {exact:,}, from where {ids.dtype} skips numbers (write "
            "integers or strings)",
        )
        return ids.cast(int)
    if ids.dtype.is_decimal():
        source.refuse(ids != ids.floor(), column=column, expected="a whole number")
        return ids.cast(int)
    if ids.dtype.is_nested() or ids.dtype.is_temporal() or ids.dtype == polars.Object:
        raise InputError(
            f"{source.where(0)}: ids in column {column!r} are of the type {ids.dtype}; "
            "write integers or strings, one event a row"
        )
    if source.is_text:  # what most ids are, and nothing more to look at
        whole = ids.cast(int, strict=False)
        if (whole.cast(str) == ids).fill_null(False).all():
            return whole
    ids = as_text(source, ids, column=column)
    return as_whole(source, ids, column=column)


def as_one_integer(
    source: shards.Source, ids: "pl.Series", *, column: str
) -> "pl.Series":
    """Integers of shards with and without a sign, which have no common type."""
    polars = shards.import_polars()
    if ids.dtype not in (polars.Int128, polars.UInt128):
        return ids
    source.refuse(ids < 0, column=column, expected="at least 0, as ids above 2**63 are")
    source.refuse(ids >= 2**64, column=column, expected="below 2**64")
    return ids.cast(polars.UInt64)


def as_text(source: shards.Source, ids: "pl.Series", *, column: str) -> "pl.Series":
    """Ids as strings that can be told apart once they are stored."""
    polars = shards.import_polars()
    text = ids.cast(str, strict=False)
    if ids.dtype == polars.Binary:
        bad = text.is_null() | text.str.contains(r"[\x00-\x1f]")
        source.refuse(
            bad, column=column, expected="text, not bytes (write them in hex)"
        )
    source.refuse(text == "", column=column, expected="an id")
    values.refuse_long(source, text, column=column)
    zero = text.str.contains("\0", literal=True)
    source.refuse(zero, column=column, expected="without a zero byte")
    if values.are_lists(text) and text.str.starts_with("[").any():
        everything = polars.repeat(True, len(text), eager=True)
        expected = "one id; a list of them should be a row each (polars: explode)"
        source.refuse(everything, column=column, expected=expected)
    return text


def as_whole(source: shards.Source, ids: "pl.Series", *, column: str) -> "pl.Series":
    """Strings of a text file as integers, if that loses nothing: '7', or '7.0', which
    is how a float of that number is written; but not '007' or '+7'."""
    rounded = ids.str.contains(r"^[+-]?\d(\.\d+)?[eE]\+\d+$")
    source.refuse(
        rounded,
        column=column,
        expected="an id in full (a spreadsheet has rounded it; write the column as text)",
    )
    bare = ids.str.replace(FLOAT, "${1}")
    floats = bare != ids
    whole = bare.cast(int, strict=False)
    if source.is_text and (whole.cast(str) == bare).fill_null(False).all():
        source.refuse(
            floats & (whole.abs() > values.EXACT),
            column=column,
            expected=f"at most {values.EXACT:,}, from where floats skip numbers",
        )
        return whole
    if floats.any():
        expected = "written in one way, and the same number stands without .0 elsewhere"
        source.refuse(written_twice(ids), column=column, expected=expected)
    return ids


def written_twice(ids: "pl.Series") -> "pl.Series":
    """Mask of ids such as '1.0' where '1' is one too: one id or two, nobody can say."""
    bare = ids.str.replace(FLOAT, "${1}")
    floats = bare != ids
    return floats & bare.is_in(ids.filter(~floats).unique().implode())


def factorize(ids: "pl.Series") -> tuple[np.ndarray, "pl.Series"]:
    """Codes int32 [n] and distinct values in order of first appearance."""
    distinct = ids.unique(maintain_order=True)
    codes = np.arange(len(distinct), dtype=np.int32)
    return ids.replace_strict(distinct, codes).to_numpy(), distinct


# Events.


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
    raw = values.cleaned(source.rows[column])
    raw = values.as_codes(raw)
    raw = raw.set(raw == "-1", None)
    codes = np.full(len(raw), -1, np.int32)
    codes[raw.is_not_null().to_numpy()] = factorize(raw.drop_nulls())[0]
    return codes


def parse_events(source: shards.Source, *, config: Config) -> dict:
    """Further columns by their own names, then those with a role by it."""
    events = {
        name: parse_event(source, column=name, config=config) for name in config.events
    }
    if config.action:
        events["action"] = values.as_strings(source.rows[config.action])
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
    raw = source.rows[column]
    if column in config.bags or raw.dtype.is_nested():
        return values.as_bag(source, column=column, separator=config.list_separator)
    raw = values.cleaned(raw)
    numbers = values.as_numbers(raw)
    if numbers is None or numbers.values.null_count() == len(raw):
        return values.as_strings(raw)
    if not numbers.are_codes:
        return numbers.values.fill_null(math.nan).to_numpy().astype(np.float32)
    if not raw.null_count():
        return numbers.values.cast(int).to_numpy()
    return values.as_strings(values.as_codes(raw))


# Features: `entity_files`.


def read_entities(
    ids: "pl.Series", *, side: str, config: Config
) -> entity_files.Described:
    """Entities of a side, 'user' or 'item', with the features that its file has."""
    path, key = getattr(config, f"{side}_features"), getattr(config, side)
    names = getattr(config, f"{side}_columns")
    raw = ids.to_numpy() if ids.dtype.is_integer() else values.as_strings(ids)
    if not path and names:
        raise InputError(f"data.{side}_columns is set, data.{side}_features is not")
    if not path:
        return entity_files.Described(Entities(raw), ())
    columns = {f"{side}_columns={name}": name for name in names}
    source = shards.read_source(
        path, columns=columns and columns | {side: key}, separator=config.separator
    )
    if key not in source.rows.columns:
        raise InputError(
            f"{path} has no column {key!r} (data.{side}), as the log calls its {side}s; "
            f"rename it there. It has {shards.shown(source.rows.columns)}"
        )
    with shards.plain_errors(path):
        keys = parse_ids(source, column=key).cast(str)
        return entity_files.read(
            source, ids, raw=raw, keys=keys, side=side, names=names, config=config
        )
