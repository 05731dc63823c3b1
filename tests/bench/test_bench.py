"""The benches run, on sizes that say nothing about speed."""

import types

import jax
import numpy as np
import pytest
from conftest import make_data
from flax import nnx
from test_loop import LOSS, MODEL, NEGATIVES

from experiments.bench import in_batch, skipgram, sweep, tables, train, unique, walks
from experiments.common import cells as cells_lib
from experiments.common import cli, grid
from recall_jax.losses import negatives, objective
from recall_jax.training import step as step_lib

pytestmark = pytest.mark.slow


def test_tables_measures_touched_rows_and_dense_adam():
    settings = [
        {"tables": "lazy_adam", "loss": "softmax", "rows": 100},
        {"tables": "dense_adam", "loss": "none", "rows": 100},
    ]
    for row in tables.measure(settings, batch=8, steps=2, rounds=1):
        assert row["ms_per_step"] > 0 and row["examples_per_second"] > 0


def test_unique_counts_the_distinct():
    row = unique.measure("zipf", rows=60, num=40, rounds=1)
    most = max(len(np.unique(ids)) for ids in unique.draw_ids("zipf", rows=60, num=40))
    assert row["distinct"] == most < 40


def test_stages_are_timed_and_only_the_last_trains():
    data = make_data()
    model, specs = MODEL.make(data.schema, nnx.Rngs(0))
    optimizer = step_lib.make_optimizer(step_lib.OptimConfig())
    graph, state = step_lib.init_state(
        model, specs, optimizer=optimizer, key=jax.random.key(0)
    )
    before = jax.device_get(state.tables["item"])
    goal = objective.make_objective(LOSS, NEGATIVES)
    hypers = step_lib.make_hypers(step_lib.OptimConfig(), LOSS, NEGATIVES, num_steps=10)
    source = negatives.make_source(data, NEGATIVES)
    steps = train.stages(graph, goal, optimizer)
    for name, step in steps.items():
        after, _ = jax.jit(step)(state, hypers, source, np.arange(8))
        assert np.array_equal(before, after.tables["item"]) == (name != "update")
    medians, trained = train.time_stages(
        steps, state, hypers=hypers, source=source, shape=(2, 8), rounds=2
    )
    assert len(medians) == len(train.STAGES) and int(trained.step) == 6


def test_in_batch_forms_agree_and_are_timed():
    batch = in_batch.make_batch(64, 8)
    blocks, plain = (
        jax.jit(in_batch.FORMS[form])(*batch) for form in ("blocks", "plain")
    )
    for one, other in zip(jax.tree.leaves(blocks), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    row = in_batch.measure(64, 8, rounds=1, steps=2, plain_limit=1.0)
    assert min(row.values()) > 0
    other = row | {"b": 4096}
    assert in_batch.headline([other])["speedup_in_scan_4096"] > 0


def test_walks_are_timed_on_each_graph():
    result = walks.run([(50, 300), (60, 400)], num=16, length=5, rounds=1)
    rows = result["rows"]
    assert [row["walk"] for row in rows] == ["first_order", "node2vec"] * 2
    assert min(row["steps_per_second"] for row in rows) > 0
    assert min(row["build_seconds"] for row in rows) > 0
    assert 0 < rows[0]["edges"] <= 300 and rows[0]["largest_degree"] > 10
    assert result["steps_per_second"] == rows[0]["steps_per_second"]
    assert "speedup_over_pecanpy" in result


SKIPGRAM = types.SimpleNamespace(
    items=60,
    tokens=4_000,
    width=8,
    window=2,
    negatives=2,
    shared_negatives=8,
    sharing=2,
    block=8,
    blocks=4,
    learning_rate=0.5,
    epochs=3,
    rounds=1,
    workers=1,
    gensim_python="/bin/false",
)


def test_skipgram_learns_its_sequences_and_is_timed_at_two_sizes():
    row = skipgram.compare(SKIPGRAM)
    assert row["tokens_per_second"] > 0 and row["speedup_over_gensim"] is None
    assert row["quality"] > 0.6, "0.5 is chance"
    speeds = skipgram.growth(SKIPGRAM, (50, 500))
    assert len(speeds) == 2 and min(speeds.values()) > 0


def test_a_sweep_is_timed_against_its_settings_alone(tmp_path):
    entry = cli.Entry("dssm_synthetic", {}, {}, cli.load_config("dssm_synthetic"))
    entry = cli.with_own(entry, sweep.SMOKE)
    settings = grid.make_settings(
        entry, ["loss.temperature=0.1,0.2"], samples=0, seed=0
    )
    cells = cells_lib.make_cells(settings, num_seeds=sweep.SEEDS, folder=tmp_path)
    step_times = sweep.time_training(cells, rounds=1, mode="auto")
    assert set(step_times) == {"together", "alone"} and min(step_times.values()) > 0
