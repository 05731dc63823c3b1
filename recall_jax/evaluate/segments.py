"""Metrics by segment: who asks, and how popular what he looks for is.

A segment is a choice of targets. A query belongs to it if it has such a target, and is
measured by these alone: the others count neither as relevant nor as found, while the list
stays the one that was searched for all. So one search serves every grouping. Of queries
with one target each a grouping is a partition of the queries; of a query with many, the
targets of head, torso, tail and new are measured apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from recall_jax.data.prepared import Data, Part
from recall_jax.evaluate import measure, metrics

ACTIVITY = ("light", "medium", "heavy")
POPULARITY = ("head", "torso", "tail", "new")

Positions = Int[np.ndarray, "q t"]


class Segment(NamedTuple):
    """Some of the targets of a part, and in words which."""

    name: str
    description: str
    targets: Bool[np.ndarray, "q t"]


def of_part(data: Data, part: Part) -> dict[str, list[Segment]]:
    """The segments of a part's targets by grouping, those without any left out."""
    positions = measure.targets(data, part, seen=False).positions
    lengths = part.start - data.offsets[part.user]
    return {
        "activity": by_activity(positions, lengths=lengths),
        "popularity": by_popularity(positions, popularity=data.popularity[1:]),
    }


def by_activity(
    positions: Positions, *, lengths: Int[np.ndarray, "q"]
) -> list[Segment]:
    """Thirds of the queries by the length of their history: light, medium, heavy.

    Histories of one length stay together, in the lower third that one of them is in, so
    that thirds may differ in size.

    >>> lengths = np.array([2, 2, 2, 5, 5, 9])
    >>> [s.description for s in by_activity(np.zeros((6, 1), int), lengths=lengths)]
    ['history of 2 events', 'history of 5 events', 'history of 9 events']
    """
    total = len(lengths)
    last = [-(-total * third // 3) - 1 for third in (1, 2)]
    kind = np.searchsorted(np.sort(lengths)[last], lengths)
    segments = []
    for code, name in enumerate(ACTIVITY):
        inside = kind == code
        if inside.any():
            description = f"history of {_span(lengths[inside])} events"
            segments.append(
                Segment(name, description, (positions >= 0) & inside[:, None])
            )
    return segments


def by_popularity(
    positions: Positions, *, popularity: Int[np.ndarray, "V"]
) -> list[Segment]:
    """Head, torso and tail, which hold a third of the training events each; and new.

    `popularity` is the number of training events of each item, falling. Head is the
    fewest items that hold a third of the events, torso with it the fewest that hold two
    thirds, tail all others that have any, new the items without.

    >>> popularity = np.array([4, 2, 2, 1, 1, 1, 1, 0])
    >>> targets = np.arange(8)[:, None]
    >>> [s.description for s in by_popularity(targets, popularity=popularity)][:2]
    ['1 item with 4 training events', '2 items with 2 training events']
    """
    before = np.cumsum(popularity) - popularity
    kind = np.where(popularity > 0, 3 * before // popularity.sum(), 3)
    of_target = np.where(positions >= 0, kind[positions], -1)
    segments = []
    for code, name in enumerate(POPULARITY):
        inside = of_target == code
        if inside.any():
            description = _items(popularity[kind == code])
            segments.append(Segment(name, description, inside))
    return segments


def segment_values(
    segment: Segment, ranks: metrics.Ranks, names: Sequence[str]
) -> dict[str, Float64[np.ndarray, "s"]]:
    """Each metric by name, of the queries that have a target in the segment."""
    queries = segment.targets.any(axis=1)
    inside = segment.targets[queries]
    ranks = np.where(inside, ranks[queries], metrics.MISS).astype(np.int32)
    return metrics.metric_table(ranks, inside.sum(axis=1), names)


def _items(popularity: np.ndarray) -> str:
    items = f"{len(popularity):,} item{'s' * (len(popularity) != 1)}"
    if not popularity.any():
        return f"{items} without training events"
    return f"{items} with {_span(popularity)} training events"


def _span(numbers: np.ndarray) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
