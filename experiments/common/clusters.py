"""Clusters of vectors, a flat map of them, and how well clusters agree with labels."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn import cluster as sklearn_cluster
from sklearn import exceptions, metrics

from recall_jax.types import InputError

RESTARTS = 4  # of which the tightest clusters are kept


class Clusters(NamedTuple):
    """`spread` is the mean squared distance of a row from its centre."""

    centres: Float[np.ndarray, "k d"]
    of: Int[np.ndarray, "n"]  # the cluster of each row, 0..k-1
    spread: float


def k_means(vectors: Float[np.ndarray, "n d"], k: int, *, seed: int) -> Clusters:
    """The tightest of a few starts, the largest cluster first; a seed gives the same
    again. Raises InputError for k outside 1..n."""
    n = len(vectors)
    if not 1 <= k <= n:
        raise InputError(f"{k} clusters of {n:,} vectors: choose 1 to {n:,}")
    model = sklearn_cluster.KMeans(k, n_init=RESTARTS, random_state=seed)
    with warnings.catch_warnings():  # of equal rows, some clusters stay empty
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        of = model.fit_predict(vectors)
    order = np.argsort(-np.bincount(of, minlength=k), kind="stable")
    place = np.argsort(order)
    return Clusters(model.cluster_centers_[order], place[of], model.inertia_ / n)


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
    table = metrics.cluster.contingency_matrix(labels, clusters)
    return float(table.max(axis=0).sum() / len(labels))


def normalized_mutual_information(clusters: np.ndarray, labels: np.ndarray) -> float:
    """2 I(cluster; label) / (H(cluster) + H(label)): 1 where each tells the other, 0
    where they are independent, and where there is but one of both. Many small clusters
    have some of it by chance."""
    if len(np.unique(clusters)) == len(np.unique(labels)) == 1:
        return 0.0
    return float(metrics.normalized_mutual_info_score(labels, clusters))


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
    _, labels = np.unique(labels, return_inverse=True)  # numbers shuffle faster
    chance = [measure(clusters, rng.permutation(labels)) for _ in range(shuffles)]
    return Agreement(measure(clusters, labels), float(np.mean(chance)), max(chance))
