"""Rows of tables that are split over devices: to whoever looks them up, and back.

A device makes its look-up ids unique, asks each row's owner, and gets the rows; their
gradients go the same way, and the owner sums them and applies the row rule. Between two
devices travel `capacity` rows, a fixed number. Where a batch needs more, the exchange
takes several rounds, each for a share of the rows: exact, slower, and rare where the
capacity was measured (`needed_capacity`). A table with fewer rows than a device looks up goes
to all of them whole. Functions with "_local" are one device's part, inside
`mesh.spread`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recall_jax.devices import mesh
from recall_jax.devices.mesh import AXIS, SPLIT, WHOLE
from recall_jax.tables import layout
from recall_jax.tables import rows as rows_lib
from recall_jax.tables.layout import SHARDS
from recall_jax.tables.rows import RowRule, RowState, Touched
from recall_jax.types import Hypers

MOST_GROUPS = 1 << 14  # rounds told apart when their number is found
FEWEST = 64  # rows between two devices


class Request(NamedTuple):
    """What a batch looks up in a split table, [n] of all devices end to end."""

    ids: Int[Array, "n"]
    first: Bool[Array, "n"]  # whether a place stands for its id on its device
    rounds: Int[Array, ""]


class UpdatedTable(NamedTuple):
    """A table after a step, and the sum of squares of its gradient."""

    table: Float[Array, "64 rows d"]
    state: RowState
    slot: Int[Array, "64 rows"]
    square: Float[Array, ""]


def goes_whole(num_ids: int, *, num_rows: int) -> bool:
    """Whether a table of `num_rows` goes whole to a device that looks up `num_ids`."""
    return num_ids >= num_rows


def fetch(
    table: Float[Array, "64 rows d"], ids: Int[Array, "n"], *, capacity: int
) -> tuple[Float[Array, "r d"], Int[Array, "n"], Request]:
    """The rows that each device's `ids` touch, one device's below the other's, and the
    ids that point into them; row 0 of each is padding. Raises ValueError for a capacity
    below the shards of a device, with which no number of rounds would do."""
    if capacity < SHARDS // mesh.num_devices():
        raise ValueError(f"capacity {capacity} is below the shards of a device")
    spread_fetch = mesh.spread(
        functools.partial(_fetch_local, capacity=capacity),
        in_specs=(SPLIT, SPLIT),
        out_specs=(SPLIT, SPLIT, Request(SPLIT, SPLIT, WHOLE)),
    )
    return spread_fetch(table, ids)


def push(
    table: Float[Array, "64 rows d"],
    gradient: Float[Array, "r d"],
    *,
    state: RowState,
    slot: Int[Array, "64 rows"],
    request: Request,
    rule: RowRule,
    hypers: Hypers,
    capacity: int,
) -> UpdatedTable:
    """After a step on what `request` looked up; `slot` is scratch, zero before and after."""
    pushed = mesh.spread(
        functools.partial(_push_local, rule=rule, capacity=capacity),
        in_specs=(SPLIT, SPLIT, SPLIT, SPLIT, Request(SPLIT, SPLIT, WHOLE), WHOLE),
        out_specs=UpdatedTable(SPLIT, SPLIT, SPLIT, WHOLE),
    )
    return pushed(table, gradient, state, slot, request, hypers)


def capacity_of(most: int) -> int:
    """What to hold between two devices where a few batches asked for `most` rows."""
    return max(FEWEST, -(-most * 21 // 160) * 8)  # a twentieth more, in eights


def needed_capacity(ids: Int[Array, "n"]) -> Int[Array, ""]:
    """The most rows that one device needs of another for these look-ups."""

    def local(ids):
        winner = representatives(ids)
        first = (winner == jnp.arange(1, ids.size + 1)) & (ids > 0)
        return jax.lax.pmax(_most(ids, first, groups=0, num=1), AXIS)

    return mesh.spread(local, in_specs=SPLIT, out_specs=WHOLE)(ids)


# On one device.


def representatives(ids: Int[Array, "n"]) -> Int[Array, "n"]:
    """For each place the place, from 1, that stands for its id.

    All of an id write their place into a bucket, the largest stays, and who finds his
    own id there agrees; who finds another's tries again with another hash.
    """
    bits = max(4, (4 * ids.size - 1).bit_length())
    position = jnp.arange(1, ids.size + 1, dtype=jnp.int32)

    def again(carry):
        winner, factor = carry
        lost = winner == 0
        bucket = (ids.astype(jnp.uint32) * factor) >> (32 - bits)
        bucket = bucket.astype(jnp.int32)
        written = jnp.zeros(1 << bits, jnp.int32)
        written = written.at[bucket].max(jnp.where(lost, position, 0))
        occupant = written[bucket]
        agree = lost & (ids[occupant - 1] == ids)
        return jnp.where(agree, occupant, winner), factor + jnp.uint32(0x5851F42C)

    return jax.lax.while_loop(
        lambda carry: (carry[0] == 0).any(),
        again,
        (jnp.zeros_like(ids), jnp.uint32(0x9E3779B1)),
    )[0]


def _owner(ids: Int[Array, "n"]) -> Int[Array, "n"]:
    """The device that has each row."""
    return ids % SHARDS // (SHARDS // jax.lax.axis_size(AXIS))


def _at(ids: Int[Array, "..."], *, rows: int) -> Int[Array, "..."]:
    """Where the owner has each row, of its shards end to end."""
    return ids % (SHARDS // jax.lax.axis_size(AXIS)) * rows + ids // SHARDS


def _most(ids, first, *, groups: Int[Array, "n"] | int, num: int) -> Int[Array, ""]:
    """The most rows that this device asks of one owner in one of `num` groups."""
    count = jnp.zeros(jax.lax.axis_size(AXIS) * num, jnp.int32)
    return count.at[_owner(ids) * num + groups].add(first).max()


def _round_of(ids: Int[Array, "n"], rounds: Int[Array, ""]) -> Int[Array, "n"]:
    """In which round a row goes: all devices' look-ups of it in the same one, so that
    its owner sums them before the row rule."""
    return ids // SHARDS % rounds


def _num_rounds(ids, first, *, capacity: int, rows: int) -> Int[Array, ""]:
    """A power of two, mostly 1; with as many as a shard has rows, nothing asks for more
    than the shards of an owner, which FEWEST allows."""

    def too_few(carry):
        rounds, most = carry
        return (most > capacity) & (rounds < rows)

    def more(carry):
        rounds = carry[0] * 2
        groups = _round_of(ids, rounds) % MOST_GROUPS  # a bound where there are more
        most = _most(ids, first, groups=groups, num=MOST_GROUPS)
        return rounds, jax.lax.pmax(most, AXIS)

    most = jax.lax.pmax(_most(ids, first, groups=0, num=1), AXIS)
    return jax.lax.while_loop(too_few, more, (jnp.int32(1), most))[0]


def _places(ids, first, *, now, rounds, capacity: int) -> Int[Array, "devices c"]:
    """Which place, from 1, stands at each place of the rows asked of each owner in this
    round; 0 where none does."""
    devices, owner = jax.lax.axis_size(AXIS), _owner(ids)
    member = first & (_round_of(ids, rounds) == now)
    by_owner = (owner[:, None] == jnp.arange(devices)[None, :]) & member[:, None]
    rank = jnp.cumsum(by_owner.astype(jnp.int32), axis=0)
    rank = jnp.take_along_axis(rank, owner[:, None], axis=1)[:, 0] - 1
    fits = member & (rank < capacity)
    at = jnp.where(fits, owner * capacity + rank, devices * capacity)
    position = jnp.arange(1, ids.size + 1, dtype=jnp.int32)
    places = jnp.zeros(devices * capacity, jnp.int32)
    return places.at[at].set(position, mode="drop").reshape(devices, capacity)


def _swap(x: Array) -> Array:
    """x[j] to device j; what comes back stands in the order of the devices."""
    return jax.lax.all_to_all(x, AXIS, split_axis=0, concat_axis=0, tiled=True)


def _fetch_local(table, ids, *, capacity: int):
    rows, width = table.shape[1:]
    if goes_whole(ids.size, num_rows=SHARDS * rows):
        gathered = mesh.everyone(table)
        none = jnp.zeros(ids.shape, bool)
        request = Request(ids, none, jnp.int32(0))
        return layout.flat(gathered), layout.place(ids, rows=rows), request
    winner = representatives(ids)
    first = (winner == jnp.arange(1, ids.size + 1)) & (ids > 0)
    rounds = _num_rounds(ids, first, capacity=capacity, rows=rows)
    mine = layout.flat(table)

    def one_round(now, buffer):
        places = _places(ids, first, now=now, rounds=rounds, capacity=capacity)
        wanted = _swap(jnp.where(places > 0, ids[places - 1], 0))
        given = mine[_at(wanted, rows=rows)]
        got = _swap(given).reshape(-1, width)
        at = jnp.where(places > 0, places, ids.size + 1).ravel()
        return buffer.at[at].set(got, mode="drop")

    touched_rows = jnp.zeros((ids.size + 1, width), table.dtype)
    touched_rows = jax.lax.fori_loop(0, rounds, one_round, touched_rows)
    return touched_rows, jnp.where(ids > 0, winner, 0), Request(ids, first, rounds)


def _push_local(table, gradient, state, slot, request, hypers, *, rule, capacity: int):
    rows = table.shape[1]
    shape, ids = table.shape[:2], request.ids

    def unflat(leaf):
        return leaf.reshape(*shape, *leaf.shape[1:])

    table, state, slot = jax.tree.map(layout.flat, (table, state, slot))
    if goes_whole(ids.size, num_rows=SHARDS * rows):
        mask = jnp.zeros(SHARDS * rows, jnp.int32)
        mask = mask.at[layout.place(ids, rows=rows)].set(1).at[0].set(0)
        both = (gradient, mask)
        gradient, mask = (jax.lax.psum_scatter(x, AXIS, tiled=True) for x in both)
        gradient = jnp.where(mask[:, None] > 0, gradient, 0)
        table, state = rows_lib.update(
            table,
            gradient,
            state=state,
            touched=Touched(None, mask > 0),
            rule=rule,
            hypers=hypers,
        )
        square = jnp.sum(gradient**2)
    else:

        def one_round(now, carry):
            places = _places(
                ids, request.first, now=now, rounds=request.rounds, capacity=capacity
            )
            wanted = _swap(jnp.where(places > 0, ids[places - 1], 0)).ravel()
            came = _swap(gradient[places]).reshape(-1, gradient.shape[-1])
            return _apply(carry, wanted, came, rows=rows, rule=rule, hypers=hypers)

        carry = (table, state, slot, jnp.zeros((), table.dtype))
        carry = jax.lax.fori_loop(0, request.rounds, one_round, carry)
        table, state, slot, square = carry
    table, state, slot = jax.tree.map(unflat, (table, state, slot))
    return UpdatedTable(table, state, slot, jax.lax.psum(square, AXIS))


def _apply(carry, ids, gradient, *, rows: int, rule: RowRule, hypers: Hypers):
    """An owner's rows after the gradients that came for `ids`, 0 where none did; those
    of the same row, from several devices, are summed first."""
    table, state, slot, square = carry
    valid = ids > 0
    at = jnp.where(valid, _at(ids, rows=rows), 0)
    position = jnp.arange(1, ids.size + 1, dtype=jnp.int32)
    slot = slot.at[at].max(jnp.where(valid, position, 0))
    winner = slot[at]
    slot = slot.at[at].set(jnp.minimum(winner, 0))  # as in rows.compact
    into = jnp.where(valid, winner, 0)
    summed = jnp.zeros((ids.size + 1, table.shape[1]), table.dtype)
    summed = summed.at[into].add(gradient)
    owns = valid & (winner == position)
    touched = Touched(jnp.where(owns, at, len(table) + position), None)
    table, state = rows_lib.update(
        table, summed, state=state, touched=touched, rule=rule, hypers=hypers
    )
    square += jnp.sum(jnp.where(owns[:, None], summed[1:], 0) ** 2)
    return table, state, slot, square
