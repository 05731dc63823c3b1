"""Logs of one's own: what Parquet and CSV become, and that mistakes are named."""

import csv
import datetime
import gzip
import io
import pathlib
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.data.log import Bag, take
from recall_jax.data.sources import logs, shards
from recall_jax.types import InputError

pl = pytest.importorskip("polars", reason="logs are read with polars")

PLAIN = "user,item\n1,a\n2,b\n1,c\n"


def write(path: pathlib.Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def write_log(folder: pathlib.Path, text: str | bytes) -> str:
    return write(folder / "log.csv", text)


def write_parquet(path: pathlib.Path, columns: dict) -> str:
    pl.DataFrame(columns).write_parquet(path)
    return str(path)


def rows(log) -> list[tuple]:
    return list(zip(log.users.id[log.user].tolist(), log.items.id[log.item].tolist()))


def bag_of(bag: Bag) -> list[list]:
    return [
        take(bag, np.array([row])).values.tolist() for row in range(len(bag[1]) - 1)
    ]


# Events.


def test_reads_rows_in_file_order_with_codes_by_first_appearance(tmp_path):
    log = logs.Config(write_log(tmp_path, PLAIN)).load()
    assert rows(log) == [(1, "a"), (2, "b"), (1, "c")]
    assert log.user.tolist() == [0, 1, 0]
    assert (log.user.dtype, log.item.dtype) == (np.int32, np.int32)
    assert log.time is None and log.weight is None
    assert log.source == str(tmp_path / "log.csv")


def test_every_role_has_its_column(tmp_path):
    text = (
        "who,what,when,w,kind,secs,sid,stars,tokens,slot,score\n"
        "1,a,100,0.5,click,3.5,x,4,red|shoe,1,0.5\n"
        "2,b,90,1,buy,,y,,,2,2\n"
        "1,c,80,0,click,2,x,5,shoe,3,\n"
        '1,c,80,0,click,2,"",5,||blue,3,1\n'
    )
    log = logs.Config(
        write_log(tmp_path, text),
        user="who",
        item="what",
        time="when",
        weight="w",
        action="kind",
        dwell="secs",
        session="sid",
        rating="stars",
        events=("tokens", "slot", "score"),
        bags=("tokens",),
    ).load()
    assert log.time.tolist() == [100, 90, 80, 80]
    assert log.weight.tolist() == [0.5, 1, 0, 0]
    assert (log.time.dtype, log.weight.dtype) == (np.int64, np.float32)
    assert log.events["action"].tolist() == ["click", "buy", "click", "click"]
    assert log.events["session"].tolist() == [0, 1, 0, -1]
    np.testing.assert_array_equal(log.events["dwell"], [3.5, np.nan, 2, 2])
    np.testing.assert_array_equal(log.events["rating"], [4, np.nan, 5, 5])
    assert log.events["dwell"].dtype == np.float32
    tokens = [["red", "shoe"], [], ["shoe"], ["blue"]]
    assert bag_of(log.events["tokens"]) == tokens
    assert log.events["slot"].tolist() == [1, 2, 3, 3]
    np.testing.assert_array_equal(log.events["score"], [0.5, 2, np.nan, 1])
    assert len(log.select(np.array([0, 2]))) == 2


def test_load_keeps_positives_and_read_keeps_all(tmp_path):
    text = "user,item,a,d\n1,a,show,0\n1,b,click,1\n2,b,click,9\n2,c,buy,9\n1,a,buy,9\n"
    config = logs.Config(write_log(tmp_path, text), action="a", dwell="d")
    assert len(config.read()) == len(config.load()) == 5
    config.actions, config.min_dwell = ("click", "buy"), 5.0
    assert rows(config.load()) == [(2, "b"), (2, "c"), (1, "a")]
    assert len(config.read()) == 5


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["7", "8"], [7, 8]),
        (["-7", "0"], [-7, 0]),
        (["007", "7"], ["007", "7"]),
        (["1.10", "1.1"], ["1.10", "1.1"]),
        (["7", "x"], ["7", "x"]),
        (["9" * 20, "7"], ["9" * 20, "7"]),
        ([" a", "a"], [" a", "a"]),
    ],
)
def test_ids_of_a_csv_are_integers_only_if_that_loses_nothing(tmp_path, ids, expected):
    text = "user,item\n" + "".join(f"{name},a\n" for name in ids)
    assert logs.Config(write_log(tmp_path, text)).load().users.id.tolist() == expected


def test_parquet_keeps_its_types(tmp_path):
    path = write_parquet(
        tmp_path / "log.parquet",
        {
            "user": ["7", "8", "7"],
            "item": [1.0, 2.0, 1.0],
            "tags": [[3, 4], None, []],
            "tag": pl.Series(["x", None, "y"], dtype=pl.Categorical),
        },
    )
    log = logs.Config(path, events=("tags", "tag")).load()
    assert rows(log) == [("7", 1), ("8", 2), ("7", 1)]
    assert bag_of(log.events["tags"]) == [[3, 4], [], []]
    assert log.events["tag"].tolist() == ["x", "", "y"]


def test_parquet_and_csv_give_the_same_log(tmp_path):
    r = np.random.default_rng(0)
    columns = {name: r.integers(0, 50, 500) for name in ("user", "item", "t")}
    frame = pl.DataFrame(columns)
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_csv(tmp_path / "log.csv")
    one = logs.Config(str(tmp_path / "log.parquet"), time="t").load()
    two = logs.Config(str(tmp_path / "log.csv"), time="t").load()
    assert one.users.id[one.user].tolist() == columns["user"].tolist()
    for name in ("user", "item", "time"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8
) | st.sampled_from(['"', ",", "a,b", '""', "a\nb", " ", "|", "ü", "用户", "NA", "nan"])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES), min_size=2, max_size=12))
def test_any_ids_survive_a_csv(pairs):
    pairs = [*pairs, ("one user", "more")]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("user", "item"), *pairs])
    with tempfile.TemporaryDirectory() as folder:
        path = write_log(pathlib.Path(folder), text.getvalue())
        log = logs.Config(path).read()
    back = [(str(user), str(item)) for user, item in rows(log)]
    assert back == pairs
    assert len(set(log.users.id.tolist())) == len(log.users)


# Times.

MOMENT = 1_704_164_645  # 2024-01-02 03:04:05 UTC


@pytest.mark.parametrize(
    ("values", "form", "expected"),
    [
        (["1704164645", "1704164645.9"], "", [MOMENT, MOMENT]),
        (["1704164645123", "1704164645999"], "ms", [MOMENT, MOMENT]),
        (["2024-01-02T03:04:05", "2024-01-02 03:04:05.7"], "", [MOMENT, MOMENT]),
        (["2024-01-02T03:04:05Z", "2024-01-02T05:04:05+02:00"], "", [MOMENT, MOMENT]),
        (["2024-01-02", "2024-01-02 03:04"], "", [MOMENT - 11045, MOMENT - 5]),
        (["20240102", "20240103"], "%Y%m%d", [MOMENT - 11045, MOMENT + 75355]),
        (["02/01/24 03:04:05", "02/01/24 03:04:05"], "%d/%m/%y %T", [MOMENT, MOMENT]),
        (["3", "1"], "", [3, 1]),
    ],
)
def test_times_become_unix_seconds(tmp_path, values, form, expected):
    text = "user,item,t\n" + "".join(f"{n},a,{t}\n" for n, t in enumerate(values))
    path = write_log(tmp_path, text)
    log = logs.Config(path, time="t", time_format=form).load()
    assert log.time.tolist() == expected


def test_typed_times_of_parquet_become_unix_seconds(tmp_path):
    moment = datetime.datetime(2024, 1, 2, 3, 4, 5)
    east = datetime.timezone(datetime.timedelta(hours=2))
    for number, time in enumerate(
        [moment, moment.replace(hour=5, tzinfo=east), moment.date(), float(MOMENT)]
    ):
        columns = {"user": [1, 2], "item": [1, 2], "t": [time, time]}
        path = write_parquet(tmp_path / f"{number}.parquet", columns)
        log = logs.Config(path, time="t").load()
        expected = MOMENT - 11045 if number == 2 else MOMENT
        assert log.time.tolist() == [expected, expected]


@pytest.mark.parametrize(
    ("values", "form", "said"),
    [
        (["5", "soon", "later"], "", r"line 3: column 't' .*unix seconds.*'soon'"),
        (["5", "", "7"], "", r"line 3: column 't' .*None.*1 of 3 rows"),
        (["2024-01-02", "2024-13-02", "x"], "", r"line 3: .*'2024-13-02'; so in 2 of"),
        (["20240102", "2024", "x"], "%Y%m%d", r"line 3: .*'%Y%m%d'.*'2024'"),
        (["1704164645123"] * 3, "", "time_format=ms"),
        (["20240102"] * 3, "", "time_format=%Y%m%d"),
        (["20240102"] * 3, "%Y%m%d %H", "could not be read|should be"),
    ],
)
def test_names_the_first_time_that_is_none(tmp_path, values, form, said):
    text = "user,item,t\n" + "".join(f"{n},a,{t}\n" for n, t in enumerate(values))
    path = write_log(tmp_path, text)
    with pytest.raises(InputError, match=said):
        logs.Config(path, time="t", time_format=form).load()


# Features.


def test_features_are_aligned_and_told_by_their_values(tmp_path):
    items = (
        "item,price,shop,genres,title,size,length,unused\n"
        "c,2.5,7,x|y,The C,1,1.5,1\n"
        "never seen,9.5,9,z,Z,1,1.5,1\n"
        "a,1,07,y,The A,,0.5,1\n"
    )
    log = logs.Config(
        write_log(tmp_path, PLAIN),
        item_features=write(tmp_path / "items.csv", items),
        item_columns=("price", "shop", "genres", "title", "size", "length"),
        bags=("genres",),
        text=("title", "length"),
    ).load()
    assert log.items.id.tolist() == ["a", "b", "c"]
    columns = log.items.columns
    assert set(columns) == {"price", "shop", "genres", "size"}
    np.testing.assert_array_equal(columns["price"], [1, np.nan, 2.5])
    assert columns["price"].dtype == np.float32
    assert columns["shop"].tolist() == ["07", "", "7"]
    assert columns["size"].tolist() == ["", "", "1"]
    assert bag_of(columns["genres"]) == [["y"], [], ["x", "y"]]
    assert log.items.text["title"].tolist() == ["The A", "", "The C"]
    assert log.items.text["length"].tolist() == ["0.5", "", "1.5"]
    assert log.users.columns == {}


def test_features_from_parquet_go_by_type_and_match_ids_of_another_type(tmp_path):
    users = {
        "user": ["2", "1"],
        "age": [30, None],
        "score": [0.5, float("nan")],
        "tags": [["x"], None],
        "codes": [[3, 1], []],
        "vip": [True, False],
    }
    path = write_parquet(tmp_path / "users.parquet", users)
    log = logs.Config(write_log(tmp_path, PLAIN), user_features=path).load()
    assert log.users.id.tolist() == [1, 2]
    columns = log.users.columns
    assert columns["age"].tolist() == ["", "30"]
    np.testing.assert_array_equal(columns["score"], [np.nan, 0.5])
    assert columns["vip"].tolist() == ["false", "true"]
    assert bag_of(columns["tags"]) == [[], ["x"]]
    assert bag_of(columns["codes"]) == [[], [3, 1]]
    assert columns["codes"].values.dtype.kind == "i"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("movie,x\na,1\n", r"items.csv has no column 'item' \(data.item\)"),
        ("item,x\na,1\nb,2\na,3\n", r"items.csv, line 4: .*one row only, is 'a'"),
        ("item,x\na,1\n,2\n", r"items.csv, line 3: column 'item' should be an id"),
        ("item,x\nq,1\n", r"no id in column 'item', such as 'q', occurs .*'a'"),
        ("item,x\na,1.5\nb,inf\n", r"items.csv, line 3: column 'x' .*finite"),
        ("item,x\n", "has a header but no rows"),
        ("", "items.csv could not be read"),
    ],
)
def test_names_what_is_wrong_with_a_feature_file(tmp_path, text, said):
    path = write(tmp_path / "items.csv", text)
    with pytest.raises(InputError, match=said):
        logs.Config(write_log(tmp_path, PLAIN), item_features=path).load()


def test_a_list_of_floats_says_what_to_do(tmp_path):
    path = write_parquet(tmp_path / "i.parquet", {"item": ["a"], "v": [[0.5, 1.5]]})
    with pytest.raises(InputError, match="'v' holds List.*a column of its own"):
        logs.Config(write_log(tmp_path, PLAIN), item_features=path).load()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"user_columns": ("age",)}, "data.user_features is not"),
        ({"bags": ("genre",)}, "there is no column 'genre'"),
        ({"text": ("title",)}, "there is no column 'title'"),
        ({"item_features": "nowhere.csv"}, "there is no log at 'nowhere.csv'"),
        ({"separator": "::"}, "separator is '::'; expected one character"),
        ({"user": ""}, r"no column '' \(data.user\)"),
        ({"item": "itme"}, r"no column 'itme' \(data.item\); did you mean 'item'\?"),
        ({"events": ("dwell",)}, r"no column 'dwell' \(data.events=dwell\)"),
        ({"action": "item", "events": ("action",)}, "rename it in the file"),
        ({"item": "user"}, "are one column"),
    ],
)
def test_names_the_option_that_does_not_fit(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        logs.Config(write_log(tmp_path, PLAIN), **options).load()


# Files.


def test_reads_shards_in_numeric_order(tmp_path):
    for number in (10, 9, 1):
        write(tmp_path / f"part-{number}.csv", f"user,item\n{number},a\n")
    write(tmp_path / "_SUCCESS", "")
    for path in (tmp_path, tmp_path / "part-*.csv"):
        log = logs.Config(str(path)).load()
        assert log.users.id.tolist() == [1, 9, 10]


def test_shards_agree_on_the_kind_of_an_id(tmp_path):
    write(tmp_path / "1.csv", "user,item\n1,a\n")
    write(tmp_path / "2.csv", "item,user\nb,x\n")
    assert rows(logs.Config(str(tmp_path)).load()) == [("1", "a"), ("x", "b")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.tsv", PLAIN.replace(",", "\t").encode()),
        ("log.csv.gz", gzip.compress(PLAIN.encode(), mtime=0)),
        ("log.tsv.gz", gzip.compress(PLAIN.replace(",", "\t").encode(), mtime=0)),
        ("bom.csv", b"\xef\xbb\xbf" + PLAIN.encode()),
        ("windows.csv", PLAIN.replace("\n", "\r\n").encode()),
        ("blank_end.csv", PLAIN.encode() + b"\n\n"),
        ("no_newline.csv", PLAIN.encode()[:-1]),
    ],
)
def test_reads_each_kind_of_text(tmp_path, name, text):
    log = logs.Config(write(tmp_path / name, text)).load()
    assert rows(log) == [(1, "a"), (2, "b"), (1, "c")]


def test_another_separator(tmp_path):
    path = write_log(tmp_path, PLAIN.replace(",", ";"))
    assert len(logs.Config(path, separator=";").load()) == 3
    with pytest.raises(InputError, match="It has 'user;item'"):
        logs.Config(path).load()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "log.csv could not be read: it is empty"),
        ("user,item\n", "has a header but no rows"),
        ("user,item\n\n\n", "has a header but no rows"),
        ("user,item\n1,a\n,b\n2,\n,c\n", r"line 3: column 'user' .*2 of 4 rows"),
        ('user,item\n1,a\n2,""\n', r"line 3: column 'item' should be an id"),
        ("user,item\n1,a\n2\n", r"line 3: column 'item' should be an id"),
        ("user,item\n1,a\n2,b,c\n", r"line 3 has 3 fields, and there are 2 columns"),
        ("user,item\n1,a\n1,b\n", "are one user's"),
        (b"user,item\n1,\xff\xfe\n2,a\n", "UTF-8"),
        (b"\x00\x01\x02\xff", "log.csv"),
        ('user,item\n1,"a\n2,b\n', "line 2: a field begins with a quote"),
    ],
)
def test_names_what_is_wrong_with_a_text_file(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        logs.Config(write_log(tmp_path, text)).load()


@pytest.mark.parametrize("weight", ["-1", "", "nan", "inf", "much"])
def test_names_the_first_weight_that_is_none(tmp_path, weight):
    path = write_log(tmp_path, f"user,item,w\n1,a,1\n2,b,{weight}\n2,c,{weight}\n")
    with pytest.raises(InputError, match=r"line 3: column 'w' should be a number"):
        logs.Config(path, weight="w").load()


def test_names_the_shard_and_its_row(tmp_path):
    write(tmp_path / "1.csv", "user,item\n1,a\n2,b\n")
    write(tmp_path / "2.csv", "user,item\n1,a\n,b\n")
    with pytest.raises(InputError, match=r"2.csv, line 3: column 'user'"):
        logs.Config(str(tmp_path)).load()


def test_shards_of_different_columns_are_refused(tmp_path):
    write(tmp_path / "1.csv", "user,item\n1,a\n")
    write(tmp_path / "2.csv", "user,item,time\n1,a,5\n")
    with pytest.raises(InputError, match=r"2.csv and .*1.csv differ in .*'time'"):
        logs.Config(str(tmp_path)).load()


def test_shards_of_types_that_do_not_mix_are_refused(tmp_path):
    write_parquet(tmp_path / "1.parquet", {"user": [1], "item": ["a"]})
    write_parquet(tmp_path / "2.parquet", {"user": ["x"], "item": ["a"]})
    assert rows(logs.Config(str(tmp_path)).load()) == [("1", "a"), ("x", "a")]
    write_parquet(tmp_path / "3.parquet", {"user": [[1]], "item": ["a"]})
    with pytest.raises(InputError, match="List.Int64. in .*3.parquet; write one type"):
        logs.Config(str(tmp_path)).load()


def test_a_path_without_a_log_is_refused(tmp_path):
    for path in ("", str(tmp_path), str(tmp_path / "no.csv"), str(tmp_path / "*.csv")):
        with pytest.raises(InputError, match="there is no log at"):
            logs.Config(path).load()
    with pytest.raises(InputError, match="name should end in"):
        logs.Config(write(tmp_path / "log.json", "{}")).load()
    write_parquet(tmp_path / "a.parquet", {"user": [1], "item": [1]})
    write(tmp_path / "a.csv", PLAIN)
    with pytest.raises(InputError, match="Parquet and text"):
        logs.Config(str(tmp_path)).load()


def test_a_corrupt_parquet_file_is_named(tmp_path):
    path = pathlib.Path(
        write_parquet(
            tmp_path / "log.parquet", {"user": [1, 2, 1], "item": ["a", "b", "c"]}
        )
    )
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2], b"x" * 99):
        path.write_bytes(damaged)
        with pytest.raises(
            InputError, match="log.parquet (could not be read|is no Parquet file)"
        ):
            logs.Config(str(path)).load()


def test_an_empty_id_of_parquet_is_named_by_its_row(tmp_path):
    for number, users in enumerate([["x", ""], ["x", None], [1.0, 1.5]]):
        columns = {"user": users, "item": ["a", "b"]}
        path = write_parquet(tmp_path / f"{number}.parquet", columns)
        with pytest.raises(InputError, match=r"parquet, row 1: column 'user' should"):
            logs.Config(path).load()


def test_a_torn_gzip_is_named(tmp_path):
    torn = gzip.compress((PLAIN * 500).encode())[:-20]
    with pytest.raises(InputError, match="log.csv.gz is not a whole gzip file"):
        logs.Config(write(tmp_path / "log.csv.gz", torn)).load()


@settings(max_examples=80, deadline=None)
@given(
    at=st.integers(0, len(PLAIN)),
    length=st.integers(0, 12),
    patch=st.binary(max_size=6) | st.text('",\n\r12a', max_size=6),
)
def test_damage_to_a_csv_gives_a_log_or_an_input_error(at, length, patch):
    patch = patch if isinstance(patch, bytes) else patch.encode()
    damaged = PLAIN.encode()[:at] + patch + PLAIN.encode()[at + length :]
    with tempfile.TemporaryDirectory() as folder:
        try:
            log = logs.Config(write_log(pathlib.Path(folder), damaged)).load()
            assert log.user.max() < len(log.users)
        except InputError as error:
            assert folder in str(error)


def test_without_polars_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(InputError, match="pip install 'polars"):
        logs.Config(write_log(tmp_path, PLAIN)).load()


def test_long_column_lists_are_cut():
    assert shards.shown([str(n) for n in range(30)]).endswith("'19' and 10 more")
