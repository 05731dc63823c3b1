"""Weighted item graphs: from sessions or edges, with alias tables for walks, and their
split for link prediction. On the host, in numpy; edges are told by int64 keys.

Nodes are catalogue ids 0..V, so num_nodes is V + 1; 0 is padding and has no edges.
"""

import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Array, Float, Int

from recall_jax.losses import sampling
from recall_jax.types import InputError

BLOCK = 2**24  # edges or pairs worked on at once
MOST_EDGES = 2**31 - 1  # positions are int32
LOW = np.int64(2**32 - 1)

Loop = Literal["drop", "keep"]
Unit = Literal["pair", "edge"]


class ItemGraph(NamedTuple):
    """A directed graph in compressed sparse rows, a pytree: node v's edges lie at
    offsets[v]:offsets[v + 1], sorted by target, each target once, weights positive.

    An undirected graph holds both directions of each edge. Made of numpy arrays:
    `jax.device_put` it once where it is walked on often. 20 bytes an edge.

    For walks, laid out so that a step reads two places: `rows` has where a node's edges
    begin and how many there are; `cells` each row's alias table, the bits of a float32
    chance to keep the edge, its target, and the target to take instead.
    """

    offsets: Int[Array, "V_and_2"]
    target: Int[Array, "edges"]
    weight: Float[Array, "edges"]
    cells: Int[Array, "edges 3"]
    rows: Int[Array, "V_and_1 2"]

    @property
    def num_nodes(self) -> int:
        """With padding: V + 1."""
        return len(self.offsets) - 1

    @property
    def source(self) -> np.ndarray:
        """Of each edge, int32 [edges]."""
        nodes = np.arange(self.num_nodes, dtype=np.int32)
        return np.repeat(nodes, np.diff(np.asarray(self.offsets)))

    @property
    def keep(self) -> np.ndarray:
        """Chance that the edge itself is taken once its cell is drawn, [edges]."""
        return np.ascontiguousarray(np.asarray(self.cells)[:, 0]).view(np.float32)

    @property
    def alias(self) -> np.ndarray:
        """The edge taken otherwise, a position in the same row, int32 [edges]."""
        source, cells = self.source, np.asarray(self.cells)
        edges, taken = _keys(source, cells[:, 1]), _keys(source, cells[:, 2])
        return np.searchsorted(edges, taken).astype(np.int32)


def from_edges(
    source: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    *,
    num_nodes: int,
    self_loops: Loop = "drop",
) -> ItemGraph:
    """A directed graph of edges [e], in any order; duplicates are summed.

    Edges of weight 0, those that touch node 0 and, unless `self_loops` is "keep", those
    from a node to itself are left out. About 70 bytes an edge while it is built.
    Raises InputError where ids are not in 0..num_nodes - 1 or a weight is negative, not
    finite, or beyond float32.
    """
    source, target, weight = map(np.asarray, (source, target, weight))
    if not len(source) == len(target) == len(weight):
        raise InputError(
            f"{len(source):,} sources, {len(target):,} targets, {len(weight):,} weights"
        )
    _check_ids(source, num_nodes=num_nodes)
    _check_ids(target, num_nodes=num_nodes)
    bad = ~(weight >= 0) | (weight == np.inf)
    if bad.any():
        j = int(np.argmax(bad))
        raise InputError(
            f"edge {source[j]} -> {target[j]} weighs {weight[j]}; give a finite weight >= 0"
        )
    some = _wanted(source, target, self_loops=self_loops)
    keys = _keys(source[some], target[some])
    keys, weight = _summed(keys, weight[some].astype(np.float64))
    return _from_keys(keys, weight, num_nodes=num_nodes)


def transitions(
    items: np.ndarray, offsets: np.ndarray, *, num_nodes: int, self_loops: Loop = "drop"
) -> ItemGraph:
    """A directed edge for each consecutive pair within a session, its weight their count
    (Wang et al. 2018). Session s is items[offsets[s]:offsets[s + 1]], in order.

    An event of item 0 ends what stands before it. Counts by sorting an int64 key an
    event: at most 60 bytes each, 6 GiB for 100 million.
    """
    items, offsets = _checked_sessions(items, offsets, num_nodes=num_nodes)
    source, target = items[:-1], items[1:]
    some = _wanted(source, target, self_loops=self_loops)
    some[offsets[(offsets > 0) & (offsets < len(items))] - 1] = False
    keys, count = _count(_keys(source[some], target[some]))
    return _from_keys(keys, count, num_nodes=num_nodes)


def co_occurrence(
    items: np.ndarray, offsets: np.ndarray, *, num_nodes: int, most: int = 100
) -> ItemGraph:
    """An undirected graph, both directions stored, of the items of a session: a pair of
    distinct items counts once for each session that holds both.

    A session of n events has up to n (n - 1) / 2 pairs: only its first `most` events are
    read. Pairs are counted a block of sessions at a time, so that memory follows the
    distinct ones: about 150 bytes each, 24 GiB for 170 million; lower `most` for fewer.
    """
    if most < 2:
        raise InputError(f"most {most} events a session make no pair; give 2 or more")
    items, offsets = _checked_sessions(items, offsets, num_nodes=num_nodes)
    size = np.minimum(np.diff(offsets), most)
    keys, count = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for low, high in _blocks(np.append(0, np.cumsum(size * (size - 1) // 2))):
        block_keys, times = _count(_pairs(items, offsets[low:high], size[low:high]))
        keys, count = _summed(np.append(keys, block_keys), np.append(count, times))
    keys = np.append(keys, _keys(keys & LOW, keys >> 32))
    order = np.argsort(keys)
    count = np.append(count, count)[order]
    return _from_keys(keys[order], count, num_nodes=num_nodes)


class EdgeSplit(NamedTuple):
    """A graph without the edges held out, for training, and those, sorted, each once."""

    graph: ItemGraph
    removed: Int[np.ndarray, "m 2"]


def split_edges(
    graph: ItemGraph, share: float, seed: int, *, unit: Unit = "pair"
) -> EdgeSplit:
    """Removes a random `share` of the edges, to predict them (Wang et al. 2018: a third).

    By "pair" both directions of an edge go together, whichever there are, so that none
    gives the other away; `removed` then holds (smaller, larger) ids. By "edge" each
    direction is an edge of its own, and `removed` holds (source, target).
    """
    if not 0 < share < 1:
        raise InputError(f"share {share} of the edges; give one between 0 and 1")
    _check_choice(unit, Unit)
    source, target = graph.source, np.asarray(graph.target)
    keys = _keys(source, target)
    unit_keys = _pair_keys(source, target) if unit == "pair" else keys
    units, unit_of = np.unique(unit_keys, return_inverse=True)
    gone = np.arange(len(units)) < round(share * len(units))
    np.random.default_rng(seed).shuffle(gone)
    rest = ~gone[unit_of]
    weight = np.asarray(graph.weight)[rest]
    rest = _from_keys(keys[rest], weight, num_nodes=graph.num_nodes)
    return EdgeSplit(rest, _ends(units[gone]))


def random_non_edges(graph: ItemGraph, num: int, seed: int) -> np.ndarray:
    """`num` distinct pairs (smaller, larger) [num, 2] without an edge either way, both
    of whose nodes have edges: negatives of link prediction. `graph` is the full one.

    By rejection, uniform over such pairs. Raises InputError where there are fewer.
    """
    source, target = graph.source, np.asarray(graph.target)
    nodes, _ = _count(np.append(source, target))
    edges, _ = _count(_pair_keys(source, target)[source != target])
    free = len(nodes) * (len(nodes) - 1) // 2 - len(edges)
    if num > free:
        raise InputError(
            f"{num:,} pairs without an edge asked for; {len(nodes):,} nodes leave {free:,}"
        )
    edges = np.append(edges, np.iinfo(np.int64).max)  # past every key
    rng, non_edges = np.random.default_rng(seed), np.zeros(0, np.int64)
    while len(non_edges) < num:
        ends = nodes[
            rng.integers(0, len(nodes), (2 * (num - len(non_edges)) + 1024, 2))
        ]
        keys, _ = _count(_pair_keys(*ends[ends[:, 0] != ends[:, 1]].T))
        is_edge = edges[np.searchsorted(edges, keys)] == keys
        non_edges, _ = _count(np.append(non_edges, keys[~is_edge]))
    return _ends(np.sort(rng.permutation(non_edges)[:num]))


def _from_keys(keys: np.ndarray, weight: np.ndarray, *, num_nodes: int) -> ItemGraph:
    """Of distinct sorted keys and their weights, less those of weight 0 in float32."""
    with np.errstate(over="ignore"):
        weight = weight.astype(np.float32)
    if np.isinf(weight).any():
        raise InputError("weight of an edge is more than float32 holds; scale them all")
    if not weight.all():
        keys, weight = keys[weight > 0], weight[weight > 0]
    if len(keys) > MOST_EDGES:
        raise InputError(f"{len(keys):,} edges; a graph holds {MOST_EDGES:,} at most")
    offsets = np.searchsorted(keys, np.arange(num_nodes + 1, dtype=np.int64) << 32)
    target = (keys & LOW).astype(np.int32)
    cells = np.empty((len(keys), 3), np.int32)
    cells[:, 1] = target
    for low, high in _blocks(offsets):
        first, last = offsets[low], offsets[high]
        keep, alias = sampling.alias_tables(
            weight[first:last], offsets[low : high + 1] - first
        )
        cells[first:last, 0] = keep.astype(np.float32).view(np.int32)
        cells[first:last, 2] = target[first + alias]
    offsets = offsets.astype(np.int32)
    rows = np.stack([offsets[:-1], np.diff(offsets)], axis=1)
    return ItemGraph(offsets, target, weight, cells, rows)


def _blocks(start: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of whole rows, of about BLOCK cells; row r is start[r]:start[r + 1]."""
    cuts = np.searchsorted(start, np.arange(0, start[-1], BLOCK))
    return itertools.pairwise(np.unique(np.append(cuts, len(start) - 1)).tolist())


def _keys(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.asarray(source, np.int64) << 32 | np.asarray(target, np.int64)


def _pair_keys(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return _keys(np.minimum(source, target), np.maximum(source, target))


def _ends(keys: np.ndarray) -> np.ndarray:
    return np.stack([keys >> 32, keys & LOW], axis=1).astype(np.int32)


def _first_of_runs(keys: np.ndarray) -> np.ndarray:
    """Where a new key begins in sorted ones."""
    return np.flatnonzero(np.append(len(keys) > 0, keys[1:] != keys[:-1])[: len(keys)])


def _count(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, sorted, and how often each came. Sorts in place, which takes a
    hundredth of the time that np.unique needs to hash them."""
    keys.sort()
    first = _first_of_runs(keys)
    return keys[first], np.diff(np.append(first, len(keys)))


def _summed(keys: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, sorted, and the sum of their weights."""
    order = np.argsort(keys)
    keys, weight = keys[order], weight[order]
    first = _first_of_runs(keys)
    return keys[first], np.add.reduceat(weight, first) if len(first) else weight


def _pairs(items: np.ndarray, first: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Keys of the pairs of distinct items (smaller, larger) of each session; session s
    is items[first[s]:first[s] + size[s]]."""
    session = np.repeat(np.arange(len(size)), size)
    within = np.arange(len(session)) - np.repeat(np.cumsum(size) - size, size)
    item = items[first[session] + within]
    once, _ = _count(_keys(session[item > 0], item[item > 0]))
    num = np.bincount(once >> 32, minlength=len(size))
    end, item = np.repeat(np.cumsum(num), num), once & LOW
    parts, at = [np.zeros(0, np.int64)], np.arange(len(item))
    for lag in itertools.count(1):  # as many as the longest session has items
        at = at[at + lag < end[at]]
        if not len(at):
            return np.concatenate(parts)
        parts.append(_keys(item[at], item[at + lag]))


def _wanted(source: np.ndarray, target: np.ndarray, *, self_loops: Loop) -> np.ndarray:
    _check_choice(self_loops, Loop)
    some = (source > 0) & (target > 0)
    return some & (source != target) if self_loops == "drop" else some


def _check_choice(given: str, kind):
    if given not in get_args(kind):
        raise InputError(f"{given!r} is none of {get_args(kind)}")


def _check_ids(ids: np.ndarray, *, num_nodes: int):
    if ids.dtype.kind not in "iu":
        raise InputError(f"node ids are {ids.dtype}; give integers")
    if len(ids) and not 0 <= ids.min() <= ids.max() < num_nodes:
        raise InputError(
            f"node ids {ids.min()} to {ids.max()} are not within 0..{num_nodes - 1}"
        )


def _checked_sessions(items, offsets, *, num_nodes: int):
    items, offsets = np.asarray(items), np.asarray(offsets, np.int64)
    _check_ids(items, num_nodes=num_nodes)
    whole = len(offsets) and offsets[0] == 0 and offsets[-1] == len(items)
    if not whole or (np.diff(offsets) < 0).any():
        raise InputError(f"offsets do not rise from 0 to the {len(items):,} events")
    return items, offsets
