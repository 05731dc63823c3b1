"""What a model must beat before it is worth reading about: counts, no training."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import linalg, sparse

from recall_jax.data import log
from recall_jax.data.log import ranges
from recall_jax.data.prepared import Data, Part
from recall_jax.data.sources import synthetic
from recall_jax.evaluate import measure
from recall_jax.evaluate.measure import Search
from recall_jax.index import search as search_lib

BLOCK = 1 << 22  # scores held at a time


def popularity(data: Data, part: Part) -> Search:
    """The items with the most training events, the same list for everybody."""
    score = data.popularity[1:].astype(np.int64)
    return dense_search(lambda rows: np.tile(score, (len(rows), 1)), part=part)


def bigram(data: Data, part: Part) -> Search:
    """What followed the last item most often in training, then training popularity.

    Scores are integers, count * (P + 1) + popularity with P the largest popularity, so
    that neither swallows the other.
    """
    num_items, popularity = data.dataset.num_items, data.popularity[1:].astype(np.int64)
    starts, pairs, counts = _followers(data)
    some = part.start > data.offsets[part.user]
    last = np.where(some, data.items[np.maximum(part.start - 1, 0)], 0)
    weight = popularity.max() + 1

    def score(rows: np.ndarray) -> np.ndarray:
        block = np.tile(popularity, (len(rows), 1))
        begin, stop = starts[last[rows]], starts[last[rows] + 1]
        row = np.repeat(np.arange(len(rows)), stop - begin)
        index = ranges(begin, stop)
        block[row, pairs[index] % num_items] += weight * counts[index]
        return block

    return dense_search(score, part=part)


def penultimate(data: Data, part: Part) -> Search:
    """The items that stand most often right before a target, then those of most
    training events, the same list for everybody: where it beats popularity, the order
    of the log is at work and no taste. Scores are integers, as a bigram's."""
    popularity = data.popularity[1:].astype(np.int64)
    some = part.start > data.offsets[part.user]
    before = data.items[part.start[some] - 1]
    count = np.bincount(before, minlength=data.dataset.num_items + 1)[1:]
    score = (popularity.max() + 1) * count + popularity
    return dense_search(lambda rows: np.tile(score, (len(rows), 1)), part=part)


def oracle(config: log.Config, data: Data, part: Part) -> Search | None:
    """The true ranking of a synthetic log: nobody who does not know the generator can
    beat it. None of other logs, and where it does not know what the last event was:
    under other protocols than leave_one_out, and with filters."""
    if (
        not isinstance(config, synthetic.Config)
        or config.protocol != "leave_one_out"
        or config.min_user_events + config.min_item_events
    ):
        return None
    truth = synthetic.generate(config).oracle
    from_end = 1 if part is data.test else 2

    def score(rows: np.ndarray) -> np.ndarray:
        users = data.user_codes[part.user[rows] - 1]
        return truth.scores(users, from_end=from_end)[:, data.item_codes]

    return dense_search(score, part=part)


def _followers(data: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training pairs (item, next item), coded item * V + (next - 1), sorted, with their
    counts, and where each item's begin [V + 2]."""
    num_items = data.dataset.num_items
    begin, stop = data.offsets[1:-1], data.train_stop[1:]
    first = ranges(begin, np.maximum(stop - 1, begin))
    codes = data.items[first].astype(np.int64) * num_items + data.items[first + 1] - 1
    pairs, counts = np.unique(codes, return_counts=True)
    starts = np.searchsorted(pairs, np.arange(num_items + 2) * num_items)
    return starts, pairs, counts


def dense_search(score: Callable[[np.ndarray], np.ndarray], *, part: Part) -> Search:
    """A `Search` over scores [rows, V] of query positions, a block at a time.

    Integers are compared as such. Raises `FloatingPointError` where a score is NaN.
    """

    def search(k: int, exclude: search_lib.Exclude | None) -> search_lib.Found:
        size = max(1, BLOCK // score(np.arange(1)).shape[1])
        blocks = [
            _top(score(rows), rows, k=k, exclude=exclude)
            for rows in np.array_split(
                np.arange(len(part)), max(1, -(-len(part) // size))
            )
        ]
        ids, scores = (np.concatenate(x) for x in zip(*blocks, strict=True))
        return search_lib.Found(ids, scores)

    return search


def _top(
    scores: np.ndarray,
    rows: np.ndarray,
    *,
    k: int,
    exclude: search_lib.Exclude | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each row, excluded ones as id -1.

    Which of equals stands at the cut-off is open; pessimistic ranks do not depend on it.
    """
    _check_scores(scores)
    kind = scores.dtype
    gone = -np.inf if kind.kind == "f" else -np.iinfo(kind).max
    if exclude is not None:
        begin, stop = exclude.offsets[rows[0]], exclude.offsets[rows[-1] + 1]
        lengths = np.diff(exclude.offsets[rows[0] : rows[-1] + 2])
        scores[np.repeat(np.arange(len(rows)), lengths), exclude.ids[begin:stop]] = gone
    kept = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    kept.sort(axis=1)  # equals by the lower id
    values = np.take_along_axis(scores, kept, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    ids, values = (np.take_along_axis(x, order, 1) for x in (kept, values))
    return (
        np.where(values == gone, -1, ids).astype(np.int32),
        np.where(values == gone, -np.inf, values.astype(np.float64)),
    )


def _check_scores(scores: np.ndarray) -> None:
    if np.isnan(scores.max()):  # which a partition would put last, where nobody looks
        raise FloatingPointError(f"{np.isnan(scores).sum()} scores are NaN")


MAX_ITEMS = 10_000  # about 25 V^2 bytes are held at a time, here 2.5 GB
NUM_NEIGHBOURS = 100
L2 = (100.0, 300.0, 1000.0)  # EASE's choices
MATRIX_BLOCK = 1 << 22  # numbers of a matrix worked on at a time

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
    config: measure.EvaluateConfig,
    l2: float | None = None,
) -> tuple[dict[str, measure.Search], float]:
    """Searches of a part by name, and EASE's l2, chosen on validation unless given."""
    counts = cooccurrence(data)
    near = knn_weights(counts, num_neighbours=NUM_NEIGHBOURS)
    if l2 is None:
        ease = choose_ease(counts, data=data, config=config)
    else:
        ease = Ease(l2, ease_weights(counts, l2=l2))
    rows = {"item_knn": near, "ease": ease.weights}
    searches = {name: make_item_search(rows[name], data, part) for name in rows}
    return searches, ease.l2


def choose_ease(
    counts: np.ndarray, *, data: Data, config: measure.EvaluateConfig
) -> Ease:
    """EASE with the l2 of `L2` whose config.select_by is best on the validation part."""
    config = measure.over_all(config)
    config = dataclasses.replace(config, metrics=(config.select_by,))

    def figure(ease: Ease) -> float:
        search = make_item_search(ease.weights, data, data.valid)
        measured = measure.measure_search(
            search, data=data, part=data.valid, config=config
        )
        return measured.means()[config.select_by]

    return max((Ease(l2, ease_weights(counts, l2=l2)) for l2 in L2), key=figure)


def make_item_search(weights: Weights, data: Data, part: Part) -> measure.Search:
    """A `Search` by weights, for histories of all events before a part's targets."""

    def score(rows: np.ndarray) -> np.ndarray:
        scores = _item_sets(data, part.user[rows], part.start[rows]) @ weights
        return scores.toarray() if sparse.issparse(scores) else scores

    return dense_search(score, part=part)


def cooccurrence(data: Data) -> np.ndarray:
    """X^T X, float32 [V, V]: the users whose training part holds both items."""
    met = _item_sets(data, np.arange(1, len(data.train_stop)), data.train_stop[1:])
    by_item, num_items = met.T.tocsr(), data.dataset.num_items
    counts = np.empty((num_items, num_items), np.float32)
    for rows in _matrix_blocks(num_items):
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
    for rows in _matrix_blocks(num_items):
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


def _matrix_blocks(num_items: int) -> list[slice]:
    """Rows of a matrix [V, V], a block at a time."""
    size = max(1, MATRIX_BLOCK // num_items)
    return [slice(start, start + size) for start in range(0, num_items, size)]
