"""What a model must beat before it is worth reading about: counts, no training."""

from collections.abc import Callable

import numpy as np

from recall_jax import retrieval
from recall_jax.data import interactions, synthetic
from recall_jax.data.dataset import Data, Part
from recall_jax.data.interactions import ranges
from recall_jax.evaluate import Search

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


def oracle(config: interactions.Config, data: Data, part: Part) -> Search | None:
    """The true ranking of a synthetic log: nobody who does not know the generator can
    beat it. None of other logs, and where it does not know what the last event was:
    under other protocols than leave_one_out, and with filters."""
    if (
        not isinstance(config, synthetic.Config)
        or config.protocol != "leave_one_out"
        or config.min_user_events + config.min_item_events
    ):
        return None
    truth = synthetic.generated(config).oracle
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

    def search(k: int, exclude: retrieval.Exclude | None) -> retrieval.Found:
        size = max(1, BLOCK // score(np.arange(1)).shape[1])
        found = [
            _top(score(rows), rows, k=k, exclude=exclude)
            for rows in np.array_split(
                np.arange(len(part)), max(1, -(-len(part) // size))
            )
        ]
        ids, scores = (np.concatenate(x) for x in zip(*found, strict=True))
        return retrieval.Found(ids, scores)

    return search


def _top(
    scores: np.ndarray,
    rows: np.ndarray,
    *,
    k: int,
    exclude: retrieval.Exclude | None,
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
