"""Ranks of what a session converted, by hand."""

import dataclasses
import json

import numpy as np
import pytest

from recall_jax.data import log as log_lib
from recall_jax.data import prepare, prepared
from recall_jax.data import split as split_lib
from recall_jax.data.log import Entities, Interactions
from recall_jax.evaluate import encode
from recall_jax.models import itemwise
from recall_jax.models.itemwise import PairsConfig
from recall_jax.pairs import conversions, sequences
from recall_jax.pairs.conversions import Clicks

DAY = 86_400
MARKET = {1: "a", 2: "a", 3: "a", 4: "b", 5: "b", 6: "b", 7: "a"}
PAIRS = PairsConfig(
    market="market",
    sequences=itemwise.SequencesConfig(
        cut="conversion", gap=1800, conversions=("buy",)
    ),
)


def data_of(*users, columns=MARKET) -> prepared.Data:
    """Of users' events, each (raw item, second, action); the last two are held out."""
    rows = [(u, *event) for u, events in enumerate(users) for event in events]
    user, item, time, action = map(np.array, zip(*rows))
    codes, ids = log_lib.factorize(item)
    market = np.array([columns[x] for x in ids.tolist()])
    log = Interactions(
        user=user.astype(np.int32),
        item=codes,
        users=Entities(np.arange(len(users))),
        items=Entities(ids, {"market": market}),
        time=time,
        events={"action": action},
        source="a log by hand",
    )
    split = split_lib.by_protocol(log, config=log_lib.Config())
    return prepare.in_memory(split, history_length=2, min_history=0)


def raw(data, pairs: Clicks) -> list[tuple]:
    ids = data.vocabularies["item"].ids
    clicked, wanted = ids[pairs.clicked - 1], ids[pairs.wanted - 1]
    return sorted(zip(clicked.tolist(), wanted.tolist(), pairs.ago.tolist()))


@pytest.fixture(scope="module")
def shop() -> prepared.Data:
    """One who buys 3 after 1 and 2, and one whose held-out events convert nothing, after
    a conversion that trained."""
    one = [(4, DAY + 9, "click"), (1, 3 * DAY, "click"), (2, 3 * DAY + 60, "click")]
    two = [(5, 0, "click"), (6, 9, "buy"), (7, 4 * DAY, "click"), (2, 5 * DAY, "like")]
    three = [(1, 1, "click"), (3, 2, "click"), (7, 3, "click"), (1, 9 * DAY, "click")]
    return data_of([*one, (3, 3 * DAY + 90, "buy")], two, three)


def asked_of(data, *, config=PAIRS.sequences, most: int = 10):
    sessions = sequences.sessions(data, config)
    wanted = conversions.held_out(data) & sessions.converted
    return raw(
        data, conversions.clicks_before(sessions, data, wanted=wanted, most=most)
    )


def test_held_out_conversions_are_asked_with_what_stood_before_in_their_session(shop):
    assert asked_of(shop) == [(1, 3, 2), (2, 3, 1)]
    assert asked_of(shop, most=1) == [(2, 3, 1)]
    user = dataclasses.replace(PAIRS.sequences, cut="user")
    assert asked_of(shop, config=user) == [(1, 3, 2), (2, 3, 1), (4, 3, 3)]


def test_a_click_on_the_very_item_is_passed_over_and_counts_as_a_click():
    first = [(1, 5, "click"), (3, 9, "click"), (2, 20, "click"), (3, 30, "buy")]
    data = data_of(first, first)
    assert asked_of(data) == 2 * [(1, 3, 3)] + 2 * [(2, 3, 1)]


def test_a_conversion_ends_a_session_and_a_pause_too():
    events = [(4, 1, "click"), (1, 2, "buy"), (2, 3, "click"), (3, 4, "buy")]
    paused = [(4, 1, "click"), (1, 2, "click"), (2, 3, "click"), (3, 5 * DAY, "buy")]
    assert asked_of(data_of(events, paused)) == [(2, 3, 1)]


def test_ranks_by_hand():
    """Vectors on a line: item j + 1 stands at VALUES[j], asked with 1.0 times that."""
    values = np.array([[1.0], [3.0], [2.0], [2.0], [-1.0], [5.0]], np.float32)
    market = np.array([1, 1, 1, 2, 2, 2])
    pairs = Clicks(
        np.array([1, 1, 5, 6]), np.array([2, 3, 6, 5]), np.array([1, 2, 1, 1])
    )
    places = conversions.places(values, pairs)
    # Asked with 1: 6, 2, 3 and 4 the same, 5. With 5 the other way round.
    np.testing.assert_array_equal(places.above, [1, 2, 4, 4])
    np.testing.assert_array_equal(places.tied, [0, 1, 0, 0])
    np.testing.assert_array_equal(places.among, 5)
    figures = places.figures()
    np.testing.assert_allclose(figures["mrr"], np.mean([1 / 2, 1 / 4, 1 / 5, 1 / 5]))
    np.testing.assert_allclose(figures["rank"], np.mean([1, 3, 4, 4]) / 4)
    np.testing.assert_allclose(places.auc(), [3 / 4, 1 - 2.5 / 4, 0, 0])
    inside = conversions.places(values, pairs, market=market)
    np.testing.assert_array_equal(inside.above, [0, 1, 1, 1])
    np.testing.assert_array_equal(inside.tied, 0)
    np.testing.assert_array_equal(inside.among, 2)


def test_blocks_of_pairs_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 3)).astype(np.float32)
    pairs = Clicks(*rng.integers(1, 10, (2, 25)), np.ones(25, int))
    whole = conversions.places(vectors, pairs)
    monkeypatch.setattr(conversions, "BLOCK", 20)
    for ours, theirs in zip(conversions.places(vectors, pairs), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_of_many_pairs_a_sample_is_ranked(shop, monkeypatch):
    monkeypatch.setattr(conversions, "MOST_PAIRS", 1)
    assert len(asked_of(shop)) == 1


def line(data, values: dict[int, float]) -> np.ndarray:
    ids = data.vocabularies["item"].ids.tolist()
    return np.array([[values[x]] for x in ids], np.float32)


VALUES = {1: 1.0, 2: 1.0, 3: 4.0, 4: 5.0, 5: -1.0, 6: 6.0, 7: 2.0}


def test_figures_by_number_of_clicks(shop):
    figures = conversions.measure_conversions(line(shop, VALUES), shop, PAIRS)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["conversions"] == 1 and figures["ordered"]
    assert list(figures["by_clicks"]) == ["1", "2"]
    for ago in "12":  # of six candidates 4 and 6 come first, of three in market a none
        assert figures["by_clicks"][ago] == {
            "pairs": 1,
            "mrr": pytest.approx(1 / 3),
            "rank": pytest.approx(2 / 5),
            "pairs_in_market": 1,
            "mrr_in_market": 1.0,
            "rank_in_market": 0.0,
        }
    assert figures["all"] == figures["by_clicks"]["1"] | {
        "pairs": 2,
        "pairs_in_market": 2,
    }
    assert {"all", "ordering_in_market"} == set(figures["popularity"])


def test_ordering_is_among_the_other_items_of_the_market(shop):
    """Held-out neighbours of one session and market: 1, 2; 2, 3; 3, 7."""
    figures = conversions.measure_conversions(line(shop, VALUES), shop, PAIRS)[
        "ordering_in_market"
    ]
    # 2 among 1's others 3, 7: none below. 3 among 1, 7 of 2's: both. 7 among 1, 2: both.
    assert figures == {"pairs": 3, "auc": pytest.approx((0 + 1 + 1) / 3)}


def test_an_item_alone_in_its_market_says_nothing_there():
    """Nor do 3 and 7, whose markets no training event has: they are told apart."""
    alone = dict.fromkeys(MARKET, "z") | {3: "y", 7: "x", 2: "w"}
    events = [[(1, 1, "click"), (2, 2, "click"), (3, 3, "click"), (7, 9, "buy")]] * 2
    data = data_of(*events, columns=alone)
    figures = conversions.measure_conversions(line(data, VALUES), data, PAIRS)
    assert figures["ordering_in_market"] == {}
    assert "rank" in figures["all"] and "rank_in_market" not in figures["all"]


def test_vectors_that_say_nothing_are_chance_in_order_and_last_in_rank(shop):
    zeros = np.zeros((shop.dataset.num_items, 2), np.float32)
    figures = conversions.measure_conversions(zeros, shop, PAIRS)
    assert figures["ordering_in_market"]["auc"] == 0.5
    assert figures["all"]["rank"] == 1.0


def test_without_markets_or_conversions_these_figures_are_missing(shop):
    plain = dataclasses.replace(PAIRS, market="")
    figures = conversions.measure_conversions(line(shop, VALUES), shop, plain)
    assert set(figures["all"]) == {"pairs", "mrr", "rank"}
    assert "ordering_in_market" not in figures
    calm = [[(1, 1, "click"), (2, 2, "buy"), (3, 3, "click"), (7, 9, "click")]] * 2
    data = data_of(*calm)
    figures = conversions.measure_conversions(line(data, VALUES), data, PAIRS)
    assert figures["conversions"] == 0 and figures["all"] == figures["by_clicks"] == {}


def test_a_day_without_an_order_has_no_number_of_clicks():
    events = [(4, 0, "click"), (1, DAY, "click"), (2, DAY, "click"), (3, DAY, "buy")]
    data = data_of(events, events)
    by_day = itemwise.SequencesConfig(cut="day", conversions=("buy",))
    config = dataclasses.replace(PAIRS, order="set", sequences=by_day)
    figures = conversions.measure_conversions(line(data, VALUES), data, config)
    assert not figures["ordered"] and "by_clicks" not in figures
    assert figures["all"]["pairs"] == 4


def test_the_vectors_are_those_that_are_served(shop):
    """`encode_items` hands them through what the model's config completes."""
    encoder = encode.Towers(
        query=None,
        item=lambda params, dataset, ids: np.float32(ids)[:, None] * params,
        complete=lambda vectors, data: vectors + len(data.items),
    )
    item_vectors = encode.encode_items(encoder, 2.0, data=shop, batch_size=4)
    expected = 2.0 * np.arange(1, shop.dataset.num_items + 1) + len(shop.items)
    np.testing.assert_allclose(item_vectors[:, 0], expected)
    plain = encode.encode_items(
        encoder._replace(complete=None), 2.0, data=shop, batch_size=4
    )
    np.testing.assert_allclose(plain[:, 0], expected - len(shop.items))
