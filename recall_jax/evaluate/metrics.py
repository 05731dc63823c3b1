"""How good rankings are: pure functions of ranks, in NumPy float64.

Axes beyond those of `types.py`: t targets of a query, r items that an index returned,
one more than the largest k of interest. Ranks are positions in the list, from 0. Values
are per query, so that they can be averaged by segment and resampled.
"""

import difflib
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float64, Int, Int32

from recall_jax.types import InputError

MISS = int(np.iinfo(np.int32).max)
"""The rank of a target that was not found: beyond every k."""
_DRAWS = 1 << 18  # of the bootstrap, at a time: what stays in a CPU's cache
_KEPT_DRAWS = 1 << 23  # a size of so many at most is kept, 16 MB, of eight

Ids = Int[np.ndarray, "q r"]
Scores = Float[np.ndarray, "q r"]
Targets = Int[np.ndarray, "q t"]
Ranks = Int32[np.ndarray, "q t"]
Counts = Int[np.ndarray, "q"]
Values = Float64[np.ndarray, "q"]


def target_ranks(ids: Ids, scores: Scores, *, targets: Targets) -> Ranks:
    """Where each target stands in the list of its query; a tie goes against it.

    `ids` and `scores` are as an index returned them: scores falling, id -1 after the
    last candidate. `targets` are distinct within a query, -1 is padding. Of equal
    scores the targets come last. A target tied with the last score of a full list is
    a miss, for the index may have left out others like it. Raises
    `FloatingPointError` where a score is NaN.

    >>> ids, scores = np.array([[7, 3, 5]]), np.array([[2.0, 2.0, 1.0]])
    >>> target_ranks(ids, scores, targets=np.array([[7]]))
    array([[1]], dtype=int32)
    """
    _check_lists(ids, scores)
    scores = np.where(ids == -1, -np.inf, scores)  # so that no target ties with them
    place = _place(ids, targets)
    is_listed = place >= 0
    is_target = np.zeros(ids.shape, bool)
    queries = np.broadcast_to(np.arange(len(ids))[:, None], targets.shape)
    is_target[queries[is_listed], place[is_listed]] = True
    ranks = np.take_along_axis(_pessimistic_ranks(scores, is_target), place, axis=1)
    tied = np.take_along_axis(scores, place, axis=1) == scores[:, -1:]
    return np.where(is_listed & ~tied, ranks, MISS).astype(np.int32)


def _check_lists(ids, scores):
    is_nan = np.isnan(scores)
    if is_nan.any():
        raise FloatingPointError(
            f"{is_nan.sum()} scores are NaN, the first of query "
            f"{is_nan.any(axis=1).argmax()}; did the training diverge?"
        )
    rising = (scores[:, 1:] > scores[:, :-1]).any(axis=1)
    if ids.shape != scores.shape or rising.any():
        raise InputError(
            f"ids {list(ids.shape)} and scores {list(scores.shape)} should have one "
            f"shape and scores fall; they rise in {rising.sum()} queries"
        )


def _place(ids, targets):
    """The column of `ids` that holds each target, or -1."""
    queries = np.arange(len(ids))[:, None]
    base = max(int(ids.max(initial=0)), int(targets.max(initial=0))) + 2
    listed = (queries * base + ids + 1).ravel()  # one number for query and id
    wanted = queries * base + targets + 1
    codes = np.sort(wanted[targets >= 0])
    if (codes[1:] == codes[:-1]).any():
        raise InputError("a target stands twice in its query; keep distinct ones")
    order = np.argsort(listed)
    nearest = np.minimum(np.searchsorted(listed, wanted, sorter=order), len(order) - 1)
    at = order[nearest]
    return np.where((listed[at] == wanted) & (targets >= 0), at % ids.shape[1], -1)


def _pessimistic_ranks(scores, is_target):
    """Positions [q, r] after targets moved behind all others of the same score."""
    step = np.zeros(scores.shape, np.int64)
    step[:, 1:] = scores[:, 1:] != scores[:, :-1]
    order = np.argsort(2 * step.cumsum(axis=1) + is_target, axis=1, kind="stable")
    return np.argsort(order, axis=1)


def hit_rate_at_k(ranks: Ranks, *, k: int) -> Values:
    """1 if any target is among the first k, else 0.

    >>> hit_rate_at_k(np.array([[2, MISS], [5, 3]], np.int32), k=3)
    array([1., 0.])
    """
    return (ranks < k).any(axis=1).astype(np.float64)


def recall_at_k(ranks: Ranks, *, k: int, num_relevant: Counts) -> Values:
    """Targets among the first k / relevant items.

    >>> recall_at_k(np.array([[0, 4]], np.int32), k=3, num_relevant=np.array([4]))
    array([0.25])
    """
    return (ranks < k).sum(axis=1) / _relevant(num_relevant)


def precision_at_k(ranks: Ranks, *, k: int) -> Values:
    """Targets among the first k / k.

    >>> precision_at_k(np.array([[0, 1, MISS]], np.int32), k=4)
    array([0.5])
    """
    return (ranks < k).sum(axis=1) / k


def ndcg_at_k(ranks: Ranks, *, k: int, num_relevant: Counts) -> Values:
    """Discounted gain / that of an ideal list, whose first min(k, relevant) are all hits.

    sum over targets with rank < k of 1 / log2(rank + 2), over the same sum for the
    ranks 0 .. min(k, relevant) - 1. (Järvelin and Kekäläinen, 2002; binary gain)

    >>> ndcg_at_k(np.array([[2]], np.int32), k=10, num_relevant=np.array([1]))
    array([0.5])
    """
    discount = 1 / np.log2(np.arange(k) + 2)
    gains = np.append(discount, 0.0)[np.minimum(ranks, k)].sum(axis=1)
    return gains / np.cumsum(discount)[np.minimum(_relevant(num_relevant), k) - 1]


def mrr_at_k(ranks: Ranks, *, k: int) -> Values:
    """1 / (1 + the best rank), 0 from rank k on.

    >>> mrr_at_k(np.array([[3, 1], [7, 9]], np.int32), k=5)
    array([0.5, 0. ])
    """
    best = ranks.min(axis=1, initial=MISS).astype(np.float64)
    return np.where(best < k, 1 / (best + 1), 0.0)


def map_at_k(ranks: Ranks, *, k: int, num_relevant: Counts) -> Values:
    """Precision at the place of each hit among the first k, summed, / min(k, relevant).

    >>> map_at_k(np.array([[0, 3]], np.int32), k=5, num_relevant=np.array([2]))
    array([0.75])
    """
    ranks = np.sort(ranks, axis=1).astype(np.float64)
    precision = (np.arange(ranks.shape[1]) + 1) / (ranks + 1)
    total = np.where(ranks < k, precision, 0.0).sum(axis=1)
    return total / np.minimum(_relevant(num_relevant), k)


def _relevant(num_relevant):
    if len(num_relevant) and num_relevant.min() < 1:
        raise InputError(
            f"query {num_relevant.argmin()} has {num_relevant.min()} relevant items; "
            "leave such queries out, their recall is 0 / 0"
        )
    return num_relevant


def auc(positive: Float[np.ndarray, "p"], negative: Float[np.ndarray, "n"]) -> float:
    """How often a positive link scores above a negative one; ties count half.

    >>> auc(np.array([3.0, 1.0]), np.array([1.0, 0.0]))
    0.875
    """
    if not (len(positive) and len(negative)):
        raise InputError(f"AUC of {len(positive)} positives, {len(negative)} negatives")
    if np.isnan(positive).any() or np.isnan(negative).any():
        raise FloatingPointError("scores of links are NaN; did the training diverge?")
    negative = np.sort(negative)
    below = np.searchsorted(negative, positive, side="left")
    up_to = np.searchsorted(negative, positive, side="right")
    return float((below + up_to).mean() / (2 * len(negative)))


def coverage_at_k(ids: Ids, *, k: int, num_items: int) -> float:
    """Distinct items among the first k of all lists / items of the catalogue.

    >>> coverage_at_k(np.array([[0, 1], [0, 2]]), k=2, num_items=6)
    0.5
    """
    return float((_exposures(ids, k=k, num_items=num_items) > 0).mean())


def average_popularity_rank(ids: Ids, *, k: int) -> float:
    """Mean popularity rank of what stands among the first k, 0 the most popular item.

    `ids` are ordered by popularity, so an id is its rank. NaN if nothing was returned.

    >>> average_popularity_rank(np.array([[0, 4], [5, -1]]), k=2)
    3.0
    """
    shown = ids[:, :k][ids[:, :k] >= 0]
    return float(shown.mean(dtype=np.float64)) if len(shown) else float("nan")


def gini_at_k(ids: Ids, *, k: int, num_items: int) -> float:
    """Inequality of how often items stand among the first k: 0 if all equally often.

    sum over items in order of rising count x, i = 1..V, of (2 i - V - 1) x_i, over
    V sum x; 1 - 1/V if one item takes every place. NaN if nothing was returned.

    >>> gini_at_k(np.array([[3], [3], [3]]), k=1, num_items=4)
    0.75
    """
    counts = np.sort(_exposures(ids, k=k, num_items=num_items)).astype(np.float64)
    weight = 2 * np.arange(1, num_items + 1) - num_items - 1
    total = counts.sum()
    return float(weight @ counts / (num_items * total)) if total else float("nan")


def list_table(ids: Ids, *, k: int, num_items: int) -> dict[str, float]:
    """Of the first k of all lists, by name: coverage, average popularity rank, Gini.

    >>> list_table(np.array([[3], [3], [1]]), k=1, num_items=4)["coverage"]
    0.5
    """
    return {
        "coverage": coverage_at_k(ids, k=k, num_items=num_items),
        "popularity_rank": average_popularity_rank(ids, k=k),
        "gini": gini_at_k(ids, k=k, num_items=num_items),
    }


def _exposures(ids, *, k, num_items):
    """How often each item stands among the first k."""
    shown = ids[:, :k][ids[:, :k] >= 0]
    if len(shown) and shown.max() >= num_items:
        raise InputError(f"id {shown.max()} is not within 0..{num_items - 1}")
    return np.bincount(shown, minlength=num_items)


def bootstrap_interval(
    values: Float[np.ndarray, "q *m"],
    *,
    seed: int = 0,
    samples: int = 1000,
    level: float = 0.95,
) -> tuple[float | np.ndarray, float | np.ndarray]:
    """Bounds (low, high) of the mean over queries, resampled with replacement.

    Percentiles of `samples` means. Several columns of values share their samples and
    cost little more than one. (Efron, 1979)

    >>> low, high = bootstrap_interval(np.array([0.0, 1.0] * 50))
    >>> bool(0.38 < low < 0.42 and 0.58 < high < 0.62)
    True
    """
    if not len(values):
        raise InputError("an interval over no queries; the part or segment is empty")
    if np.isnan(values).any():
        raise FloatingPointError(f"{np.isnan(values).sum()} values are not numbers")
    total = len(values)
    draws = _kept_draws if samples * total <= _KEPT_DRAWS else _draws
    blocks = draws(total, seed=seed, samples=samples)
    means = [times.astype(np.float64) @ values / total for times in blocks]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high


def _draws(total: int, *, seed: int, samples: int) -> Iterator[np.ndarray]:
    """How often each resample of `total` queries has each, in blocks of resamples."""
    generator = np.random.default_rng(seed)
    block = max(1, _DRAWS // total)
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = generator.integers(total, size=(size, total), dtype=np.int32)
        drawn += np.arange(size, dtype=np.int32)[:, None] * np.int32(total)
        yield np.bincount(drawn.ravel(), minlength=size * total).reshape(size, total)


@functools.lru_cache(maxsize=8)
def _kept_draws(total: int, *, seed: int, samples: int) -> list[np.ndarray]:
    """The same, drawn once: a run's rows are of the same queries, which cost less to
    count again than to draw."""
    return [
        times.astype(np.uint16) for times in _draws(total, seed=seed, samples=samples)
    ]


_OF_RANKS = {"hr": hit_rate_at_k, "precision": precision_at_k, "mrr": mrr_at_k}
_OF_RELEVANT = {"recall": recall_at_k, "ndcg": ndcg_at_k, "map": map_at_k}


def parse(name: str) -> tuple[str, int]:
    """The kind and the k of a metric's name; raises `InputError` for another name.

    >>> parse("ndcg@10")
    ('ndcg', 10)
    """
    kinds = [*_OF_RANKS, *_OF_RELEVANT]
    kind, _, digits = name.partition("@")
    k = int(digits) if digits.isdecimal() else 0
    if kind in kinds and k:
        return kind, k
    nearest = difflib.get_close_matches(kind.lower(), kinds, n=1, cutoff=0.0)[0]
    raise InputError(
        f"unknown metric {name!r}; did you mean {nearest}@{k or 10}? "
        f"There are {', '.join(kinds)}, each with @k"
    )


def metric_table(
    ranks: Ranks, num_relevant: Counts, names: Sequence[str]
) -> dict[str, Values]:
    """Per-query values of each metric by name, as `parse` knows it.

    >>> ranks = np.array([[2]], np.int32)
    >>> metric_table(ranks, np.array([1]), ["hr@10", "ndcg@10"])
    {'hr@10': array([1.]), 'ndcg@10': array([0.5])}
    """
    table = {}
    for name in names:
        kind, k = parse(name)
        if kind in _OF_RANKS:
            table[name] = _OF_RANKS[kind](ranks, k=k)
        else:
            table[name] = _OF_RELEVANT[kind](ranks, k=k, num_relevant=num_relevant)
    return table
