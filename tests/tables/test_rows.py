import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.schema import Table
from recall_jax.tables import rows as rows_lib
from recall_jax.types import InputError

HYPERS = {
    "learning_rate": jnp.float32(0.1),
    "weight_decay": jnp.float32(0.0),
}


def start(rows: int, *, width: int = 3, seed: int = 0):
    table = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    table[0] = 0
    return jnp.asarray(table), jnp.zeros(rows, jnp.int32)


def loss_of(table, ids, target):
    """Each look-up pulls its row towards a target of its own; padding pulls none."""
    return jnp.sum((ids != 0)[:, None] * (table[ids] - target) ** 2)


def train(rule, table, batches, targets, *, dense: bool, hypers=HYPERS):
    """The table after steps on `batches`, through compact rows or the whole table."""
    state, slot = rule.init(table), jnp.zeros(table.shape[0], jnp.int32)
    for ids, target in zip(batches, targets, strict=True):
        if dense:
            mask = jnp.zeros(table.shape[0], bool).at[ids].set(True).at[0].set(False)
            small, rewritten, touched = table, ids, rows_lib.Touched(None, mask)
        else:
            small, rewritten, touched, slot = rows_lib.compact(table, ids, slot=slot)
            assert touched.rows is not None
        gradient = jax.grad(loss_of)(small, rewritten, target)
        table, state = rows_lib.update(
            table, gradient, state=state, touched=touched, rule=rule, hypers=hypers
        )
    assert (np.asarray(slot) == 0).all()
    return table, state


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=11), st.integers(0, 99))
def test_compact_rows_are_the_tables_rows_and_duplicates_agree(ids, seed):
    table, slot = start(12, seed=seed)
    ids = jnp.asarray(ids, jnp.int32)
    small, rewritten, touched, slot = rows_lib.compact(table, ids, slot=slot)
    np.testing.assert_array_equal(small[rewritten], table[ids])
    assert (np.asarray(rewritten)[np.asarray(ids) == 0] == 0).all()
    owned = np.asarray(touched.rows)
    owned = owned[owned < 12]
    assert sorted(owned) == sorted({int(j) for j in ids} - {0})
    assert (np.asarray(slot) == 0).all()


@pytest.mark.parametrize("name", list(rows_lib.RULES))
def test_touched_rows_equal_the_same_rule_on_the_whole_table(name):
    rng = np.random.default_rng(3)
    table, _ = start(40)
    # Padding, duplicates, and the last row, which strangers share.
    batches = [jnp.asarray(rng.integers(0, 40, 15).clip(0, 39), jnp.int32)] * 2 + [
        jnp.asarray([0, 0, 39, 39, 5], jnp.int32)
    ]
    targets = [rng.normal(size=(len(ids), 3)).astype(np.float32) for ids in batches]
    rule = rows_lib.row_rule(name)
    hypers = HYPERS | {"weight_decay": jnp.float32(0.3)}
    compact = train(rule, table, batches, targets, dense=False, hypers=hypers)
    whole = train(rule, table, batches, targets, dense=True, hypers=hypers)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7),
        compact,
        whole,
    )
    untouched = np.setdiff1d(np.arange(40), np.concatenate(batches))
    np.testing.assert_array_equal(compact[0][untouched], table[untouched])
    assert (np.asarray(compact[0][0]) == 0).all()


def test_lazy_adam_equals_adam_when_every_row_is_touched():
    rng = np.random.default_rng(0)
    table, _ = start(6)
    ids = jnp.arange(6, dtype=jnp.int32)
    targets = [rng.normal(size=(6, 3)).astype(np.float32) for _ in range(5)]
    got, _ = train(rows_lib.lazy_adam(), table, [ids] * 5, targets, dense=True)

    adam, rows = optax.adam(0.1), table
    adam_state, gradients = adam.init(rows), []
    for target in targets:
        gradients.append(jax.grad(loss_of)(rows, ids, target))
        updates, adam_state = adam.update(gradients[-1], adam_state)
        rows = optax.apply_updates(rows, updates)
    np.testing.assert_allclose(got, rows, rtol=1e-5, atol=1e-6)
    by_loop = reference.adam(table, [np.asarray(g) for g in gradients], rate=0.1)
    np.testing.assert_allclose(got, by_loop, rtol=1e-4, atol=1e-5)


def test_lazy_adams_bias_counts_belong_to_the_row():
    """A row first met at step 3 moves as another did at its own first step."""
    rule, rate = rows_lib.lazy_adam(), 0.1
    table = jnp.ones((40, 2)).at[0].set(0)
    batches = [jnp.array([1]), jnp.array([1]), jnp.array([2])]
    targets = [np.zeros((1, 2), np.float32)] * 3
    after, state = train(rule, table, batches, targets, dense=False)
    np.testing.assert_allclose(after[2], 1 - rate, rtol=1e-5)
    assert np.asarray(state["count"])[:4].tolist() == [0, 2, 1, 0]


def test_rowwise_adagrad_by_hand():
    rule = rows_lib.rowwise_adagrad(eps=0.0)
    table = jnp.zeros((9, 2))
    ids, target = jnp.array([4]), np.array([[-1.5, -2.0]], np.float32)  # g = 3, 4
    after, state = train(rule, table, [ids], [target], dense=False)
    np.testing.assert_allclose(state["sum"][4], 12.5)
    np.testing.assert_allclose(
        after[4], [-0.1 * 3 / np.sqrt(12.5), -0.1 * 4 / np.sqrt(12.5)], rtol=1e-6
    )


def test_a_batch_as_large_as_the_table_takes_the_whole_table():
    table, slot = start(4)
    small, _, touched, _ = rows_lib.compact(table, jnp.array([1, 1, 2, 0]), slot=slot)
    assert small is table and touched.rows is None
    assert np.asarray(touched.mask).tolist() == [False, True, True, False]


def test_rewrite_gives_each_column_its_own_part():
    table = Table("item", 9, 2, ("item", "history"))
    columns = {"item": jnp.array([1, 2]), "history": jnp.array([[3, 4], [5, 6]])}
    ids = rows_lib.lookups_of(table, columns)
    back = rows_lib.rewrite(columns, ids * 10, table=table)
    np.testing.assert_array_equal(back["item"], [10, 20])
    np.testing.assert_array_equal(back["history"], [[30, 40], [50, 60]])


def test_an_unknown_rule_is_named():
    with pytest.raises(InputError, match="lazy_adam"):
        rows_lib.row_rule("adamw")


def test_a_step_copies_no_slots():
    """XLA copies what it cannot prove to be read before it is cleared, which at millions
    of rows is most of a step."""
    num_rows, width = 5_003, 4

    def step(carry, ids):
        table, slot = carry
        rows, rewritten, touched, slot = rows_lib.compact(table, ids, slot=slot)
        gradient = jax.grad(lambda rows: jnp.sum(rows[rewritten] ** 2))(rows)
        at = jnp.where(touched.rows < num_rows, touched.rows, num_rows)
        table = table.at[at].add(-gradient[1:], mode="drop", unique_indices=True)
        return (table, slot), jnp.sum(rows)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(carry, ids):
        return jax.lax.scan(step, carry, ids)

    carry = jnp.zeros((num_rows, width)), jnp.zeros(num_rows, jnp.int32)
    ids = jnp.zeros((8, 64), jnp.int32)
    text = run.lower(carry, ids).compile().as_text()
    copies = [
        line
        for line in text.splitlines()
        if re.search(rf"s32\[{num_rows}\]\S* copy\(", line)
    ]
    assert not copies
