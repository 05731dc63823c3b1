"""What people show in a synthetic log: reactions, searches, what they were shown."""

from typing import TYPE_CHECKING

import numpy as np

from recall_jax.data.interactions import Bag, Interactions

if TYPE_CHECKING:
    from recall_jax.data import synthetic

EXPOSURES_PER_EVENT = 0.5  # nearly
QUERY_SHARE = 0.4  # of sessions of two events or more
ACCIDENT_SHARE = 0.04  # of positive events, about
MAX_SHOWN = 4  # exposures after an event, a second each: less than the shortest pause


def make_log(
    config: "synthetic.Config", rng, items: "synthetic.Catalogue", *, users, walk
) -> Interactions:
    """Rows: every positive event, followed by what was shown after it."""
    after, passed_over = _exposures(config, rng, items, walk)
    source = np.append(np.arange(len(walk.user)), after)
    order = np.argsort(source, kind="stable")
    source, shown = source[order], order >= len(walk.user)
    item = np.append(walk.item, passed_over)[order]
    place = np.arange(len(source)) - np.searchsorted(source, source)
    seen = _reactions(config, rng, items, walk)
    queries = _searches(config, rng, items, walk)
    lengths = np.where(shown, 0, np.diff(queries.offsets)[source])
    events = {name: np.where(shown, 0, x[source]) for name, x in seen.items()}
    events["session"] = np.cumsum(walk.begins)[source]
    events["market"] = items.seen.columns["market"][item]
    events["query"] = Bag(queries.values, np.append(0, np.cumsum(lengths)))
    user, time = walk.user[source], walk.time[source] + place
    return Interactions(
        user, item, users, items.seen, time=time, events=events, source="synthetic"
    )


def _exposures(
    config: "synthetic.Config",
    rng,
    items: "synthetic.Catalogue",
    walk: "synthetic.Walk",
):
    """Events [e] and popular items [e] of their markets, born then and not yet met."""
    count = rng.poisson(EXPOSURES_PER_EVENT, len(walk.user))
    event = np.repeat(np.arange(len(count)), np.minimum(count, MAX_SHOWN))
    market, start = items.market[walk.item[event]], items.start
    weight = np.append(0, np.cumsum(np.exp(items.popularity, dtype=np.float64)))
    low, high = weight[start[market]], weight[start[market + 1]]
    item = np.searchsorted(weight, rng.uniform(low, high, (8, len(event)))) - 1
    row = walk.user * np.int64(len(items.market))
    met, key = row + walk.item, row[event] + item
    order = np.argsort(met)
    found = order[np.searchsorted(met, key, sorter=order) % len(met)]
    free = (met[found] != key) | (found > event)
    free &= items.birth_day[item] <= walk.day[event]
    item = item[free.argmax(axis=0), np.arange(len(event))]  # the first free of 8
    return event[free.any(axis=0)], item[free.any(axis=0)].astype(np.int32)


def _reactions(
    config: "synthetic.Config",
    rng,
    items: "synthetic.Catalogue",
    walk: "synthetic.Walk",
) -> dict:
    """What positive events show: all of it follows how well the item matched."""
    match = np.einsum("nd,nd->n", walk.wish, items.own[walk.item])
    match = (match - match.mean()) / (match.std() + 1e-6)
    size = len(match)
    # Careless taps fall more often on what is liked less.
    careless = rng.random(size) < 2 * ACCIDENT_SHARE
    careless &= rng.logistic(size=size) > match
    did = rng.logistic([0.5, 1.5, 2.5], size=(size, 3)) < match[:, None]
    did[careless] = False  # like, save, share
    eager = rng.normal(-0.5, 1.0, config.num_markets)[walk.intent]
    bought = rng.logistic(size=size) < match + eager
    bought &= np.append(walk.begins[1:], True) & ~careless
    bought &= items.market[walk.item] == walk.intent
    deepest = np.where(did, [2, 3, 4], 1).max(axis=1)
    dwell = np.exp(3.4 + 0.6 * match + 0.5 * rng.standard_normal(size))
    dwell = np.where(careless, rng.uniform(0.3, 2.0, size), dwell)
    return {
        "action": np.where(bought, 5, deepest),
        "grade": np.minimum(1 + did.sum(axis=1) + bought, 4),
        "dwell": dwell.astype(np.float32),
        "conversion": bought.astype(int),
    }


def _searches(
    config: "synthetic.Config",
    rng,
    items: "synthetic.Catalogue",
    walk: "synthetic.Walk",
) -> Bag:
    """1 to 3 of the intent's words, in some sessions, on their second event: there the
    oracle knows the intent anyway."""
    count = rng.integers(1, 4, len(walk.user))
    count *= np.append(False, walk.begins[:-1]) & ~walk.begins
    count *= rng.random(len(count)) < QUERY_SHARE
    words = items.words[np.repeat(walk.intent, count), np.arange(count.sum()) % 4]
    return Bag(words, np.append(0, np.cumsum(count)))
