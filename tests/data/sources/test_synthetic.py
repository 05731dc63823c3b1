"""The synthetic log: its columns, its habits, and that its oracle tells the truth."""

import dataclasses

import numpy as np
import pytest

from recall_jax.data import log as log_lib
from recall_jax.data.log import Bag
from recall_jax.data.sources import synthetic
from recall_jax.types import InputError

SMALL = {"num_users": 200, "num_items": 150, "num_events": 4_000, "num_markets": 5}


@pytest.fixture(scope="module")
def world():
    return synthetic.generate(synthetic.Config())


@pytest.fixture(scope="module")
def positives(world):
    return world.log.select(world.log.events["action"] > 0)


@pytest.fixture(scope="module")
def chances(world):
    """What the oracle says of every user's last event, float32 [users, items]."""
    return in_blocks(world.oracle, from_end=1)


def in_blocks(oracle, *, from_end):
    blocks = np.array_split(np.arange(len(oracle.walk.start) - 1), 8)
    return np.concatenate([oracle.scores(users, from_end=from_end) for users in blocks])


def targets(walk, *, from_end):
    return walk.item[walk.start[1:] - from_end]


def one_hot(rows, codes, shape):
    mask = np.zeros(shape, bool)
    mask[rows, codes] = True
    return mask


# The log


def test_the_default_parameters_are_held_still():
    fields = dataclasses.asdict(synthetic.Config())
    for field in dataclasses.fields(log_lib.Config):
        del fields[field.name]
    assert fields == {
        "num_users": 6_000,
        "num_items": 2_400,
        "num_events": 240_000,
        "seed": 0,
        "num_markets": 24,
        "latent_width": 12,
        "session_stay": 0.75,
        "max_events_per_user": 200,
        "span_days": 90,
    }


def test_a_seed_makes_one_log():
    def load(seed):
        return synthetic.Config(**SMALL, seed=seed).load()

    one, again, other = load(0), load(0), load(1)
    for name in ("user", "item", "time"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    columns = [
        {**log.events, **log.items.columns, **log.users.columns} for log in (one, again)
    ]
    for name, column in columns[0].items():
        twin = columns[1][name]
        for x, y in zip(column, twin) if isinstance(column, Bag) else [(column, twin)]:
            np.testing.assert_array_equal(x, y)
    assert len(one) != len(other) or (one.item != other.item).any()


def test_it_has_the_sizes_asked_for(world, positives):
    config, length = world.oracle.config, np.bincount(positives.user)
    assert len(world.log.users) == config.num_users
    assert len(world.log.items) == config.num_items
    assert abs(len(positives) / config.num_events - 1) < 0.01
    assert length.min() == synthetic.MIN_EVENTS
    assert length.max() == config.max_events_per_user


@pytest.mark.parametrize("num_events", [1_000, 1_100, 8_000, 9_900, 10_000])
def test_any_feasible_number_of_events_comes_out(num_events):
    config = synthetic.Config(**{**SMALL, "num_events": num_events})
    log = config.load()
    assert abs((log.events["action"] > 0).sum() / num_events - 1) < 0.02


def test_every_column_is_there_and_aligned(world):
    log = world.log
    assert set(log.users.columns) == {"age", "gender", "region", "device"}
    assert set(log.items.columns) == {
        *("market", "kind", "price_bucket", "brand", "tags", "noise", "birth_time")
    }
    assert set(log.events) == {
        *("action", "grade", "dwell", "session", "market", "query", "conversion")
    }
    assert set(log.items.text) == {"title"}
    assert len(log.time) == len(log.item) == len(log.user)
    parts = [(log.events, len(log)), (log.users.columns, len(log.users))]
    parts += [(log.items.columns, len(log.items)), (log.items.text, len(log.items))]
    for columns, rows in parts:
        for column in columns.values():
            if isinstance(column, Bag):
                assert column.offsets[-1] == len(column.values)
                column = column.offsets[:-1]
            assert len(column) == rows
    tags = np.diff(log.items.columns["tags"].offsets)
    assert tags.min() == 1 and tags.max() == 4


def test_raw_ids_are_strings_and_integers(world):
    users, items = world.log.users.id, world.log.items.id
    assert users[123] == "u000123" and items.dtype.kind == "i"
    assert len(np.unique(users)) == len(users) and len(np.unique(items)) == len(items)


def test_titles_speak_of_brand_tag_and_market(world):
    items = world.log.items
    for row in (0, 1000, 2399):
        brand, tag, word = items.text["title"][row].split()
        assert brand == items.columns["brand"][row]
        assert tag == items.columns["tags"].values[items.columns["tags"].offsets[row]]
        market = int(items.columns["market"][row][1:])
        assert word in world.oracle.catalogue.words[market]


def test_made_up_words_differ():
    words = np.concatenate([synthetic._words(20_000, end) for end in "nlx"])
    assert len(np.unique(words)) == 60_000


# Time, sessions, births


def test_time_rises_within_a_user_and_sessions_lie_apart(world):
    log = world.log
    same = log.user[1:] == log.user[:-1]
    pause = np.diff(log.time)[same]
    session = log.events["session"]
    new = np.diff(session)[same] != 0
    assert pause.min() >= 1
    assert pause[new].min() > synthetic.SESSION_GAP
    assert pause[~new].max() < synthetic.SESSION_GAP
    assert (np.diff(session)[~same] == 1).all()
    end = synthetic.START + world.oracle.config.span_days * synthetic.DAY
    assert log.time.min() > synthetic.START and log.time.max() < end


def test_nothing_is_shown_before_its_birth_and_new_items_find_users(world):
    birth = world.log.items.columns["birth_time"]
    assert (world.log.time >= birth[world.log.item]).all()
    young = birth > synthetic.START
    assert young.mean() == pytest.approx(synthetic.NEW_ITEM_SHARE, abs=1e-3)
    assert young[world.log.item].mean() > 0.03


def test_no_positive_is_repeated(world, positives):
    pair = positives.user.astype(np.int64) * len(world.log.items) + positives.item
    assert len(np.unique(pair)) == len(pair)


# What happens at an event


def test_shown_rows_are_no_positives(world):
    log, shown = world.log, world.log.events["action"] == 0
    assert shown.sum() / (~shown).sum() == pytest.approx(0.5, abs=0.05)
    for name in ("grade", "dwell", "conversion"):
        assert (log.events[name][shown] == 0).all()
    assert (np.diff(log.events["query"].offsets)[shown] == 0).all()
    pair = log.user.astype(np.int64) * len(log.items) + log.item
    first_positive = dict(zip(pair[~shown][::-1], np.flatnonzero(~shown)[::-1]))
    rows = np.flatnonzero(shown)
    assert all(
        first_positive.get(key, row) >= row for key, row in zip(pair[rows], rows)
    )


def test_shown_rows_follow_a_positive_of_their_market_and_session(world):
    log, shown = world.log, world.log.events["action"] == 0
    source = np.maximum.accumulate(np.where(shown, 0, np.arange(len(log))))
    for column in (log.user, log.events["session"], log.events["market"]):
        assert (column == column[source]).all()
    assert (log.time - log.time[source] <= synthetic.MAX_SHOWN).all()


def test_shown_items_are_the_popular_ones(world, positives):
    count = np.bincount(positives.item, minlength=len(world.log.items))
    shown = world.log.item[world.log.events["action"] == 0]
    assert np.median(count[shown]) > np.median(count)


def test_reactions_follow_the_match(world, positives):
    walk, items = world.oracle.walk, world.oracle.catalogue
    match = (walk.wish * items.own[walk.item]).sum(axis=1)
    action, dwell = positives.events["action"], positives.events["dwell"]
    careless = dwell < 2
    assert np.corrcoef(match[~careless], np.log(dwell[~careless]))[0, 1] > 0.5
    assert np.corrcoef(match, positives.events["grade"])[0, 1] > 0.3
    assert careless.mean() == pytest.approx(synthetic.ACCIDENT_SHARE, abs=0.015)
    assert (action[careless & (dwell < 1)] == 1).mean() > 0.95
    assert (np.bincount(action, minlength=6)[1:] > 0.02 * len(action)).all()
    assert set(positives.events["grade"]) == {1, 2, 3, 4}


def test_conversions_close_sessions_within_their_intent(world, positives):
    walk, items = world.oracle.walk, world.oracle.catalogue
    bought = positives.events["conversion"] == 1
    np.testing.assert_array_equal(bought, positives.events["action"] == 5)
    last = np.append(walk.begins[1:], True)
    assert (last | ~bought).all()
    assert 0.1 < bought.sum() / walk.begins.sum() < 0.5
    at_home = items.market[walk.item] == walk.intent
    assert at_home[bought].all() and 0.7 < at_home.mean() < 0.9
    drawn_blindly = (np.bincount(items.market) / len(items.market)) ** 2
    assert at_home.mean() > 5 * drawn_blindly.sum()
    rate = np.bincount(walk.intent[bought]) / np.bincount(walk.intent[last & at_home])
    assert rate.max() > 2 * rate.min()  # markets differ


def test_searches_speak_of_the_intent_once_it_is_known(world, positives):
    walk, query = world.oracle.walk, positives.events["query"]
    count = np.diff(query.offsets)
    row = np.repeat(np.arange(len(positives)), count)
    words = world.oracle.catalogue.words[walk.intent[row]]
    assert (words == query.values[:, None]).any(axis=1).all()
    assert not walk.begins[count > 0].any()
    second = ~walk.begins & np.append(False, walk.begins[:-1])
    assert (count[second] > 0).mean() == pytest.approx(0.4, abs=0.02)


# Which fields tell something


def surprise(first, second, shuffle):
    """How far the mutual information of two codes stands above shuffles' [z]."""
    width = second.max() + 1

    def information(x, y):
        joint = np.bincount(x * width + y, minlength=(x.max() + 1) * width)
        joint = joint.reshape(-1, width) / len(x)
        chance = joint.sum(1, keepdims=True) * joint.sum(0)
        seen = joint > 0
        return (joint[seen] * np.log(joint[seen] / chance[seen])).sum()

    null = [information(*shuffle(first, second)) for _ in range(12)]
    return (information(first, second) - np.mean(null)) / np.std(null)


def item_field_surprise(world, column, *, markets):
    """Between consecutive items of one market, against swaps of the field inside it."""
    rng, items, walk = (
        np.random.default_rng(0),
        world.oracle.catalogue,
        world.oracle.walk,
    )
    field = np.unique(column, return_inverse=True)[1]
    here = np.isin(items.market, markets)
    a, b = walk.item[:-1], walk.item[1:]
    pair = (walk.user[1:] == walk.user[:-1]) & here[a]
    pair &= items.market[a] == items.market[b]
    a, b = a[pair], b[pair]

    def swap(*_):
        by_market = np.lexsort((rng.random(len(field)), items.market))
        swapped = field[by_market]  # codes go by market, so this stays inside
        return swapped[a], swapped[b]

    return surprise(field[a], field[b], swap)


def test_what_an_item_field_is_worth_differs_by_market(world):
    columns, even, odd = (
        world.log.items.columns,
        np.arange(0, 24, 2),
        np.arange(1, 24, 2),
    )

    def surprise_of(name, markets):
        return item_field_surprise(world, columns[name], markets=markets)

    assert min(surprise_of("brand", even), surprise_of("price_bucket", odd)) > 15
    assert (
        abs(surprise_of("brand", odd)) < 4
        and abs(surprise_of("price_bucket", even)) < 4
    )
    tags = columns["tags"]
    nearest = tags.values[tags.offsets[:-1]]
    for markets in (even, odd):
        assert surprise_of("kind", markets) > 5
        assert item_field_surprise(world, nearest, markets=markets) > 15
        assert abs(surprise_of("noise", markets)) < 4


def test_profiles_tell_of_taste_except_the_device(world):
    rng, walk = np.random.default_rng(0), world.oracle.walk
    market = world.oracle.catalogue.market[walk.item]

    def surprise_of(name):
        column = world.log.users.columns[name]
        field = np.unique(column, return_inverse=True)[1]

        def swap(*_):
            return rng.permutation(field)[walk.user], market

        return surprise(field[walk.user], market, swap)

    assert min(surprise_of("age"), surprise_of("gender"), surprise_of("region")) > 20
    assert abs(surprise_of("device")) < 4


# How hard it is


def hit_at_10(scores, target, seen):
    of_target = scores[np.arange(len(target)), target][:, None]
    return ((np.where(seen, -np.inf, scores) >= of_target).sum(axis=1) <= 10).mean()


@pytest.fixture(scope="module")
def table(world, chances):
    """Leave-one-out hit@10, items met removed."""
    walk, shape = world.oracle.walk, chances.shape
    last, target = walk.start[1:] - 1, targets(walk, from_end=1)
    seen = one_hot(np.delete(walk.user, last), np.delete(walk.item, last), shape)
    train = np.ones(len(walk.item), bool)
    train[last] = train[last - 1] = False
    popularity = np.bincount(walk.item[train], minlength=shape[1])
    pair = train[1:] & train[:-1] & (walk.user[1:] == walk.user[:-1])
    follows = np.zeros((shape[1],) * 2)
    np.add.at(follows, (walk.item[:-1][pair], walk.item[1:][pair]), 1)
    before, backoff = walk.item[last - 1], popularity / popularity.sum() / 2
    rows = {
        "popularity": np.broadcast_to(popularity, shape),
        "bigram": follows[before] + backoff,
        "backward bigram": follows.T[before] + backoff,
        "oracle": chances,
    }
    return {name: hit_at_10(scores, target, seen) for name, scores in rows.items()}


def test_popularity_is_long_tailed(positives):
    count = np.sort(np.bincount(positives.item))
    gini = 1 - 2 * np.mean(np.cumsum(count) / count.sum())
    assert 0.45 < gini < 0.65
    assert count[-24:].sum() / count.sum() > 0.08  # the top hundredth


def test_the_oracle_is_good_but_not_sure(table):
    assert 0.25 < table["oracle"] < 0.6
    assert table["oracle"] > 4 * table["popularity"] > 0


def test_order_matters(table):
    assert table["bigram"] > 3 * table["popularity"]
    assert table["bigram"] > table["backward bigram"] + 0.02
    assert table["bigram"] < 0.6 * table["oracle"]


# The oracle


def unevenness(walk, chances, *, from_end, before):
    """Chi-square over 50 bins of the place a target has in its own distribution.

    The chance of all that comes before the target, in an order that does not depend on
    it, plus a random part of its own is uniform if the chances are true.
    """
    target = targets(walk, from_end=from_end)[:, None]
    own = np.take_along_axis(chances, target, axis=1)
    below = np.where(before(chances, own, target), chances, 0).sum(axis=1)
    place = below + own[:, 0] * np.random.default_rng(0).random(len(own))
    count = np.histogram(place, bins=50, range=(0, 1))[0]
    return ((count - count.mean()) ** 2 / count.mean()).sum()


ORDERS = {
    "by market": lambda chances, own, target: np.arange(chances.shape[1]) < target,
    "by chance": lambda chances, own, target: chances < own,
}
LIMIT = 94  # chi-square of 49 degrees exceeds it once in ten thousand times


@pytest.mark.parametrize("from_end", [1, 2])
def test_targets_are_drawn_with_the_oracles_chances(world, chances, from_end):
    said = chances if from_end == 1 else in_blocks(world.oracle, from_end=from_end)
    for before in ORDERS.values():
        uneven = unevenness(world.oracle.walk, said, from_end=from_end, before=before)
        assert uneven < LIMIT


def test_the_check_sees_a_wrong_oracle(world):
    config = dataclasses.replace(world.oracle.config, session_stay=0.5)
    wrong = dataclasses.replace(world.oracle, config=config)
    said, before = in_blocks(wrong, from_end=1), ORDERS["by chance"]
    assert unevenness(wrong.walk, said, from_end=1, before=before) > LIMIT


def test_chances_add_up_and_leave_out_the_impossible(world, chances):
    walk, items = world.oracle.walk, world.oracle.catalogue
    last = walk.start[1:] - 1
    np.testing.assert_allclose(chances.sum(axis=1, dtype="f8"), 1, atol=1e-5)
    past = np.delete(np.arange(len(walk.item)), last)
    assert (chances[walk.user[past], walk.item[past]] == 0).all()
    assert (chances[items.birth_day > walk.day[last][:, None]] == 0).all()
    assert (chances[np.arange(len(last)), targets(walk, from_end=1)] > 0).all()
    assert chances.dtype == np.float32


def slow_chances(world, *, user, from_end):
    """P(item) from the module's docstring in plain loops, with the user's taste."""
    config, items, walk = world.oracle.config, world.oracle.catalogue, world.oracle.walk
    own = items.own.astype(float)
    first, at = walk.start[user], walk.start[user + 1] - from_end
    taste = walk.wish[first].astype(float)  # nothing met yet
    recent, turned = np.zeros_like(taste), np.zeros_like(taste)
    for item in walk.item[first:at]:
        vector = items.centre[items.market[item]] + own[item]
        recent = 0.9 * recent + 0.1 * vector
        turned = np.array([own[item][d - 1] for d in range(len(taste))])
    wish = taste + np.sqrt(config.latent_width) * (recent + turned)
    free = [
        item not in walk.item[first:at] and items.birth_day[item] <= walk.day[at]
        for item in range(len(own))
    ]
    weight = np.exp(own @ wish + items.popularity) * free
    size = np.bincount(items.market)
    share = np.array([weight[items.market == m].sum() for m in range(len(size))])
    wished = size * np.exp(items.centre @ wish) * (share > 0)
    wished = wished / wished.sum()
    if not walk.begins[at] and share[walk.intent[at]] > 0:
        wished = wished * (1 - config.session_stay)
        wished[walk.intent[at]] += config.session_stay
    return wished[items.market] * weight / np.where(share > 0, share, 1)[items.market]


@pytest.mark.parametrize("from_end", [1, 2, 5])
def test_scores_follow_the_formula(world, from_end):
    users = np.array([0, 7, 4321])
    fast = world.oracle.scores(users, from_end=from_end)
    for row, user in zip(fast, users):
        slow = slow_chances(world, user=user, from_end=from_end)
        np.testing.assert_allclose(row, slow, rtol=2e-3, atol=1e-9)


def test_the_oracle_refuses_events_that_are_not_there(world):
    for from_end in (0, 201):
        with pytest.raises(InputError, match="choose 1 to 5"):
            world.oracle.scores(np.arange(3), from_end=from_end)


# Sizes and mistakes


def test_blocks_of_users_keep_every_promise(monkeypatch):
    monkeypatch.setattr(synthetic, "BLOCK", 64 * SMALL["num_items"])
    world = synthetic.generate(synthetic.Config(**SMALL))
    walk = world.oracle.walk
    pair = walk.user * SMALL["num_items"] + walk.item
    assert len(np.unique(pair)) == len(pair)
    chances = in_blocks(world.oracle, from_end=1)
    assert (chances[np.arange(len(chances)), targets(walk, from_end=1)] > 0).all()


def test_an_exhausted_market_is_left():
    """Markets of five items and users who meet twenty: intents run out."""
    config = synthetic.Config(60, 60, 1_100, num_markets=12, session_stay=1.0)
    world = synthetic.generate(config)
    walk, items = world.oracle.walk, world.oracle.catalogue
    assert (items.market[walk.item] != walk.intent).any()
    chances = in_blocks(world.oracle, from_end=1)
    assert (chances[np.arange(60), targets(walk, from_end=1)] > 0).all()


def test_the_smallest_log():
    config = synthetic.Config(1, 15, 5, num_markets=1, latent_width=1)
    assert (config.load().events["action"] > 0).sum() == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_users", 0),
        ("num_items", -1),
        ("num_items", 23),  # fewer than markets
        ("num_events", 100),  # less than five a user
        ("num_events", 2_000_000),  # more than users may meet
        ("num_markets", 0),
        ("seed", -1),
        ("latent_width", 0),
        ("session_stay", 1.5),
        ("session_stay", float("nan")),
        ("max_events_per_user", 4),
        ("span_days", 3),
    ],
)
def test_a_config_that_no_log_can_have_is_named(field, value):
    config = dataclasses.replace(synthetic.Config(), **{field: value})
    with pytest.raises(InputError, match=f"{field} is {value}, outside .*: choose"):
        config.load()
