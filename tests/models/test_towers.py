"""DSSM and YoutubeDNN: what each reads, what it ignores, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_data
from flax import nnx

from recall_jax.models import dssm, youtubednn
from recall_jax.types import InputError

SMALL = {"history_length": 4, "id_width": 4, "feature_width": 3, "width": 4}


@pytest.fixture
def data():
    return make_data(history_length=4)


def build(module, data, **changes):
    config = dataclasses.replace(module.Config(**SMALL), **changes)
    return config.make(data.schema, nnx.Rngs(0))


def batch_of(data, n: int = 6):
    return data.dataset.batch(jnp.arange(n)).query


@pytest.mark.parametrize("module", [dssm, youtubednn])
def test_vectors_are_unit_unless_the_config_says_not(module, data):
    items = data.dataset.item(jnp.arange(1, 9))
    for normalize, unit in (("l2", True), ("none", False)):
        model, _ = build(module, data, normalize=normalize)
        for vectors in (model.query(batch_of(data)), model.item(items)):
            assert vectors.shape[-1] == 4
            norms = np.linalg.norm(vectors, axis=-1)
            assert np.allclose(norms, 1, atol=1e-5) == unit


@pytest.mark.parametrize("module", [dssm, youtubednn])
def test_every_column_read_moves_the_vector_and_no_other_does(module, data):
    model, tables = build(module, data, query=("history",))
    batch = batch_of(data)
    assert {name for table in tables for name in table.reads} >= {"history", "item"}
    plain = model.query(batch)
    np.testing.assert_array_equal(
        plain, model.query(batch | {"gender": batch["gender"] * 0})
    )
    changed = batch | {"history": jnp.roll(batch["history"], 1, axis=0)}
    assert not np.allclose(plain, model.query(changed))

    every, _ = build(module, data)
    before = every.query(batch)
    for name in ("user", "gender"):
        assert not np.allclose(before, every.query(batch | {name: batch[name] * 0}))


def test_dssm_reads_multi_valued_and_dense_features_of_items(data):
    model, _ = build(dssm, data)
    items = data.dataset.item(jnp.arange(1, 9))
    before = model.item(items)
    for name in ("item", "tags", "price"):
        assert not np.allclose(before, model.item(items | {name: items[name] * 0}))


def test_the_order_of_tags_and_their_padding_do_not_matter(data):
    model, _ = build(dssm, data)
    items = data.dataset.item(jnp.arange(1, 9))
    turned = items | {"tags": items["tags"][:, ::-1]}
    np.testing.assert_allclose(model.item(items), model.item(turned), atol=1e-6)
    wider = items | {"tags": jnp.pad(items["tags"], ((0, 0), (2, 3)))}
    np.testing.assert_allclose(model.item(items), model.item(wider), atol=1e-6)


@pytest.mark.parametrize(
    ("kinds", "ordered"), [(("mean",), False), (("recency",), True)]
)
def test_recency_sees_order_and_mean_does_not(data, kinds, ordered):
    model, _ = build(youtubednn, data, history=kinds, query=("history",))
    full = {"history": jnp.array([[1, 2, 3, 4]])}
    turned = {"history": jnp.array([[4, 3, 2, 1]])}
    same = np.allclose(model.query(full), model.query(turned), atol=1e-6)
    assert same != ordered


def test_an_empty_history_is_finite_in_value_and_gradient(data):
    built, _ = build(youtubednn, data, query=("history",))
    graph, state, rest = nnx.split(built, nnx.Param, ...)

    def total(state):
        model = nnx.merge(graph, state, rest)
        return model.query({"history": jnp.zeros((2, 4), int)}).sum()

    value, gradient = jax.value_and_grad(total)(nnx.as_pure(state))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_history_table_of_its_own_or_the_items(data):
    own = {table.name: table.reads for table in build(youtubednn, data)[1]}
    assert own["item"] == ("item",) and own["history"] == ("history",)
    shared, tables = build(youtubednn, data, history_table="shared")
    reads = {table.name: table.reads for table in tables}
    assert "history" not in reads and set(reads["item"]) == {"item", "history"}
    assert shared.query(batch_of(data)).shape == (6, 4)
    with pytest.raises(InputError, match="cannot share the table"):
        build(youtubednn, data, history_table="shared", id_width=8)


def test_dropout_is_of_training_only(data):
    model, _ = build(dssm, data, dropout=0.5, hidden=(16,))
    batch = batch_of(data)
    model.train()
    assert not np.allclose(model.query(batch), model.query(batch))
    model.eval()
    np.testing.assert_array_equal(model.query(batch), model.query(batch))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": ("history", "sex")}, 'no query column "sex"; there are: user'),
        ({"activation": "swish"}, "relu, tanh, gelu"),
        ({"normalize": "l1"}, "there are: l2, none"),
        ({"history": ("max",)}, "mean, recency"),
        ({"history_table": "both"}, "there are: own, shared"),
    ],
)
def test_wrong_options_are_named(data, changes, message):
    with pytest.raises(InputError, match=message):
        build(dssm, data, **changes)
