"""Rows of split tables: what is looked up comes, what is learned goes back, exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow_but
from meshes import mesh_of

from recall_jax.devices import mesh
from recall_jax.tables import exchange, layout
from recall_jax.tables import rows as rows_lib

WIDTH = 3
HYPERS = {"learning_rate": jnp.float32(0.1), "weight_decay": jnp.float32(0.2)}


def table_of(rows: int, *, seed: int = 0) -> np.ndarray:
    whole = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    whole[0] = 0
    return whole


def stored(whole: np.ndarray) -> jax.Array:
    """[V, d] as it is stored; what fills up the last rows is zero."""
    rows = -(-len(whole) // layout.SHARDS)
    padded = np.pad(whole, ((0, rows * layout.SHARDS - len(whole)), (0, 0)))
    return jnp.asarray(padded.reshape(rows, layout.SHARDS, -1).swapaxes(0, 1))


@functools.partial(jax.jit, static_argnames=("rule", "capacity"))
def step(table, ids, target, *, rule: str, capacity: int):
    """One step in which each look-up pulls its row towards a target of its own."""
    rule = rows_lib.row_rule(rule)
    vectors, at, lookup = exchange.fetch(table, ids, capacity=capacity)

    def loss_of(vectors):
        rows = layout.look_up(vectors, at)
        return jnp.sum((at != 0)[:, None] * (rows - target) ** 2)

    gradient = jax.grad(loss_of)(vectors)
    slot = jnp.zeros(table.shape[:2], jnp.int32)
    moved = exchange.push(
        table,
        gradient,
        state=rule.init(table),
        slot=slot,
        request=lookup,
        rule=rule,
        hypers=HYPERS,
        capacity=capacity,
    )
    return layout.look_up(vectors, at), moved, lookup.rounds


def expected(whole, ids, target, *, rule: str):
    """The same on one device, by the whole table."""
    rule, table = rows_lib.row_rule(rule), jnp.asarray(whole)

    def loss_of(table):
        return jnp.sum((ids != 0)[:, None] * (table[ids] - target) ** 2)

    gradient = jax.grad(loss_of)(table)
    mask = jnp.zeros(len(table), bool).at[ids].set(True).at[0].set(False)
    after = rows_lib.update(
        table,
        gradient,
        state=rule.init(table),
        touched=rows_lib.Touched(None, mask),
        rule=rule,
        hypers=HYPERS,
    )
    return after, jnp.sum(gradient[1:] ** 2)


def check(whole, ids, *, devices: int, rule: str, capacity: int) -> int:
    """The rounds that it took."""
    ids = np.asarray(ids, np.int32)
    target = np.random.default_rng(1).normal(size=(len(ids), WIDTH)).astype(np.float32)
    wanted, square = expected(whole, ids, target, rule=rule)
    with mesh.use(mesh_of(devices)):
        table = jax.device_put(stored(whole), mesh.SPLIT)
        given = mesh.on_each((jnp.asarray(ids), jnp.asarray(target)))
        vectors, moved, rounds = step(table, *given, rule=rule, capacity=capacity)
    moved, vectors = jax.device_get((moved, vectors))
    np.testing.assert_array_equal(vectors, whole[ids])
    after, state = wanted
    got = layout.whole(jnp.asarray(moved.table))
    np.testing.assert_allclose(got[: len(whole)], after, rtol=1e-5, atol=1e-6)
    assert (np.asarray(got[len(whole) :]) == 0).all() and not moved.slot.any()
    for name, leaf in moved.state.items():
        by_row = leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])[: len(whole)]
        np.testing.assert_allclose(by_row, state[name], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved.square, square, rtol=1e-4)
    return int(rounds)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=32, max_size=32), st.integers(0, 99))
def test_rows_come_and_gradients_return_as_on_one_device(ids, seed):
    whole = table_of(1000, seed=seed)
    check(whole, ids, devices=8, rule="lazy_adam", capacity=64)


@pytest.mark.parametrize("devices", slow_but((8,), (2, 4, 8)))
@pytest.mark.parametrize("rule", list(rows_lib.RULES))
def test_every_rule_on_any_number_of_devices(devices, rule):
    ids = np.random.default_rng(0).integers(0, 500, 64)
    assert check(table_of(500), ids, devices=devices, rule=rule, capacity=64) == 1


def test_what_overflows_takes_more_rounds_and_is_exact():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3000, 512)
    assert check(table_of(3000), ids, devices=8, rule="lazy_adam", capacity=8) > 1
    # All of one owner, and of as few of its rows as there are shards.
    skewed = rng.integers(0, 46, 512) * 64
    assert check(table_of(3000), skewed, devices=8, rule="lazy_adam", capacity=8) > 1


def test_a_row_that_all_devices_look_up_is_updated_once():
    ids = np.full(64, 77)
    check(table_of(500), ids, devices=8, rule="rowwise_adagrad", capacity=64)


def test_a_small_table_goes_whole():
    ids = np.random.default_rng(0).integers(0, 5, 1024)
    rounds = check(table_of(5), ids, devices=8, rule="lazy_adam", capacity=64)
    assert rounds == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=24, max_size=24))
def test_all_of_an_id_agree_on_one_place(ids):
    ids = np.asarray(ids, np.int32)
    winner = np.asarray(exchange.representatives(jnp.asarray(ids)))
    for value in np.unique(ids):
        (agreed,) = set(winner[ids == value])
        assert ids[agreed - 1] == value


def test_the_capacity_is_a_little_more_than_what_was_asked():
    assert exchange.capacity_of(1) == exchange.FEWEST
    assert 1000 < exchange.capacity_of(1000) <= 1100
