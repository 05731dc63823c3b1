"""Which events are positives, and how rows are ordered."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.data import log as log_lib
from recall_jax.data import prepare, prepared
from recall_jax.data import split as split_lib
from recall_jax.data.log import Entities, Interactions
from recall_jax.data.sources import logs, stream
from recall_jax.types import InputError


def make_log(**events: np.ndarray) -> Interactions:
    return Interactions(
        user=np.array([0, 0, 1, 1, 1], np.int32),
        item=np.array([0, 1, 0, 1, 2], np.int32),
        users=Entities(np.array([7, 8])),
        items=Entities(np.array(["a", "b", "c"])),
        weight=np.array([1, 2, 0, 3, 1], np.float32),
        events=events,
        source="a test",
    )


ACTIONS = np.array(["show", "click", "show", "buy", "click"])
NAN = np.float32(np.nan)


def test_without_filters_the_log_is_left_alone():
    log = make_log()
    assert log_lib.filter_positives(log) is log


def test_keeps_the_actions_named():
    log = make_log(action=ACTIONS)
    kept = log_lib.filter_positives(log, actions=("click", "buy"))
    assert kept.item.tolist() == [1, 1, 2]
    assert kept.events["action"].tolist() == ["click", "buy", "click"]
    assert len(kept.items) == 3


@pytest.mark.parametrize("actions", [(4,), ("4",)])
@pytest.mark.parametrize("kind", [np.int64, str])
def test_an_action_code_is_the_same_as_a_string_or_a_number(actions, kind):
    log = make_log(action=np.array([1, 4, 1, 4, 2]).astype(kind))
    kept = log_lib.filter_positives(log, actions=actions)
    assert kept.item.tolist() == [1, 1]


def test_every_bound_holds_and_a_missing_value_fails_it():
    rating = np.array([5, NAN, 4, 3, 5], np.float32)
    dwell = np.array([9, 9, 9, 9, NAN], np.float32)
    log = make_log(rating=rating, dwell=dwell)
    kept = log_lib.filter_positives(log, min_rating=4.0)
    assert kept.item.tolist() == [0, 0, 2]
    kept = log_lib.filter_positives(log, min_rating=4.0, min_dwell=5.0)
    assert kept.item.tolist() == [0, 0]
    kept = log_lib.filter_positives(log, min_rating=4.0, min_weight=1.0)
    assert kept.item.tolist() == [0, 2]


def test_a_filter_without_its_column_names_both():
    with pytest.raises(
        InputError, match=r"data.min_dwell needs a 'dwell' column.*weight, action"
    ):
        log_lib.filter_positives(make_log(action=ACTIONS), min_dwell=1.0)
    bare = dataclasses.replace(make_log(), weight=None)
    with pytest.raises(InputError, match=r"needs a 'weight' column.* has none"):
        log_lib.filter_positives(bare, min_weight=1.0)


@pytest.mark.parametrize("action", ["cilck", 3])
def test_an_action_that_never_occurs_is_refused(action):
    log = make_log(action=ACTIONS)
    with pytest.raises(InputError, match=f"{action!r}; there are buy, click, show"):
        log_lib.filter_positives(log, actions=("buy", action))


def test_filters_that_leave_nothing_are_refused():
    with pytest.raises(InputError, match="none of the 5 events"):
        log_lib.filter_positives(make_log(), min_weight=4.0)


def test_leave_one_out_needs_two_users_and_three_events_of_one():
    log = make_log()
    log_lib.check_usable(log)
    with pytest.raises(InputError, match=r"no user of a test has 3.*most is 2"):
        log_lib.check_usable(log.select(np.arange(4)))
    with pytest.raises(InputError, match="are one user's"):
        log_lib.check_usable(log.select(log.user == 1))


WEIGHTS = {
    "zero": (0.0, 0.0, r"data.weight=w of the training examples are all 0"),
    "huge": (1.0, 1e38, r"run from 1 to 1e\+38; .*Only their ratios matter: scale"),
    "tiny": (0.0, 1e-38, r"run from 0 to 1e-38; "),
    "negative": (-1.0, 1.0, r"run from -1 to 1; they must be at least 0"),
    "missing": (np.nan, np.nan, r"run from nan to nan"),
}


@pytest.mark.parametrize("low, high, expected", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_weigh_nothing_are_refused(low, high, expected):
    with pytest.raises(InputError, match=f"^a log: .*{expected}"):
        log_lib.check_weights(low, high, column="w", source="a log")


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (1e-38, 1e25), (1e-25, 1e-25)])
def test_weights_are_relative(low, high):
    log_lib.check_weights(low, high, column="", source="a log")


def weighed(weights: np.ndarray) -> Interactions:
    """Four users with four events each; the first two of each train."""
    user = np.repeat(np.arange(4, dtype=np.int32), 4)
    item = np.tile(np.arange(4, dtype=np.int32), 4)
    entities = Entities(np.arange(4))
    kept = np.tile(weights, 4).astype(np.float32)
    return Interactions(user, item, entities, entities, weight=kept, source="a log")


def test_weights_of_what_is_held_out_are_not_asked():
    split = split_lib.by_protocol(
        weighed(np.array([0, 0, 1, 1])), config=log_lib.Config()
    )
    with pytest.raises(InputError, match="a log: the weights of .* are all 0"):
        prepare.in_memory(split, history_length=2, min_history=1)
    split = split_lib.by_protocol(
        weighed(np.array([0, 1, 1e38, 0])), config=log_lib.Config()
    )
    prepare.in_memory(split, history_length=2, min_history=1)


@pytest.mark.parametrize("weights", [[0, 0, 1, 1], [1e-30, 1e-30, 1, 1]])
def test_a_streamed_log_is_refused_alike(tmp_path, weights):
    pl = pytest.importorskip("polars", reason="shards are read with polars")
    log = weighed(np.array(weights))
    rows = {"user": log.user, "item": log.item, "w": log.weight}
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    config = stream.Config(path=str(tmp_path / "log.parquet"), weight="w")
    with pytest.raises(InputError, match="log.parquet: data.weight=w of the training"):
        prepared.open_data(config, history_length=2, min_history=1)
    plain = logs.Config(path=config.path, weight="w")
    split = split_lib.by_protocol(plain.load(), config=plain)
    with pytest.raises(InputError, match="log.parquet: data.weight=w of the training"):
        prepare.in_memory(split, history_length=2, min_history=1, config=plain)


WIDE = st.integers(-(2**63), 2**63 - 1)
KEYS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.one_of(st.integers(-2, 2), WIDE),
        st.integers(-2, 2).map(lambda seconds: seconds * 10**9),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(KEYS, st.permutations(range(3)), st.booleans())
def test_rows_are_ordered_as_python_sorts_them(rows, order, whole):
    if whole:  # seconds as nanoseconds, over more years than all bits would hold
        rows = [(a, (b % 2**33) * 10**9, c) for a, b, c in rows]
    rows = [tuple(row[j] for j in order) for row in rows]
    keys = [np.array([row[j] for row in rows], np.int64) for j in range(3)]
    expected = sorted(range(len(rows)), key=rows.__getitem__)
    assert log_lib.order_by(*keys).tolist() == expected
