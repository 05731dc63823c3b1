"""What the gradient of each correction is on average: that of the full softmax, or not.

A log of a few users and Zipf items is small enough for the exact gradient of the full
softmax, over all events, in float64. Batches are drawn from it, candidates by the
objective itself, and the mean gradient of many batches is compared with the exact one.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from recall_jax.data.arrays import Events
from recall_jax.losses import candidates, negatives, objective
from recall_jax.losses.negatives import NegativesConfig

NOTHING = negatives.Remembered()
USERS, ITEMS, WIDTH, EVENTS, TEMPERATURE = 6, 40, 4, 3000, 0.6


@pytest.fixture(scope="module")
def log():
    """Users of different tastes over Zipf items, numbered by frequency."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, ITEMS + 1) * np.exp(0.7 * rng.normal(size=(USERS, ITEMS)))
    share[np.arange(USERS), np.arange(USERS)] += share.sum(1)
    share /= share.sum(1, keepdims=True)
    user = np.sort(rng.integers(USERS, size=EVENTS))
    raw = np.array([rng.choice(ITEMS, p=share[u]) for u in user])
    order = np.argsort(-np.bincount(raw, minlength=ITEMS), kind="stable")
    item = 1 + np.argsort(order)[raw]
    return (user + 1).astype(np.int32), item.astype(np.int32)


@pytest.fixture(scope="module")
def data(log):
    user, item = log
    dataset = Events(
        items=jnp.asarray(item),
        weights=None,
        offsets=jnp.asarray(np.searchsorted(user, np.arange(USERS + 2)), jnp.int32),
        example_user=jnp.asarray(user),
        example_position=jnp.arange(EVENTS, dtype=jnp.int32),
        user_columns={},
        item_columns={},
        item_count=jnp.asarray(np.bincount(item, minlength=ITEMS + 1), jnp.float32),
        num_items=ITEMS,
        known_items=ITEMS,
        known_users=USERS,
        history_length=0,
    )
    return types.SimpleNamespace(
        dataset=dataset,
        popularity=np.asarray(dataset.item_count),
        source="a Zipf log",
        schema=None,
    )


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)
    query = rng.normal(size=(USERS + 1, WIDTH))
    item = 0.5 * rng.normal(size=(ITEMS + 1, WIDTH))
    item[1 : USERS + 1] += 0.5 * query[1:]
    return {"query": jnp.float32(query), "item": jnp.float32(item)}


@pytest.fixture(scope="module")
def exact(log, params):
    """The gradient of the full softmax over all events, flat, float64."""
    query, item = (np.asarray(params[n], np.float64) for n in ("query", "item"))
    gradient = {"query": np.zeros_like(query), "item": np.zeros_like(item)}
    for u, i in zip(*log, strict=True):
        share = np.exp(query[u] @ item[1:].T / TEMPERATURE)
        share = np.append(0.0, share / share.sum())
        share[i] -= 1
        gradient["query"][u] += share @ item / TEMPERATURE / EVENTS
        gradient["item"] += np.outer(share, query[u]) / TEMPERATURE / EVENTS
    return flat(gradient)


def flat(gradient) -> np.ndarray:
    parts = [
        np.asarray(gradient[name], np.float64).ravel() for name in sorted(gradient)
    ]
    return np.concatenate(parts)


def mean_gradient(
    data, params, config, *, batch_size, strength, batches, state=NOTHING
):
    """Of the objective, over many batches."""
    goal = objective.Objective(objective.LossConfig(), config)  # unchecked
    source = negatives.make_source(data, config)
    hypers = {
        "temperature": jnp.float32(TEMPERATURE),
        "strength": jnp.float32(strength),
    }

    def loss(params, example, key):
        batch = source.dataset.batch(example)
        step_inputs = {"source": source, "state": state}
        sample, _ = goal.draw(batch, key, query=None, **step_inputs)
        query, item = params["query"][batch.user], params["item"][sample.ids]
        total, _ = goal.total(
            query, item, sample=sample, batch=batch, hypers=hypers, **step_inputs
        )
        return total / batch_size

    # Every event as often as any other: what is left of the noise is the candidates'.
    rng = np.random.default_rng(7)
    epochs = -(-batches * batch_size // EVENTS)
    order = np.concatenate([rng.permutation(EVENTS) for _ in range(epochs)])
    order = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)

    @jax.jit
    def mean(params):
        keys = jax.random.split(jax.random.key(7), len(order))
        gradient = jax.grad(loss)
        every = jax.lax.map(lambda x: gradient(params, *x), (jnp.asarray(order), keys))
        return jax.tree.map(lambda x: x.mean(0), every)

    return flat(mean(params))


@pytest.fixture(scope="module")
def error(data, params, exact):
    """Relative distance of the mean gradient from the exact one."""

    def measure(config, *, batch_size=1000, strength=1.0, batches=30):
        config = dataclasses.replace(config, num=batch_size)
        mean = mean_gradient(
            data,
            params,
            config,
            batch_size=batch_size,
            strength=strength,
            batches=batches,
        )
        return np.linalg.norm(mean - exact) / np.linalg.norm(exact)

    return measure


UNMASKED = NegativesConfig(correction="log_q", mask=())
EXCLUDED = NegativesConfig(correction="positive_excluded")
RIGHT, WRONG = 0.025, 0.15  # seen: at most 0.016, at least 0.17


def test_the_reference_is_the_gradient_of_the_full_softmax(data, params, exact):
    """Through the objective as well: kind=full has nothing to be wrong on average."""
    config = NegativesConfig(kind="full", correction="none")
    mean = mean_gradient(data, params, config, batch_size=1000, strength=1.0, batches=3)
    np.testing.assert_allclose(mean, exact, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        UNMASKED,
        EXCLUDED,
        NegativesConfig(correction="sampled"),
        *[
            dataclasses.replace(config, kind=kind, alpha=0.5)
            for kind in ("uniform", "popularity", "log_uniform", "mixed")
            for config in (UNMASKED, EXCLUDED)
        ],
    ],
    ids=lambda config: f"{config.kind}-{config.correction}",
)
def test_right_corrections_keep_the_full_softmax(error, config):
    assert error(config) < RIGHT


@pytest.mark.slow
@pytest.mark.parametrize("config", [UNMASKED, EXCLUDED], ids=["log_q", "excluded"])
def test_the_error_falls_as_the_batch_grows(error, config):
    errors = [error(config, batch_size=b, batches=75_000 // b) for b in (50, 250, 1000)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("config", [UNMASKED, EXCLUDED], ids=["log_q", "excluded"])
@pytest.mark.parametrize(
    "strength", [0.0, -1.0, 1 / TEMPERATURE], ids=["none", "sign", "over_temperature"]
)
def test_left_out_turned_round_or_divided_it_is_wrong(error, config, strength):
    assert error(config, strength=strength) > WRONG


def test_with_hits_masked_yis_form_moves_away_as_the_batch_grows(error):
    """The positive then stands in the denominator once, as 1 / q of many draws: its
    share, and with it the weight 1 - P(p) of the gradient, is lost."""
    config = dataclasses.replace(UNMASKED, mask=("item",))
    small, large = (error(config, batch_size=b) for b in (50, 1000))
    assert large > 2 * small > 4 * error(EXCLUDED)


def test_with_hits_left_in_the_positive_is_counted_twice_by_the_other_forms(error):
    for correction in ("sampled", "positive_excluded"):
        config = NegativesConfig(correction=correction, mask=())
        assert error(config) > 2 * RIGHT


@pytest.mark.parametrize("wrong", slow_but(("batch",), ("batch", "uniform")))
def test_mixed_negatives_need_the_mixtures_q(error, monkeypatch, wrong):
    def log_q(log_q, *, batch, drawn, num_items):
        return log_q if wrong == "batch" else jnp.full_like(log_q, -np.log(num_items))

    monkeypatch.setattr(candidates.scores, "mixture_log_q", log_q)
    assert error(dataclasses.replace(UNMASKED, kind="mixed")) > WRONG


def test_suppressed_columns_keep_the_full_softmax(error):
    """word2vec's suppression changes q, and the correction knows it."""
    config = dataclasses.replace(EXCLUDED, suppress_negatives=0.02)
    assert error(config) < RIGHT


@pytest.mark.parametrize("config", [UNMASKED, EXCLUDED], ids=["log_q", "excluded"])
def test_estimated_q_does_as_well_as_the_exact_one(data, params, exact, config):
    """The estimator sees the stream first; its state then corrects the batches."""
    config = dataclasses.replace(config, frequency="sketch", frequency_rate=0.0)
    state = negatives.init_remembered(
        config, batch_size=1000, num_items=ITEMS, width=WIDTH
    )
    estimator = state.estimator.update(data.dataset.items, rate=0.0)
    mean = mean_gradient(
        data,
        params,
        config,
        batch_size=1000,
        strength=1.0,
        batches=30,
        state=state._replace(estimator=estimator),
    )
    assert np.linalg.norm(mean - exact) / np.linalg.norm(exact) < RIGHT


def test_a_queues_columns_give_queries_the_full_softmax_and_items_too_little(
    data, params, exact, log
):
    """Filled with the log's items, as batches draw them, and with vectors as they are
    now: the same q corrects it. The pushes of its copies are lost to the items."""
    item, nobody = jnp.asarray(log[1]), jnp.zeros(EVENTS, jnp.int32)
    queue = negatives.Queue(params["item"][item], item, nobody, jnp.int32(0))
    config = dataclasses.replace(EXCLUDED, kind="queue", num=EVENTS)
    mean = mean_gradient(
        data,
        params,
        config,
        batch_size=250,
        strength=1.0,
        batches=120,
        state=negatives.Remembered(queue=queue),
    )
    of_items = params["item"].size  # the parts stand in order of their names
    errors = [
        np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
        for got, wanted in zip(
            np.split(mean, [of_items]), np.split(exact, [of_items]), strict=True
        )
    ]
    assert errors[1] < RIGHT and errors[0] > WRONG
