"""Features by their values: numbers, codes, missing ones, several in a cell."""

import numpy as np
import pytest

from recall_jax.data.log import Bag, take
from recall_jax.data.sources import logs
from recall_jax.types import InputError

pl = pytest.importorskip("polars", reason="logs are read with polars")

IDS = [f"i{j}" for j in range(6)]


def entities(folder, *, side: str = "item", kind: str = "csv", **options):
    """Items with the columns given, and the lines on how they were read."""
    columns = options.pop("columns")
    log = pl.DataFrame({"user": [1, 2] * 3, "item": IDS})
    frame = pl.DataFrame({"item": IDS, **columns})
    for name, table in (("log", log), ("items", frame)):
        if kind == "csv":
            table.write_csv(folder / f"{name}.csv")
        else:
            table.write_parquet(folder / f"{name}.parquet")
    path, features = folder / f"log.{kind}", folder / f"items.{kind}"
    read = logs.Config(str(path), item_features=str(features), **options).load()
    return read.items, read.report


KINDS = pytest.mark.parametrize("kind", ["csv", "parquet"])


@KINDS
@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["10.5", "NA", "-", "null", "", "11"], [10.5, None, None, None, None, 11]),
        (["1,000.50", "2", "3", "4", "5", "n/a"], [1000.5, 2, 3, 4, 5, None]),
        (["1,000", "2,500", "3", "4", "5", "6"], [1000, 2500, 3, 4, 5, 6]),
        (["10,5", "2", "3,25", "4", "5", "6"], [10.5, 2, 3.25, 4, 5, 6]),
        (["0,123", "2", "0,456", "4", "5", "6"], [0.123, 2, 0.456, 4, 5, 6]),
        (["$10.50", "$2", "$3", "-$4", "$5", "$6"], [10.5, 2, 3, -4, 5, 6]),
        ([" 1.5", "2 ", "3", "4", "5", "6"], [1.5, 2, 3, 4, 5, 6]),
        (["10,50 €", "2 €", "3", "4", "5", "6"], [10.5, 2, 3, 4, 5, 6]),
        (["1.000,50", "2,25", "3", "4", "5", "6"], [1000.5, 2.25, 3, 4, 5, 6]),
        (["1e-3", "2", "3", "4", "5", "6"], [0.001, 2, 3, 4, 5, 6]),
    ],
)
def test_numbers_are_read_as_people_write_them(tmp_path, cells, expected, kind):
    items, _ = entities(tmp_path, columns={"price": cells}, kind=kind)
    wanted = np.array([np.nan if x is None else x for x in expected], np.float32)
    np.testing.assert_array_equal(items.columns["price"], wanted)


@KINDS
@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["3.0", "1.0", "", "3.0", "2.0", "1.0"], ["3", "1", "", "3", "2", "1"]),
        (["3", "1", "NULL", "3", "2", "1"], ["3", "1", "", "3", "2", "1"]),
        (["007", "7", "1", "2", "3", "4"], ["007", "7", "1", "2", "3", "4"]),
        (["a", "None", "b", " a", "\\N", "1,5,x"], ["a", "", "b", "a", "", "1,5,x"]),
        (["1.5", "2,5", "1", "2", "3", "4"], ["1.5", "2,5", "1", "2", "3", "4"]),
    ],
)
def test_codes_and_words_are_categories(tmp_path, cells, expected, kind):
    items, _ = entities(tmp_path, columns={"code": cells}, kind=kind)
    assert items.columns["code"].tolist() == expected


def test_floats_of_codes_are_codes_and_typed_numbers_keep_their_kind(tmp_path):
    columns = {
        "code": [3.0, 1.0, None, float("nan"), 2.0, 1.0],
        "price": [3.5, 1.0, None, float("nan"), 2.0, 1.0],
        "whole": [1, 2, None, 4, 5, 6],
    }
    items, _ = entities(tmp_path, columns=columns, kind="parquet")
    assert items.columns["code"].tolist() == ["3", "1", "", "", "2", "1"]
    assert items.columns["price"].dtype == np.float32
    assert items.columns["whole"].tolist() == ["1", "2", "", "4", "5", "6"]


def test_categories_of_parquet_are_read_as_their_words(tmp_path):
    columns = {
        "kind": pl.Series(["x", "NA", "y", "x", "", " y"], dtype=pl.Categorical),
        "price": pl.Series(["1.5", "NA", "2", "3", "4", "5"], dtype=pl.Categorical),
    }
    items, _ = entities(tmp_path, columns=columns, kind="parquet")
    assert items.columns["kind"].tolist() == ["x", "", "y", "x", "", "y"]
    np.testing.assert_array_equal(items.columns["price"], [1.5, np.nan, 2, 3, 4, 5])


@pytest.mark.parametrize("cell", ["{3F25-04E0}", "(0)", "(a)"])
def test_what_only_looks_like_a_list_is_a_category(tmp_path, cell):
    items, _ = entities(tmp_path, columns={"g": [cell] * 6})
    assert items.columns["g"].tolist() == [cell] * 6


def test_a_separator_of_several_letters_parts_too(tmp_path):
    columns = {"g": ["a::b", "b", "c::a", "d", "a", "b"]}
    items, _ = entities(tmp_path, columns=columns, bags=("g",), list_separator="::")
    assert several(items.columns["g"])[0] == ["a", "b"]


def test_a_column_that_seems_to_hold_several_values_is_noted(tmp_path):
    _, report = entities(
        tmp_path, columns={"g": ["a|b", "b|c", "c|d", "a|d", "a", "b"]}
    )
    assert any("--config.data.bags=g reads each" in x for x in report)


@KINDS
def test_what_a_config_says_of_a_column_holds(tmp_path, kind):
    columns = {"age": [1, 2, 3, 4, 5, 6], "size": [1.5, 2, 3, 4, 5, 6]}
    columns["year"] = ["07", "08", "09", "10", "11", "12"]
    items, _ = entities(
        tmp_path,
        columns=columns,
        kind=kind,
        dense=("age", "year"),
        categorical=("size",),
    )
    np.testing.assert_array_equal(items.columns["age"], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(items.columns["year"], [7, 8, 9, 10, 11, 12])
    assert items.columns["size"].dtype.kind == "U"
    with pytest.raises(
        InputError, match=r"column 'age' should be a number.*data.dense"
    ):
        words = {"age": ["1", "2", "old", "4", "5", "6"]}
        entities(tmp_path, columns=words, kind=kind, dense=("age",))


@pytest.mark.parametrize(
    "cells",
    [
        ["['a', 'b']", "['a']", "[]", "", "['b']", "['c']"],
        ['["a", "b"]', '["a"]', "[]", "", '["b"]', '["c"]'],
        ["('a', 'b')", "('a',)", "()", "NA", "('b',)", "('c',)"],
        ["['a', 'b']", "a", "[]", "", "['b']", "('c',)"],
        ["a | b", "a", "", "|", "b|", "c "],
    ],
)
@KINDS
def test_several_values_in_a_cell(tmp_path, cells, kind):
    bags = ("g",) if "|" in cells[0] else ()
    items, _ = entities(tmp_path, columns={"g": cells}, kind=kind, bags=bags)
    assert several(items.columns["g"]) == [["a", "b"], ["a"], [], [], ["b"], ["c"]]


def several(bag: Bag) -> list[list]:
    rows = range(len(bag.offsets) - 1)
    return [take(bag, np.array([row])).values.tolist() for row in rows]


@pytest.mark.parametrize(
    "cell", ["['a' 'b']", "[0.5, 1.5]", "[1 2 3]", "{'a': 1}", "[['a']]"]
)
def test_what_is_no_list_is_refused_with_its_line(tmp_path, cell):
    with pytest.raises(InputError, match=r"line 7: column 'g' should be a list .*JSON"):
        entities(tmp_path, columns={"g": ["['a']"] * 5 + [cell]})


def test_a_separator_that_parts_nothing_is_noted(tmp_path):
    columns = {"g": ["a, b", "b, c", "a, c", "a, d", "d", "a, b"]}
    _, report = entities(tmp_path, columns=columns, bags=("g",))
    (note,) = [x for x in report if x.startswith("note")]
    assert "no value of 'g' holds '|', most hold ','" in note
    assert note.endswith("--config.data.list_separator=','")


@KINDS
def test_an_index_without_a_name_is_left_out_unless_asked_for(tmp_path, kind):
    name = "" if kind == "csv" else "__index_level_0__"
    columns = {name: [0, 1, 3, 4, 5, 9], "cat": list("abcabc")}
    items, report = entities(tmp_path, columns=columns, kind=kind)
    assert list(items.columns) == ["cat"]
    assert any(f"{name!r} is left out: it numbers the rows" in x for x in report)
    items, _ = entities(
        tmp_path, columns=columns, kind=kind, item_columns=(name, "cat")
    )
    assert set(items.columns) == {name, "cat"}


def test_columns_without_a_value_are_left_out(tmp_path):
    columns = {"none": ["NA", "", "-", "", "", ""], "cat": list("abcabc")}
    items, report = entities(tmp_path, columns=columns)
    assert list(items.columns) == ["cat"]
    assert any("'none' is left out: it holds no value" in x for x in report)


def test_a_second_line_of_names_among_features_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n1,a\n2,b\n1,c\n")
    (tmp_path / "items.csv").write_text("item,price\na,1.5\nitem,price\nb,2\n")
    features = str(tmp_path / "items.csv")
    with pytest.raises(
        InputError, match="line 3: column 'item' .*second line of column"
    ):
        logs.Config(str(tmp_path / "log.csv"), item_features=features).load()


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ([f"0{j}" for j in range(1, 7)], "zeros before them"),
        ([f"{j} " for j in range(1, 7)], "blanks around them"),
        ([f"'{j}'" for j in range(1, 7)], "quotes around them"),
    ],
)
def test_ids_that_nearly_match_are_named(tmp_path, keys, what):
    (tmp_path / "log.csv").write_text("user,item\n" + "1,1\n2,2\n1,3\n2,4\n1,x\n")
    text = "item,cat\n" + "".join(f"{key},a\n" for key in [*keys, "x"])
    (tmp_path / "items.csv").write_text(text)
    features = str(tmp_path / "items.csv")
    log = logs.Config(str(tmp_path / "log.csv"), item_features=features).load()
    (matched,) = [x for x in log.report if x.startswith("features")]
    assert "1 of 5 items (20.0%) have a row among the 7" in matched
    (note,) = [x for x in log.report if x.startswith("note")]
    assert (
        f"4 items have no row of features; 4 differ from one in the file by {what}"
        in note
    )
    assert note.endswith("write both alike")


def test_case_is_a_near_miss_too(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n1,A1\n2,b\n1,C\n")
    (tmp_path / "items.csv").write_text("item,cat\na1,x\nb,y\n")
    features = str(tmp_path / "items.csv")
    log = logs.Config(str(tmp_path / "log.csv"), item_features=features).load()
    assert any("by case alone, such as 'A1' from 'a1'" in x for x in log.report)
