"""Losses of rows that are whole sequences, and of columns that devices share, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import reference_step
from flax import nnx
from meshes import mesh_of
from taken import (
    EXAMPLES,
    FIXED,
    LOSSES,
    RATE,
    WEIGHTS,
    rows_of,
    split_of_log,
    take,
    weighed,
)
from test_loop import MODEL as TOWERS

from recall_jax.data import prepare
from recall_jax.devices import mesh
from recall_jax.losses import negatives, objective
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.models import graph, sequence
from recall_jax.training import step


@pytest.fixture(scope="module")
def shop():
    """A log with markets and exposures, its events weighed."""
    return weighed(prepare.in_memory(split_of_log(), history_length=5, min_history=1))


@pytest.mark.parametrize("name", ["softmax", "gbce"])
def test_examples_of_whole_sequences_weigh_each_as_it_does(name):
    """A row of four, whatever users they are of; query vectors are the model's."""
    first = np.array([0, 14, 30, 61])
    example = (first[:, None] + np.arange(4)).ravel()
    data = prepare.in_memory(split_of_log(), history_length=4, min_history=1, span=4)
    weights = np.ones(len(data.items), np.float32)
    weights[np.asarray(data.dataset.example_position)[example]] = WEIGHTS
    dataset_ = dataclasses.replace(data.dataset, weights=jnp.asarray(weights))
    data = dataclasses.replace(data, dataset=dataset_)
    model = sequence.Config(
        width=4, blocks=1, heads=1, history_length=4, dropout=0.0, normalize="none",
        init_scale=0.6,
    )  # fmt: skip
    config = NegativesConfig(kind="uniform", num=8, **FIXED)
    (taken,) = take(data, config, LOSSES[name], model=model, rows=first)
    met, state = taken.met(data, config, example=example), taken.before
    used = taken.graph.model(state.tables, state.dense, state.statistics)
    history = data.items[np.asarray(data.dataset.example_position)[example] - 1]
    segment = np.asarray(data.dataset.example_user)[example]
    rows = {"history": history, "segment": segment}
    rows = {name: jnp.asarray(x.reshape(4, 4)) for name, x in rows.items()}
    query, items = np.reshape(used.query(rows), (16, 4)), rows_of(state, "item")

    def loss_of(item):
        return reference_step.mean_loss(
            met,
            query,
            item,
            loss=LOSSES[name],
            config=config,
            known_items=data.dataset.known_items,
        )

    np.testing.assert_allclose(taken.metrics["loss"], loss_of(items), rtol=1e-4)
    wanted = items - RATE * reference.slopes(loss_of, items)
    np.testing.assert_allclose(
        rows_of(taken.after, "item"), wanted, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(
    "mask", [("item", "user", "history"), ("item", "positives")], ids="+".join
)
def test_a_softmax_over_columns_that_devices_share_is_that_of_its_formula(
    shop, mask, monkeypatch
):
    """Columns stay on eight devices: value and gradients of queries, items and own
    candidates, for examples that weigh differently."""
    config = NegativesConfig(
        kind="full", own="uniform", num_own=6, mask=mask, mask_length=16, **FIXED
    )
    loss, calls = LOSSES["softmax"], []
    goal = objective.make_objective(loss, config)
    split = objective.Objective._softmax_over_split

    def noted(*args):
        calls.append(args)
        return split(*args)

    monkeypatch.setattr(objective.Objective, "_softmax_over_split", noted)
    rng, known_items = np.random.default_rng(2), shop.dataset.known_items
    query = jnp.asarray(rng.normal(size=(16, 4)), jnp.float32)
    item = jnp.asarray(rng.normal(size=(known_items + 1, 4)), jnp.float32)
    with mesh.use(mesh_of(8)):
        source = mesh.on_each(negatives.make_source(shop, config))
        batch = source.dataset.batch(mesh.on_each(EXAMPLES))
        of_step = {"source": source, "state": negatives.Remembered()}
        sample, _ = goal.draw(batch, jax.random.key(0), query=None, **of_step)
        hypers = step.make_hypers(step.OptimConfig(), loss, config, num_steps=1)

        def mean(query, item):
            total, _ = goal.total(
                query,
                item[sample.ids],
                sample=sample,
                batch=batch,
                hypers=hypers,
                **of_step,
            )
            return total / WEIGHTS.sum()

        both = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))
        value, gradients = both(*mesh.on_each((query, item)))
    assert calls
    met = reference_step.met(
        config, data=shop, example=EXAMPLES, sample=sample, weights=WEIGHTS
    )

    def loss_of(query, item):
        return reference_step.mean_loss(
            met, query, item, loss=loss, config=config, known_items=known_items
        )

    np.testing.assert_allclose(value, loss_of(query, item), rtol=1e-5)
    wanted = (
        reference.slopes(lambda x: loss_of(x, item), query),
        reference.slopes(lambda x: loss_of(query, x), item),
    )
    for got, slopes in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(got, slopes, rtol=1e-4, atol=1e-6)


def test_a_model_in_use_drops_nothing_and_goes_by_running_statistics():
    """What dropout and batch norm do is training's alone."""
    data = prepare.in_memory(split_of_log(), history_length=5, min_history=1)
    query, vectors = data.dataset.batch(jnp.asarray(EXAMPLES)).query, []
    for dropout in (0.5, 0.0):
        model = dataclasses.replace(TOWERS, dropout=dropout, norm="batch")
        built, tables = model.make(data.schema, nnx.Rngs(0))
        parts = graph.make_graph(built, tables)
        used = parts.graph.model(parts.tables, parts.dense, parts.statistics)
        vectors.append(used.query(query))
        alone = used.query({name: column[:3] for name, column in query.items()})
        np.testing.assert_allclose(alone, vectors[-1][:3], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(*vectors, rtol=1e-5)
