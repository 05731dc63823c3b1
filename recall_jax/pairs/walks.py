"""Random walks on an item graph: by edge weight, and node2vec's.

A walk that has nowhere to go ends there; what is left of its row is 0, as padding is.
The same key gives the same walks.
"""

import functools
import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from recall_jax.pairs.graph import ItemGraph
from recall_jax.types import InputError, Key


def walk(
    graph: ItemGraph,
    key: Key,
    start: Int[Array | np.ndarray, "w"],
    *,
    length: int,
    p: float | Array = 1.0,
    q: float | Array = 1.0,
) -> Int[Array, "w length"]:
    """A walk of up to `length` nodes from each of `start`, ids 0..V, its first column.

    `first_order` where p and q are the number 1, else `node2vec`. Raises InputError for
    a p or q that is not positive and finite, or a length below 1.
    """
    if length < 1:
        raise InputError(f"walks of {length} nodes; they have 1 or more")
    for name, value in (("p", p), ("q", q)):
        if isinstance(value, numbers.Real) and not 0 < value < np.inf:
            raise InputError(f"{name} {value} of walks; give a positive, finite number")
    start = jnp.asarray(start, jnp.int32)
    if all(isinstance(value, numbers.Real) and value == 1 for value in (p, q)):
        return first_order(graph, key, start, length=length)
    return node2vec(graph, key, start, p, q, length=length)


@functools.partial(jax.jit, static_argnames="length")
def first_order(
    graph: ItemGraph, key: Key, start: Int[Array, "w"], *, length: int
) -> Int[Array, "w length"]:
    """The next node by edge weight, P(j | i) = M_ij / sum_j' M_ij' (Perozzi et al. 2014;
    weighted, Wang et al. 2018): an alias table's cell and its coin, O(1) a step."""

    def step(node, bits):
        following = _follow(graph, node, bits)
        return following, following

    # All at once: drawn within the step they are fused into it, several times over.
    bits = _bits(key, (length - 1, 2, len(start)))
    _, rest = jax.lax.scan(step, start, bits)
    return jnp.concatenate([start[None], rest]).T


@functools.partial(jax.jit, static_argnames="length")
def node2vec(
    graph: ItemGraph,
    key: Key,
    start: Int[Array, "w"],
    p: float | Array,
    q: float | Array,
    *,
    length: int,
) -> Int[Array, "w length"]:
    """Edge weight times a bias by where the walk came from (Grover and Leskovec 2016):
    1/p back to that node, 1 to those it has an edge to, 1/q elsewhere. p, q > 0 traced.

    By rejection: an edge is proposed by weight and taken with its bias over the largest.
    Each walk goes at its own pace, so that none waits for the unluckiest.
    """
    back, away = 1 / jnp.float32(p), 1 / jnp.float32(q)
    most = jnp.maximum(jnp.maximum(back, away), 1.0)
    rows = jnp.arange(len(start))

    def propose(state: _Pace) -> _Pace:
        turn_key = jax.random.fold_in(key, state.turn)
        bits = jax.random.bits(turn_key, (3, len(start)), jnp.uint32)
        proposed = _follow(graph, state.node, bits[:2])
        near = has_edge(graph, state.before, proposed)
        bias = jnp.where(near, 1.0, away)
        bias = jnp.where(proposed == state.before, back, bias)
        # Not <=, so that a p or q of NaN does not go on for ever.
        taken = ~(_unit(bits[2]) * most > bias) | (state.before == 0)
        ended = proposed == 0
        taken &= ~ended & (state.column < length)
        at = jnp.where(taken, state.column, length)
        return _Pace(
            turn=state.turn + 1,
            column=jnp.where(ended, length, state.column + taken),
            before=jnp.where(taken, state.node, state.before),
            node=jnp.where(taken, proposed, state.node),
            walks=state.walks.at[rows, at].set(proposed, mode="drop"),
        )

    walks = jnp.zeros((len(start), length), jnp.int32).at[:, 0].set(start)
    ones = jnp.ones_like(start)
    begin = _Pace(jnp.int32(0), ones, jnp.zeros_like(start), start, walks)
    return jax.lax.while_loop(
        lambda state: jnp.any(state.column < length), propose, begin
    ).walks


class _Pace(NamedTuple):
    turn: Int[Array, ""]
    column: Int[Array, "w"]  # to be filled next; `length` once a walk is done
    before: Int[Array, "w"]  # 0 at the first step
    node: Int[Array, "w"]
    walks: Int[Array, "w length"]


def has_edge(
    graph: ItemGraph, source: Int[Array, "w"], target: Int[Array, "w"]
) -> Bool[Array, "w"]:
    """Whether the edge source -> target is there: binary search in the source's row."""
    if not graph.target.size:
        return jnp.zeros(source.shape, bool)
    targets, offsets = jnp.asarray(graph.target), jnp.asarray(graph.offsets)
    end = offsets[source + 1]

    def halve(bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        below = targets.at[middle].get(mode="clip") < target
        searching = low < high
        low = jnp.where(searching & below, middle + 1, low)
        return low, jnp.where(searching & ~below, middle, high)

    low, _ = jax.lax.while_loop(
        lambda bounds: jnp.any(bounds[0] < bounds[1]), halve, (offsets[source], end)
    )
    return (low < end) & (targets.at[low].get(mode="clip") == target)


def _follow(
    graph: ItemGraph, node: Int[Array, "w"], bits: UInt[Array, "2 w"]
) -> Int[Array, "w"]:
    """The next node by edge weight; 0 where there is none."""
    if not graph.target.size:
        return jnp.zeros_like(node)
    rows, cells = jnp.asarray(graph.rows), jnp.asarray(graph.cells)
    first, degree = rows.at[node].get(mode="clip").T
    # A cell below the degree, each alike to within degree / 2^32.
    cell = high_product(bits[0], degree.astype(jnp.uint32))
    row = cells.at[first + cell.astype(jnp.int32)].get(mode="clip")
    keep = jax.lax.bitcast_convert_type(row[:, 0], jnp.float32)
    taken = jnp.where(_unit(bits[1]) < keep, row[:, 1], row[:, 2])
    return jnp.where(degree > 0, taken, 0)


def high_product(a: UInt[Array, "w"], b: UInt[Array, "w"]) -> UInt[Array, "w"]:
    """a b / 2^32, rounded down. Over devices by halves: XLA cannot compile `mulhi` for
    more than one (jax 0.10), whatever is split over them."""
    if jax.sharding.get_abstract_mesh().size <= 1:
        return jax.lax.mulhi(a, b)
    low = jnp.uint32(0xFFFF)
    a_low, a_high, b_low, b_high = a & low, a >> 16, b & low, b >> 16
    middle = a_high * b_low + (a_low * b_low >> 16)
    carried = a_low * b_high + (middle & low)
    return a_high * b_high + (middle >> 16) + (carried >> 16)


def _bits(key: Key, shape: tuple[int, ...]) -> UInt[Array, "..."]:
    """Random words: their numbers, and the key, through an integer hash twice. Less than
    half the work of JAX's generator, which was most of a step's; for walks good enough."""
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    number = jax.lax.iota(jnp.uint32, math.prod(shape))
    return _hash(_hash(number ^ seeds[0]) + seeds[1]).reshape(shape)


def _hash(x: UInt[Array, "n"]) -> UInt[Array, "n"]:
    """A bijection of 32 bits in which every bit moves half of the others (the constants
    of C. Wellons's lowbias32, 2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _unit(bits: UInt[Array, "w"]) -> Float[Array, "w"]:
    """In 0..1, which itself comes up by rounding alone: a full cell is its own alias."""
    return bits.astype(jnp.float32) * 2.0**-32
