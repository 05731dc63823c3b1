"""The factorisation machine against its definition, pair by pair."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_data
from flax import nnx

from recall_jax.models import fm
from recall_jax.tables import layout


@pytest.fixture
def data():
    return make_data(history_length=4)


def build(data, **changes):
    config = fm.Config(history_length=4, width=3, init_scale=0.7, **changes)
    model, tables = config.make(data.schema, nnx.Rngs(3))
    for name, table in model.tables.items():  # the unknown row has a vector too
        rows = np.random.default_rng(len(name)).normal(size=table.table.shape)
        rows[0, 0] = 0
        table.table[...] = jnp.asarray(rows, jnp.float32)
    return model, tables


def features_of(terms, columns, j, tables):
    """(x, row) of every feature of row j, one by one."""
    features = []
    for column in terms.columns:
        values = np.asarray(columns[column.name])[j]
        if not column.has_ids:
            features.append((float(values), np.asarray(terms.dense[column.name][...])))
            continue
        table = np.asarray(layout.whole(tables[terms.table_of[column.name]].table[...]))
        ids = [int(i) for i in np.atleast_1d(values) if not column.width or i]
        features += [(1 / len(ids), table[i]) for i in ids]
    return features


def all_pairs(users, items, *, width):
    """w and every pair of features, less the pairs of the user's alone, O(n^2)."""
    score = sum(x * row[width] for x, row in items)
    for (x, a), (y, b) in itertools.combinations(users + items, 2):
        if any(b is row for _, row in users):
            continue
        score += x * y * float(a[:width] @ b[:width])
    return score


def test_the_inner_product_is_the_sum_over_pairs_of_features(data):
    model, _ = build(data)
    batch = data.dataset.batch(jnp.arange(40)).query
    items = data.dataset.item(jnp.arange(1, data.dataset.num_items + 1))
    scores = np.asarray(model.query(batch)) @ np.asarray(model.item(items)).T
    bags = np.count_nonzero(np.asarray(items["tags"]), axis=1)
    assert set(bags) >= {0, 1, 2, 3}, "items of no tag and of several"
    for i, j in itertools.product(range(0, 40, 7), range(scores.shape[1])):
        users = features_of(model.query_terms, batch, i, model.tables)
        item_features = features_of(model.item_terms, items, j, model.tables)
        wanted = all_pairs(users, item_features, width=3)
        assert scores[i, j] == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_what_is_left_out_does_not_change_a_users_ranking(data):
    """With the user's weights and pairs put back, every list stays as it was."""
    model, _ = build(data)
    batch = data.dataset.batch(jnp.arange(10)).query
    items = data.dataset.item(jnp.arange(1, data.dataset.num_items + 1))
    served = np.asarray(model.query(batch)) @ np.asarray(model.item(items)).T
    for i in range(10):
        users = features_of(model.query_terms, batch, i, model.tables)
        alone = sum(
            x * y * float(a @ b) for (x, a), (y, b) in itertools.combinations(users, 2)
        )
        whole = [
            alone
            + all_pairs(
                users, features_of(model.item_terms, items, j, model.tables), width=3
            )
            for j in range(served.shape[1])
        ]
        assert np.argsort(-served[i]).tolist() == np.argsort(-np.array(whole)).tolist()


def test_every_feature_moves_the_score(data):
    model, tables = build(data)
    batch = data.dataset.batch(jnp.arange(6)).query
    items = data.dataset.item(jnp.arange(1, 9))
    for name in ("user", "history", "gender"):
        changed = batch | {name: batch[name] * 0}
        assert not np.allclose(model.query(batch), model.query(changed))
    for name in ("item", "tags", "price"):
        changed = items | {name: items[name] * 0}
        assert not np.allclose(model.item(items), model.item(changed))
    assert {table.name: table.width for table in tables} == {
        "user": 3,
        "history": 3,
        "gender": 3,
        "item": 4,
        "tags": 4,
    }
