"""Who belongs to which segment, and that its figures are those of its targets alone."""

import itertools

import numpy as np
import pytest
from conftest import make_data, make_log
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recall_jax.data import log as log_lib
from recall_jax.data import prepare, prepared
from recall_jax.data import split as split_lib
from recall_jax.evaluate import baselines, measure, metrics, segments

NAMES = ("hr@3", "recall@3", "ndcg@3", "precision@2")


def members(grouping) -> dict[str, list[int]]:
    """Queries by segment."""
    return {s.name: np.flatnonzero(s.targets.any(axis=1)).tolist() for s in grouping}


def test_thirds_of_the_users_by_history_keep_equals_together():
    lengths = np.array([7, 3, 9, 3, 5, 3, 20, 3, 5])
    grouping = segments.by_activity(np.zeros((9, 1), np.int32), lengths=lengths)
    # Sorted 3 3 3 | 3 5 5 | 7 9 20: the fourth 3 stays with its like.
    assert members(grouping) == {
        "light": [1, 3, 5, 7],
        "medium": [4, 8],
        "heavy": [0, 2, 6],
    }
    assert [segment.description for segment in grouping] == [
        "history of 3 events",
        "history of 5 events",
        "history of 7 to 20 events",
    ]


def test_what_three_do_not_divide_makes_the_lower_thirds_larger():
    grouping = segments.by_activity(np.zeros((4, 1), np.int32), lengths=np.arange(1, 5))
    assert members(grouping) == {"light": [0, 1], "medium": [2], "heavy": [3]}


def test_the_history_of_a_test_query_has_validation_too():
    data = make_data()
    lengths = np.diff(data.offsets)[data.test.user] - 1
    light, *_, heavy = segments.of_part(data, data.test)["activity"]
    assert light.description.startswith(f"history of {lengths.min()} to ")
    assert heavy.description.endswith(f" to {lengths.max()} events")


def test_users_of_one_length_are_one_segment():
    grouping = segments.by_activity(np.zeros((4, 1), np.int32), lengths=np.full(4, 6))
    assert members(grouping) == {"light": [0, 1, 2, 3]}


def test_head_torso_and_tail_hold_a_third_of_the_events_each():
    popularity = np.array([5, 4, 3, 2, 2, 1, 1, 0, 0])  # 18: a third is 6, two 12
    targets = np.arange(9, dtype=np.int32)[:, None]
    grouping = segments.by_popularity(targets, popularity=popularity)
    # 5 is less than 6, so the second item is needed; 5 + 4 + 3 is 12.
    assert members(grouping) == {
        "head": [0, 1],
        "torso": [2],
        "tail": [3, 4, 5, 6],
        "new": [7, 8],
    }
    assert [segment.description for segment in grouping] == [
        "2 items with 4 to 5 training events",
        "1 item with 3 training events",
        "4 items with 1 to 2 training events",
        "2 items without training events",
    ]


def test_a_segment_without_a_target_is_left_out():
    """Here one item holds the events of head and torso, and nobody looks for the tail."""
    popularity = np.array([8, 1, 1, 0])
    grouping = segments.by_popularity(np.zeros((2, 1), np.int32), popularity=popularity)
    assert members(grouping) == {"head": [0, 1]}


@given(
    popularity=hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 50)),
    chosen=st.lists(st.integers(0, 29), min_size=1, max_size=20),
    lengths=st.data(),
)
def test_every_target_is_in_one_segment_of_each_grouping(popularity, chosen, lengths):
    popularity = -np.sort(-popularity)
    popularity[0] += 1
    positions = np.array([[j % len(popularity), -1] for j in chosen], np.int32)
    of_users = lengths.draw(
        hnp.arrays(np.int64, len(chosen), elements=st.integers(0, 9))
    )
    by_popularity = segments.by_popularity(positions, popularity=popularity)
    by_activity = segments.by_activity(positions, lengths=of_users)
    for grouping in (by_popularity, by_activity):
        counted = np.sum([segment.targets for segment in grouping], axis=0)
        np.testing.assert_array_equal(counted, positions >= 0)
        assert all(segment.targets.any() for segment in grouping)
    bounds = [of_users[s.targets.any(axis=1)] for s in by_activity]
    assert all(one.max() < two.min() for one, two in itertools.pairwise(bounds))
    # Shares of the events, by hand: the fewest items that hold a third, two thirds.
    share = 3 * np.cumsum(popularity)
    names = np.full(len(popularity), "tail", object)
    names[: np.searchsorted(share, 2 * popularity.sum()) + 1] = "torso"
    names[: np.searchsorted(share, popularity.sum()) + 1] = "head"
    names[popularity == 0] = "new"
    for segment in by_popularity:
        held = positions[segment.targets]
        assert set(names[held]) == {segment.name}


def test_of_many_targets_only_those_in_the_segment_count():
    ranks = np.array([[0, 2, metrics.MISS], [1, metrics.MISS, 5]], np.int32)
    inside = np.array([[False, True, True], [False, False, False]])
    segment = segments.Segment("tail", "", inside)
    values = segments.segment_values(segment, ranks, NAMES)
    # One query is left, of two relevant items, one of them found at rank 2.
    ideal = 1 + 1 / np.log2(3)
    by_hand = {"hr@3": 1, "recall@3": 0.5, "ndcg@3": 0.5 / ideal, "precision@2": 0}
    assert values == {name: pytest.approx([value]) for name, value in by_hand.items()}


def test_segments_of_a_part_are_its_own_queries_measured_apart(data):
    """With one target each, a segment's values are the whole's at its queries."""
    config = measure.EvaluateConfig(metrics=NAMES)
    search = baselines.bigram(data, data.test)
    result = measure.measure_search(search, data=data, part=data.test, config=config)
    groups = segments.of_part(data, data.test)
    history = data.test.start - data.offsets[data.test.user]
    for grouping in groups.values():
        seen = []
        for segment in grouping:
            rows = segment.targets.any(axis=1)
            got = segments.segment_values(segment, result.ranks, NAMES)
            for name in NAMES:
                np.testing.assert_array_equal(got[name], result.values[name][rows])
            seen += np.flatnonzero(rows).tolist()
        assert sorted(seen) == list(range(len(data.test)))
    light, *_, heavy = groups["activity"]
    longest = history[light.targets[:, 0]].max()
    assert longest < history[heavy.targets[:, 0]].min()
    head, *_ = groups["popularity"]
    popular = data.popularity[data.items[data.test.start]][head.targets[:, 0]]
    assert popular.min() >= np.median(data.popularity[1:])


def test_items_without_training_events_are_new():
    log = make_log()
    config = log_lib.Config(hidden_share=0.25)
    split = split_lib.by_protocol(log, config=config)
    data = prepare.in_memory(split, history_length=4, min_history=1)
    new = segments.of_part(data, data.test)["popularity"][-1]
    assert (new.name, new.description) == ("new", "5 items without training events")
    target = data.items[data.test.start]
    np.testing.assert_array_equal(new.targets[:, 0], data.popularity[target] == 0)
    assert 0 < new.targets.sum() < len(data.test)


def test_padding_is_no_target():
    """Not the last item of the catalogue, which position -1 would be."""
    data = make_data()
    valid, test = data.valid, data.test
    stop = np.where(np.arange(len(test)) % 2, valid.stop, test.stop)
    wide = prepared.Part(valid.user, valid.start, stop)  # one target, or two
    aim = measure.targets(data, wide, seen=False)
    assert (aim.positions < 0).any()
    for grouping in segments.of_part(data, wide).values():
        assert sum(segment.targets.sum() for segment in grouping) == aim.count.sum()
