"""Embedding tables trained on the rows that a batch touches, at any size.

A model reads a table by ids as if it were whole. `compact` hands it the touched rows
instead and rewrites the ids; `update` writes the rows back by a row rule: an optimizer
whose moments, decay and bias counts belong to the row and move only when it is looked
up. Where a batch looks up as many ids as the table has rows, the whole table takes the
same rule under a mask.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from recall_jax.schema import Table
from recall_jax.types import Columns, Hypers, unknown


class TableParam(nnx.Param):
    """An embedding table as a model holds it (`layout`); row 0 is padding, always
    zero."""


RowState = dict[str, Array]  # each with the table's rows as leading axis


class RowRule(NamedTuple):
    """A row-wise optimizer. `update` sees rows, their state and their gradient with
    any leading axis, and must treat every row alone."""

    init: Callable[[Float[Array, "... d"]], RowState]
    update: Callable[[Array, RowState, Array, Hypers], tuple[Array, RowState]]


def sgd() -> RowRule:
    """row - lr * g."""

    def update(row, state, gradient, hypers):
        return row - hypers["learning_rate"] * gradient, state

    return RowRule(lambda table: {}, update)


def rowwise_adagrad(*, eps: float = 1e-8) -> RowRule:
    """One accumulator a row: a += mean(g^2), row - lr * g / (sqrt(a) + eps).

    Adagrad (Duchi et al. 2011) with the second moment shared within the row, as
    recommenders with large tables use it (Naumov et al. 2019, DLRM).
    """

    def update(row, state, gradient, hypers):
        total = state["sum"] + jnp.mean(gradient**2, axis=-1)
        step = gradient / (jnp.sqrt(total) + eps)[..., None]
        return row - hypers["learning_rate"] * step, {"sum": total}

    return RowRule(lambda table: {"sum": jnp.zeros(table.shape[:-1])}, update)


def lazy_adam(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> RowRule:
    """Adam (Kingma and Ba 2015) whose moments and bias counts move with their row.

    A row that is never looked up never moves; one that always is follows Adam.
    """

    def init(table):
        zeros = jnp.zeros_like(table)
        return {
            "mean": zeros,
            "square": jnp.zeros_like(table),
            "count": jnp.zeros(table.shape[:-1], jnp.int32),
        }

    def update(row, state, gradient, hypers):
        count = state["count"] + 1
        mean = b1 * state["mean"] + (1 - b1) * gradient
        square = b2 * state["square"] + (1 - b2) * gradient**2
        unbias_mean = 1 / (1 - b1 ** count.astype(row.dtype))
        unbias_square = 1 / (1 - b2 ** count.astype(row.dtype))
        step = mean * unbias_mean[..., None]
        step /= jnp.sqrt(square * unbias_square[..., None]) + eps
        new = {"mean": mean, "square": square, "count": count}
        return row - hypers["learning_rate"] * step, new

    return RowRule(init, update)


RULES = {"sgd": sgd, "rowwise_adagrad": rowwise_adagrad, "lazy_adam": lazy_adam}


def row_rule(name: str) -> RowRule:
    """The rule of that name with its default constants."""
    if name not in RULES:
        raise unknown("--config.optim.tables", name, RULES)
    return RULES[name]()


class Touched(NamedTuple):
    """Which rows of a table a batch looks up."""

    rows: Int[Array, "n"] | None  # row of compact row j + 1, V or more where a
    # duplicate or padding; None on the dense path
    mask: Bool[Array, "V"] | None  # on the dense path


def lookups_of(table: Table, columns: Columns) -> Int[Array, "n"]:
    """All ids with which a batch reads a table, end to end."""
    return jnp.concatenate([columns[name].ravel() for name in table.reads])


def compact(
    table: Float[Array, "V d"],
    ids: Int[Array, "n"],
    *,
    slot: Int[Array, "V"],
) -> tuple[Float[Array, "r d"], Int[Array, "n"], Touched, Int[Array, "V"]]:
    """The rows that `ids` touch, `ids` rewritten to point into them, and the slots.

    `slot` is scratch, zero before and after: each id writes its position there, the
    largest wins (max is deterministic on every device), and all duplicates read the
    same winner back. Only winners own a row; compact row 0 is padding.
    """
    num_rows, n = table.shape[0], ids.size
    if n >= num_rows:
        mask = jnp.zeros(num_rows, bool).at[ids].set(True).at[0].set(False)
        return table, ids, Touched(None, mask), slot
    position = jnp.arange(1, n + 1, dtype=jnp.int32)
    slot = slot.at[ids].max(position, mode="promise_in_bounds")
    winner = slot.at[ids].get(mode="promise_in_bounds")
    # 0, but only for who has read the winners first: else the compiler, unsure of the
    # order, copies all slots twice in every step.
    slot = slot.at[ids].set(jnp.minimum(winner, 0), mode="promise_in_bounds")
    owns = (winner == position) & (ids != 0)
    # Distinct indices beyond the table, so that the scatter's promise of unique
    # indices holds for the dropped ones as well.
    rows = jnp.where(owns, ids, num_rows + position)
    padding = jnp.zeros((1, table.shape[1]), table.dtype)
    gathered = table.at[ids].get(mode="promise_in_bounds")
    rewritten = jnp.where(ids == 0, 0, winner)
    return jnp.concatenate([padding, gathered]), rewritten, Touched(rows, None), slot


def update(
    table: Float[Array, "V d"],
    gradient: Float[Array, "r d"],
    *,
    state: RowState,
    touched: Touched,
    rule: RowRule,
    hypers: Hypers,
) -> tuple[Float[Array, "V d"], RowState]:
    """The table and its row states after one step on the touched rows.

    Weight decay is decoupled (Loshchilov and Hutter 2019) and, like all else, of
    touched rows only.
    """
    kept = 1 - hypers["learning_rate"] * hypers["weight_decay"]
    if touched.rows is None:
        new = rule.update(table * kept, state, gradient, hypers)

        def keep(after, before):
            mask = touched.mask.reshape(-1, *[1] * (after.ndim - 1))
            return jnp.where(mask, after, before)

        return jax.tree.map(keep, new, (table, state))
    rows = touched.rows

    def gather(leaf):
        return leaf.at[rows].get(mode="clip")

    def write(leaf, value):
        return leaf.at[rows].set(value, mode="drop", unique_indices=True)

    row, old = jax.tree.map(gather, (table, state))
    new = rule.update(row * kept, old, gradient[1:], hypers)
    return jax.tree.map(write, (table, state), new)


def rewrite(columns: Columns, ids: Int[Array, "n"], *, table: Table) -> Columns:
    """The columns that read `table`, their look-ups replaced by `ids`, which stand end
    to end as `lookups_of` gave them."""
    rewritten, start = {}, 0
    for name in table.reads:
        column = columns[name]
        rewritten[name] = ids[start : start + column.size].reshape(column.shape)
        start += column.size
    return rewritten
