import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_data
from flax import nnx

from recall_jax.models import eges, item2vec
from recall_jax.schema import Column, Schema
from recall_jax.types import InputError


def make_model(data, **changes):
    return eges.Config(width=4, **changes).make(data.schema, nnx.Rngs(0))


def test_attention_pooling_is_the_formula_and_its_weights_sum_to_one():
    rng = np.random.default_rng(0)
    vectors, logits = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4))
    weight = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = (weight[..., None] * vectors).sum(axis=1)
    args = jnp.float32(vectors), jnp.float32(logits)
    np.testing.assert_allclose(eges.attention_pool(*args), expected, rtol=1e-5)
    ones = eges.attention_pool(jnp.ones((3, 4, 2)), args[1])
    np.testing.assert_allclose(ones, 1.0, rtol=1e-6)
    shifted = eges.attention_pool(args[0], args[1] + 500.0)
    np.testing.assert_allclose(shifted, expected, rtol=1e-3)


def test_a_field_that_is_left_out_counts_as_absent():
    rng = np.random.default_rng(1)
    vectors = jnp.float32(rng.normal(size=(2, 3, 2)))
    logits = jnp.float32(rng.normal(size=(2, 3)))
    where = jnp.array([[True, False, True], [False, False, False]])
    value = eges.attention_pool(vectors, logits, where=where)
    alone = eges.attention_pool(vectors[:1, ::2], logits[:1, ::2])
    np.testing.assert_allclose(value[0], alone[0], rtol=1e-6)
    assert not value[1].any()
    gradient = jax.grad(lambda x: eges.attention_pool(vectors, x, where=where).sum())(
        logits
    )
    assert np.isfinite(gradient).all() and not gradient[:, 1].any()


def test_equal_weights_are_ges_and_no_side_information_is_bge():
    data = make_data()
    ids = jnp.arange(1, data.dataset.known_items + 1)
    columns = data.dataset.item(ids)
    (weighted, _), (equal, _) = make_model(data), make_model(data, kind="ges")
    equal.tables = nnx.Dict(
        {name: table for name, table in weighted.tables.items() if name != "weights"}
    )
    np.testing.assert_allclose(weighted.item(columns), equal.item(columns), rtol=1e-5)
    alone, tables = make_model(data, kind="bge")
    assert [table.name for table in tables] == ["item", "context"]
    np.testing.assert_allclose(alone.item(columns), alone.tables["item"](ids))


@pytest.mark.parametrize("name", eges.OWN_TABLES)
def test_a_side_with_the_name_of_a_table_of_its_own_is_refused(name):
    column = Column(name, name, 5, 0)
    schema = Schema((), (Column("item", "item", 9, 0), column))
    with pytest.raises(
        InputError, match=f"model.side '{name}' has the name of a table"
    ):
        eges.Config(width=4).make(schema, nnx.Rngs(0))
    eges.Config(width=4, kind="bge").make(schema, nnx.Rngs(0))


def test_weights_belong_to_the_item():
    data = make_data()
    model, _ = make_model(data)
    weights = model.tables["weights"].table
    heavy = jnp.zeros(weights.shape).at[1, 0, 0].set(50.0)  # row 1
    model.tables["weights"].table[...] = heavy
    columns = data.dataset.item(jnp.array([1, 2]))
    vectors = model.item(columns)
    np.testing.assert_allclose(
        vectors[0], model.tables["item"](jnp.array(1)), rtol=1e-4
    )
    assert np.abs(vectors[1] - model.tables["item"](jnp.array(2))).max() > 1e-4


def test_an_item_without_training_events_is_the_mean_of_its_side_information():
    data = make_data()
    model, tables = make_model(data, normalize="none")
    unknown = {table.name: table.rows - 1 for table in tables}
    columns = data.dataset.item(jnp.array([1]))
    new = columns | {"item": jnp.array([unknown["item"]])}
    parts = []
    for name, table in model.side:
        vectors = model.tables[table](new[name])
        present = new[name] > 0
        if new[name].ndim > 1:
            if not present.any():
                continue
            vectors = (vectors * present[..., None]).sum(1) / present.sum()
        elif not present.all():
            continue
        parts.append(vectors[0])
    np.testing.assert_allclose(
        model.item_vector(new)[0], np.mean(parts, axis=0), rtol=1e-5
    )
    stranger = {name: jnp.full_like(new[name], unknown[t]) for name, t in model.side}
    assert not model.item_vector(new | stranger).any(), "nothing known of it"


def test_recency_halves_a_weight_and_padding_counts_nothing():
    model, _ = item2vec.Config(width=4, recency=1.0).make(
        make_data().schema, nnx.Rngs(0)
    )
    vectors = jnp.float32([[[9, 9], [3, 0], [0, 3]]])
    where = jnp.array([[False, True, True]])
    np.testing.assert_allclose(model.user_vector(vectors, where), [[1, 2]], rtol=1e-6)
    assert not model.user_vector(vectors, jnp.zeros((1, 3), bool)).any()


def test_what_it_cannot_do_is_told():
    data = make_data()
    with pytest.raises(InputError, match="unknown --config.model.kind 'egs'"):
        make_model(data, kind="egs")
    with pytest.raises(InputError, match="is not categorical"):
        make_model(data, side=("item",))
    with pytest.raises(InputError, match="history_length is 0; it must be at least 1"):
        make_model(data, history_length=0)
