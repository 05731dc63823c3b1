"""Times of events: unix seconds and ISO 8601 known by their look, other forms by name."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recall_jax.data.sources import shards
from recall_jax.types import InputError

if TYPE_CHECKING:
    import polars as pl

TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # a second
SECOND = TICKS["ns"]
FIRST, LAST = -2_208_988_800, 4_102_444_800  # the years 1900 to 2099, in unix seconds
RECENT = 10**8  # March 1973; only a clock that counts from elsewhere is below
STAMPS = {  # dates written as one number, by its digits
    8: "%Y%m%d",
    10: "%Y%m%d%H",
    12: "%Y%m%d%H%M",
    14: "%Y%m%d%H%M%S",
}
ISO = (
    "%F %T%.f",
    "%F %T%.f%#z",
    "%F",
    "%F %H:%M",
    "%F %H:%M%#z",
    "%Y%m%d %H%M%S%.f",
    "%Y%m%d %H%M%S%.f%#z",
)
ROUNDED = r"^\d(\.\d{1,5})?[eE]\+?\d+$"  # as a spreadsheet shows a large number
LOOK = "unix seconds or ISO 8601; name another form with --config.data.time_format"


class Times(NamedTuple):
    """When events were."""

    seconds: np.ndarray  # [n] int64, unix time, rounded down
    nanoseconds: np.ndarray | None  # [n] int32, what was left; None: 0 everywhere

    def joined(self) -> np.ndarray:
        """Unix time in nanoseconds, int64."""
        whole = self.seconds * SECOND
        return whole if self.nanoseconds is None else whole + self.nanoseconds


def parse(source: shards.Source, *, column: str, form: str) -> Times:
    """The times of a column, as data.time_format has them ('': as they look).

    Raises InputError at the first value that is no time, for a type that holds none, for
    numbers of another unit, and for years outside 1900 to 2099.
    """
    raw = _of_a_type(source, column=column)
    seconds, left = _moments(raw, form=form)
    expected = f"as data.time_format, {form!r}" if form else LOOK
    source.refuse(seconds.is_null(), column=column, expected=expected)
    if not raw.dtype.is_temporal() and form in ("", *TICKS):
        _check_unit(source, raw, seconds, column=column, form=form)
    if len(seconds) and (seconds.min() < FIRST or seconds.max() >= LAST):
        bad = (seconds < FIRST) | (seconds >= LAST)
        source.refuse(bad, column=column, expected="of a year from 1900 to 2099")
    some = left is not None and bool((left != 0).any())
    nanoseconds = left.cast(int).to_numpy().astype(np.int32) if some else None
    return Times(seconds.to_numpy(), nanoseconds)


def _of_a_type(source: shards.Source, *, column: str) -> "pl.Series":
    """The column, categories and decimals as strings."""
    polars = shards.import_polars()
    raw = source.rows[column]
    kind = raw.dtype
    if kind in (polars.Categorical, polars.Enum) or kind.is_decimal():
        return raw.cast(str)
    if kind == polars.Float32 and (raw.abs() >= 2**24).any():
        raise InputError(
            f"{source.where(0)}: times in column {column!r} are Float32, which holds one "
            "second of 128; write them as integers or Float64"
        )
    if kind == polars.String:
        rounded = raw.str.contains(ROUNDED)
        if 2 * rounded.sum() > len(raw):
            source.refuse(
                rounded, column=column, expected=f"in full, not rounded: {LOOK}"
            )
        return raw
    if kind.is_integer() or kind.is_float():
        return raw
    if kind in (polars.Datetime, polars.Date):
        return raw
    raise InputError(
        f"{source.where(0)}: times in column {column!r} are of the type {kind}; write "
        "them as timestamps, unix seconds or ISO 8601"
    )


Moments = tuple["pl.Series", "pl.Series | None"]
"""Seconds, null where a value is no time, and nanoseconds beside them."""


def _moments(raw: "pl.Series", *, form: str) -> Moments:
    if raw.dtype.is_temporal():
        return _of_datetimes(raw)
    if form and form not in TICKS:
        number = raw.cast(int, strict=False) if raw.dtype.is_float() else raw
        return _of_datetimes(strptime(number.cast(str), form=form))
    ticks = TICKS.get(form, 1)
    if raw.dtype.is_integer():
        return _of_integers(raw, ticks=ticks)
    if raw.dtype.is_float():
        return _of_floats(raw, ticks=ticks)
    return _of_text(raw, ticks=ticks, iso=not form)


def _of_datetimes(raw: "pl.Series") -> Moments:
    seconds = raw.dt.epoch("s")
    is_date = raw.dtype == shards.import_polars().Date
    return seconds, None if is_date else raw.dt.nanosecond()


def _of_integers(raw: "pl.Series", *, ticks: int) -> Moments:
    whole = raw.cast(int, strict=False)
    if ticks == 1:
        return whole, None
    return whole // ticks, whole % ticks * (SECOND // ticks)


def _of_floats(raw: "pl.Series", *, ticks: int) -> Moments:
    raw = raw.cast(float)
    whole, unit = raw.floor(), SECOND // ticks
    seconds, left = _of_integers(whole.cast(int, strict=False), ticks=ticks)
    part = ((raw - whole) * unit).round().clip(0, unit - 1).cast(int, strict=False)
    return seconds, part if left is None else left + part


def _of_text(raw: "pl.Series", *, ticks: int, iso: bool) -> Moments:
    polars = shards.import_polars()
    seconds, left = _of_integers(raw, ticks=ticks)
    if not seconds.null_count():
        return seconds, left
    if left is None:
        left = polars.repeat(0, len(raw), dtype=polars.Int64, eager=True)
    raw = raw.str.strip_chars()
    # A decimal keeps the digits of a fraction that a float would round.
    exact = raw.cast(polars.Decimal(38, 9), strict=False) * (SECOND // ticks)
    total = exact.cast(int, strict=False)
    seconds, left = _filled((seconds, left), (total // SECOND, total % SECOND))
    text = plain_iso(raw) if iso and seconds.null_count() else raw
    for form in ISO if iso else ():
        if seconds.null_count():
            more = _of_datetimes(strptime(text, form=form))
            seconds, left = _filled((seconds, left), more)
    return seconds, left


def _filled(first: Moments, second: Moments) -> Moments:
    """The second's where the first has none."""
    present = first[0].is_not_null()
    return tuple(x.zip_with(present, y) for x, y in zip(first, second, strict=True))


def plain_iso(text: "pl.Series") -> "pl.Series":
    """One of the ways in which ISO 8601 and its users write a moment."""
    text = text.str.replace(r"(\d)[Tt](\d)", "${1} ${2}")
    text = text.str.replace(r"(:\d\d),(\d)", "${1}.${2}")  # a decimal comma
    text = text.str.replace(r" ?([zZ]|UTC|GMT)$", "+00:00")
    return text.str.replace(r"(\d) ([+-]\d\d:?(\d\d)?)$", "${1}${2}")


def strptime(text: "pl.Series", *, form: str) -> "pl.Series":
    """Moments in UTC, null where a string has another form."""
    if "%H" in form and not any(x in form for x in ("%M", "%R", "%T", "%X", "%c")):
        text, form = text + " 00", form + " %M"  # chrono knows no hour without a minute
    # In nanoseconds a year after 2262 would come out as another one.
    fine = bool(text.str.contains(r"[.,]\d{7}").any())
    try:
        moments = text.str.to_datetime(form, strict=False, time_unit="us")
        if fine and (moments.dt.year() < 2262).all():
            return text.str.to_datetime(form, strict=False, time_unit="ns")
    except shards.import_polars().exceptions.ComputeError as error:
        said = str(error).split("\n")[0]
        raise InputError(
            f"data.time_format {form!r} is no form of times: {said}"
        ) from error
    return moments


# Units.


def _check_unit(
    source: shards.Source,
    raw: "pl.Series",
    seconds: "pl.Series",
    *,
    column: str,
    form: str,
) -> None:
    """Raise InputError for numbers that are times in another unit, or dates."""
    ticks, mine = TICKS.get(form, 1), form or "s"
    low, high = seconds.min(), seconds.max()
    are_recent = low is not None and RECENT <= low and high < LAST
    if are_recent and not _stamp(raw, low=low * ticks, high=high * ticks):
        return
    is_number = raw.cast(float, strict=False).is_not_null()
    if not is_number.any():
        return
    every = seconds * ticks
    if not is_number.all():
        bad = is_number & (every < RECENT)
        source.refuse(bad, column=column, expected="ISO 8601, as others are")
    numbers = every.filter(is_number)
    low, high, usual = numbers.min(), numbers.max(), numbers.median()
    first = numbers.quantile(0.01, "higher")  # a few may stand for unknown ones
    unit_name = "unix seconds" if mine == "s" else f"unix time in {mine}"
    said = (
        f"{source.where(0)}: times in {column!r} run from {low} to {high}, which are not "
        f"{unit_name}"
    )
    if stamp := _stamp(raw, low=low, high=high):
        raise InputError(f"{said} but dates; say so: --config.data.time_format={stamp}")
    fits = [unit for unit, n in TICKS.items() if RECENT * n <= usual < LAST * n]
    if fits and fits != [mine]:
        if first < RECENT and high < LAST * ticks:
            return  # a clock that counts from elsewhere
        remedy = f"say what they are: --config.data.time_format={fits[0]}"
        remedy = "leave out data.time_format" if fits == ["s"] else remedy
        raise InputError(f"{said}; {remedy}")
    if fits:
        odd = (seconds >= LAST) | ((seconds < RECENT) & (every >= RECENT))
        source.refuse(
            odd & is_number, column=column, expected=f"{unit_name}, as most are"
        )


def _stamp(raw: "pl.Series", *, low: int, high: int) -> str:
    """The form of dates that were written as numbers; '' where they are none."""
    digits = len(str(low))
    if low <= 0 or len(str(high)) != digits or digits not in STAMPS:
        return ""
    years = [int(str(x)[:4]) for x in (low, high)]
    if not 1900 <= years[0] <= years[1] <= 2099:
        return ""
    text = raw.cast(int, strict=False).cast(str)
    moments = strptime(text, form=STAMPS[digits])
    return "" if moments.null_count() else STAMPS[digits]
