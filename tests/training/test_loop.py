"""The step and the loop: compiled once, reproducible, resumable, stopped by NaN."""

import dataclasses
import functools

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_data
from flax import nnx
from marks import slow, slow_but

from recall_jax.losses import candidates, objective
from recall_jax.losses import negatives as negatives_lib
from recall_jax.models import dssm
from recall_jax.tables import layout, rows
from recall_jax.training import checkpoint, log
from recall_jax.training import loop as loop_lib
from recall_jax.training import step as step_lib
from recall_jax.types import InputError

NEGATIVES = negatives_lib.NegativesConfig(kind="uniform", num=4)
LOSS = objective.LossConfig(temperature=0.2)
OPTIM = step_lib.OptimConfig()
MODEL = dssm.Config(
    history_length=5, id_width=4, feature_width=2, hidden=(8,), item_hidden=(), width=4
)


def pieces(
    data,
    *,
    model=MODEL,
    optim=OPTIM,
    negatives=NEGATIVES,
    loss=LOSS,
    seed: int = 0,
):
    """(step, state, hypers, source) of a small model."""
    keys = jax.random.split(jax.random.key(seed))
    built, specs = model.make(data.schema, nnx.Rngs(keys[0]))
    optimizer = step_lib.make_optimizer(optim)
    goal = objective.make_objective(loss, negatives)
    memory = negatives_lib.init_remembered(
        negatives, batch_size=16, num_items=data.dataset.num_items, width=4
    )
    graph, state = step_lib.init_state(
        built,
        specs,
        optimizer=optimizer,
        key=keys[1],
        loss=goal.init_loss(),
        memory=memory,
    )
    step = step_lib.make_step(graph, objective=goal, optimizer=optimizer)
    hypers = step_lib.make_hypers(optim, loss, negatives, num_steps=100)
    return step, state, hypers, negatives_lib.make_source(data, negatives)


def loop_of(data, folder, *, config, validate=None, **changes) -> tuple:
    step, state, hypers, source = pieces(data, **changes)
    plan = loop_lib.make_plan(config, num_rows=data.num_rows)
    values = iter(range(1000))
    loop = loop_lib.Loop(
        step=step,
        feed=loop_lib.resident(
            source,
            num_rows=data.num_rows,
            span=data.dataset.span,
            plan=plan,
            key=jax.random.key(9),
        ),
        span=data.dataset.span,
        hypers=hypers,
        plan=plan,
        config=config,
        validate=validate or (lambda state: {"ndcg@10": next(values)}),
        select_by="ndcg@10",
        workdir=folder,
    )
    return loop, state


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


SMALL = loop_lib.TrainConfig(epochs=3, batch_size=16, scan_steps=5)


def test_ten_batches_and_swept_hypers_compile_once(data):
    step, state, hypers, source = pieces(data)
    run = jax.jit(step)
    batches = [jnp.arange(16) + j for j in range(10)]
    swept = [
        hypers | {"temperature": t, "learning_rate": t, "strength": t}
        for t in jnp.linspace(0.1, 1.0, 10)
    ]
    jax.block_until_ready((batches, swept))
    with compilations.counted() as compiled:
        for batch, setting in zip(batches, swept, strict=True):
            state, _ = run(state, setting, source, batch)
    assert compiled.count == 1


def test_hypers_reach_the_step(data):
    negatives = negatives_lib.NegativesConfig(kind="popularity", num=8)
    # SGD, because Adam's first step knows the gradient's sign alone.
    optim = step_lib.OptimConfig(tables="sgd")
    step, state, hypers, source = pieces(data, negatives=negatives, optim=optim)
    run = jax.jit(step)
    one, _ = run(state, hypers, source, jnp.arange(16))
    for name, value in [("temperature", 1.0), ("learning_rate", 1.0), ("strength", 0)]:
        changed = hypers | {name: jnp.float32(value)}
        other, _ = run(state, changed, source, jnp.arange(16))
        assert not np.allclose(one.tables["item"], other.tables["item"]), name


@pytest.mark.parametrize("rule", slow_but(("lazy_adam",), rows.RULES))
def test_touched_rows_train_as_the_whole_table_does(rule, monkeypatch):
    """The same run with every table forced down the dense path, in every parameter."""
    data = make_data(users=60, items=500, events=1500, history_length=2)
    optim = step_lib.OptimConfig(tables=rule, weight_decay=0.1, learning_rate=0.01)
    run = functools.partial(pieces, data, optim=optim)
    step, start, hypers, source = run()
    paths = []

    def whole(table, ids, *, slot):
        mask = jnp.zeros(table.shape[0], bool).at[ids].set(True).at[0].set(False)
        return table, ids, rows.Touched(None, mask), slot

    def train_for(step, state, steps):
        for j in range(steps):
            state, _ = jax.jit(step)(state, hypers, source, jnp.arange(8) + 8 * j)
        return state

    compact = rows.compact

    def noted(table, ids, *, slot):
        result = compact(table, ids, slot=slot)
        paths.append(result[2].rows is not None)
        return result

    monkeypatch.setattr(rows, "compact", noted)
    by_rows = train_for(step, start, 4)
    assert any(paths), "no table took the path under test"
    monkeypatch.setattr(rows, "compact", whole)
    by_table = train_for(run()[0], start, 4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        by_rows,
        by_table,
    )
    moved = by_rows.tables["history"] - start.tables["history"]
    moved = np.abs(layout.whole(moved)).sum(1) > 0
    assert 0 < moved.sum() < len(moved) and not moved[0]


def test_weights_scale_an_examples_pull(data):
    """Weight 0 takes an example out; equal weights change nothing."""
    step, state, hypers, source = pieces(
        data, negatives=negatives_lib.NegativesConfig(kind="full", correction="none")
    )

    run = jax.jit(step)

    def after(batch, weights):
        dataset = dataclasses.replace(source.dataset, weights=weights)
        return run(state, hypers, source._replace(dataset=dataset), batch)[1]["loss"]

    ones = jnp.ones(len(data.items))
    position = int(source.dataset.example_position[3])
    np.testing.assert_allclose(
        after(jnp.arange(4), ones.at[position].set(0)), after(jnp.arange(3), ones), 1e-5
    )
    for scale in (3, 1e-25, 1e25):
        np.testing.assert_allclose(
            after(jnp.arange(4), scale * ones), after(jnp.arange(4), ones), 1e-5
        )


@pytest.mark.slow
def test_two_runs_with_one_seed_are_equal_and_another_seed_is_not(data, tmp_path):
    ends = []
    for j, seed in enumerate((0, 0, 1)):
        loop, state = loop_of(data, tmp_path / str(j), config=SMALL, seed=seed)
        ends.append(loop_lib.fit(loop, state).state)
    assert_same(ends[0], ends[1])
    assert not np.array_equal(ends[0].tables["item"], ends[2].tables["item"])


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [slow(1), 10])
def test_a_run_cut_off_between_dispatches_resumes_bit_for_bit(
    data, tmp_path, monkeypatch, at
):
    config = dataclasses.replace(SMALL, checkpoint_every=1)
    model = dataclasses.replace(MODEL, dropout=0.3, norm="batch")
    loop, state = loop_of(data, tmp_path / "whole", config=config, model=model)
    whole = loop_lib.fit(loop, state)

    loop, state = loop_of(data, tmp_path / "cut", config=config, model=model)
    seen, write = iter(range(1000)), log.RunLog.write

    def dying_write(self, step, values):
        if next(seen) == at:
            raise Killed
        write(self, step, values)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(log.RunLog, "write", dying_write)
        loop_lib.fit(loop, state)
    values = iter([v for v in range(1000) if v >= _validations(loop)])
    loop, state = loop_of(
        data,
        tmp_path / "cut",
        config=config,
        model=model,
        validate=lambda state: {"ndcg@10": next(values)},
    )
    resumed = loop_lib.fit(loop, state)
    assert_same(whole.state, resumed.state)
    assert whole.progress == resumed.progress
    lines = [
        (folder / "metrics.jsonl").read_text()
        for folder in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert lines[0] == lines[1]


def _validations(loop) -> int:
    """How many validations the newest checkpoint knows of."""
    return (checkpoint.latest_step(loop.folder) or 0) // loop.plan.steps_per_epoch


def test_early_stopping_keeps_the_best_and_the_last_line_has_the_last(
    data, tmp_path, capsys
):
    values = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    states = []

    def validate(state):
        states.append(jax.device_get(state.tables))
        return {"ndcg@10": next(values)}

    config = dataclasses.replace(SMALL, epochs=9, patience=2)
    loop, state = loop_of(data, tmp_path, config=config, validate=validate)
    fitted = loop_lib.fit(loop, state)
    assert len(states) == 4
    assert fitted.progress.best_step == 2 * loop.plan.steps_per_epoch
    assert_same(fitted.state.tables, states[1])
    assert "valid ndcg@10 0.3000" in capsys.readouterr().err.splitlines()[-1]


def test_vectors_that_are_no_numbers_stop_the_run_in_validation(data, tmp_path):
    def validate(state):
        raise FloatingPointError("3 of 20 vectors give scores that are not numbers")

    loop, state = loop_of(data, tmp_path, config=SMALL, validate=validate)
    message = f"in validation after step {loop.plan.steps_per_epoch} .3 of 20.*Lower"
    with pytest.raises(loop_lib.Diverged, match=message):
        loop_lib.fit(loop, state)
    assert checkpoint.latest_step(tmp_path / "checkpoints") is None


@pytest.mark.parametrize("spoiled", ["loss", slow("gradient_norm")])
def test_what_is_not_finite_stops_the_run_and_is_never_saved(data, tmp_path, spoiled):
    config = dataclasses.replace(SMALL, checkpoint_every=1)
    loop, state = loop_of(data, tmp_path, config=config)
    bad_step = loop.plan.steps_per_epoch + 3

    def step(state, hypers, source, example):
        state, metrics = loop.step(state, hypers, source, example)
        value = jnp.where(state.step == bad_step, jnp.nan, metrics[spoiled])
        return state, metrics | {spoiled: value}

    kept = loop.plan.steps_per_epoch
    with pytest.raises(loop_lib.Diverged, match=f"at step {bad_step} .*of step {kept}"):
        loop_lib.fit(dataclasses.replace(loop, step=step), state)
    assert checkpoint.latest_step(loop.folder) == kept


def test_dropout_draws_anew_each_step_and_alike_for_one_seed(data):
    """With a learning rate of zero the loss moves by dropout alone."""
    step, state, hypers, source = pieces(
        data,
        model=dataclasses.replace(MODEL, dropout=0.5),
        negatives=negatives_lib.NegativesConfig(kind="full", correction="none"),
        optim=step_lib.OptimConfig(learning_rate=0.0),
    )
    run, losses = jax.jit(step), []
    for _ in range(2):
        now = state
        for _ in range(2):
            now, metrics = run(now, hypers, source, jnp.arange(16))
            losses.append(float(metrics["loss"]))
    assert losses[0] != losses[1]
    assert losses[:2] == losses[2:]


def test_running_statistics_follow_the_batches_under_scan(data):
    """Three steps in one dispatch, against the rule by hand with weights that rest."""
    step, state, hypers, source = pieces(
        data,
        model=dataclasses.replace(MODEL, norm="batch"),
        optim=step_lib.OptimConfig(learning_rate=0.0),
    )
    model, _ = dataclasses.replace(MODEL, norm="batch").make(
        data.schema, nnx.Rngs(jax.random.split(jax.random.key(0))[0])
    )
    tower, examples = model.query_tower, jnp.arange(48).reshape(3, 16)
    mean, variance = np.zeros(8), np.ones(8)
    for batch in map(source.dataset.batch, examples):
        hidden = tower.mlp.layers[0](tower.fields(batch.query, model.tables))
        mean = 0.9 * mean + 0.1 * np.asarray(hidden).mean(0)
        variance = 0.9 * variance + 0.1 * np.asarray(hidden).var(0)
    state, _ = step_lib.scan_steps(step)(state, hypers, source, examples)
    (norm,) = state.statistics["query_tower"]["mlp"]["norms"].values()
    np.testing.assert_allclose(norm["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm["var"], variance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["in_batch", "popularity"])
def test_the_correction_is_the_log_share_of_what_is_drawn_from(data, kind):
    """log q off positives and columns alike, with q worked out from counts here."""
    negatives = negatives_lib.NegativesConfig(
        kind=kind, num=8, alpha=0.5, correction="log_q"
    )
    goal = objective.make_objective(LOSS, negatives)
    source = negatives_lib.make_source(data, negatives)
    batch = source.dataset.batch(jnp.arange(12))
    state = negatives_lib.Remembered()
    step_inputs = {"batch": batch, "state": state, "source": source}
    sample, _ = goal.draw(
        batch, jax.random.key(0), source=source, state=state, query=None
    )
    ids = sample.ids
    parts = candidates.Parts(jnp.zeros((12, 4)), jnp.zeros((len(ids), 4)), None)
    columns = candidates.columns_of(
        negatives,
        parts,
        rows=candidates.rows_of(negatives, batch, source=source),
        sample=sample,
        **step_inputs,
    )
    # A batch holds examples; what is drawn goes by all training events.
    position = np.asarray(data.dataset.example_position)
    examples = np.bincount(data.items[position], minlength=21).astype(float)
    weight = examples if kind == "in_batch" else data.popularity**0.5
    with np.errstate(divide="ignore"):
        log_q = np.log(weight / weight.sum())
    drawn = batch.item if kind == "in_batch" else sample.drawn
    positive, column, row = columns.correction
    np.testing.assert_allclose(positive, log_q[batch.item], rtol=1e-5)
    np.testing.assert_allclose(column, log_q[drawn], rtol=1e-5)
    assert row is None


def test_items_without_training_events_are_no_negatives():
    """Else their one shared row would learn that whatever is new is bad."""
    data = make_data(users=40, items=60, events=200)
    known_items = data.dataset.known_items
    assert known_items < data.dataset.num_items
    for negatives in (
        negatives_lib.NegativesConfig(kind="uniform", num=500),
        negatives_lib.NegativesConfig(kind="popularity", num=500),
        negatives_lib.NegativesConfig(kind="full", correction="none"),
    ):
        goal = objective.make_objective(LOSS, negatives)
        source = negatives_lib.make_source(data, negatives)
        batch = source.dataset.batch(jnp.arange(4))
        sample, _ = goal.draw(
            batch,
            jax.random.key(0),
            source=source,
            state=negatives_lib.Remembered(),
            query=None,
        )
        assert sample.ids.max() <= known_items


def test_plans_divide_evenly_and_say_what_does_not_fit():
    plan = loop_lib.make_plan(
        loop_lib.TrainConfig(batch_size=10, scan_steps=4), num_rows=97
    )
    assert (plan.scan, plan.dispatches) == (3, 3)
    with pytest.raises(InputError, match="batch_size 98 is larger than the 97"):
        loop_lib.make_plan(loop_lib.TrainConfig(batch_size=98), num_rows=97)
    with pytest.raises(InputError, match=r"train\.epochs is 0"):
        loop_lib.make_plan(loop_lib.TrainConfig(epochs=0), num_rows=97)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            lambda: objective.make_objective(
                LOSS, negatives_lib.NegativesConfig(kind="x")
            ),
            "in_batch",
        ),
        (
            lambda: objective.make_objective(objective.LossConfig(name="x"), NEGATIVES),
            "softmax",
        ),
        (
            lambda: objective.make_objective(
                LOSS, negatives_lib.NegativesConfig(kind="full")
            ),
            "correction=none",
        ),
        (lambda: step_lib.make_optimizer(step_lib.OptimConfig(schedule="x")), "cosine"),
    ],
)
def test_wrong_names_are_offered_the_right_ones(config, message):
    with pytest.raises(InputError, match=message):
        config()
