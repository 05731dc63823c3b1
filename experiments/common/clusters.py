"""Clusters of vectors, a flat map of them, and how well clusters agree with labels."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from recall_jax.types import InputError, Key

BLOCK = 4096  # rows whose distances are in memory at a time
RESTARTS = 4  # of which the tightest clusters are kept
MOST_ROUNDS = 100


class Clusters(NamedTuple):
    """`spread` is the mean squared distance of a row from its centre."""

    centres: Float[Array, "k d"]
    of: Int[Array, "n"]  # the cluster of each row, 0..k-1
    spread: Float[Array, ""]


def k_means(vectors: Float[Array | np.ndarray, "n d"], k: int, *, seed: int):
    """The tightest `Clusters` of a few starts, the largest cluster first.

    Starts are k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's rounds until no
    centre moves. Sums are matrix products, not scatters, so that a seed gives the same
    clusters again on any device. Raises InputError for k outside 1..n.
    """
    n = len(vectors)
    if not 1 <= k <= n:
        raise InputError(f"{k} clusters of {n:,} vectors: choose 1 to {n:,}")
    size = min(BLOCK, n)
    padded = np.pad(np.asarray(vectors, np.float32), ((0, -n % size), (0, 0)))
    mask = np.arange(len(padded)) < n
    keys = jax.random.split(jax.random.key(seed), RESTARTS)
    clusters = _best_start(padded, mask, keys, k=k, size=size)
    order = jnp.argsort(-jnp.bincount(clusters.of[:n], length=k), stable=True)
    return Clusters(
        clusters.centres[order], jnp.argsort(order)[clusters.of[:n]], clusters.spread
    )


@functools.partial(jax.jit, static_argnames=("k", "size"))
@jax.default_matmul_precision("highest")
def _best_start(rows, mask, keys, *, k, size):
    def start(key):
        return _lloyd(rows, mask, _plus_plus(rows, mask, key, k=k), size=size)

    tried = jax.lax.map(start, keys)
    best = jnp.argmin(tried.spread)
    return jax.tree.map(lambda x: x[best], tried)


def _plus_plus(
    rows: Float[Array, "n d"], mask: Bool[Array, "n"], key: Key, *, k: int
) -> Float[Array, "k d"]:
    """Centres drawn among the rows, each by the squared distance from those before."""

    def draw(key, weight):
        at = jax.random.categorical(key, jnp.log(weight))
        return rows[at], jnp.square(rows - rows[at][None, :]).sum(axis=1)

    def add(j, carry):
        centres, nearest = carry
        # Where all rows are centres already (equal rows), any row will do.
        weight = jnp.where(nearest.max() > 0, nearest, mask.astype(jnp.float32))
        centre, distance = draw(jax.random.fold_in(key, j), weight)
        return centres.at[j].set(centre), jnp.minimum(nearest, distance)

    start = jnp.where(mask, jnp.inf, 0.0)
    first, distance = draw(key, mask.astype(jnp.float32))
    centres = jnp.zeros((k, rows.shape[1])).at[0].set(first)
    carry = centres, jnp.minimum(start, distance)
    return jax.lax.fori_loop(1, k, add, carry)[0]


def _lloyd(
    rows: Float[Array, "n d"],
    mask: Bool[Array, "n"],
    centres: Float[Array, "k d"],
    *,
    size: int,
) -> Clusters:
    blocks = rows.reshape(-1, size, rows.shape[1]), mask.reshape(-1, size)

    def assign(centres):
        """New centres, an empty cluster's where it was; clusters; spread."""

        def block(total, part):
            x, real = part
            away = jnp.square(centres).sum(axis=1)[None, :] - 2 * x @ centres.T
            of = jnp.argmin(away, axis=1)
            member = jax.nn.one_hot(of, len(centres)) * real[:, None]
            apart = jnp.where(real, away.min(axis=1) + jnp.square(x).sum(axis=1), 0)
            new = member.T @ x, member.sum(axis=0), apart.sum()
            return jax.tree.map(jnp.add, total, new), of

        zero = jnp.zeros_like(centres), jnp.zeros(len(centres)), jnp.zeros(())
        (sums, count, apart), of = jax.lax.scan(block, zero, blocks)
        mean = sums / jnp.maximum(count, 1)[:, None]
        moved = jnp.where(count[:, None] > 0, mean, centres)
        return moved, of.ravel(), apart / mask.sum()

    def moves(carry):
        turn, before, centres = carry
        return (turn < MOST_ROUNDS) & (before != centres).any()

    def again(carry):
        turn, _, centres = carry
        return turn + 1, centres, assign(centres)[0]

    start = 0, jnp.full_like(centres, jnp.inf), centres
    centres = jax.lax.while_loop(moves, again, start)[2]
    return Clusters(centres, *assign(centres)[1:])


class Flat(NamedTuple):
    """Rows in the plane, and the share of their variance that each axis holds."""

    at: Float[np.ndarray, "n 2"]
    share: Float[np.ndarray, "2"]


def principal_axes(vectors: Float[np.ndarray, "n d"]) -> Flat:
    """The two principal components of the rows, by a singular value decomposition; the
    side on which the farthest row lies is positive, so that no axis is mirrored."""
    centred = np.asarray(vectors, np.float64)
    centred = centred - centred.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    at = np.zeros((len(left), 2))
    width = min(2, len(size))
    at[:, :width] = (left * size)[:, :width]
    far = at[np.abs(at).argmax(axis=0), [0, 1]]
    share = np.zeros(2)
    share[:width] = size[:width] ** 2 / max((size**2).sum(), 1e-12)
    return Flat(at * np.where(far < 0, -1, 1), share)


def purity(clusters: Int[np.ndarray, "n"], labels: Int[np.ndarray, "n"]) -> float:
    """The share of rows whose label is the commonest of their cluster.

    >>> purity(np.array([0, 0, 0, 1]), np.array([5, 5, 6, 6]))
    0.75
    """
    return float(_table(clusters, labels).max(axis=1).sum() / len(labels))


def normalized_mutual_information(
    clusters: Int[np.ndarray, "n"], labels: Int[np.ndarray, "n"]
) -> float:
    """2 I(cluster; label) / (H(cluster) + H(label)): 1 where each tells the other, 0
    where they are independent, and where there is but one of both. Many small clusters
    have some of it by chance.

    >>> normalized_mutual_information(np.array([0, 0, 1, 1]), np.array([3, 3, 7, 7]))
    1.0
    """
    both = _table(clusters, labels) / len(labels)
    one, other = _entropy(both.sum(axis=1)), _entropy(both.sum(axis=0))
    if one + other == 0:
        return 0.0
    return float(2 * (one + other - _entropy(both.ravel())) / (one + other))


def _table(clusters, labels) -> Int[np.ndarray, "k l"]:
    """How many rows have each cluster and label."""
    cluster, label = (np.unique(x, return_inverse=True)[1] for x in (clusters, labels))
    counts = np.zeros((cluster.max() + 1, label.max() + 1), np.int64)
    np.add.at(counts, (cluster, label), 1)
    return counts


def _entropy(chances: Float[np.ndarray, "n"]) -> float:
    some = chances[chances > 0]
    return float(-(some * np.log(some)).sum())


class Agreement(NamedTuple):
    """A measure of clusters and labels, and what shuffled labels have of it."""

    value: float
    shuffled: float  # the mean
    most: float  # of the shuffles


def agreement(
    measure, clusters: np.ndarray, labels: np.ndarray, *, seed: int, shuffles: int = 20
) -> Agreement:
    """`purity` or `normalized_mutual_information`, beside shuffled labels."""
    rng = np.random.default_rng(seed)
    labels = np.unique(labels, return_inverse=True)[
        1
    ]  # numbers shuffle and sort faster
    chance = [measure(clusters, rng.permutation(labels)) for _ in range(shuffles)]
    return Agreement(measure(clusters, labels), float(np.mean(chance)), max(chance))
