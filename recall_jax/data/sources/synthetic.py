"""A log of any size from a seed, whose true ranking is known.

Items lie in markets. An item's vector is its market's centre plus its own part, made of
its kind, of the field its market heeds (brand in even markets, price in odd ones; the
other is random there) and of what no field tells. What a user wants drifts:

    wish = taste + recent + roll(own part of last)

`recent` is a moving average of items met; roll, which moves coordinates on by one, makes
b after a differ from a after b. A session has an intent, a market drawn by the wish. An
event stays in it with chance `session_stay`, else the wish draws its market anew; then,
over the market's items that are born and not yet met,

    P(item | market) ~ popularity(item) * exp(wish . own part of item)

Reactions, searches and exposures come after that and tell nothing of what follows that
the oracle does not know: no model beats `Oracle.scores` on average. A test holds the
parameters still; none is tuned for a model.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from recall_jax.data import log as log_lib
from recall_jax.data.log import Bag, Entities, Interactions
from recall_jax.types import InputError

ACTIONS = ("shown", "click", "like", "save", "share", "buy")  # names of action codes
START, DAY, SESSION_GAP = 1_577_836_800, 86_400, 3_600  # seconds; 2020-01-01 UTC
MIN_EVENTS = 5  # positive ones of a user
KINDS, BRANDS, PRICES, TAGS, NOISES, REGIONS, DEVICES = 6, 60, 10, 40, 20, 8, 4
SESSION_LENGTH = 5.0  # mean number of positive events
ACTIVITY_SPREAD = 0.9  # deviation of the logarithm of events per user
DRIFT_RATE = 0.1  # share of `recent` that each event replaces
NEW_ITEM_SHARE = 0.15  # born while the log runs
EXPOSURES_PER_EVENT = 0.5  # nearly
QUERY_SHARE = 0.4  # of sessions of two events or more
ACCIDENT_SHARE = 0.04  # of positive events, about
MAX_SHOWN = 4  # exposures after an event, a second each: less than the shortest pause
BLOCK = 2**28  # users * items drawn together; bounds the memory


@dataclasses.dataclass(unsafe_hash=True)
class Config(log_lib.Config):
    """Sizes and habits; those that no test varies are constants."""

    num_users: int = 6_000
    num_items: int = 2_400
    num_events: int = 240_000  # positive ones, nearly
    seed: int = 0
    num_markets: int = 24  # an event costs about num_markets + 2 items / num_markets
    latent_width: int = 12
    session_stay: float = 0.75
    max_events_per_user: int = 200  # or a third of the items, where that is less
    span_days: int = 90
    tokens: str = dataclasses.field(default="query", kw_only=True)

    def most_events(self) -> int:
        """Of one user, who must never run out of items (half may be yet unborn)."""
        return min(self.max_events_per_user, self.num_items // 3)

    def load(self) -> Interactions:
        """The positives, exposures apart; `generate(config).log` has both together."""
        log = generate(self).log
        shown = log.events["action"] == 0
        return dataclasses.replace(log.select(~shown), shown=log.select(shown))


class Catalogue(NamedTuple):
    """The truth about items. Codes go by market: m holds start[m]:start[m + 1]."""

    seen: Entities
    start: np.ndarray  # [markets + 1]
    market: np.ndarray  # [items]
    centre: np.ndarray  # [markets, d]
    own: np.ndarray  # [items, d]
    popularity: np.ndarray  # [items] logarithm
    birth_day: np.ndarray  # [items] days from START
    words: np.ndarray  # [markets, 4] what its titles and searches say


class Walk(NamedTuple):
    """Positive events by user and time, with the hidden state each was drawn from."""

    user: np.ndarray  # [n]
    start: np.ndarray  # [users + 1] first event of each user
    time: np.ndarray  # [n] int64
    day: np.ndarray  # [n] from START
    begins: np.ndarray  # [n] bool: first of its session
    item: np.ndarray  # [n]
    intent: np.ndarray  # [n] market
    wish: np.ndarray  # [n, d]


@dataclasses.dataclass(frozen=True)
class Oracle:
    """The generator's own chances: the row of a table that no model can beat."""

    config: Config
    catalogue: Catalogue
    walk: Walk

    def scores(self, users: np.ndarray, *, from_end: int = 1) -> np.ndarray:
        """P(item) at each user's last positive event (from_end 1), last but one (2), ...

        Given the hidden state just before it and its time; summed over intents where it
        begins a session. Positive is every action but shown. Takes codes [q], a block of
        users at a time; gives float32 [q, items] whose rows sum to 1, with 0 for items
        met or not yet born. Raises InputError where a user has fewer events.
        """
        walk, items = self.walk, self.catalogue
        first, at = walk.start[users], walk.start[users + 1] - from_end
        if from_end < 1 or (at < first).any():
            raise InputError(
                f"from_end {from_end}: choose 1 to {MIN_EVENTS}, which all users have"
            )
        free = items.birth_day <= walk.day[at][:, None]
        for row, past in zip(free, map(slice, first, at)):
            row[walk.item[past]] = False
        room = np.logical_or.reduceat(free, items.start[:-1], axis=1)
        wish, intent = walk.wish[at], np.where(walk.begins[at], -1, walk.intent[at])
        market = _market_chances(self.config, items, wish, room=room, intent=intent)
        chances = np.zeros(free.shape, np.float32)
        for m, here in enumerate(map(slice, items.start[:-1], items.start[1:])):
            rows = np.flatnonzero(room[:, m])
            own, bias, left = items.own[here], items.popularity[here], free[rows, here]
            inside = _chances(wish[rows], own, bias=bias, where=left)
            chances[rows, here] = market[rows, m, None] * inside
        return chances


class Synthetic(NamedTuple):
    log: Interactions
    oracle: Oracle


@functools.lru_cache(maxsize=1)  # the oracle is asked for after the log
def generate(config: Config) -> Synthetic:
    """The log, by user and time, and the truth behind it; InputError if none can be."""
    _check(config)
    rngs = np.random.default_rng(config.seed).spawn(5)
    items = _make_items(config, rngs[0])
    users, taste = _make_users(config, rngs[1])
    walk = _plan(config, rngs[2])
    _fill(config, rngs[3], items, taste=taste, walk=walk)
    log = _make_log(config, rngs[4], items, users=users, walk=walk)
    return Synthetic(log, Oracle(config, items, walk))


def _check(config: Config) -> None:
    inf, most, users = float("inf"), config.most_events(), config.num_users
    ranges = [
        (0, inf, "seed"),
        (1, inf, "num_users num_markets latent_width"),
        (0, 1, "session_stay"),
        (MIN_EVENTS, inf, "max_events_per_user"),
        (max(3 * MIN_EVENTS, config.num_markets), inf, "num_items"),
        (MIN_EVENTS * users, most * users, "num_events"),
        (2 + 2 * most * SESSION_GAP // DAY, inf, "span_days"),
    ]
    for low, high, name in [(a, b, n) for a, b, names in ranges for n in names.split()]:
        if not low <= (value := getattr(config, name)) <= high:
            wrong = f"--config.data.{name} is {value}, outside {low} to {high}"
            raise InputError(f"{wrong}: choose one inside, or change what sets it")


def _make_items(config: Config, rng) -> Catalogue:
    """Where items lie, how popular and old they are, and what is seen of it."""
    size, markets, width = config.num_items, config.num_markets, config.latent_width
    share = 1 / np.arange(3, markets + 3) ** 0.7
    more = rng.choice(markets, size - markets, p=share / share.sum())
    market = np.sort(np.concatenate([np.arange(markets), more]))
    ranges = KINDS, BRANDS, PRICES, NOISES
    kind, brand, price, noise = (rng.integers(n, size=size) for n in ranges)
    heeded = np.where(market % 2 == 0, brand, BRANDS + price)
    own = _units(rng, BRANDS + PRICES, width)[heeded] + 0.7 * _units(rng, size, width)
    own += 0.5 * _units(rng, KINDS, width)[kind]
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    birth_day = -rng.integers(1, 365, size)
    young = rng.choice(size, round(NEW_ITEM_SHARE * size), replace=False)
    birth_day[young] = rng.integers(1, config.span_days, len(young))
    rank = 1 + rng.permutation(size).astype(np.float32)
    words = _words(4 * markets, "n").reshape(markets, 4)
    tag = np.argsort(-own @ _units(rng, TAGS, width).T, axis=1)[:, :4]  # nearest first
    tag, brand = _words(TAGS, "l")[tag], _words(BRANDS, "x")[brand]
    num_tags = rng.integers(1, 5, (size, 1))
    word = words[market, rng.integers(4, size=size)]
    title = np.array([" ".join(parts) for parts in zip(brand, tag[:, 0], word)])
    columns = {
        "market": np.char.mod("m%02d", market),
        "kind": np.char.mod("k%d", kind),
        "price_bucket": price,
        "brand": brand,
        "tags": Bag(tag[np.arange(4) < num_tags], np.append(0, np.cumsum(num_tags))),
        "noise": noise,
        "birth_time": START + birth_day * DAY,
    }
    seen = Entities(1 + rng.permutation(size), columns, {"title": title})
    popularity = -np.log(rank)
    centre = _units(rng, markets, width)
    start = np.searchsorted(market, np.arange(markets + 1))
    return Catalogue(seen, start, market, centre, own, popularity, birth_day, words)


def _make_users(config: Config, rng) -> tuple[Entities, np.ndarray]:
    """Profiles, each a direction of taste seen through noise, and tastes [users, d]."""
    size = config.num_users
    taste = rng.standard_normal((size, config.latent_width), np.float32)
    seen = taste @ _units(rng, 2 + REGIONS, config.latent_width).T
    seen += 0.7 * rng.standard_normal(seen.shape, np.float32)
    columns = {
        "age": 15 + 10 * np.digitize(seen[:, 0], [-1.2, -0.6, 0, 0.6, 1.2]),
        "gender": np.where(seen[:, 1] > 0, "F", "M"),
        "region": np.char.mod("r%d", seen[:, 2:].argmax(axis=1)),
        "device": np.char.mod("d%d", rng.integers(DEVICES, size=size)),
    }
    ids = np.char.mod("u%06d", np.arange(size))
    return Entities(ids, columns), taste


def _plan(config: Config, rng) -> Walk:
    """When each event happens and which begin a session; choices are still to fill."""
    length = rng.lognormal(sigma=ACTIVITY_SPREAD, size=config.num_users)
    for _ in range(100):  # scale until the clipped numbers add up
        length *= config.num_events / length.sum()
        length = np.clip(length, MIN_EVENTS, config.most_events())
    length = np.floor(length + rng.random(len(length))).astype(int)
    start = np.append(0, np.cumsum(length))
    user = np.repeat(np.arange(len(length), dtype=np.int32), length)
    begins = rng.random(len(user)) * SESSION_LENGTH < 1
    begins[start[:-1]] = True
    pause = np.minimum(rng.lognormal(3.5, 1.0, len(user)), 600) + MAX_SHOWN + 2
    pause = np.where(begins, SESSION_GAP + MAX_SHOWN + 1, pause)
    # What is left of the span falls between sessions, in random parts.
    part = rng.exponential(size=len(user)) * begins
    parts = np.bincount(user, part) + rng.exponential(size=len(length))
    left = config.span_days * DAY - 60 - np.bincount(user, pause)
    clock = np.cumsum((pause + part * (left / parts)[user]).astype(np.int64))
    since = clock - np.append(0, clock)[start[:-1]][user]
    item, intent = np.zeros((2, len(user)), np.int32)
    wish = np.zeros((len(user), config.latent_width), np.float32)
    return Walk(user, start, START + since, since // DAY, begins, item, intent, wish)


def _fill(config: Config, rng, items: Catalogue, *, taste, walk: Walk) -> None:
    """Draw what `_plan` left open, for a block of users at a time."""
    length, block = np.diff(walk.start), max(1, BLOCK // config.num_items)
    for low in range(0, len(length), block):
        users = low + np.argsort(-length[low : low + block], kind="stable")
        _fill_block(config, rng, items, taste=taste[users], walk=walk, users=users)


def _fill_block(config: Config, rng, items: Catalogue, *, taste, walk, users) -> None:
    """Step by step, all users at once, busiest first: those still left are a prefix."""
    markets, scale = config.num_markets, np.float32(config.latent_width**0.5)
    born = [items.market[items.birth_day <= day] for day in range(config.span_days)]
    born = np.stack([np.bincount(codes, minlength=markets) for codes in born])
    met = np.zeros((len(users), len(items.market)), bool)
    taken = np.zeros((len(users), markets), np.int32)
    recent, pull = np.zeros((2, *taste.shape), np.float32)
    intent, length = np.zeros(len(users), np.int32), np.diff(walk.start)[users]
    for step in range(length[0]):
        n = np.count_nonzero(length > step)
        at = walk.start[users[:n]] + step
        day, begins, now = walk.day[at], walk.begins[at], intent[:n]
        wish = taste[:n] + scale * (recent[:n] + pull[:n])
        room = born[day] > taken[:n]
        now[begins] = -1
        chances = _market_chances(config, items, wish, room=room, intent=now)
        now[begins] = _draw(rng, chances[begins])
        chances = _market_chances(config, items, wish, room=room, intent=now)
        market, item = _draw(rng, chances), np.zeros(n, np.int32)
        for m, here in enumerate(map(slice, items.start[:-1], items.start[1:])):
            rows = np.flatnonzero(market == m)
            free = ~met[rows, here] & (items.birth_day[here] <= day[rows, None])
            own, bias = items.own[here], items.popularity[here]
            inside = _chances(wish[rows], own, bias=bias, where=free)
            item[rows] = here.start + _draw(rng, inside)
        walk.item[at], walk.intent[at], walk.wish[at] = item, now, wish
        met[np.arange(n), item] = True
        taken[np.arange(n), market] += 1
        vector = items.centre[market] + items.own[item]
        recent[:n] += DRIFT_RATE * (vector - recent[:n])
        pull[:n] = np.roll(items.own[item], 1, axis=1)


def _market_chances(config: Config, items: Catalogue, wish, *, room, intent):
    """P(market) [q, markets], where items are left; intent -1: yet to be drawn."""
    breadth = np.log(np.diff(items.start), dtype=np.float32)
    chances = _chances(wish, items.centre, bias=breadth, where=room)
    rows = np.flatnonzero((intent >= 0) & room[np.arange(len(room)), intent])
    chances[rows] *= 1 - config.session_stay
    chances[rows, intent[rows]] += config.session_stay
    return chances


def _chances(wish, vectors, *, bias, where):
    """Softmax of wish . vector + bias over `where`: float32 [q, vectors]."""
    logits = np.where(where, wish @ vectors.T + bias, -np.inf)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    return chances / chances.sum(axis=1, keepdims=True)


def _draw(rng, chances):
    """A column of each row; in float64 the threshold stays below the total."""
    total = np.cumsum(chances, axis=1)
    return (total > rng.random((len(total), 1)) * total[:, -1:]).argmax(axis=1)


def _words(count: int, ending: str) -> np.ndarray:
    """Different made-up words; the ending keeps vocabularies apart."""
    sounds = np.array([c + v for c in "bdfgklmnprstvz" for v in "aeiou"])
    i = np.arange(count)
    numbers = i * 29, i * 11 + i // 70, i * 17 + i // 4900
    first, second, third = (sounds[number % 70] for number in numbers)
    return np.char.add(np.char.add(first, second), np.char.add(third, ending))


def _units(rng, count: int, width: int) -> np.ndarray:
    """Random directions, float32 [count, width]."""
    vectors = rng.standard_normal((count, width), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _make_log(config: Config, rng, items: Catalogue, *, users, walk) -> Interactions:
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


def _exposures(config: Config, rng, items: Catalogue, walk: Walk):
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
    met_event = order[np.searchsorted(met, key, sorter=order) % len(met)]
    free = (met[met_event] != key) | (met_event > event)
    free &= items.birth_day[item] <= walk.day[event]
    item = item[free.argmax(axis=0), np.arange(len(event))]  # the first free of 8
    return event[free.any(axis=0)], item[free.any(axis=0)].astype(np.int32)


def _reactions(config: Config, rng, items: Catalogue, walk: Walk) -> dict:
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


def _searches(config: Config, rng, items: Catalogue, walk: Walk) -> Bag:
    """1 to 3 of the intent's words, in some sessions, on their second event: there the
    oracle knows the intent anyway."""
    count = rng.integers(1, 4, len(walk.user))
    count *= np.append(False, walk.begins[:-1]) & ~walk.begins
    count *= rng.random(len(count)) < QUERY_SHARE
    words = items.words[np.repeat(walk.intent, count), np.arange(count.sum()) % 4]
    return Bag(words, np.append(0, np.cumsum(count)))
