"""Logs as strangers have them: read rightly, or refused with the row and the remedy."""

import dataclasses
import datetime
import pathlib

import numpy as np
import pytest

from recall_jax.data import describe, prepared
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import split as split_lib
from recall_jax.data.sources import logs, shards, stream
from recall_jax.models import itemwise
from recall_jax.pairs import sequences
from recall_jax.types import InputError

pl = pytest.importorskip("polars", reason="logs are read with polars")

AT = 1_700_000_000
EVENTS = "user,item,t\n" + "".join(
    f"{j % 9},{j // 3},{AT + 60 * j}\n" for j in range(90)
)


def write(path: pathlib.Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return str(path)


def prepare(path, *, kind=logs.Config, **options):
    config = kind(str(path), time="t", **options)
    if kind is stream.Config:
        return prepared.open_data(config, history_length=5, min_history=1)
    split = split_lib.by_protocol(config.load(), config=config)
    data = prepare_lib.in_memory(split, history_length=5, min_history=1)
    report = (*data.report, *describe.events(split.log))
    return dataclasses.replace(data, report=report)


def named(data) -> list[tuple]:
    """Raw ids of all events, by user and time."""
    user = np.repeat(data.vocabularies["user"].ids, np.diff(data.offsets)[1:])
    item = data.vocabularies["item"].ids[data.items - 1]
    return sorted(zip(user.tolist(), item.tolist(), strict=True))


# Files.


@pytest.mark.parametrize(
    "hidden",
    [
        ".ipynb_checkpoints/events-checkpoint.csv",
        "_temporary/0/part-0.csv",
        "_delta_log/0.csv",
        ".Trash-1000/files/events.csv",
        "._events.csv",
        "_events.csv",
    ],
)
def test_hidden_files_are_no_part_of_a_log(tmp_path, hidden):
    folder = tmp_path / "_place" / "events"  # what stands above is nobody's concern
    write(folder / "day=2024-01-01" / "events.csv", EVENTS)
    write(folder / hidden, EVENTS)
    for path in (folder, folder / "**" / "*.csv"):
        data = prepare(path)
        assert len(data.items) == 90
        assert any(x.startswith("files      1 file, 90 rows") for x in data.report)
    assert any("1 hidden files left out" in x for x in prepare(folder).report)
    assert len(prepare(folder / hidden).items) == 90  # named, it is read


def test_a_folder_with_the_name_of_a_file_is_read_once(tmp_path):
    write(tmp_path / "log.csv" / "part-0.csv", EVENTS)
    (tmp_path / "more.csv").symlink_to(tmp_path / "log.csv" / "part-0.csv")
    assert len(prepare(tmp_path).items) == 90


def test_a_name_with_brackets_is_no_pattern(tmp_path):
    rows = {"user": [1, 2], "item": [1, 2], "t": [AT, AT]}
    pl.DataFrame(rows).write_parquet(tmp_path / "log [1].parquet")
    pl.DataFrame(rows).head(1).write_parquet(tmp_path / "log 1.parquet")
    log = logs.Config(str(tmp_path / "log [1].parquet")).load()
    assert len(log) == 2


def test_suffixes_in_capitals_are_suffixes_and_other_files_are_named(tmp_path):
    write(tmp_path / "A.CSV", EVENTS)
    write(tmp_path / "b.txt", EVENTS)
    data = prepare(tmp_path)
    assert len(data.items) == 90
    assert any("1 files of other kinds" in x and "b.txt" in x for x in data.report)


def test_a_second_line_of_names_is_refused_with_its_line(tmp_path):
    path = write(tmp_path / "log.csv", EVENTS + EVENTS)
    said = "line 92: column 'user' .* no second line of column names"
    for time in ("", "t"):
        with pytest.raises(InputError, match=said):
            logs.Config(path, time=time).load()


def test_types_of_shards_lose_nothing(tmp_path):
    big = 2**60 + 1
    moment = datetime.datetime(2023, 11, 14, 22, 13, 20, 123_457)
    one = {"user": [big, 1], "item": [1, 2]}
    pl.DataFrame(one | {"t": [moment] * 2}).write_parquet(tmp_path / "1.parquet")
    two = pl.DataFrame({"user": [1.0, 2.0], "item": [1, 2], "t": [moment] * 2})
    two = two.with_columns(pl.col("t").cast(pl.Datetime("ms")))
    two.write_parquet(tmp_path / "2.parquet")
    log = logs.Config(str(tmp_path), time="t").load()
    assert log.users.id.tolist() == [big, 1, 2]
    assert log.nanoseconds.tolist() == [123_457_000] * 2 + [123_000_000] * 2
    far = [datetime.datetime(9999, 12, 31)] * 2
    pl.DataFrame(one | {"t": far}).write_parquet(tmp_path / "0.parquet")
    nano = pl.DataFrame(one | {"t": [moment] * 2}).cast({"t": pl.Datetime("ns")})
    nano.write_parquet(tmp_path / "1.parquet")
    with pytest.raises(InputError, match="'t' holds .*; write one type"):
        logs.Config(str(tmp_path), time="t").load()
    pl.DataFrame(one | {"t": [AT, AT]}).write_parquet(tmp_path / "0.parquet")
    with pytest.raises(InputError, match="'t' holds Int64 .*Datetime.*write one type"):
        logs.Config(str(tmp_path), time="t").load()
    (tmp_path / "0.parquet").unlink()
    words = {"user": [[1]], "item": [1], "t": [moment]}
    pl.DataFrame(words).write_parquet(tmp_path / "3.parquet")
    with pytest.raises(InputError, match="'user' holds .*List.* in .*3.parquet"):
        logs.Config(str(tmp_path), time="t").load()


# Ids.


def test_floats_of_whole_numbers_are_these(tmp_path):
    write(tmp_path / "1.csv", "user,item\n1.0,a\n2.0,b\n3.00,a\n")
    write(tmp_path / "2.csv", "user,item\n1,b\n2,a\n")
    assert logs.Config(str(tmp_path)).load().users.id.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["9007199254740993.0", "1.0"], r"line 2: .*at most 9,007,199,254,740,992"),
        (["x", "1.0", "1"], r"line 3: .*written in one way"),
        (["468000000001", "4.68E+11"], r"line 3: .*in full .*spreadsheet"),
        (["1.5E+09", "1.6E+09"], r"line 2: .*in full"),
        (["['a', 'b']", "['c']"], r"line 2: .*a row each"),
    ],
)
def test_text_that_lost_an_id_is_refused(tmp_path, ids, said):
    rows = "".join(f'"{x}",a\n' for x in ids)
    path = write(tmp_path / "log.csv", "user,item\n" + rows)
    with pytest.raises(InputError, match=said):
        logs.Config(path).load()


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([1.0, float("inf")], "row 1: .*a whole number, is inf"),
        ([1.0, float("nan")], "row 1: .*a whole number, is nan"),
        ([1.0, 2.0**53 + 2], "row 1: .*skips numbers"),
        ([1.0, 1.5], "row 1: .*a whole number"),
        ([[1], [2]], "of the type List.*one event a row"),
        ([{"id": 1}, {"id": 2}], "of the type Struct"),
        ([b"\x00\x01", b"a"], "row 0: .*not bytes"),
        (["a\0", "a"], "row 0: .*zero byte"),
    ],
)
@pytest.mark.parametrize("kind", [logs.Config, stream.Config])
def test_types_that_hold_no_id_are_refused(tmp_path, ids, said, kind):
    rows = {"user": ids, "item": [1, 2], "t": [AT, AT]}
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(InputError, match=said):
        prepare(tmp_path / "log.parquet", kind=kind)


@pytest.mark.parametrize("kind", [logs.Config, stream.Config])
def test_unsigned_ids_on_both_sides_of_2_63_stay_what_they_are(tmp_path, kind):
    ids = [1, 2**63 - 1, 2**63, 2**64 - 1]
    rows = {"user": ids * 4, "item": sorted(ids * 4), "t": [AT + j for j in range(16)]}
    frame = pl.DataFrame(rows, schema_overrides={"user": pl.UInt64, "item": pl.UInt64})
    frame.write_parquet(tmp_path / "log.parquet")
    data = prepare(tmp_path / "log.parquet", kind=kind)
    assert sorted(data.vocabularies["user"].ids.tolist()) == ids
    assert data.vocabularies["item"].ids.dtype == np.uint64


def test_ways_of_writing_an_id_in_two_shards_are_seen_by_both_readers(tmp_path):
    for name, ids in (("1", ["1.0", "x"]), ("2", ["1", "x"])):
        rows = {"user": ids, "item": [1, 2], "t": [AT, AT]}
        pl.DataFrame(rows).write_parquet(tmp_path / f"{name}.parquet")
    for kind in (logs.Config, stream.Config):
        with pytest.raises(InputError, match="column 'user' .*written in one way"):
            prepare(tmp_path, kind=kind)


def test_shards_with_and_without_a_sign_go_together(tmp_path):
    for name, ids, type_ in (("1", [1, 2], pl.Int64), ("2", [2**63 + 1], pl.UInt64)):
        frame = pl.DataFrame({"user": ids, "item": ids})
        frame.cast({"user": type_}).write_parquet(tmp_path / f"{name}.parquet")
    log = logs.Config(str(tmp_path)).load()
    assert log.users.id.tolist() == [1, 2, 2**63 + 1]


# Times.

NEWEST = [AT * 1000 - 137 * j for j in range(60)]  # some of each second


def sub_second(kind: str) -> tuple:
    """Times, newest first, and what data.time_format is then."""
    if kind == "ms":
        return NEWEST, "ms"
    if kind == "us":
        return [x * 1000 for x in NEWEST], "us"
    if kind == "ns":
        return [x * 10**6 for x in NEWEST], "ns"
    if kind == "float":
        return [x / 1000 for x in NEWEST], ""
    stamps = [datetime.datetime.fromtimestamp(x / 1000, datetime.UTC) for x in NEWEST]
    if kind == "iso":
        return [x.isoformat() for x in stamps], ""
    if kind == "own":
        return [x.strftime("%d.%m.%Y %H:%M:%S.%f") for x in stamps], "%d.%m.%Y %T%.f"
    return [x.replace(tzinfo=None) for x in stamps], ""


@pytest.mark.parametrize("kind", ["ms", "us", "ns", "float", "iso", "own", "datetime"])
def test_order_within_a_second_is_kept(tmp_path, kind):
    time, form = sub_second(kind)
    frame = pl.DataFrame({"user": [0, 1] * 30, "item": range(60), "t": time})
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_csv(tmp_path / "log.csv")
    form = "" if kind == "datetime" else form
    for path, config in (
        ("log.parquet", logs.Config),
        ("log.csv", logs.Config),
        ("log.parquet", stream.Config),
    ):
        data = prepare(tmp_path / path, kind=config, time_format=form)
        users = np.split(data.items, data.offsets[2:-1])
        for user in users:
            items = data.vocabularies["item"].ids[user - 1]
            assert items.tolist() == sorted(items.tolist(), reverse=True)
        assert "(0% of test items share their time" in data.protocol


def test_shuffled_ties_are_those_of_the_whole_time(tmp_path):
    time, form = sub_second("ms")
    frame = pl.DataFrame({"user": [0, 1] * 30, "item": range(60), "t": time})
    frame.write_csv(tmp_path / "log.csv")
    one = prepare(tmp_path / "log.csv", time_format=form)
    two = prepare(tmp_path / "log.csv", time_format=form, ties="shuffled")
    np.testing.assert_array_equal(one.items, two.items)


def test_a_cut_in_time_falls_between_seconds_in_memory_and_streamed(tmp_path):
    time, form = sub_second("ms")
    frame = pl.DataFrame({"user": [0, 1] * 30, "item": range(60), "t": time})
    frame.write_parquet(tmp_path / "log.parquet")
    options = {"time_format": form, "protocol": "temporal"}
    options |= {"valid_share": 0.2, "test_share": 0.2}
    memory = prepare(tmp_path / "log.parquet", **options)
    streamed = prepare(tmp_path / "log.parquet", kind=stream.Config, **options)
    np.testing.assert_array_equal(memory.train_stop, streamed.train_stop)
    np.testing.assert_array_equal(memory.test.start, streamed.test.start)
    assert memory.protocol == streamed.protocol.split(";")[0]


# Sessions.


@pytest.mark.parametrize(
    "none", [None, "", "NaN", "null", float("nan"), -1, "-1.0", "NA"]
)
def test_events_without_a_session_are_each_alone(tmp_path, none):
    number = isinstance(none, float | int)
    sessions = (
        [1, 1, none, none, 2, none] if number else ["a", "a", none, none, "b", none]
    )
    rows = {"user": [0] * 6 + [1] * 6, "item": [*range(6)] * 2, "t": [*range(12)]}
    frame = pl.DataFrame(rows | {"s": sessions * 2}, strict=False)
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_csv(tmp_path / "log.csv")
    for name in ("log.csv", "log.parquet"):
        data = prepare(tmp_path / name, session="s")
        log_sessions = sequences.sessions(data, itemwise.SequencesConfig(cut="session"))
        starts = np.append(np.flatnonzero(log_sessions.begins), len(log_sessions.at))
        assert sorted(np.diff(starts).tolist()) == [1] * 8 + [2, 2]


def test_streamed_and_in_memory_a_log_is_told_alike(tmp_path):
    rng = np.random.default_rng(0)
    rows = {
        "user": rng.choice(["NULL", *"abcdefgh"], 300),
        "item": rng.integers(0, 40, 300),
        "t": AT + rng.integers(0, 10**6, 300),
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    memory = prepare(tmp_path / "log.parquet")
    streamed = prepare(tmp_path / "log.parquet", kind=stream.Config)
    assert set(memory.report) == set(streamed.report)
    assert named(memory) == named(streamed)


@pytest.mark.parametrize("field", ["dense", "text", "bags", "categorical"])
@pytest.mark.parametrize("kind", [logs.Config, stream.Config])
def test_a_kind_of_no_column_is_refused_by_both_readers(tmp_path, kind, field):
    rows = {"user": [1, 2] * 3, "item": [1, 2, 3] * 2, "t": [AT + j for j in range(6)]}
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    items = {"item": [1, 2, 3], "price": [1.5, 2.5, 3.5]}
    pl.DataFrame(items).write_parquet(tmp_path / "items.parquet")
    features = str(tmp_path / "items.parquet")
    options = {field: ("prise",), "item_features": features}
    with pytest.raises(InputError, match=f"data.{field}: .*did you mean 'price'"):
        prepare(tmp_path / "log.parquet", kind=kind, **options)


def test_guids_in_braces_are_ids(tmp_path):
    rows = "".join(f"{{3F25-{j % 3}}},{j}\n" for j in range(9))
    path = write(tmp_path / "log.csv", "user,item\n" + rows)
    assert logs.Config(path).load().users.id.tolist()[0] == "{3F25-0}"


def test_a_partition_in_folder_names_alone_says_so(tmp_path):
    write(tmp_path / "user=1" / "a.csv", "item,t\n1,1\n")
    with pytest.raises(InputError, match="'user' stands in the names of folders alone"):
        logs.Config(str(tmp_path)).load()


@pytest.mark.parametrize("name", ["log.csv", "log.tsv"])
def test_a_wrong_separator_is_named(tmp_path, name):
    text = EVENTS if name == "log.tsv" else EVENTS.replace(",", "\t")
    path = write(tmp_path / name, text)
    with pytest.raises(InputError, match="parted by .*--config.data.separator"):
        logs.Config(path).load()


def test_a_tab_may_be_written_as_people_write_it(tmp_path):
    path = write(tmp_path / "log.csv", EVENTS.replace(",", "\t"))
    assert len(logs.Config(path, separator="\\t").load()) == 90


def test_a_log_elsewhere_is_not_looked_for():
    with pytest.raises(InputError, match="not on this machine's disk"):
        shards.find_shards("s3://bucket/events/")


def test_pauses_and_order_within_seconds_are_those_of_the_whole_time(tmp_path):
    times = [AT * 1000 + x for x in (0, 400, 800, 1900, 2950, 2960)]
    rows = {"user": [0] * 6 + [1] * 6, "item": [*range(6)] * 2, "t": times * 2}
    pl.DataFrame(rows).write_csv(tmp_path / "log.csv")
    data = prepare(tmp_path / "log.csv", time_format="ms")
    sessions = sequences.sessions(data, itemwise.SequencesConfig(cut="gap", gap=1))
    starts = np.append(np.flatnonzero(sessions.begins), len(sessions.at))
    assert np.diff(starts).tolist() == [3, 1, 2] * 2  # 1.1 and 1.05 s are more than 1
    close = pl.DataFrame(rows | {"t": [AT * 1000 + j for j in range(6)] * 2})
    close.write_csv(tmp_path / "close.csv")
    data = prepare(tmp_path / "close.csv", time_format="ms")
    assert sequences.make(data, itemwise.SequencesConfig()).ordered
