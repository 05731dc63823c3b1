"""The sequence tower: trained at every position, served at the last."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_log
from flax import nnx
from marks import slow

from recall_jax.data import log as log_lib
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import split as split_lib
from recall_jax.data.log import Entities, Interactions
from recall_jax.devices import mesh
from recall_jax.evaluate import measure
from recall_jax.losses import negatives
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import sequence
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.run import experiment as experiment_lib
from recall_jax.run import results as run_results
from recall_jax.run.config import Experiment
from recall_jax.training import loop, step
from recall_jax.training.step import OptimConfig
from recall_jax.types import InputError

H = 6
SMALL = sequence.Config(width=8, heads=2, blocks=1, history_length=H)


def prepare(log=None):
    split = split_lib.by_protocol(log or make_log(), config=log_lib.Config())
    return prepare_lib.in_memory(split, history_length=H, min_history=1, span=H)


@pytest.mark.parametrize("table", [slow("own"), "shared"])
def test_a_training_position_has_the_vector_that_serves_its_history(table):
    data = prepare()
    config = dataclasses.replace(SMALL, history_table=table)
    model, tables = config.make(data.schema, nnx.Rngs(0))
    model.eval()
    names = {"own": {"history", "item"}, "shared": {"item"}}
    assert {t.name for t in tables} == names[table]
    batch = data.dataset.batch(jnp.array([0, 17, 33]))
    trained = np.asarray(model.query(batch.query)).reshape(-1, 8)
    segment = np.asarray(batch.query["segment"]).ravel()
    history = np.asarray(batch.query["history"]).ravel()
    for j in range(len(segment)):
        row = j // H * H
        seen = [history[k] for k in range(row, j + 1) if segment[k] == segment[j]]
        padded = jnp.array([[0] * (H - len(seen)) + seen])
        served = model.query({"history": padded})[0, -1]
        np.testing.assert_allclose(served, trained[j], rtol=1e-4, atol=1e-5)


def experiment(**changes) -> Experiment:
    fields = {
        "name": "tiny",
        "data": log_lib.Config(),
        "model": SMALL,
        "negatives": NegativesConfig(kind="full", correction="none"),
        "loss": LossConfig(temperature=0.2),
        "optim": OptimConfig(learning_rate=2e-2),
        "train": loop.TrainConfig(epochs=20, batch_size=4, scan_steps=20),
        "evaluate": measure.EvaluateConfig(
            metrics=("hr@1",), select_by="hr@1", indexes=()
        ),
    }
    return Experiment(**(fields | changes))


NEGATIVES = [
    NegativesConfig(kind="full", correction="none"),
    NegativesConfig(kind="in_batch", mask=("item", "history")),
    NegativesConfig(kind="uniform", num=16),
]


@pytest.mark.parametrize(
    "config",
    [slow(NEGATIVES[0]), NEGATIVES[1], slow(NEGATIVES[2])],
    ids=[config.kind for config in NEGATIVES],
)
@pytest.mark.parametrize("loss", ["softmax", slow("bpr")])
def test_a_row_costs_what_its_examples_cost_one_by_one(config, loss):
    """The loss of a row is that of its vectors as so many examples of any other model."""
    config = dataclasses.replace(
        config, correction="none" if loss == "bpr" else config.correction
    )
    data = prepare()
    settings = experiment(negatives=config, loss=LossConfig(name=loss))
    settings.model = dataclasses.replace(SMALL, dropout=0.0)
    built = build_lib.make(settings, data, batch_size=4 * H)
    source = negatives.make_source(data, config)
    hypers = step.make_hypers(settings.optim, settings.loss, config, num_steps=1)
    example = jnp.array([0, 9, 20, 40])
    drawn = step.draw(
        built.state, source, example, graph=built.graph, objective=built.objective
    )
    looked = step.look_up(built.state, drawn.columns, graph=built.graph)
    got, _ = step.mean_loss(
        (looked.rows, built.state.dense, built.state.loss),
        drawn=drawn,
        columns=looked.columns,
        statistics=built.state.statistics,
        graph=built.graph,
        objective=built.objective,
        source=source,
        hypers=hypers,
    )
    model = built.graph.model(looked.rows, built.state.dense, built.state.statistics)
    columns = looked.columns
    rows = model.query({name: columns[name] for name in drawn.batch.query})
    query = jnp.concatenate([rows[:, j] for j in range(H)])
    # By position, then row: another order of the very same examples.
    order = jnp.arange(4 * H).reshape(4, H).T.ravel()
    turned = jax.tree.map(lambda x: x[order], drawn.batch._replace(query={}))
    sample = drawn.sample
    item = model.item({name: columns[name] for name in drawn.item})
    if config.kind != "full":
        sizes = [4 * H] if sample.drawn is None else [4 * H, len(sample.drawn)]
        groups = mesh.shared_groups(*sizes)
        first, *rest = mesh.cut(item, sizes, groups=groups)
        item = mesh.join([first[order], *rest], groups=groups)
    sample = sample._replace(weight=sample.weight[order])
    wanted, _ = built.objective.total(
        query,
        item,
        sample=sample,
        batch=turned,
        source=source,
        state=drawn.memory,
        hypers=hypers,
    )
    assert float(got) == pytest.approx(float(wanted) / (4 * H), rel=1e-4)


@pytest.mark.parametrize("blocks", [0, 1])
def test_what_goes_in_and_what_blocks_add_is_dropped_in_training(blocks):
    data = prepare()
    config = dataclasses.replace(SMALL, dropout=0.5, blocks=blocks)
    model, _ = config.make(data.schema, nnx.Rngs(0))
    batch = data.dataset.batch(jnp.array([0, 9])).query
    model.train()
    assert not np.allclose(model.query(batch), model.query(batch))
    model.eval()
    np.testing.assert_array_equal(model.query(batch), model.query(batch))


def cyclic_log() -> Interactions:
    """Everybody goes round his own half of the items, in order."""
    user = np.repeat(np.arange(40), 18)
    place = np.tile(np.arange(18), 40) + user
    item = np.where(user % 2 == 0, place % 20, 20 + (-place) % 20)
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        Entities(np.arange(40)),
        Entities(np.arange(40)),
        time=np.arange(len(user)),
        source="rounds",
    )


@pytest.mark.slow
def test_it_learns_the_order_in_which_items_follow(tmp_path):
    log = cyclic_log()

    class Source(log_lib.Config):
        def load(self):
            return log

    config = experiment(data=Source())
    prepared = data_lib.read(config)
    measure.check(config.evaluate, prepared.data)
    encoder, fitted = experiment_lib.train_model(config, prepared.data, tmp_path)
    params = step.params_of(fitted.state)
    rows = run_results.measure_rows(config, prepared, encoder, params)
    assert rows["test"]["hr@1"] > 0.9
    assert rows["baselines"]["popularity"]["hr@1"] < 0.2


def test_rows_begin_elsewhere_in_each_epoch_and_meet_no_example_twice():
    data = prepare()
    config = loop.TrainConfig(batch_size=4)
    plan = loop.make_plan(config, num_rows=data.num_rows)
    rows, span = data.num_rows, data.dataset.span
    shifts = set()
    for epoch in range(6):
        key = jax.random.key(epoch)
        first = loop.epoch_order(key, num_rows=rows, span=span, plan=plan).ravel()
        assert len(set(first.tolist())) == len(first) == plan.steps_per_epoch * 4
        assert len(set((first % H).tolist())) == 1
        assert first.min() >= 0 and first.max() + H <= data.num_examples
        shifts |= set((first % H).tolist())
    assert len(shifts) > 1


def test_what_it_cannot_do_is_told():
    data = prepare()
    for field in ("min_history", "history_length"):
        with pytest.raises(InputError, match="predicts an item from those before it"):
            dataclasses.replace(SMALL, **{field: 0}).make(data.schema, nnx.Rngs(0))
    with pytest.raises(InputError, match="rows of model.history_length examples"):
        loop.make_plan(loop.TrainConfig(batch_size=4), num_rows=-1)
