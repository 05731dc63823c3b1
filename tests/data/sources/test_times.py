"""Times: their unit, their forms, and every digit that they have."""

import datetime
import re

import numpy as np
import pytest

from recall_jax.data.sources import shards, times
from recall_jax.types import InputError

pl = pytest.importorskip("polars", reason="times are parsed with polars")

AT = 1_700_000_000  # 2023-11-14 22:13:20 UTC


def parse(values, form: str = "", *, dtype=None) -> times.Times:
    rows = pl.DataFrame({"t": pl.Series(values, dtype=dtype)})
    return times.parse(source(rows), column="t", form=form)


def source(rows) -> shards.Source:
    is_text = rows["t"].dtype == pl.String
    return shards.Source(rows, (("log.csv", len(rows)),), is_text)


def moments(values, form: str = "", *, dtype=None) -> list[int]:
    """Nanoseconds after AT."""
    return (parse(values, form, dtype=dtype).joined() - AT * times.SECOND).tolist()


@pytest.mark.parametrize(
    ("values", "form", "expected"),
    [
        ([AT, AT + 1], "", [0, 10**9]),
        ([str(AT), f"{AT}.000000007", "1.7e9"], "", [0, 7, 0]),
        ([AT * 1000 + 7, AT * 1000], "ms", [7_000_000, 0]),
        ([str(AT * 1000 + 7), f"{AT * 1000}.5"], "ms", [7_000_000, 500_000]),
        ([AT * 10**6 + 7], "us", [7_000]),
        ([AT * 10**9 + 7], "ns", [7]),
        ([AT + 0.25], "", [250_000_000]),
        (["2023-11-14T22:13:20.123456789Z"], "", [123_456_789]),
        (["2023-11-14 22:13:20,5"], "", [500_000_000]),
        (["14.11.2023 22:13:20.25"], "%d.%m.%Y %H:%M:%S%.f", [250_000_000]),
    ],
)
def test_every_digit_of_a_second_is_kept(values, form, expected):
    assert moments(values, form) == expected


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_timestamps_keep_their_digits(unit):
    moment = datetime.datetime(2023, 11, 14, 22, 13, 20, 123_000)
    assert moments([moment], dtype=pl.Datetime(unit)) == [123_000_000]
    aware = pl.Series([moment], dtype=pl.Datetime(unit)).dt.replace_time_zone("UTC")
    east = aware.dt.convert_time_zone("Asia/Kolkata")
    rows = pl.DataFrame({"t": east})
    assert times.parse(source(rows), column="t", form="").seconds.tolist() == [AT]


def test_whole_seconds_carry_nothing_beside_them():
    assert parse([AT, AT + 5]).nanoseconds is None
    assert parse([AT * 1000, AT * 1000 + 2000], "ms").nanoseconds is None
    assert parse([AT * 1000 + 1], "ms").nanoseconds.dtype == np.int32


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-14T22:13:20Z",
        "2023-11-14T22:13:20+00:00",
        "2023-11-15T03:43:20+0530",
        "2023-11-15T03:43:20 +05:30",
        "2023-11-15T00:13:20+02",
        "2023-11-14 22:13:20 UTC",
        "2023-11-14 22:13:20 GMT",
        "20231114T221320Z",
        "20231114T221320",
        " 2023-11-14 22:13:20 ",
    ],
)
def test_forms_of_iso_8601(text):
    assert moments([text, text]) == [0, 0]


def test_minutes_without_seconds_with_or_without_a_zone():
    text = ["2023-11-14T22:13Z", "2023-11-14 22:13", "2023-11-15T03:43+0530"]
    assert parse(text).seconds.tolist() == [AT - 20] * 3


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Decimal(20, 3)])
def test_categories_and_decimals_are_read_as_they_are_written(kind):
    values = [str(AT)] if kind is pl.Categorical else [AT]
    assert moments(values, dtype=kind) == [0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, False], None),
        ([datetime.timedelta(days=1)], None),
        ([[AT]], None),
        ([datetime.time(1, 2)], None),
        ([{"a": 1}], None),
        ([b"x"], None),
        ([None], pl.Null),
    ],
)
def test_types_that_hold_no_time_are_named(values, kind):
    rows = pl.DataFrame({"t": pl.Series(values, dtype=kind)})
    with pytest.raises(InputError, match="times in column 't' are of the type .*ISO"):
        times.parse(source(rows), column="t", form="")


@pytest.mark.parametrize(
    ("values", "form", "said"),
    [
        ([AT * 10**3] * 3, "", "time_format=ms"),
        ([AT * 10**6] * 3, "", "time_format=us"),
        ([AT * 10**9] * 3, "", "time_format=ns"),
        ([AT * 10**6] * 3, "ms", "not unix time in ms; .*time_format=us"),
        ([AT] * 3, "ms", "leave out data.time_format"),
        ([AT] * 3, "us", "leave out data.time_format"),
        ([AT * 10**3] * 3, "ns", "time_format=ms"),
        ([20231114] * 3, "", r"dates; say so: --config.data.time_format=%Y%m%d$"),
        ([2023111422] * 3, "", r"time_format=%Y%m%d%H$"),
        ([202311142213] * 3, "", r"time_format=%Y%m%d%H%M$"),
        ([20231114221320] * 3, "", r"time_format=%Y%m%d%H%M%S$"),
        ([20231114221320] * 3, "ms", r"time_format=%Y%m%d%H%M%S$"),
        ([0, AT * 10**3, AT * 10**3], "", "time_format=ms"),
        (
            [AT, AT, AT * 10**3],
            "",
            r"line 4: .*unix seconds, as most are",
        ),
        ([AT, AT * 10**3, AT * 10**3], "ms", "line 2: .*unix time in ms, as most are"),
        (["31.12.9999", "1.1.2020"], "%d.%m.%Y", "line 2: .*1900 to 2099"),
        (["9999-12-31 00:00:00.1", "2020-01-01"], "", "line 2: .*1900 to 2099"),
        (["2023-11-14", "2023", "2022"], "", "line 3: .*ISO 8601, as others are"),
    ],
)
def test_numbers_of_another_unit_say_which(values, form, said):
    rows = pl.DataFrame({"t": [str(x) for x in values]})
    with pytest.raises(InputError, match=said):
        times.parse(source(rows), column="t", form=form)
    if isinstance(values[0], int):
        rows = pl.DataFrame({"t": values})
        with pytest.raises(InputError, match=as_rows(said)):
            times.parse(source(rows), column="t", form=form)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ([0, 5, 86_400], ""),
        ([1, 2, 3], "ms"),
        ([0, 50_000_000, 200_000_000], "ms"),
        ([-5, AT], ""),
        ([AT, 2_000_000_000], ""),
        ([2_023_111_499, 2_023_111_422], ""),  # seconds, for there is no hour 99
    ],
)
def test_clocks_that_count_from_elsewhere_are_left_alone(values, form):
    ticks = times.TICKS.get(form, 1)
    expected = [x * (times.SECOND // ticks) for x in values]
    assert parse(values, form).joined().tolist() == expected


@pytest.mark.parametrize("kind", [pl.Int64, pl.Float64])
@pytest.mark.parametrize(
    ("stamp", "form", "at"),
    [
        (20231114, "%Y%m%d", AT - 80_000),
        (2023111422, "%Y%m%d%H", AT - 800),
        (202311142213, "%Y%m%d%H%M", AT - 20),
        (20231114221320, "%Y%m%d%H%M%S", AT),
    ],
)
def test_a_hint_that_is_followed_is_right_for_numbers_too(stamp, form, at, kind):
    with pytest.raises(InputError, match=f"time_format={form}$"):
        parse([stamp] * 3, dtype=kind)
    assert parse([stamp] * 3, form, dtype=kind).seconds.tolist() == [at] * 3


@pytest.mark.parametrize("odd", [0, -1])
@pytest.mark.parametrize(
    ("ticks", "form", "said"),
    [
        (1, "ms", "leave out data.time_format"),
        (10**3, "us", "time_format=ms"),
        (10**6, "ns", "time_format=us"),
        (10**6, "", "time_format=us"),
    ],
)
def test_a_missing_time_does_not_hide_a_wrong_unit(odd, ticks, form, said):
    with pytest.raises(InputError, match=said):
        parse([odd] + [(AT + j) * ticks for j in range(199)], form)


def test_floats_of_milliseconds_are_as_exact_as_integers():
    values = [AT * 1000 + 137 * j for j in range(50)]
    whole, floats = parse(values, "ms"), parse(values, "ms", dtype=pl.Float64)
    np.testing.assert_array_equal(whole.joined(), floats.joined())


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([AT, AT + 128], pl.Float32, "Float32, which holds one second of 128"),
        (["1.70E+09"] * 3, None, "line 2: .*in full, not rounded"),
    ],
)
def test_times_that_lost_their_digits_are_refused(values, kind, said):
    with pytest.raises(InputError, match=said):
        parse(values, dtype=kind)


def as_rows(said: str) -> str:
    """What is said of lines, of the rows of a Parquet file."""
    return re.sub(r"line (\d+)", lambda match: f"row {int(match[1]) - 2}", said)


def test_hours_without_minutes_can_be_named():
    assert parse(["2023111422"], "%Y%m%d%H").seconds.tolist() == [AT - 800]
