"""Baselines with one weight for a pair of items: item-kNN and EASE, no gradient steps.

Both take weights [V, V] from X [users, V], which is 1 where a user met an item in
training, and add them up over the history:

    score(user, j) = sum over distinct items i of his history of weights[i, j]

Neither the order of a history nor how often an item stands in it counts.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import linalg, sparse

from recall_jax import baselines, evaluate
from recall_jax.data.dataset import Data, Part
from recall_jax.data.interactions import ranges

MAX_ITEMS = 10_000  # about 25 V^2 bytes are held at a time, here 2.5 GB
NUM_NEIGHBOURS = 100
L2 = (100.0, 300.0, 1000.0)  # EASE's choices
BLOCK = 1 << 22  # numbers of a matrix worked on at a time

Weights = np.ndarray | sparse.csr_array  # float32 [V, V]


class Ease(NamedTuple):
    """Weights, and the l2 they were made with."""

    l2: float
    weights: np.ndarray


def fits(data: Data) -> bool:
    """Whether the log is in memory, and the catalogue small enough for weights of all
    pairs of items."""
    return data.log is None and data.dataset.num_items <= MAX_ITEMS


def item_knn_and_ease(
    data: Data,
    part: Part,
    *,
    config: evaluate.EvaluateConfig,
    l2: float | None = None,
) -> tuple[dict[str, evaluate.Search], float]:
    """Searches of a part by name, and EASE's l2, chosen on validation unless given."""
    counts = cooccurrence(data)
    near = knn_weights(counts, num_neighbours=NUM_NEIGHBOURS)
    if l2 is None:
        ease = choose_ease(counts, data=data, config=config)
    else:
        ease = Ease(l2, ease_weights(counts, l2=l2))
    rows = {"item_knn": near, "ease": ease.weights}
    searches = {name: make_search(rows[name], data, part) for name in rows}
    return searches, ease.l2


def choose_ease(
    counts: np.ndarray, *, data: Data, config: evaluate.EvaluateConfig
) -> Ease:
    """EASE with the l2 of `L2` whose config.select_by is best on the validation part."""
    config = evaluate.over_all(config)
    config = dataclasses.replace(config, metrics=(config.select_by,))

    def figure(ease: Ease) -> float:
        search = make_search(ease.weights, data, data.valid)
        measured = evaluate.measure(search, data=data, part=data.valid, config=config)
        return measured.means()[config.select_by]

    return max((Ease(l2, ease_weights(counts, l2=l2)) for l2 in L2), key=figure)


def make_search(weights: Weights, data: Data, part: Part) -> evaluate.Search:
    """A `Search` by weights, for histories of all events before a part's targets."""

    def score(rows: np.ndarray) -> np.ndarray:
        scores = _item_sets(data, part.user[rows], part.start[rows]) @ weights
        return scores.toarray() if sparse.issparse(scores) else scores

    return baselines.dense_search(score, part=part)


def cooccurrence(data: Data) -> np.ndarray:
    """X^T X, float32 [V, V]: the users whose training part holds both items."""
    met = _item_sets(data, np.arange(1, len(data.train_stop)), data.train_stop[1:])
    by_item, num_items = met.T.tocsr(), data.dataset.num_items
    counts = np.empty((num_items, num_items), np.float32)
    for rows in _blocks(num_items):
        counts[rows] = (by_item[rows] @ met).toarray()
    return counts


def knn_weights(counts: np.ndarray, *, num_neighbours: int) -> sparse.csr_array:
    """Cosines of columns of X, of each item with those most similar to it.

    weights[i, j] = counts[i, j] / sqrt(counts[i, i] * counts[j, j])

    where i is among the `num_neighbours` nearest of j or ties with the last of them, and
    is not j; 0 elsewhere. Takes X^T X. Sarwar et al. (2001).
    """
    num_items = len(counts)
    users = np.maximum(counts.diagonal(), 1, dtype=np.float64)
    kept = []
    for rows in _blocks(num_items):
        cosine = counts[rows] / np.sqrt(users[rows, None] * users)
        cosine = cosine.astype(np.float32)  # equals differ in float64's last digit
        cosine[np.arange(len(cosine)), np.arange(num_items)[rows]] = 0
        if num_neighbours < num_items:
            last = np.partition(cosine, -num_neighbours, axis=1)[:, -num_neighbours]
            cosine[cosine < last[:, None]] = 0
        kept.append(sparse.csr_array(cosine))
    return sparse.vstack(kept).T.tocsr()


def ease_weights(counts: np.ndarray, *, l2: float) -> np.ndarray:
    """The B of zero diagonal that minimises ||X - X B||^2 + l2 ||B||^2.

    B = I - P diag(1 / diag P), P = (X^T X + l2 I)^-1

    Takes X^T X and l2 > 0; P is computed in float64. Steck (2019).
    """
    gram = counts.astype(np.float64, order="F")
    gram[np.diag_indices_from(gram)] += l2
    factor, lower = linalg.cho_factor(gram, lower=True, overwrite_a=True)
    # Half the work and the memory of a general inverse; it fills one triangle.
    inverse, _ = linalg.lapack.dpotri(factor, lower=lower, overwrite_c=True)
    weights = np.tril(inverse.astype(np.float32), -1)
    weights += weights.T
    weights /= -inverse.diagonal().astype(np.float32)
    return weights


def _item_sets(data: Data, user: np.ndarray, stop: np.ndarray) -> sparse.csr_array:
    """Rows float32 [q, V]: 1 for the items of user[j]'s events before stop[j]."""
    begin = data.offsets[user]
    items = data.items[ranges(begin, stop)] - 1
    offsets = np.concatenate([[0], np.cumsum(stop - begin)])
    rows = sparse.csr_array(
        (np.ones(len(items), np.float32), items, offsets),
        shape=(len(user), data.dataset.num_items),
    )
    rows.sum_duplicates()
    rows.data[:] = 1
    return rows


def _blocks(num_items: int) -> list[slice]:
    """Rows of a matrix [V, V], a block at a time."""
    size = max(1, BLOCK // num_items)
    return [slice(start, start + size) for start in range(0, num_items, size)]
