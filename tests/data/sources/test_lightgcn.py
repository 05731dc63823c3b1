"""Train and test files in LightGCN's format: what they become, and which are refused."""

import pathlib

import numpy as np
import pytest
from conftest import DATA_DIR

from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.data.sources import lightgcn
from recall_jax.types import InputError

TRAIN = "0 10 20 30\n1 20\n2\n5 10 40\n"
TEST = "0 40\n1 10 99\n2\n"


def write(
    folder: pathlib.Path, *, train: str | bytes = TRAIN, test: str | bytes = TEST
):
    for name, text in (("train.txt", train), ("test.txt", test)):
        content = text if isinstance(text, bytes) else text.encode()
        (folder / name).write_bytes(content)
    return lightgcn.Config(dir=str(folder))


def rows(log) -> list[tuple[int, int, int]]:
    """(raw user, raw item, part) of each event, in the log's order."""
    pairs = log.users.id[log.user].tolist(), log.items.id[log.item].tolist()
    return list(zip(*pairs, log.events["part"].tolist(), strict=True))


def refused(folder, expected: str, **texts) -> None:
    with pytest.raises(InputError, match=expected):
        write(folder, **texts).load()


# Reading.


def test_pairs_come_in_file_order_train_first(tmp_path):
    log = write(tmp_path).load()
    train = [(0, 10), (0, 20), (0, 30), (1, 20), (5, 10), (5, 40)]
    test = [(0, 40), (1, 10), (1, 99)]
    assert rows(log) == [(*x, 0) for x in train] + [(*x, 1) for x in test]
    assert (log.user.dtype, log.item.dtype) == (np.int32, np.int32)
    assert log.time is None and log.weight is None and log.shown is None
    assert str(tmp_path) in log.source


def test_ids_need_neither_begin_at_0_nor_be_dense(tmp_path):
    big = 10**15
    log = write(tmp_path, train=f"900 {big} 7\n3 7\n", test=f"{big} 7\n").load()
    assert log.users.id.tolist() == [3, 900, big]
    assert log.items.id.tolist() == [7, big]
    assert rows(log) == [(900, big, 0), (900, 7, 0), (3, 7, 0), (big, 7, 1)]


def test_a_pair_given_twice_in_a_file_counts_once(tmp_path):
    twice = "0 10 20 10\n1 20\n0 20 30\n"
    log = write(tmp_path, train=twice, test="1 10 10\n").load()
    assert rows(log) == [(0, 10, 0), (0, 20, 0), (1, 20, 0), (0, 30, 0), (1, 10, 1)]


def test_a_user_without_an_item_anywhere_is_no_user(tmp_path):
    log = write(tmp_path, train="0 10 20\n1\n2 20\n", test="0 30\n1\n3\n2\n").load()
    assert log.users.id.tolist() == [0, 2]
    assert rows(log) == [(0, 10, 0), (0, 20, 0), (2, 20, 0), (0, 30, 1)]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n\n  \n",
        lambda text: "\n" + text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", " \n").replace(" ", "\t "),
    ],
    ids=["CRLF", "blank lines at the end", "between", "no last newline", "tabs"],
)
def test_line_ends_blank_lines_and_white_space_say_nothing(tmp_path, change):
    plain = rows(write(tmp_path).load())
    assert rows(write(tmp_path, train=change(TRAIN), test=change(TEST)).load()) == plain


def test_an_item_seen_only_in_test_is_in_the_catalogue_but_unknown(tmp_path):
    log = write(tmp_path).load()
    assert 99 in log.items.id
    split = split_lib.given(log, valid_share=0, seed=0)
    data = prepare.in_memory(split, history_length=0, min_history=0)
    assert data.dataset.num_items == 5 and data.dataset.known_items == 4
    assert data.vocabularies["item"].ids[-1] == 99
    assert data.popularity[-1] == 0


def test_the_folder_comes_from_dir_or_from_the_data_folder_by_name(
    tmp_path, monkeypatch
):
    named = tmp_path / "yelp"
    named.mkdir()
    log = write(named).load()
    monkeypatch.setenv("RECALL_DATA_DIR", str(tmp_path))
    named_log = lightgcn.Config(name="yelp").load()
    assert rows(named_log) == rows(log) and named_log.source == f"yelp, {named}"
    monkeypatch.setenv("RECALL_DATA_DIR", str(tmp_path / "elsewhere"))
    assert rows(lightgcn.Config(dir=str(named)).load()) == rows(log)


# Refusals.


def test_no_folder_is_told_how_to_name_one(monkeypatch):
    monkeypatch.delenv("RECALL_DATA_DIR", raising=False)
    with pytest.raises(
        InputError, match="where is yelp.*config.data.dir=.*RECALL_DATA_DIR="
    ):
        lightgcn.Config(name="yelp").load()


@pytest.mark.parametrize("missing", lightgcn.FILES)
def test_a_missing_file_is_named(tmp_path, missing):
    config = write(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=f"{tmp_path} has no {missing}; name a folder"):
        config.load()
    (tmp_path / missing).mkdir()  # a folder is no file
    with pytest.raises(InputError, match=f"has no {missing}"):
        config.load()


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize("text", ["", "\n\n", "0\n1\n2 \n"])
def test_a_file_without_a_pair_is_named(tmp_path, name, text):
    refused(tmp_path, rf"{name}\.txt has no user with an item", **{name: text})


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("0 10\n1 x7 20\n2 30\n", "line 2 of 3", "'x7'"),
        ("0 10\nuser 20\n", "line 2 of 2", "'user'"),
        ("0 10\n\n\n3 1.5\n", "line 4 of 4", "'1.5'"),
        ("0 10,20\n", "line 1 of 1", "'10,20'"),
        (f"0 10\n1 {10**30}\n", "line 2 of 2", f"'{10**30}'"),
        ("0 10\n1 nan\n", "line 2 of 2", "'nan'"),
    ],
    ids=["item", "user", "fraction", "comma", "huge", "nan"],
)
@pytest.mark.parametrize("name", ["train", "test"])
def test_a_word_that_is_no_whole_number_is_named_with_file_and_line(
    tmp_path, name, text, line, word
):
    refused(tmp_path, rf"{name}\.txt, {line}: {word} is no whole", **{name: text})


@pytest.mark.parametrize("word", ["1_0", "-3", "+4", str(2**63 - 1)])
def test_what_int_would_read_is_no_whole_number_either(tmp_path, word):
    refused(tmp_path, r"train\.txt, line 1 of 1: .* is no whole", train=f"0 {word} 9\n")


def test_a_file_that_is_no_text_is_named(tmp_path):
    refused(tmp_path, r"train\.txt could not be read", train=bytes(range(256)))
    refused(tmp_path, r"test\.txt could not be read", test="0 1\n１ 2\n")


def test_a_pair_in_both_files_is_refused_and_the_first_named(tmp_path):
    message = "2 pairs of test.txt stand in train.txt too, the first user 5, item 40"
    refused(tmp_path, message, test="0 40\n5 99 40\n1 20 10\n")
    crossed = write(tmp_path, train="1 12\n11 2\n", test="1 2\n11 12\n12 1\n")
    assert len(crossed.load()) == 5  # the same numbers in other pairs


def test_large_ids_are_not_taken_for_a_pair_in_both_files(tmp_path):
    write(tmp_path, train=f"0 5 {2**40 - 1}\n", test=f"{2**24} 5\n").load()


@pytest.mark.parametrize("protocol", ["leave_one_out", "temporal"])
def test_a_protocol_that_needs_an_order_is_refused(tmp_path, protocol):
    config = write(tmp_path)
    config.protocol = protocol
    with pytest.raises(InputError, match=f"protocol={protocol} needs the order.*given"):
        config.load()


# The real one.


@pytest.fixture
def gowalla() -> pathlib.Path:
    """The folder of Gowalla, or a skip."""
    if not (DATA_DIR / "gowalla" / "train.txt").exists():
        pytest.skip(f"no {DATA_DIR}/gowalla; name its parent in RECALL_DATA_DIR")
    return DATA_DIR / "gowalla"


def test_gowalla_has_the_published_counts(gowalla):
    log = lightgcn.Config(dir=str(gowalla)).load()
    assert (len(log.users), len(log.items)) == (29_858, 40_981)
    assert np.bincount(log.events["part"]).tolist() == [810_128, 217_242]
    with open(gowalla / "train.txt") as file:
        user, *items = map(int, file.readline().split())
    first = log.user == np.flatnonzero(log.users.id == user)[0]
    first &= log.events["part"] == 0
    assert log.items.id[log.item[first]].tolist() == list(dict.fromkeys(items))
