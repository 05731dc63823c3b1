"""Texts cost what they are long; what is told apart by its value is never a text."""

import json

import numpy as np
import pytest

from recall_jax.data import prepared
from recall_jax.data.sources import logs, stream, values
from recall_jax.serve import reader
from recall_jax.types import InputError

pl = pytest.importorskip("polars", reason="logs are read with polars")

LONG = "a letter " * 5000
ITEMS = 400


def config_of(folder, *, kind=logs.Config, users=None, titles=None, **options):
    """Of a log in Parquet with an item file; the first title is long."""
    num = np.arange(ITEMS)
    titles = titles or [LONG, *map(str, num[1:])]
    items = pl.DataFrame({"item": num, "title": titles})
    items.write_parquet(folder / "items.parquet")
    user = users or [f"u{j // 8}" for j in num]
    pl.DataFrame({"user": user, "item": num}).write_parquet(folder / "log.parquet")
    return kind(
        path=f"{folder}/log.parquet", item_features=f"{folder}/items.parquet", **options
    )


def test_a_long_title_makes_no_other_longer(tmp_path):
    log = config_of(tmp_path, text=("title",)).load()
    titles = log.items.text["title"]
    assert titles.nbytes <= 8 * ITEMS and titles.tolist()[:2] == [LONG, "1"]
    path = tmp_path / "titles.json"
    path.write_text(json.dumps(titles.tolist()))
    read = reader._texts(path)
    assert read.nbytes <= 8 * ITEMS and read.tolist() == titles.tolist()
    assert type(read[1]) is str


def test_a_streamed_log_has_the_same_titles(tmp_path):
    config = config_of(tmp_path, kind=stream.Config, text=("title",), text_buckets=0)
    data = prepared.open_data(config, history_length=2, min_history=1)
    titles = prepared.entities(config, data).items.text["title"]
    assert titles.nbytes <= 8 * ITEMS
    first = np.flatnonzero(data.vocabularies["item"].ids == 0)[0]
    assert titles[first] == LONG


def test_a_text_that_is_a_list_is_refused(tmp_path):
    titles = [["a", "b"]] * ITEMS
    config = config_of(tmp_path, titles=titles, text=("title",))
    with pytest.raises(InputError, match=r"'title' is in data.text and holds List"):
        config.load()


def test_a_long_value_of_a_feature_has_its_remedy(tmp_path):
    log = config_of(tmp_path).load()
    assert not log.items.columns
    assert any(
        "'title' is left out" in x and "data.text=title" in x for x in log.report
    )
    with pytest.raises(InputError, match=r"row 0: column 'title' .*data.text"):
        config_of(tmp_path, item_columns=("title",)).load()


@pytest.mark.parametrize("kind", [logs.Config, stream.Config])
def test_a_long_id_is_refused_with_its_row(tmp_path, kind):
    users = [f"u{j // 8}" for j in range(ITEMS)]
    users[7] = "x" * (values.LONGEST + 1)
    config = config_of(tmp_path, kind=kind, users=users, text=("title",))
    said = "log.parquet, row 7: column 'user' .* at most 1,000 letters, has 1,001"
    with pytest.raises(InputError, match=said):
        if kind is stream.Config:
            prepared.open_data(config, history_length=2, min_history=1)
        config.load()


def test_an_id_as_long_as_may_be_is_read(tmp_path):
    users = ["é" * values.LONGEST] * 9 + [f"u{j // 8}" for j in range(ITEMS - 9)]
    log = config_of(tmp_path, users=users, text=("title",)).load()
    assert log.users.id[0] == users[0]


def test_a_quotation_mark_that_opens_is_told_by_the_line(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item\n1,a\n" + f'2,"{"b" * 2000}"\n')
    with pytest.raises(InputError, match="line 3: column 'item' .*quotation mark"):
        logs.Config(str(path)).load()
