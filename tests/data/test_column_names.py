"""A column may have any name: it is never one of a file."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import make_log
from test_configs import shrunk

from experiments.common import cli
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.serve import reader, towers, writer
from recall_jax.serve import recommender as recommender_lib

pytestmark = pytest.mark.usefixtures("symbolic_shapes")
NAMES = ("", ".", "..", "price/unit", "x" * 300, "Case", "case", "naïve ☃", "a\\b\tc")
SPECIAL = ("items", "__init__", "file", "tables.item", "history_tags")


def odd_log():
    """A log with a feature of each name: categorical, dense, categorical, ..."""
    log, rng = make_log(), np.random.default_rng(0)
    columns = dict(log.items.columns)
    for j, name in enumerate((*NAMES, *SPECIAL)):
        dense = rng.normal(size=len(log.items)).astype(np.float32)
        columns[name] = dense if j % 2 else rng.choice([*"abc"], len(log.items))
    users = {
        "u/v": rng.choice([*"pq"], len(log.users)),
        ":": rng.random(len(log.users)),
    }
    return dataclasses.replace(
        log,
        items=dataclasses.replace(log.items, columns=columns),
        users=dataclasses.replace(log.users, columns=log.users.columns | users),
    )


@pytest.fixture(scope="module")
def run(kept_programs, symbolic_shapes, one_platform) -> towers.ExportSource:
    config = shrunk(cli.load_config("dssm_logs"))
    data = data_lib.lay_out(config, odd_log())
    built = build_lib.make(config, data, batch_size=16)
    state = built.state
    params = jax.tree.map(
        lambda x: x + 0.1, (state.tables, state.dense, state.statistics)
    )
    return towers.ExportSource(
        build_lib.make_encoder(config, built), params, data, name="odd"
    )


def test_columns_of_any_name_are_exported(run, tmp_path):
    writer.write(run, tmp_path / "export", config=writer.Config(batch_size=16))
    loaded = reader.load(tmp_path / "export")
    assert set(loaded.item_columns) == {*NAMES, *SPECIAL, "item", "tags", "price"}
    for name, column in run.data.dataset.item_columns.items():
        np.testing.assert_array_equal(loaded.item_columns[name], column)
    for name, column in run.data.dataset.user_columns.items():
        np.testing.assert_array_equal(loaded.user_columns[name], column)
    files = [path.name for path in (tmp_path / "export").rglob("*")]
    assert max(map(len, files)) < 30
    # None of them differ by case alone, which some file systems take for one.
    assert len({name.casefold() for name in files}) == len(set(files))
    new = loaded.new_columns("item", [{"": "a", "price/unit": 0.5, "Case": 1.0}])
    assert loaded.item(new).shape[0] == 1
    recommender = recommender_lib.load(tmp_path / "export")
    answer = recommender.recommend(user="u3", features={"u/v": "p"}, k=3)
    assert answer.by == "model" and len(answer.ids) == 3
    again = writer.write(run, tmp_path / "export", config=writer.Config(batch_size=16))
    assert again.written["items"].reused == len(loaded.item_ids)


def test_a_column_without_a_name_is_what_its_values_are(run):
    columns = {c.name: c for c in run.data.schema.item}
    assert columns[""].has_ids and columns["Case"].rows == 0
    assert not columns["price"].has_ids and columns["tags"].has_ids


def test_a_feature_of_users_is_not_taken_for_one_of_the_historys_items():
    config = shrunk(cli.load_config("eges_synthetic"))
    log = config.data.load()
    own = {"history_market": np.full(len(log.users), "here")}
    users = dataclasses.replace(log.users, columns=log.users.columns | own)
    data = data_lib.lay_out(config, dataclasses.replace(log, users=users))
    built = build_lib.make(config, data, batch_size=16)
    params = built.state.tables, built.state.dense, built.state.statistics
    query = towers.split_towers(built.graph, params, data)["query"]
    (column,) = [c for c in query.columns if c["name"] == "history_market"]
    assert (column["of"], column["column"]) == ("history", "market")
