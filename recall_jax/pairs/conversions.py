"""Where the item that a session converted in the end ranks, asked with what was clicked
so many events before (Grbovic and Cheng 2018, their offline comparison).

A conversion counts if its event is held out. The events before it in its session are
asked with whether they trained or not: they are what the session knew. Under
leave_one_out a user's last two events are held out, and the checkpoint was chosen on the
first of them. The query is the clicked item's vector, the candidates are all other items, or
those of the converted item's market; a click on that very item is passed over.
"""

from typing import Any, NamedTuple

import numpy as np

from recall_jax.data.prepared import Data
from recall_jax.models.itemwise import PairsConfig
from recall_jax.pairs import sequences

MOST_CLICKS = 10  # before a conversion
MOST_PAIRS = 50_000  # that are ranked; of more, a sample
BLOCK = 2**24  # scores at a time


class Clicks(NamedTuple):
    """Pairs of one session: an item met, and the one to find `ago` events later."""

    clicked: np.ndarray  # [n] int32 catalogue ids
    wanted: np.ndarray  # [n] int32 catalogue ids
    ago: np.ndarray  # [n] from 1


class Places(NamedTuple):
    """Where the wanted item stands among `among` candidates, itself one of them."""

    above: np.ndarray  # [n] candidates that score more
    tied: np.ndarray  # [n] others that score the same
    among: np.ndarray  # [n]

    def figures(self) -> dict[str, float]:
        """`mrr`, the mean of 1 / rank, and `rank`, the mean of (rank - 1) / (candidates -
        1): 0 the first, 1 the last. Ties count against the model."""
        behind = self.above + self.tied
        rank = behind / np.maximum(self.among - 1, 1)
        return {
            "pairs": len(behind),
            "mrr": float(np.mean(1 / (1 + behind))),
            "rank": float(rank.mean()),
        }

    def auc(self) -> np.ndarray:
        """[n] chance to score more than another candidate, ties half."""
        return 1 - (self.above + self.tied / 2) / np.maximum(self.among - 1, 1)

    def of(self, some: np.ndarray) -> "Places":
        return Places(*(x[some] for x in self))


def measure_conversions(vectors, data: Data, config: PairsConfig) -> dict[str, Any]:
    """Figures of the vectors [V, d] of catalogue ids 1..V, and of popularity beside them.

    `by_clicks` has those of each number of clicks before the conversion, where the log
    tells the order within a session, `all` of all together; *_in_market are among the
    items of the converted one's market. `ordering_in_market`: of two consecutive items
    of a session and one market, the second held out, the chance that the second scores
    more than another item of the market, asked with the first. Of what there is none of,
    the figures are missing.
    """
    sessions = sequences.sessions(data, config.sequences)
    held = held_out(data)
    booked = clicks_before(
        sessions, data, wanted=held & sessions.converted, most=MOST_CLICKS
    )
    after = clicks_before(sessions, data, wanted=held, most=1)
    market = _markets(data, config.market) if config.market else None
    popular = (1.0 + data.popularity[1:, None]).astype(np.float32)
    figures = {
        name: _measure(np.asarray(x), booked, after=after, market=market)
        for name, x in {"model": vectors, "popularity": popular}.items()
    }
    if not sessions.ordered:
        figures["model"].pop("by_clicks")
    figures["popularity"].pop("by_clicks")
    conversions = int(np.count_nonzero(held & sessions.converted))
    summary = {"conversions": conversions, "ordered": sessions.ordered}
    return {**summary, **figures["model"], "popularity": figures["popularity"]}


def _markets(data: Data, name: str) -> np.ndarray:
    """[V] numbers of markets. Those without training events share one id, so each of
    their items stands alone."""
    market = np.asarray(data.dataset.item_columns[name])[1:]
    unknown = market > data.vocabularies[name].known
    return np.where(unknown, -1 - np.arange(len(market)), market)


def _measure(
    vectors: np.ndarray, booked: Clicks, *, after: Clicks, market: np.ndarray | None
) -> dict[str, Any]:
    everywhere = places(vectors, booked)
    inside = None if market is None else places(vectors, booked, market=market)
    by_clicks = {
        str(ago): _figures(everywhere, inside, some=booked.ago == ago)
        for ago in np.unique(booked.ago).tolist()
    }
    every = np.ones(len(booked.ago), bool)
    figures = {"by_clicks": by_clicks, "all": _figures(everywhere, inside, some=every)}
    if market is not None:
        figures["ordering_in_market"] = _ordering(vectors, after, market=market)
    return figures


def _figures(everywhere: Places, inside: Places | None, *, some: np.ndarray) -> dict:
    figures = everywhere.of(some).figures() if some.any() else {}
    if inside is not None and (some & (inside.among > 1)).any():
        market_figures = inside.of(some & (inside.among > 1)).figures()
        figures |= {
            f"{name}_in_market": value for name, value in market_figures.items()
        }
    return figures


def _ordering(vectors: np.ndarray, after: Clicks, *, market: np.ndarray) -> dict:
    same = market[after.clicked - 1] == market[after.wanted - 1]
    ranks = places(vectors, Clicks(*(x[same] for x in after)), market=market)
    value = ranks.auc()[ranks.among > 1]
    return {"pairs": len(value), "auc": float(value.mean())} if len(value) else {}


def held_out(data: Data) -> np.ndarray:
    """A mask of the flat events that do not train."""
    user = np.repeat(np.arange(len(data.train_stop)), np.diff(data.offsets))
    return np.arange(len(data.items)) >= data.train_stop[user]


def clicks_before(
    sessions: sequences.Sessions, data: Data, *, wanted: np.ndarray, most: int
) -> Clicks:
    """Up to `most` events before each flat event of the mask `wanted`, in its session;
    without those of the same item."""
    session, target = np.cumsum(sessions.begins), np.flatnonzero(wanted[sessions.at])
    items, parts = data.items[sessions.at], []
    for ago in range(1, most + 1):
        position = target[target >= ago]
        position = position[session[position] == session[position - ago]]
        position = position[items[position] != items[position - ago]]
        parts.append(
            (items[position - ago], items[position], np.full(len(position), ago))
        )
    pairs = Clicks(*map(np.concatenate, zip(*parts)))
    if len(pairs.ago) <= MOST_PAIRS:
        return pairs
    some = np.random.default_rng(0).choice(len(pairs.ago), MOST_PAIRS, replace=False)
    return Clicks(*(x[np.sort(some)] for x in pairs))


def places(
    vectors: np.ndarray, pairs: Clicks, *, market: np.ndarray | None = None
) -> Places:
    """By inner product with the clicked item's vector, among all items but that one; with
    `market` [V], among those of the wanted item's market."""
    size = max(1, BLOCK // len(vectors))
    parts = [
        _places(vectors, Clicks(*(x[at : at + size] for x in pairs)), market=market)
        for at in range(0, max(len(pairs.ago), 1), size)
    ]
    return Places(*map(np.concatenate, zip(*parts)))


def _places(vectors: np.ndarray, pairs: Clicks, *, market: np.ndarray | None) -> Places:
    row, clicked, wanted = (
        np.arange(len(pairs.ago)),
        pairs.clicked - 1,
        pairs.wanted - 1,
    )
    scores = vectors[clicked] @ vectors.T
    where = np.ones(scores.shape, bool)
    if market is not None:
        where = market[wanted][:, None] == market
    where[row, clicked] = False
    target = scores[row, wanted][:, None]
    above = np.count_nonzero(where & (scores > target), axis=1)
    tied = np.count_nonzero(where & (scores == target), axis=1) - 1
    return Places(above, tied, np.count_nonzero(where, axis=1))
