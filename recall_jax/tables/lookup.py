"""Rows of stored tables, on one device or over many: looked up, and moved by a step."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recall_jax.devices import mesh
from recall_jax.schema import Table
from recall_jax.tables import exchange, layout
from recall_jax.tables import rows as rows_lib
from recall_jax.tables.exchange import UpdatedTable
from recall_jax.tables.rows import RowRule, RowState
from recall_jax.types import Columns, Hypers


class LookedUp(NamedTuple):
    """Columns whose look-ups point into `rows`, the rows that they touch."""

    columns: Columns
    rows: dict[str, Float[Array, "r d"]]  # by table
    touched: dict[str, rows_lib.Touched | exchange.Request]
    slots: dict[str, Int[Array, "64 rows"]]


def look_up(
    stored: dict[str, Float[Array, "64 rows d"]],
    columns: Columns,
    *,
    slots: dict[str, Int[Array, "64 rows"]],
    specs: tuple[Table, ...],
    capacity: dict[str, int] | None,
) -> LookedUp:
    """The rows of every table that these columns touch, and the columns rewritten;
    `capacity` is that of `exchange`, needed over many devices."""
    columns, rows, touched, used = dict(columns), {}, {}, {}
    for table in specs:
        name = table.name
        read = {column: columns[column] for column in table.reads}
        ids = ids_of(columns, table=table)
        if mesh.num_devices() > 1:
            result = exchange.fetch(stored[name], ids, capacity=capacity[name])
            rows[name], ids, touched[name] = result
            used[name] = slots[name]
        else:
            result = _compact(stored[name], ids, slot=slots[name])
            rows[name], ids, touched[name], used[name] = result
        rewrite = functools.partial(rows_lib.rewrite, table=table)
        columns |= mesh.by_device(rewrite)(read, ids)
    return LookedUp(columns, rows, touched, used)


def ids_of(columns: Columns, *, table: Table) -> Int[Array, "n"]:
    """All ids with which a batch reads a table, each device's end to end."""
    read = {column: columns[column] for column in table.reads}
    return mesh.by_device(functools.partial(rows_lib.lookups_of, table))(read)


def _compact(stored, ids, *, slot):
    placed = layout.place(ids, rows=stored.shape[1])
    rows, ids, touched, used = rows_lib.compact(
        layout.flat(stored), placed, slot=slot.ravel()
    )
    return rows, ids, touched, used.reshape(slot.shape)


def rounds(looked: LookedUp) -> dict[str, Int[Array, ""]]:
    """A metric of a step over devices: the most rounds that an exchange took; none on
    one device."""
    if mesh.num_devices() == 1:
        return {}
    counts = [table.rounds for table in looked.touched.values()]
    return {"exchange_rounds": functools.reduce(jnp.maximum, counts)}


def move(
    stored: Float[Array, "64 rows d"],
    gradient: Float[Array, "r d"],
    *,
    state: RowState,
    slot: Int[Array, "64 rows"],
    touched: rows_lib.Touched | exchange.Request,
    rule: RowRule,
    hypers: Hypers,
    capacity: int,
) -> UpdatedTable:
    """A table after a step on what was looked up."""
    arguments = {"rule": rule, "hypers": hypers}
    if mesh.num_devices() > 1:
        return exchange.push(
            stored,
            gradient,
            state=state,
            slot=slot,
            request=touched,
            capacity=capacity,
            **arguments,
        )
    moved = rows_lib.update(
        layout.flat(stored),
        gradient,
        state=jax.tree.map(layout.flat, state),
        touched=touched,
        **arguments,
    )
    table, state = jax.tree.map(
        lambda leaf: leaf.reshape(*stored.shape[:2], *leaf.shape[1:]), moved
    )
    square = jnp.sum(gradient[1:] ** 2)  # of padding nothing moves
    return UpdatedTable(table, state, slot, square)
