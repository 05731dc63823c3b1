import dataclasses

import numpy as np
import pytest
from conftest import make_log
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.data import log as log_lib
from recall_jax.data import split as split_lib
from recall_jax.data.log import Bag, Config, Entities, Interactions
from recall_jax.types import InputError


def log_of(*events, source="test") -> Interactions:
    """A log from (user, item, time) triples."""
    user, item, time = (np.array(column) for column in zip(*events, strict=True))
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        Entities(np.arange(user.max() + 1)),
        Entities(np.arange(item.max() + 1)),
        time=time.astype(np.int64),
        source=source,
    )


def test_factorize_numbers_by_first_appearance():
    codes, distinct = log_lib.factorize(np.array(["b", "a", "b", "c"]))
    assert codes.tolist() == [0, 1, 0, 2]
    assert distinct.tolist() == ["b", "a", "c"]


def test_take_of_a_bag_keeps_rows_whole():
    bag = Bag(np.array([1, 2, 3, 4]), np.array([0, 2, 2, 4]))
    taken = log_lib.take(bag, np.array([2, 1, 0, 2]))
    assert taken.values.tolist() == [3, 4, 1, 2, 3, 4]
    assert taken.offsets.tolist() == [0, 2, 2, 4, 6]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=60),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_what_the_k_core_keeps_has_enough_and_is_the_most_that_can(pairs, users, items):
    log = log_of(*[(u, i, 0) for u, i in pairs])
    kept = log_lib.min_count_filter(log, users=users, items=items)
    for codes, least in ((kept.user, users), (kept.item, items)):
        assert (np.bincount(codes)[codes] >= least).all()
    # Greedy by hand: drop one offending event at a time until none is left.
    rest = list(pairs)
    while True:
        bad = [
            (u, i)
            for u, i in rest
            if sum(v == u for v, _ in rest) < users
            or sum(j == i for _, j in rest) < items
        ]
        if not bad:
            break
        rest.remove(bad[0])
    assert sorted(zip(kept.user.tolist(), kept.item.tolist(), strict=True)) == sorted(
        rest
    )


def test_what_the_k_core_drops_may_cost_others_their_place():
    """Item 3 has one event; without it user 2 has one, without whom item 2 has one."""
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 2), (2, 3)]
    log = log_of(*[(u, i, 0) for u, i in pairs])
    kept = log_lib.min_count_filter(log, users=2, items=2)
    assert list(zip(kept.user.tolist(), kept.item.tolist())) == pairs[:4]


def test_leave_one_out_by_hand():
    """User 0's events out of order with a tie; user 1 has too few to hold out."""
    log = log_of((0, 5, 30), (1, 1, 1), (0, 3, 10), (0, 4, 30), (1, 2, 2), (0, 6, 20))
    split = split_lib.leave_one_out(log, ties="file", seed=0)
    assert split.log.item.tolist() == [3, 6, 5, 4, 1, 2]
    assert split.start.tolist() == [0, 4, 6]
    assert split.valid.tolist() == [2, 6]
    assert split.test.tolist() == [3, 6]
    assert "ties in file order (50% of test items" in split.protocol


def test_three_events_are_one_for_each_part():
    """Two only train; four leave two to train."""
    events = [(user, j, j) for user, many in enumerate((3, 2, 4)) for j in range(many)]
    split = split_lib.leave_one_out(log_of(*events), ties="file", seed=0)
    assert split.start.tolist() == [0, 3, 5, 9]
    assert (split.valid.tolist(), split.test.tolist()) == ([1, 5, 7], [2, 5, 8])


def test_temporal_by_hand():
    """Of ten events, one a second, the last three test and the one before validates; an
    event in the second of a cut is behind it."""
    log = log_of(*[(t % 2, t - 1, t) for t in range(1, 11)])
    split = split_lib.temporal(
        log, ties="file", seed=0, valid_share=0.1, test_share=0.3
    )
    assert split.log.time.tolist() == [2, 4, 6, 8, 10, 1, 3, 5, 7, 9]
    # The cuts are at 7 and 8: the sixth and the seventh of ten, counted from 0.
    assert split.valid.tolist() == [3, 8] and split.test.tolist() == [3, 9]


def test_shuffled_ties_move_ties_only_and_follow_the_seed():
    log = make_log(events=500)
    one, same, other, plain = (
        split_lib.leave_one_out(log, ties=ties, seed=seed).log
        for ties, seed in [
            ("shuffled", 1),
            ("shuffled", 1),
            ("shuffled", 2),
            ("file", 0),
        ]
    )
    np.testing.assert_array_equal(one.item, same.item)
    assert (one.item != other.item).any() and (one.item != plain.item).any()
    np.testing.assert_array_equal(one.time, plain.time)
    np.testing.assert_array_equal(one.user, plain.user)


def test_temporal_cuts_everybody_at_the_same_two_moments():
    log = make_log(events=500)
    split = split_lib.temporal(
        log, ties="file", seed=0, valid_share=0.1, test_share=0.2
    )
    part = np.empty(len(log), int)
    for u in range(len(split.start) - 1):
        part[split.start[u] : split.valid[u]] = 0
        part[split.valid[u] : split.test[u]] = 1
        part[split.test[u] : split.start[u + 1]] = 2
    time = split.log.time
    assert time[part == 0].max() < time[part == 1].min()
    assert time[part == 1].max() < time[part == 2].min()
    assert 0.15 < np.mean(part == 2) < 0.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "leave_two_out"}, "leave_one_out, temporal"),
        ({"ties": "random"}, "shuffled"),
        ({"min_user_events": 1000}, "lower them"),
        ({"protocol": "temporal", "test_share": 1.5}, "test_share 1.5"),
    ],
)
def test_a_wrong_split_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        split_lib.by_protocol(
            make_log(), config=dataclasses.replace(Config(), **changes)
        )


def test_without_times_only_file_order_is_left():
    log = dataclasses.replace(make_log(), time=None)
    split = split_lib.by_protocol(log, config=Config())
    np.testing.assert_array_equal(
        split.log.item[: split.start[1]], log.item[log.user == 0]
    )
    for changes in ({"ties": "shuffled"}, {"protocol": "temporal"}):
        with pytest.raises(InputError, match="time"):
            split_lib.by_protocol(log, config=dataclasses.replace(Config(), **changes))


def test_no_user_of_three_events_is_said_plainly():
    log = log_of((0, 0, 0), (0, 1, 1), (1, 0, 0))
    with pytest.raises(InputError, match="no user has three events"):
        split_lib.by_protocol(log, config=Config())
