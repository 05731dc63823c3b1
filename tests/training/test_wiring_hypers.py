"""What each number of a config does to the state of a run of steps, against a loop in
float64: rates, schedules, decay, the optimizers' own state."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loop import pieces
from test_objective import TINY

from recall_jax.data import log, prepare
from recall_jax.data import split as split_lib
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import mf
from recall_jax.tables import layout
from recall_jax.training import step as step_lib

LABELS = NegativesConfig(kind="none", correction="none")
MODEL = mf.Config(width=3, normalize="none", biases="both", init_scale=0.6)
OPTIM = step_lib.OptimConfig(
    learning_rate=0.1, tables_lr_scale=0.4, weight_decay=0.3, tables="lazy_adam"
)
LOSS, NUM_STEPS = LossConfig(name="squared", temperature=0.8), 5
SHARES = {  # of the rate that is left at the beginning of each of 5 steps
    "constant": [1, 1, 1, 1, 1],
    "linear": [1, 0.8, 0.6, 0.4, 0.2],
    "cosine": [1, 0.9045085, 0.6545085, 0.3454915, 0.0954915],
}
# Rows that come again, after a step without them, and rows that come once.
BATCHES = np.array([[0, 1, 20, 21], [0, 2, 40, 41], [3, 20, 21, 60], [0, 1, 2, 80]])


@pytest.fixture(scope="module")
def rated():
    """A log with grades, its events weighed."""
    split = split_lib.by_protocol(TINY.load(), config=TINY)
    graded = log.Config(label="grade")
    data = prepare.in_memory(split, history_length=0, min_history=0, config=graded)
    weights = np.random.default_rng(5).choice([0.0, 0.5, 3.0], len(data.items))
    weights = jnp.asarray(weights, jnp.float32)
    return dataclasses.replace(
        data, dataset=dataclasses.replace(data.dataset, weights=weights)
    )


class Rows:
    """A table whose rows move by a rule of their own, when they are looked up."""

    def __init__(self, value, *, rule: str):
        self.value, self.rule = np.array(value, np.float64), rule
        self.mean, self.square = np.zeros_like(self.value), np.zeros_like(self.value)
        self.count = np.zeros(len(self.value))
        self.sum = np.zeros(len(self.value))

    def move(self, at: int, gradient, *, rate: float, decay: float) -> None:
        if self.rule == "lazy_adam":
            self.count[at] += 1
            gradient = self._adam(at, gradient)
        elif self.rule == "rowwise_adagrad":
            self.sum[at] += np.mean(gradient**2)
            gradient = gradient / (np.sqrt(self.sum[at]) + 1e-8)
        self.value[at] -= rate * (gradient + decay * self.value[at])

    def _adam(self, at: int, gradient):
        n = self.count[at]
        self.mean[at] = 0.9 * self.mean[at] + 0.1 * gradient
        self.square[at] = 0.999 * self.square[at] + 0.001 * gradient**2
        mean, square = self.mean[at] / (1 - 0.9**n), self.square[at] / (1 - 0.999**n)
        return mean / (np.sqrt(square) + 1e-8)


def by_loop(start, data, optim) -> tuple[list[float], list[float], dict[str, Rows]]:
    """Losses, gradients' norms, and the parameters after all batches."""
    rows = {
        name: Rows(value, rule="lazy_adam" if name == "mean" else optim.tables)
        for name, value in start.items()
    }
    weights, losses, norms = np.asarray(data.dataset.weights, np.float64), [], []
    for step, batch in enumerate(BATCHES):
        position = np.asarray(data.dataset.example_position)[batch]
        user, item = np.asarray(data.dataset.example_user)[batch], data.items[position]
        label = np.asarray(data.dataset.example_label, np.float64)[batch]
        share = weights[position] / weights[position].sum()
        loss, slopes = 0.0, {name: {} for name in rows}
        for u, i, y, w in zip(user, item, label, share, strict=True):
            left, right = rows["user"].value[u], rows["item"].value[i]
            score = left[:3] @ right[:3] + left[3] + right[3] + rows["mean"].value[0, 0]
            error = score / LOSS.temperature - y
            loss += w * error**2
            slope = 2 * w * error / LOSS.temperature
            add(slopes["user"], u, slope * np.append(right[:3], 1.0))
            add(slopes["item"], i, slope * np.append(left[:3], 1.0))
            add(slopes["mean"], 0, np.array([slope]))
        losses.append(loss)
        every = [g for of_name in slopes.values() for g in of_name.values()]
        norms.append(np.sqrt(sum((g**2).sum() for g in every)))
        rate = optim.learning_rate * SHARES[optim.schedule][step]
        for name, of_name in slopes.items():
            scale = 1.0 if name == "mean" else optim.tables_lr_scale
            for at, gradient in of_name.items():
                decay = optim.weight_decay
                rows[name].move(at, gradient, rate=scale * rate, decay=decay)
    return losses, norms, rows


def add(slopes: dict, at: int, value) -> None:
    slopes[at] = slopes.get(at, 0.0) + value


def with_mean(state, value: float):
    """The state with another mean of all scores, the one dense parameter."""
    dense = jax.tree.map(lambda _: jnp.float32(value), state.dense)
    return state._replace(dense=dense)


def values_of(state) -> dict[str, np.ndarray]:
    tables = {name: layout.whole(x) for name, x in state.tables.items()}
    return tables | {"mean": np.reshape(state.dense["mean"], (1, 1))}


@pytest.mark.parametrize(
    ("tables", "schedule"),
    [("lazy_adam", "cosine"), ("sgd", "linear"), ("rowwise_adagrad", "constant")],
)
def test_steps_are_those_of_a_loop(rated, tables, schedule):
    optim = dataclasses.replace(OPTIM, tables=tables, schedule=schedule)
    step, state, _, source = pieces(
        rated, negatives=LABELS, loss=LOSS, optim=optim, model=MODEL
    )
    hypers = step_lib.make_hypers(optim, LOSS, LABELS, num_steps=NUM_STEPS)
    state = with_mean(state, 0.7)
    losses, norms, rows = by_loop(values_of(state), rated, optim)
    run = step_lib.scan_steps(step)
    state, metrics = run(state, hypers, source, jnp.asarray(BATCHES, jnp.int32))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], norms, rtol=1e-5)
    for name, value in values_of(state).items():
        np.testing.assert_allclose(
            value, rows[name].value, rtol=1e-4, atol=1e-5, err_msg=name
        )
    assert int(state.step) == len(BATCHES)
    assert not any(np.any(slot) for slot in state.slots.values())


def test_a_schedule_is_over_when_training_is():
    for name, last in (("cosine", 0.0), ("linear", 0.0), ("constant", 1.0)):
        schedule = step_lib.make_optimizer(step_lib.OptimConfig(schedule=name)).schedule
        done = jnp.array([1.0, 1.5])
        np.testing.assert_allclose(schedule(done), [last, last], atol=1e-6)


def test_hypers_are_the_configs():
    """Each number from its own field, none from another's."""
    loss = LossConfig(temperature=2.0, margin=3.0, negative_weight=4.0, calibration=5.0)
    optim = step_lib.OptimConfig(
        learning_rate=6.0, tables_lr_scale=7.0, weight_decay=8.0
    )
    negatives = NegativesConfig(strength=9.0)
    hypers = step_lib.make_hypers(optim, loss, negatives, num_steps=10)
    names = ("temperature", "margin", "negative_weight", "calibration")
    names += ("learning_rate", "tables_lr_scale", "weight_decay", "strength")
    wanted = dict(zip((*names, "num_steps"), range(2, 11), strict=True))
    assert {name: int(value) for name, value in hypers.items()} == wanted


@pytest.mark.parametrize(("start", "sign"), [(0.0101, 1), (9.9, -1)])
def test_a_learned_temperature_stops_at_its_bounds(rated, start, sign):
    """Positive scores with labels of 1 want it colder, with labels of 0 warmer."""
    dataset_, bound = rated.dataset, 0.01 if sign > 0 else 10.0
    labels = jnp.full_like(dataset_.example_label, 1.0 if sign > 0 else 0.0)
    data = dataclasses.replace(
        rated, dataset=dataclasses.replace(dataset_, example_label=labels)
    )
    loss = LossConfig(name="logistic", temperature=start, temperature_kind="learned")
    optim = step_lib.OptimConfig(learning_rate=0.5)
    step, state, hypers, source = pieces(
        data, negatives=LABELS, loss=loss, optim=optim, model=MODEL
    )
    state = with_mean(state, start)
    state = state._replace(tables=jax.tree.map(jnp.zeros_like, state.tables))
    ones = dataclasses.replace(source.dataset, weights=None)
    state, _ = jax.jit(step)(
        state, hypers, source._replace(dataset=ones), jnp.asarray(BATCHES[0])
    )
    learned = jnp.exp(state.loss["log_temperature"])
    np.testing.assert_allclose(learned, bound, rtol=1e-5)
