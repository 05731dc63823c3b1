"""The shop's three files: what they become, and which are refused."""

import datetime
import pathlib

import numpy as np
import pytest
from conftest import DATA_DIR

from recall_jax.data import log as log_lib
from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.data.sources import ecomm
from recall_jax.types import InputError

EDGES = [
    "7\t20\t4\t20190611",
    "7\t10\t1\t20190610",
    "8\t20\t2\t20190610",
    "7\t10\t1\t20190610",  # again
    "7\t10\t3\t20190610",  # another action
    "9\t30\t1\t20190619",
]
ITEMS = ["10\t33\t500\t0\t21.8", "20\t33\t501\t77\t145", "40\t33\t501\t0\t2"]
USERS = ["8\t1\t5\t-1\t10\t15203.1\t1,6,4", "7\t-1\t-1\t2\t-1\t-1\t-1"]
EDGE_FILE, ITEM_FILE, USER_FILE = ecomm.TABLES
JUNE_10 = datetime.datetime(2019, 6, 10, tzinfo=datetime.UTC).timestamp()


def write(
    folder: pathlib.Path, *, edges=EDGES, items=ITEMS, users=USERS, end="\n", **changes
) -> ecomm.Config:
    for name, lines in zip(ecomm.TABLES, (edges, items, users)):
        text = "".join(line + end for line in lines)
        (folder / name).write_text(text, newline="")
    return ecomm.Config(dir=str(folder), **changes)


def rows(log) -> list[tuple]:
    """(raw user, raw item, action, days from 10 June) of each event."""
    days = (log.time - JUNE_10) / 86_400
    columns = log.users.id[log.user], log.items.id[log.item], log.events["action"], days
    return list(zip(*(column.tolist() for column in columns), strict=True))


def column(entities: log_lib.Entities, name: str) -> dict:
    return dict(zip(entities.id.tolist(), entities.columns[name].tolist()))


def test_events_come_in_file_order_duplicates_once(tmp_path):
    log = write(tmp_path).load()
    assert rows(log) == [
        (7, 20, "buy", 1),
        (7, 10, "click", 0),
        (8, 20, "collect", 0),
        (7, 10, "cart", 0),
        (9, 30, "click", 9),
    ]
    assert (log.user.dtype, log.item.dtype) == (np.int32, np.int32)
    assert log.time.dtype == np.int64
    assert str(tmp_path) in log.source


def test_duplicates_stay_if_asked(tmp_path):
    log = write(tmp_path, drop_duplicates=False).load()
    assert len(log) == len(EDGES)
    assert rows(log)[3] == rows(log)[1]


def test_an_items_columns_stand_at_its_id(tmp_path):
    items = write(tmp_path, price_buckets=3).load().items
    top = {10: "33", 20: "33", 40: "33", 30: ""}
    assert column(items, "top_category") == top
    assert column(items, "category") == {10: "500", 20: "501", 40: "501", 30: ""}
    assert column(items, "brand") == {10: "", 20: "77", 40: "", 30: ""}
    assert column(items, "price_bucket") == {10: 1, 20: 2, 40: 0, 30: -1}
    assert items.columns["price_bucket"].dtype.kind == "i"


def test_prices_fall_evenly_into_buckets(tmp_path):
    items = [f"{j}\t1\t1\t0\t{j**3}" for j in range(1, 101)]
    entities = write(tmp_path, items=items, price_buckets=4).load().items
    bucket = entities.columns["price_bucket"][:100]
    np.testing.assert_array_equal(np.bincount(bucket), [25] * 4)
    assert (np.diff(bucket) >= 0).all()


def test_a_users_columns_stand_at_his_id(tmp_path):
    users = write(tmp_path).load().users
    assert column(users, "gender") == {8: "1", 7: "", 9: ""}
    assert column(users, "age_level") == {8: "5", 7: "", 9: ""}
    assert column(users, "education") == {8: "", 7: "2", 9: ""}
    assert column(users, "career") == {8: "10", 7: "", 9: ""}
    income = column(users, "income")
    assert (
        income[8] == pytest.approx(15203.1) and np.isnan([income[7], income[9]]).all()
    )
    stages = users.columns["stages"]
    assert users.id.tolist() == [8, 7, 9]
    assert stages.values.tolist() == ["1", "6", "4"]
    assert stages.offsets.tolist() == [0, 3, 3, 3]


def test_files_of_windows_read_the_same(tmp_path):
    log = write(tmp_path).load()
    assert rows(write(tmp_path, end="\r\n").load()) == rows(log)


def test_the_folder_is_found_by_the_environment(tmp_path, monkeypatch):
    (tmp_path / "ecomm").mkdir()
    log = write(tmp_path / "ecomm").load()
    monkeypatch.setenv("RECALL_DATA_DIR", str(tmp_path))
    assert rows(ecomm.Config().load()) == rows(log)


@pytest.mark.parametrize("missing", ecomm.TABLES)
def test_a_missing_file_is_named(tmp_path, missing):
    config = write(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=f"no {missing}; name a folder"):
        config.load()


def test_no_folder_at_all_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("RECALL_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"RECALL_DATA_DIR \(now not set\)"):
        ecomm.Config().load()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"edges": [*EDGES, "7\t20\t4"]}, f"{EDGE_FILE}, line 7: has 3 fields, not 4"),
        ({"edges": []}, f"{EDGE_FILE}, line 1: has 1 fields"),
        ({"edges": ["7\t20\t5\t20190611"]}, f"{EDGE_FILE}, line 1: action is '5'"),
        ({"edges": ["-7\t20\t1\t20190611"]}, f"{EDGE_FILE}, line 1: user is '-7'"),
        (
            {"edges": [*EDGES, "7\t20\t1\t20190631"]},
            f"{EDGE_FILE}, line 7: 20190631 is no day",
        ),
        ({"items": ["1\t1\t1\t0\t-2"]}, f"{ITEM_FILE}, line 1: price is '-2'"),
        ({"items": ["1\t1\tx\t0\t2"]}, f"{ITEM_FILE}, line 1: category is 'x'"),
        ({"items": [*ITEMS, ITEMS[1]]}, f"{ITEM_FILE}, line 4: item 20 a second time"),
        ({"users": [*USERS, USERS[1]]}, f"{USER_FILE}, line 3: user 7 a second time"),
        ({"users": ["1\t1\t1\t1\t1\t1\t1,"]}, f"{USER_FILE}, line 1: stages is '1,'"),
    ],
)
def test_a_malformed_row_is_refused_by_file_and_line(tmp_path, texts, expected):
    with pytest.raises(InputError, match=expected):
        write(tmp_path, **texts).load()


def test_buckets_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="data.price_buckets is 0"):
        write(tmp_path, price_buckets=0).load()


def test_the_real_files_have_what_was_counted_in_them():
    folder = DATA_DIR / "ecomm"
    if not folder.exists():
        pytest.skip(f"no {folder}; name its parent in RECALL_DATA_DIR")
    log = ecomm.Config(dir=str(folder)).load()
    assert len(log) == 85_213 - 4_270
    sizes = len(np.unique(log.user)), len(np.unique(log.item))
    assert sizes == (1_476, 34_505)
    assert np.mean(log.items.columns["brand"] == "") == pytest.approx(0.98, abs=0.005)
    assert (log.items.columns["price_bucket"] >= 0).all()
    assert len(np.unique(log.time)) == 10
    split = split_lib.by_protocol(log, config=ecomm.Config())
    data = prepare.in_memory(split, history_length=5, min_history=1)
    names = [column.name for column in data.schema.item]
    assert names == ["item", "top_category", "category", "brand", "price_bucket"]
