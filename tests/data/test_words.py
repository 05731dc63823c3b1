"""Texts as hashed letter trigrams, and the columns they become."""

import dataclasses
import doctest
import subprocess
import sys
import unicodedata
import zlib

import numpy as np
import pytest
from conftest import make_log

from recall_jax import schema
from recall_jax.data import columns, prepare
from recall_jax.data import log as log_lib
from recall_jax.data import split as split_lib
from recall_jax.types import InputError

BUCKETS = 1000


def words(title: str) -> list[str]:
    return columns.split_words([title])[0]


def rows_of(texts, *, buckets: int = BUCKETS):
    bag = columns.trigram_ids(texts, buckets=buckets)
    parts = np.split(bag.values, bag.offsets[1:-1])
    return [part.tolist() for part in parts]


def make_titled(titles, *, side: str = "items", name: str = "title", **options):
    log = make_log()
    entities = dataclasses.replace(getattr(log, side), text={name: titles})
    split = split_lib.by_protocol(
        dataclasses.replace(log, **{side: entities}), config=log_lib.Config()
    )
    config = log_lib.Config(**options)
    return prepare.in_memory(split, history_length=3, min_history=1, config=config)


def test_the_example_of_the_paper():
    assert columns.trigrams("good") == ["#go", "goo", "ood", "od#"]


def test_the_examples_of_the_docstrings_run():
    assert doctest.testmod(columns) == doctest.TestResults(0, 2)


def test_a_word_of_one_letter_is_one_trigram_and_of_two_are_two():
    assert columns.trigrams("a") == ["#a#"]
    assert columns.trigrams("ab") == ["#ab", "ab#"]


@pytest.mark.parametrize(
    ("title", "wanted"),
    [
        ("Toy Story", ["toy", "story"]),
        ("Se7en (1995)", ["se7en", "1995"]),
        ("2001: A Space-Odyssey", ["2001", "a", "space", "odyssey"]),
        ("snake_case#tag\ttab\nline", ["snake", "case", "tag", "tab", "line"]),
        ("Броненосец «Потёмкин»", ["броненосец", "потёмкин"]),
        ("霸王别姬", ["霸王别姬"]),
        ("मुग़ल-ए-आज़म", ["मुग़ल", "ए", "आज़म"]),
        ("ＡＬＩＥＮ³", ["alien3"]),  # forms that only look different
        ("co\u00adoperate", ["cooperate"]),  # a soft hyphen is not seen
        ("", []),
        (" ?! … ★", []),
    ],
)
def test_words_are_letters_digits_and_their_marks(title, wanted):
    assert words(title) == [unicodedata.normalize("NFKC", word) for word in wanted]


def test_an_accent_is_the_same_letter_however_it_was_typed():
    one, two = (unicodedata.normalize(form, "Amélie Ё") for form in ("NFC", "NFD"))
    assert one != two
    assert words(one) == words(two) == ["amélie", "ё"]
    assert rows_of([one]) == rows_of([two])


def test_ids_are_those_of_a_plain_loop_in_the_order_of_the_text():
    titles = ["The Good, the Bad", "", "Good good", "a", "霸王别姬 the"]
    wanted = [
        [
            1 + zlib.crc32(f"#{word}#"[j : j + 3].encode()) % BUCKETS
            for word in words(title)
            for j in range(len(word))
        ]
        for title in titles
    ]
    assert rows_of(titles) == wanted
    assert [len(row) for row in wanted] == [13, 0, 8, 1, 7]
    forward, backward = rows_of(["good bad", "bad good"])
    assert forward != backward and sorted(forward) == sorted(backward)


def test_two_trigrams_in_one_bucket_share_its_row():
    every = [f"{a}{b}{c}" for a in "abcd" for b in "efgh" for c in "ijkl"]
    trigrams: dict[int, str] = {}
    for trigram in every:
        at = columns.bucket(trigram, buckets=7)
        assert 1 <= at <= 7
        trigrams[at] = trigram
    assert len(trigrams) == 7
    assert len({columns.bucket(trigram, buckets=2**31) for trigram in every}) == 64
    assert {j for row in rows_of(["one title"], buckets=1) for j in row} == {1}


def test_buckets_are_the_same_in_every_process():
    code = "from recall_jax.data import columns; print(columns.bucket('#go', buckets=9999))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] == f"{columns.bucket('#go', buckets=9999)}\n"


def test_a_title_stands_at_its_item_padded_on_the_right():
    titles = np.array([f"title {'x' * (j % 4)}" for j in range(20)])
    titles[3] = ""
    data = make_titled(titles, text_buckets=BUCKETS)
    column = np.asarray(data.dataset.item_columns["title"])
    assert column.dtype == np.int32
    assert column.shape == (data.dataset.num_items + 1, 8)
    assert (column[0] == 0).all()
    for inner, code in enumerate(data.item_codes, 1):
        (wanted,) = rows_of([titles[code]])
        assert column[inner].tolist() == wanted + [0] * (8 - len(wanted))


def test_a_title_is_an_item_column_of_kind_text_without_a_vocabulary():
    data = make_titled(np.array(["some title"] * 20), text_buckets=50)
    (column,) = (c for c in data.schema.item if c.name == "title")
    assert column == schema.Column("title", "title", 52, 9, kind="text")
    assert "title" not in data.vocabularies
    assert np.asarray(data.dataset.item_columns["title"]).max() <= 50


def test_a_user_has_texts_too():
    data = make_titled(np.array(["a word"] * 30), side="users", name="motto")
    (column,) = (c for c in data.schema.query if c.name == "motto")
    assert (column.kind, column.width) == ("text", 5)
    assert column.rows == log_lib.Config().text_buckets + 2
    assert data.dataset.query(np.arange(1, 4), np.arange(1, 4))["motto"].shape == (3, 5)


def test_without_buckets_texts_are_left_out():
    data = make_titled(np.array(["a title"] * 20), text_buckets=0)
    assert "title" not in data.dataset.item_columns
    assert [c.name for c in data.schema.item] == ["item", "tags", "price"]


def test_titles_that_say_nothing_are_padding():
    data = make_titled(np.array(["", "!"] * 10))
    assert np.asarray(data.dataset.item_columns["title"]).tolist() == [[0]] * 21


def test_a_very_long_title_is_cut_with_a_warning():
    titles = np.array(["x" * 5000] + ["short"] * 19)
    with pytest.warns(UserWarning, match="'title' has up to 5000 values; the first 64"):
        data = make_titled(titles)
    column = np.asarray(data.dataset.item_columns["title"])
    assert column.shape == (21, columns.MAX_TRIGRAMS)
    (wanted,) = rows_of([titles[0]], buckets=log_lib.Config().text_buckets)
    at = 1 + np.flatnonzero(data.item_codes == 0)[0]
    assert column[at].tolist() == wanted[:64]


def test_a_text_of_one_name_on_both_sides_is_refused():
    with pytest.raises(InputError, match='"gender" stands on both sides'):
        make_titled(np.array(["a title"] * 20), name="gender")
