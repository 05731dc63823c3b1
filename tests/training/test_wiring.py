"""One step of every cell of the grid against the same by hand: its loss, and where its
gradient moves each row, from the config on."""

import numpy as np
import pytest
import reference
import reference_step
from taken import (
    EXAMPLES,
    FIXED,
    LOSSES,
    RATE,
    WEIGHTS,
    Taken,
    check,
    rows_of,
    split_of_log,
    take,
    weighed,
)

from recall_jax.data import prepare
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig


@pytest.fixture(scope="module")
def shop():
    """A log with markets and exposures, its events weighed."""
    return weighed(prepare.in_memory(split_of_log(), history_length=5, min_history=1))


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_of_each_loss_is_that_of_its_formula(shop, name):
    """Columns and own candidates of which some users have none, examples weighed."""
    config = NegativesConfig(kind="uniform", num=8, own="exposed", num_own=3, **FIXED)
    (taken,) = take(shop, config, LOSSES[name])
    assert not np.asarray(taken.sample.own_valid).all()
    check(shop, config, LOSSES[name], taken)


EXCLUDED = {"correction": "positive_excluded", "strength": 0.6}
SAMPLED = {"correction": "sampled", "strength": 0.6}
LOG_Q = {"correction": "log_q", "strength": 0.6}
CELLS = {
    "every_mask": NegativesConfig(mask=("item", "user", "history"), **EXCLUDED),
    "in_batch_suppressed": NegativesConfig(suppress_negatives=0.002, **EXCLUDED),
    "in_batch_sampled": NegativesConfig(suppress_negatives=0.002, **SAMPLED),
    "in_batch_log_q": NegativesConfig(mask=(), **LOG_Q),
    "uniform": NegativesConfig(kind="uniform", num=48, **EXCLUDED),
    "uniform_sampled": NegativesConfig(kind="uniform", num=8, **SAMPLED),
    "popularity": NegativesConfig(
        kind="popularity", num=24, alpha=0.5, mask=("item", "positives"), **EXCLUDED
    ),
    "log_uniform": NegativesConfig(kind="log_uniform", num=8, mask=(), **LOG_Q),
    "mixed": NegativesConfig(kind="mixed", num=8, suppress_negatives=0.002, **EXCLUDED),
    "mixed_sampled": NegativesConfig(kind="mixed", num=8, **SAMPLED),
    "full": NegativesConfig(kind="full", mask=("item", "history"), **FIXED),
    "hardest": NegativesConfig(kind="uniform", num=12, hardest=3, **FIXED),
    "market": NegativesConfig(
        kind="none", own="market", market="market", alpha=0.5, **EXCLUDED
    ),
    "market_sampled": NegativesConfig(
        kind="none", own="market", market="market", **SAMPLED
    ),
    "uniform_own": NegativesConfig(kind="none", own="uniform", num_own=30, **EXCLUDED),
    "exposed": NegativesConfig(own="exposed", mask=("item", "positives"), **EXCLUDED),
    "exposed_alone": NegativesConfig(kind="none", own="exposed", **FIXED),
    "semi_hard": NegativesConfig(own="semi_hard", ranks=(0, 12), **EXCLUDED),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_step_of_each_kind_of_negatives_is_that_of_its_formula(shop, name):
    (taken,) = take(shop, CELLS[name], LOSSES["softmax"])
    if CELLS[name].suppress_negatives:
        assert not np.asarray(taken.sample.kept).all()
    check(shop, CELLS[name], LOSSES["softmax"], taken)


@pytest.mark.parametrize("name", ["bpr", "logistic"])
def test_log_q_reaches_the_losses_that_take_it(shop, name):
    config = NegativesConfig(mask=(), **LOG_Q)
    (taken,) = take(shop, config, LOSSES[name])
    check(shop, config, LOSSES[name], taken)


def test_each_step_draws_anew(shop):
    """Columns, own candidates and what is suppressed; and the step scores what it drew."""
    config = NegativesConfig(
        kind="mixed", num=8, own="uniform", suppress_negatives=0.002, **EXCLUDED
    )
    one, other = take(shop, config, LOSSES["softmax"], steps=2)
    check(shop, config, LOSSES["softmax"], other)
    for name in ("drawn", "own", "kept"):
        first, second = (np.asarray(getattr(x.sample, name)) for x in (one, other))
        assert not np.array_equal(first, second), name


def test_a_suppressed_positive_is_out_and_the_others_weigh_as_they_did(shop):
    config = NegativesConfig(
        kind="uniform", num=8, suppress_positives=0.002, **EXCLUDED
    )
    (taken,) = take(shop, config, LOSSES["softmax"])
    weight = np.asarray(taken.sample.weight)
    out = (weight == 0) & (WEIGHTS > 0)
    assert 2 < out.sum() < 10
    np.testing.assert_array_equal(weight, np.where(out, 0, WEIGHTS))
    met = taken.met(shop, config)._replace(weight=weight)
    users, items = (rows_of(taken.before, name) for name in ("user", "item"))
    wanted = reference_step.mean_loss(
        met,
        users[met.user],
        items,
        loss=LOSSES["softmax"],
        config=config,
        known_items=shop.dataset.known_items,
    )
    np.testing.assert_allclose(taken.metrics["loss"], wanted, rtol=1e-5)


def test_steps_with_a_queue_are_those_of_what_it_holds(shop):
    """Four batches into 40 places: filled, overwritten from the oldest on, and without a
    gradient of its own."""
    config = NegativesConfig(
        kind="queue", num=40, mask=("item", "user"), suppress_negatives=5e-3, **EXCLUDED
    )
    steps, held = take(shop, config, LOSSES["softmax"], steps=4), []
    for taken in steps:
        check(shop, config, LOSSES["softmax"], taken)
        met, items = taken.met(shop, config), rows_of(taken.before, "item")
        entered = np.where(np.asarray(taken.sample.kept), met.item, 0)
        held += [
            (user, item, *vector)
            for user, item, vector in zip(met.user, entered, items[met.item])
        ]
        queue, last = taken.after.candidates.queue, np.array(held[-40:])
        places = np.arange(len(held) - len(last), len(held)) % 40
        np.testing.assert_array_equal(np.asarray(queue.user)[places], last[:, 0])
        np.testing.assert_array_equal(np.asarray(queue.item)[places], last[:, 1])
        np.testing.assert_allclose(queue.vector[places], last[:, 2:], rtol=1e-6)


@pytest.mark.parametrize("name", ["sketch", "gaps"])
def test_an_estimate_of_q_counts_the_batch_it_corrects(shop, name):
    """Of a first batch the sketch knows the shares; gaps that its items come each time,
    and take the most that a batch can tell."""
    config = NegativesConfig(frequency=name, **EXCLUDED)
    (taken,) = take(shop, config, LOSSES["softmax"])
    position = np.asarray(shop.dataset.example_position)[EXAMPLES]
    count = np.bincount(shop.items[position], minlength=shop.dataset.num_items + 1)
    q = count / 16 if name == "sketch" else np.where(count, 1 - 16 ** (-1 / 16), 0)
    check(shop, config, LOSSES["softmax"], taken, q=q)
    estimator = taken.after.candidates.estimator
    assert (estimator.total == 16) if name == "sketch" else (estimator.step == 1)


def test_a_learned_temperature_goes_down_its_own_slope(shop):
    """By Adam, undecayed, and the step's logits are over it."""
    loss = LossConfig(temperature=1.2, temperature_kind="learned")
    config = NegativesConfig(kind="full", **FIXED)
    steps, logs, slopes = take(shop, config, loss, steps=3, decay=0.3), [], []
    for taken in steps:
        loss_of = by_log_temperature(shop, config, loss, taken)
        log = np.array([float(taken.before.loss["log_temperature"])])
        np.testing.assert_allclose(
            taken.metrics["temperature"], np.exp(log[0]), rtol=1e-5
        )
        np.testing.assert_allclose(taken.metrics["loss"], loss_of(log), rtol=1e-5)
        logs.append(log)
        slopes.append(reference.slopes(loss_of, log))
    wanted = reference.adam(logs[0], slopes, rate=RATE)
    learned = steps[-1].after.loss["log_temperature"]
    np.testing.assert_allclose(learned, wanted[0], rtol=1e-3)


def by_log_temperature(data, config, loss, taken: Taken):
    """The loss of a step by the logarithm of its temperature, [1]."""
    met = taken.met(data, config)
    users, items = (rows_of(taken.before, name) for name in ("user", "item"))

    def loss_of(log):
        return reference_step.mean_loss(
            met,
            users[met.user],
            items,
            loss=loss,
            config=config,
            known_items=data.dataset.known_items,
            temperature=float(np.exp(log[0])),
        )

    return loss_of
