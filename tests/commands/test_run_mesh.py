"""The main command on eight devices leaves what it leaves on one."""

import contextlib
import dataclasses
import math
import re

import jax
import numpy as np
import pytest
import test_run_given
from conftest import make_data
from marks import slow
from meshes import mesh_of
from test_configs import shrunk
from test_prepared import random_rows, write_shards
from test_run import (  # noqa: F401
    SMALL,
    SYNTHETIC,
    TIMES,
    command,
    finish,
    log_csv,
    own_log,
)

from experiments import run
from experiments.common import cli, distributed, summary
from recall_jax.devices import mesh
from recall_jax.evaluate import encode as encode_lib
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.run import experiment as experiment_lib
from recall_jax.run import restored as restored_lib
from recall_jax.training import checkpoint, step
from recall_jax.training import loop as loop_lib

pytestmark = [
    pytest.mark.usefixtures("kept_programs"),
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
]


# What is encoded.


def small(name: str):
    config = shrunk(cli.load_config(name))
    return config, data_lib.lay_out(config, config.data.load())


def encoder_of(config, data):
    built = build_lib.make(config, data, batch_size=16 * data.dataset.span)
    return build_lib.make_encoder(config, built), step.params_of(built.state)


def encoded(name: str, *, batch_size: int) -> encode_lib.Vectors:
    config, data = small(name)
    encoder, params = encoder_of(config, data)
    return encode_lib.encode_both(
        encoder, params, data=data, part=data.valid, batch_size=batch_size
    )


def test_a_block_is_shared_out():
    shares = []

    def encode(ids):
        shares.append({len(part.data) for part in ids.addressable_shards})
        return ids[:, None] / 2

    with mesh.use(mesh_of(8)):
        rows = encode_lib.in_batches(
            encode, np.arange(33, dtype=np.int32), batch_size=16
        )
    assert shares == [{2}] * 3
    np.testing.assert_array_equal(rows.on_host()[:, 0], np.arange(33) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [slow("dssm_synthetic"), "sequence_synthetic"])
def test_each_device_encodes_its_own_items(name):
    one = encoded(name, batch_size=1000)
    items, queries = one.items.on_host(), np.asarray(one.queries)
    assert one.items.mesh is None
    for size in (7, 1000):
        with mesh.use(mesh_of(8)):
            eight = encoded(name, batch_size=size)
        assert len(eight.items.array.addressable_shards) == 8
        (share,) = {len(part.data) for part in eight.items.array.addressable_shards}
        assert 0 <= 8 * share - len(items) < 8 + size, "no device has many more"
        np.testing.assert_allclose(eight.items.on_host(), items, rtol=1e-5, atol=1e-6)
        # Vectors of length 1: an element near 0 is as far off as the others, some ulp of 1.
        np.testing.assert_allclose(eight.queries, queries, rtol=1e-5, atol=3e-6)


def test_vectors_travel_and_tables_stay():
    """Where tables are larger than what a block looks up."""
    config, _ = small("dssm_synthetic")
    with mesh.use(mesh_of(8)):
        data = make_data(users=2000, items=2000, events=8000)
        encoder, params = encoder_of(config, data)
        ids = mesh.share(np.ones(16, np.int32))
        for program in (
            encoder.item.lower(params, data.dataset, ids),
            encoder.query.lower(params, data.dataset, ids, ids),
        ):
            moved = sent(program.compile().as_text())
            looked_up = len(ids) * data.dataset.history_length * 32
            assert 16 * 32 <= max(moved) <= looked_up < params[0]["item"].size / 10


def sent(program: str) -> list[int]:
    """Numbers in each array that devices exchange."""
    lines = re.findall(r"= (.*) (?:all-|collective-|reduce-scatter)\S*\(", program)
    shapes = [shape for line in lines for shape in re.findall(r"\[([\d,]+)\]", line)]
    return [math.prod(map(int, shape.split(","))) for shape in shapes]


# Whole runs.


@pytest.fixture(scope="module")
def one(kept_programs, tmp_path_factory):
    return finish(*SYNTHETIC, workdir=tmp_path_factory.mktemp("one"))


def assert_close(one: dict, other: dict) -> None:
    """The same results but for times, devices and the last digits."""
    assert one.keys() == other.keys()
    for name in one.keys() - {*TIMES, "device", "indexes"}:
        assert_equal(one[name], other[name], name=name)
    for name, row in one["indexes"].items():
        assert_equal(row["metrics"], other["indexes"][name]["metrics"], name=name)


def assert_equal(one, other, *, name: str) -> None:
    """Trees of numbers and strings, numbers to the last digits."""
    leaves, structure = jax.tree.flatten(one)
    others, same = jax.tree.flatten(other)
    assert structure == same, name
    for ours, theirs in zip(leaves, others):
        if isinstance(ours, float):
            theirs = pytest.approx(theirs, rel=1e-5, abs=1e-9)
        assert ours == theirs, name


def test_eight_devices_leave_what_one_leaves(one, tmp_path):
    eight = finish(*SYNTHETIC, "--devices=8", workdir=tmp_path)
    assert_close(one.results, eight.results)
    assert re.fullmatch(r"cpu \(.+, \d+ cores?\)", one.results["device"])
    assert eight.results["device"] == f"8 x {one.results['device']}"
    assert f"devices    {eight.results['device']}\n" in eight.printed
    assert f"examples/s on {eight.results['device']}" in eight.printed


def test_parameters_are_counted_without_what_fills_up_tables(one):
    config = cli.load_config(str(one.workdir / "config.json"))
    data = data_lib.lay_out(config, config.data.load())
    built = build_lib.make(config, data, batch_size=16)
    read = {name: np.asarray(x) for name, x in built.state.tables.items()}
    filled_up = sum(
        read[table.name].size - table.rows * table.width for table in built.graph.tables
    )
    stored = jax.tree.leaves(step.params_of(built.state))
    assert filled_up > 0
    assert one.results["num_params"] == sum(x.size for x in stored) - filled_up


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (9, "--devices=9, but there are 8 x cpu; give 1 to 8, or 0 for all"),
        (-1, "--devices=-1, but there are 8 x cpu"),
        (3, "3 devices cannot share tables .* with --devices=N"),
    ],
)
def test_devices_that_there_are_not_are_told_before_any_work(
    tmp_path, devices, message
):
    arguments = *SYNTHETIC, f"--devices={devices}", f"--workdir={tmp_path / 'run'}"
    status, _, said = command(*arguments)
    assert status == 2 and re.search(message, said), said
    assert not (tmp_path / "run").exists()


def test_several_processes_take_all_devices_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "joined", contextlib.nullcontext)
    where = f"--workdir={tmp_path / 'run'}"
    status, _, said = command(*SYNTHETIC, where, "--distributed", "--devices=4")
    assert status == 2 and "--devices=4 with --distributed" in said
    assert not (tmp_path / "run").exists()
    assert dict(run.mesh_of(None).shape) == {"devices": 8}


def cut_off(*arguments, workdir, monkeypatch) -> None:
    """The command, stopped after its first epoch."""

    def save(folder, state, *, kind, **given):
        checkpoint_save(folder, state, kind=kind, **given)
        if kind == "latest":
            raise KeyboardInterrupt

    checkpoint_save = checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        status, _, said = command(*arguments, f"--workdir={workdir}")
    assert status == 130 and "stopped" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun", "resumed"),
    [("1", "8"), pytest.param("0", "1", marks=pytest.mark.slow)],
)
def test_a_run_goes_on_on_other_devices(one, tmp_path, monkeypatch, begun, resumed):
    begin = *SYNTHETIC, f"--devices={begun}"
    cut_off(*begin, workdir=tmp_path, monkeypatch=monkeypatch)
    begun_at = checkpoint.latest_step(tmp_path / "checkpoints")
    assert 0 < begun_at < one.results["steps"]
    rest = finish(*SYNTHETIC, f"--devices={resumed}", workdir=tmp_path)
    assert_close(one.results, rest.results)


def test_a_resumed_run_holds_one_state(one, monkeypatch):
    """What it was to begin with is gone before a checkpoint is read; to restore a model
    nothing is made."""
    config = cli.load_config(str(one.workdir / "config.json"))
    data = data_lib.lay_out(config, config.data.load())
    states, shapes_alone, gone = [], [], []
    read, go_on = checkpoint._read_arrays, loop_lib.fit

    def reading(path, like, **how):
        leaves = jax.tree.leaves(states[-1]._replace(slots={})) if states else []
        gone.append(all(leaf.is_deleted() for leaf in leaves))
        kinds = {type(leaf) for leaf in jax.tree.leaves(like)}
        shapes_alone.append(kinds == {jax.ShapeDtypeStruct})
        return read(path, like, **how)

    def fitting(loop, state):
        states.append(state)
        return go_on(loop, state)

    monkeypatch.setattr(checkpoint, "_read_arrays", reading)
    monkeypatch.setattr(loop_lib, "fit", fitting)
    assert restored_lib.restore(config, data, one.workdir).step > 0
    experiment_lib.train_model(config, data, one.workdir)
    assert gone == shapes_alone == [True] * 3  # restored; resumed; the best one


@pytest.mark.slow
def test_shuffled_ties_train_a_second_model_on_eight_too(log_csv, tmp_path):  # noqa: F811
    # With lazy Adam a gradient that is rounding alone becomes a whole step: here that of
    # a query with one live unit, which is normalised. In float64 they are the same.
    more = "--config.data.ties=both", "--config.optim.tables=sgd"
    arguments = own_log(log_csv, *more)
    one = finish(*arguments, workdir=tmp_path / "one").results
    eight = finish(*arguments, "--devices=8", workdir=tmp_path / "eight").results
    assert_close(one, eight)


def on_both(config, folder) -> dict:
    """The results of both, which are the same."""
    one = summary.train(config, folder / "one")
    with mesh.use(mesh_of(8)):
        eight = summary.train(config, folder / "eight")
    assert_close(one, eight)
    return one


@pytest.mark.slow
def test_a_refit_on_eight_is_that_of_one(tmp_path):
    on_both(test_run_given.config_of(test_run_given.write(tmp_path / "data")), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "judged", "changes"),
    [
        ("airbnb_synthetic", "conversions", {}),
        ("eges_synthetic", "link_auc", {"removed_share": 0.33}),
    ],
)
def test_vectors_of_items_are_judged_alike(tmp_path, name, judged, changes):
    """By links or by conversions; some of the latter are made of other items' vectors."""
    config = shrunk(cli.load_config(name))
    made_by = dataclasses.replace(config.model.pairs, sharing=2, **changes)
    model = dataclasses.replace(config.model, pairs=made_by)
    results = on_both(dataclasses.replace(config, model=model), tmp_path)
    assert results[judged]


@pytest.mark.slow
def test_an_index_renewed_in_training_is_on_every_device(tmp_path):
    config = shrunk(cli.load_config("dssm_synthetic"))
    own = NegativesConfig(own="semi_hard", num_own=2, ranks=(2, 8))
    on_both(dataclasses.replace(config, negatives=own), tmp_path)


@pytest.mark.slow
def test_a_streamed_log_gives_the_same_on_eight(tmp_path):
    shards = write_shards(tmp_path / "log", random_rows(events=900, users=60, items=40))
    arguments = (
        "--config=dssm_stream",
        f"--config.data.path={shards}",
        "--config.data.time=ts",
        "--config.data.window_examples=300",
        "--config.data.chunk_examples=20",
        *SMALL[:-1],
        "--config.train.batch_size=32",
        "--config.evaluate.indexes=",
    )
    one = finish(*arguments, workdir=tmp_path / "one").results
    eight = finish(*arguments, "--devices=8", workdir=tmp_path / "eight").results
    assert_close(one, eight)
