"""Metrics over a few drawn items: what is drawn, what ranks follow, what is told."""

import dataclasses
import functools

import numpy as np
import pytest
from conftest import make_data
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.evaluate import measure as measure_lib
from recall_jax.evaluate import sampled
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.index import search as search_lib
from recall_jax.types import InputError

CONFIG = EvaluateConfig(
    metrics=("hr@3", "ndcg@3"),
    select_by="ndcg@3",
    indexes=(),
    candidates="sampled_uniform",
    num_candidates=5,
)


def lists_of(only: search_lib.Exclude, *, num_items: int) -> list[set[int]]:
    """What each query has left."""
    parts = np.split(only.ids, only.offsets[1:-1])
    return [set(range(num_items)) - set(part.tolist()) for part in parts]


def draw(*, positions, popularity, seen=None, kind="sampled_uniform", num=5, seed=0):
    arguments = {"popularity": popularity, "seen": seen}
    only = sampled.only_drawn(positions, kind=kind, num=num, seed=seed, **arguments)
    return lists_of(only, num_items=len(popularity))


def seen_of(items: list[list[int]]) -> search_lib.Exclude:
    offsets = np.cumsum([0, *map(len, items)])
    return search_lib.Exclude(
        offsets, np.array([i for x in items for i in x], np.int32)
    )


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_list_is_the_targets_and_so_many_others_that_were_not_seen(data):
    num_items = data.draw(st.integers(2, 12))
    items = st.integers(0, num_items - 1)
    queries, targets, seen = data.draw(st.integers(1, 4)), [], []
    for _ in range(queries):
        targets.append(sorted(data.draw(st.sets(items, min_size=1, max_size=3))))
        seen.append(sorted(data.draw(st.sets(items)) - set(targets[-1])))
    popularity = np.array(
        data.draw(st.lists(st.integers(0, 9), min_size=num_items, max_size=num_items))
    )
    kind = data.draw(st.sampled_from(sorted(sampled.KINDS)))
    num = data.draw(st.integers(1, 14))
    positions = np.array([row + [-1] * (3 - len(row)) for row in targets])
    lists = draw(
        positions=positions,
        popularity=popularity,
        seen=seen_of(seen),
        kind=kind,
        num=num,
    )
    for left, wanted, past in zip(lists, targets, seen, strict=True):
        free = set(range(num_items)) - set(wanted) - set(past)
        if kind == "sampled_popularity":
            free = {item for item in free if popularity[item]}
        others = left - set(wanted)
        assert set(wanted) <= left and others <= free
        assert len(others) == min(num, len(free))


@pytest.mark.parametrize("kind", sampled.KINDS)
def test_one_is_drawn_with_its_share(kind):
    """Chi-square of single draws against 1 / V or popularity / events."""
    popularity, queries = np.array([9, 5, 3, 2, 1, 0, 0]), 20_000
    positions = np.full((queries, 1), 6)
    lists = draw(positions=positions, popularity=popularity, kind=kind, num=1)
    drawn = np.bincount([min(left - {6}) for left in lists], minlength=6)[:6]
    share = popularity[:6] if kind == "sampled_popularity" else np.ones(6)
    wanted = queries * share / share.sum()
    some = wanted > 0
    assert drawn.sum() == queries and not drawn[~some].any()
    chi_square = ((drawn - wanted)[some] ** 2 / wanted[some]).sum()
    assert chi_square < 25  # of 4 or 5 degrees: beyond 1 in 5,000


def test_the_same_seed_draws_the_same_whatever_the_blocks(monkeypatch):
    positions, popularity = np.arange(12)[:, None], np.arange(40, 0, -1)
    draws = functools.partial(draw, positions=positions, popularity=popularity)
    whole = draws()
    monkeypatch.setattr(sampled, "BLOCK", 3 * 40)
    assert draws() == whole != draws(seed=1)


def search_of(data, seed=0):
    """An exact search of random vectors, and the scores it goes by."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(data.dataset.num_items, 4)).astype(np.float32)
    queries = rng.normal(size=(len(data.test), 4)).astype(np.float32)
    search = functools.partial(search_lib.Exact.build(vectors).search, queries)
    return search, queries.astype(np.float64) @ vectors.T.astype(np.float64)


@pytest.mark.parametrize("kind", sampled.KINDS)
@pytest.mark.parametrize("seen", ["removed", "kept"])
def test_figures_equal_a_ranking_of_the_drawn_items_by_hand(data, kind, seen):
    config = dataclasses.replace(CONFIG, candidates=kind, seen=seen)
    search, scores = search_of(data)
    result = measure_lib.measure_search(
        search, data=data, part=data.test, config=config
    )
    aim = measure_lib.ranked_targets(data, data.test, config=config)
    lists = lists_of(aim.exclude, num_items=data.dataset.num_items)
    for j, left in enumerate(lists):
        (target,) = aim.positions[j]
        rank = sum(scores[j, i] >= scores[j, target] for i in left - {target})
        assert result.values["hr@3"][j] == (rank < 3)
        gain = 1 / np.log2(rank + 2) if rank < 3 else 0
        assert result.values["ndcg@3"][j] == pytest.approx(gain)


def test_a_sampled_rank_is_its_share_of_the_true_one_on_average():
    """n r / (N - 1) for rank r of N items: why it flatters (Krichene and Rendle)."""
    data = make_data(users=30, items=60, events=900)
    num_items, num = data.dataset.num_items, 10
    config = dataclasses.replace(
        CONFIG, metrics=("hr@10",), seen="kept", num_candidates=num
    )
    search, scores = search_of(data)
    target = measure_lib.targets(data, data.test, seen=False).positions[:, 0]
    own = scores[np.arange(len(target)), target]
    rank = (scores > own[:, None]).sum(axis=1)
    ranks = []
    for seed in range(200):
        drawn = dataclasses.replace(config, candidates_seed=seed)
        result = measure_lib.measure_search(
            search, data=data, part=data.test, config=drawn
        )
        ranks.append(np.where(result.ranks[:, 0] < 99, result.ranks[:, 0], num))
    wanted = num * rank / (num_items - 1)
    np.testing.assert_allclose(np.mean(ranks, axis=0), wanted, atol=0.5)
    assert abs(np.mean(ranks) - wanted.mean()) < 0.05


def test_all_the_items_drawn_are_the_whole_catalogue(data):
    search, _ = search_of(data)
    config = dataclasses.replace(CONFIG, num_candidates=999)
    everything = dataclasses.replace(config, candidates="all")
    measure = functools.partial(
        measure_lib.measure_search, search, data=data, part=data.test
    )
    assert measure(config=config).means() == measure(config=everything).means()
    fewer = dataclasses.replace(config, num_candidates=3)
    assert (
        measure(config=fewer).means()["hr@3"] > measure(config=config).means()["hr@3"]
    )


def test_chance_is_of_the_drawn_items(data):
    config = dataclasses.replace(CONFIG, metrics=("hr@3",), seen="kept")
    value = measure_lib.chance(data, data.test, config=config)["hr@3"]
    np.testing.assert_allclose(value, 3 / 6)


def test_what_is_ranked_is_told_and_never_by_default():
    assert measure_lib.ranked(EvaluateConfig()) == "whole catalogue ranked"
    description = measure_lib.ranked(CONFIG)
    assert "SAMPLED" in description and "5 other items drawn uniformly" in description
    assert (
        measure_lib.over_all(CONFIG).candidates == EvaluateConfig().candidates == "all"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": "sampled"}, "all, sampled_uniform, sampled_popularity"),
        ({"num_candidates": 2}, r"k=3.*evaluate\.num_candidates"),
        ({"indexes": ("approx",)}, r"--config\.evaluate\.indexes="),
        ({"index": "approx"}, r"--config\.evaluate\.index=exact"),
    ],
)
def test_what_means_nothing_is_refused_before_training(data, changes, message):
    measure_lib.check(CONFIG, data)
    with pytest.raises(InputError, match=message):
        measure_lib.check(dataclasses.replace(CONFIG, **changes), data)


def test_too_large_a_catalogue_is_refused(data, monkeypatch):
    monkeypatch.setattr(sampled, "MAX_PAIRS", 599)
    with pytest.raises(InputError, match="20 items each of 30 queries"):
        measure_lib.check(CONFIG, data)
