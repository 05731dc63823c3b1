"""Sampled metrics: a target ranked among a few drawn items, not among all there are.

Much of the literature reports them, and they mislead: of N items a target behind r others
stands, among n drawn uniformly, behind a hypergeometric number of them, n r / (N - 1) on
average. So hr@10 among 100 is hr@350 or so among 3,500, and which of two models is better
may turn (Krichene and Rendle 2020). They are here to read such figures, and for nothing
else: a checkpoint is always chosen with the whole catalogue ranked.
"""

from collections.abc import Sequence

import numpy as np

from recall_jax.index import search
from recall_jax.types import InputError

KINDS = {
    "sampled_uniform": "uniformly",
    "sampled_popularity": "by their training events",
}
MAX_PAIRS = 1 << 28  # of query and item: the gigabyte that their exclusions fill
BLOCK = 1 << 22  # of them at a time


def check(
    kind: str,
    *,
    k: int,
    num: int,
    num_queries: int,
    num_items: int,
    indexes: Sequence[str],
) -> None:
    """Raise InputError for a k that counts everything, an index that is not exact, too many pairs of query and item. "all" samples nothing."""
    if kind == "all":
        return
    if k > num:
        raise InputError(
            f"evaluate.metrics asks for k={k}, and every target is among the first k of "
            f"{num} others; raise --config.evaluate.num_candidates"
        )
    if set(indexes) != {"exact"}:
        raise InputError(
            "an index over the whole catalogue has nothing to say about sampled metrics; "
            "set --config.evaluate.index=exact --config.evaluate.indexes="
        )
    if num_queries * num_items > MAX_PAIRS:
        raise InputError(
            f"evaluate.candidates={kind} notes which of {num_items:,} items each of "
            f"{num_queries:,} queries leaves out, more than {MAX_PAIRS:,} in all; set "
            "--config.evaluate.candidates=all"
        )


def described(kind: str, num: int, seed: int) -> str:
    """What is ranked, for people."""
    if kind == "all":
        return "whole catalogue ranked"
    return (
        f"SAMPLED METRICS, targets ranked among {num} other items drawn {KINDS[kind]} by "
        f"seed {seed}: no figure over a whole catalogue compares with them"
    )


def only_drawn(
    positions: np.ndarray,
    *,
    popularity: np.ndarray,
    seen: search.Exclude | None,
    kind: str,
    num: int,
    seed: int,
) -> search.Exclude:
    """Leaves each query its targets and `num` other items, drawn without replacement.

    `positions` [q, t] are rows of the catalogue, -1 padding; `popularity` [V] the
    training events of each. Nothing is drawn that is `seen`, and by popularity nothing
    without training events; a query with fewer items than `num` left has them all. The
    draw depends on `seed` and the queries alone, so that all models meet the same items.
    """
    rng, num_items = np.random.default_rng([seed, len(positions)]), len(popularity)
    weight = np.ones(num_items) if kind == "sampled_uniform" else popularity
    lengths, ids = [], []
    for start in range(0, len(positions), size := max(1, BLOCK // num_items)):
        rows = np.arange(start, min(start + size, len(positions)))
        wait = _waiting_times(rng, weight, shape=(len(rows), num_items))
        row, column = _pairs(seen, rows)
        wait[row, column] = np.inf
        row, place = np.nonzero(positions[rows] >= 0)
        targets = row, positions[rows][row, place]
        wait[targets] = np.inf
        out = ~_first(wait, num=num)
        out[targets] = False
        lengths.append(out.sum(axis=1))
        ids.append(np.nonzero(out)[1].astype(np.int32))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return search.Exclude(offsets.astype(np.int64), np.concatenate(ids))


def _waiting_times(rng, weight: np.ndarray, *, shape: tuple[int, int]) -> np.ndarray:
    """Exponential with rate `weight`: the first to come are a draw by weight without
    replacement. Infinite where the weight is 0."""
    with np.errstate(divide="ignore"):
        return rng.standard_exponential(shape) / weight


def _pairs(seen: search.Exclude | None, rows: np.ndarray):
    """Row within the block and item of all that its queries have seen."""
    if seen is None:
        return np.zeros(0, int), np.zeros(0, int)
    offsets = seen.offsets[rows[0] : rows[-1] + 2]
    row = np.repeat(np.arange(len(rows)), np.diff(offsets))
    return row, seen.ids[offsets[0] : offsets[-1]]


def _first(wait: np.ndarray, *, num: int) -> np.ndarray:
    """Mask of the `num` least finite times of each row."""
    mask = np.isfinite(wait)
    if num < wait.shape[1]:
        later = np.argpartition(wait, num - 1, axis=1)[:, num:]
        np.put_along_axis(mask, later, False, axis=1)
    return mask
