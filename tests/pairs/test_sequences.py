"""Sequences of training events: how each option cuts and cleans them, walks as text."""

import dataclasses

import numpy as np
import pytest
from conftest import make_log
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax import schema
from recall_jax.data import log as log_lib
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import prepared
from recall_jax.data import split as split_lib
from recall_jax.data.log import Bag, Entities, Interactions
from recall_jax.data.sources import synthetic
from recall_jax.models import itemwise
from recall_jax.pairs import sequences
from recall_jax.types import InputError

HOUR, DAY = 3_600, 86_400
NIGHT = 18_000 * DAY  # midnight, UTC
HELD_OUT = [98, 99]  # items, two days later: what leave_one_out takes away


def data_of(*users, times: bool = True, **columns) -> prepared.Data:
    """Of users' training events, each (item, second from midnight). An event column is
    a list over all of them, in order; held-out events repeat its last value."""
    user, item, time, source = [], [], [], []
    for u, events in enumerate(users):
        last = events[-1][1]
        for j, t in [*events, *((j, last + 2 * DAY) for j in HELD_OUT)]:
            user, item, time = [*user, u], [*item, j], [*time, NIGHT + t]
        first = len(set(source)) and max(source) + 1
        mine = list(range(first, first + len(events)))
        source += [*mine, mine[-1], mine[-1]]
    codes, ids = log_lib.factorize(np.array(item))
    log = Interactions(
        user=np.array(user, np.int32),
        item=codes,
        users=Entities(np.arange(len(users))),
        items=Entities(ids),
        time=np.array(time) if times else None,
        events={name: np.array(x)[source] for name, x in columns.items()},
        source="a log by hand",
    )
    return prepare(log)


def prepare(log: Interactions, **config) -> prepared.Data:
    split = split_lib.by_protocol(log, config=log_lib.Config(**config))
    return prepare_lib.in_memory(split, history_length=2, min_history=0)


def raw(data: prepared.Data, corpus: sequences.Sequences) -> list[list]:
    """The sequences as lists of raw item ids; checks what holds of all."""
    assert [x.dtype for x in corpus[:4]] == [np.int32, np.int64, np.int32, np.int32]
    assert corpus.offsets[0] == 0 and corpus.offsets[-1] == len(corpus.items)
    assert len(corpus.user) == len(corpus.booked) == len(corpus.offsets) - 1
    assert (np.diff(corpus.offsets) > 0).all()
    ids = data.vocabularies["item"].ids[corpus.items - 1]
    return [part.tolist() for part in np.split(ids, corpus.offsets[1:-1])]


def cut(data: prepared.Data, **config) -> list[list]:
    return raw(data, sequences.make(data, itemwise.SequencesConfig(**config)))


def booked(data: prepared.Data, **config) -> list[int]:
    """Raw ids of booked items, 0 for exploratory sequences."""
    item_ids = sequences.make(data, itemwise.SequencesConfig(**config)).booked
    return np.append(0, data.vocabularies["item"].ids)[item_ids].tolist()


def refused(data: prepared.Data, expected: str, **config) -> None:
    with pytest.raises(InputError, match=expected):
        sequences.make(data, itemwise.SequencesConfig(**config))


@pytest.fixture
def pauses() -> prepared.Data:
    """Two users with pauses of an hour, of a second more, and across midnight."""
    return data_of(
        [(1, 0), (2, HOUR), (3, 2 * HOUR + 1), (4, DAY - 1), (5, DAY)],
        [(6, DAY), (7, DAY + 1)],
    )


# The log's event columns.


def test_event_columns_lie_as_the_flat_items_do():
    log = make_log()
    lengths = log.item % 3
    words = np.repeat(log.items.id[log.item], lengths)
    events = {"own": log.items.id[log.item].astype(str)}
    events["bag"] = Bag(words, np.append(0, np.cumsum(lengths)))
    data = prepare(dataclasses.replace(log, events=events))
    ids = data.vocabularies["item"].ids[data.items - 1]
    np.testing.assert_array_equal(data.events["own"], ids.astype(str))
    bag, code = data.events["bag"], ids - 100
    np.testing.assert_array_equal(np.diff(bag.offsets), code % 3)
    np.testing.assert_array_equal(bag.values, np.repeat(ids, code % 3))


def test_a_log_without_event_columns_has_none():
    assert prepare(make_log()).events == {}


# Cuts.


def test_one_sequence_a_user(pauses):
    assert cut(pauses) == [[1, 2, 3, 4, 5], [6, 7]]
    corpus = sequences.make(pauses, itemwise.SequencesConfig())
    raw_users = pauses.vocabularies["user"].ids[corpus.user - 1]
    assert raw_users.tolist() == [0, 1]
    assert corpus.ordered and not corpus.booked.any()


def test_a_pause_longer_than_the_gap_cuts_and_one_as_long_does_not(pauses):
    assert cut(pauses, cut="gap") == [[1, 2], [3], [4, 5], [6, 7]]
    assert cut(pauses, cut="gap", gap=HOUR + 1) == [[1, 2, 3], [4, 5], [6, 7]]
    assert cut(pauses, cut="gap", gap=0) == [[j] for j in range(1, 8)]


def test_users_are_cut_apart_though_no_time_passes():
    data = data_of([(1, 0), (2, 1)], [(3, 1), (4, 2)])
    for name in ("user", "gap", "day"):
        assert cut(data, cut=name) == [[1, 2], [3, 4]]


def test_days_are_cut_at_midnight(pauses):
    assert cut(pauses, cut="day") == [[1, 2, 3, 4], [5], [6, 7]]
    assert sequences.make(pauses, itemwise.SequencesConfig(cut="day")).ordered


def test_days_of_a_log_of_days_have_no_order():
    data = data_of([(1, 0), (2, 0), (3, DAY)], [(4, DAY), (5, DAY)])
    for name in ("day", "gap"):
        assert cut(data, cut=name) == [[1, 2], [3], [4, 5]]
        assert not sequences.make(data, itemwise.SequencesConfig(cut=name)).ordered
    assert sequences.make(data, itemwise.SequencesConfig(cut="user")).ordered


def test_the_logs_own_sessions_may_run_at_once_and_may_be_missing():
    events = [(j, 10 * j) for j in range(1, 7)], [(7, 0), (8, 1)]
    wanted = [[1, 3], [2, 6], [4], [5], [7], [8]]
    data = data_of(*events, session=[4, 2, 4, -1, -1, 2, 2, -1])
    assert cut(data, cut="session") == wanted
    data = data_of(*events, session=["x", "a", "x", "", "", "a", "a", ""])
    assert cut(data, cut="session") == wanted
    nan = np.nan
    data = data_of(*events, session=[4.0, 2, 4, nan, nan, 2, 2, nan])
    assert cut(data, cut="session") == wanted
    corpus = sequences.make(data, itemwise.SequencesConfig(cut="session"))
    assert corpus.user.tolist() == [1, 1, 1, 1, 2, 2] and corpus.ordered


def test_sessions_need_no_times():
    data = data_of([(1, 0), (2, 0), (3, 0)], times=False, session=[1, 1, 2])
    assert cut(data, cut="session") == [[1, 2], [3]]
    assert sequences.make(data, itemwise.SequencesConfig(cut="session")).ordered


def test_a_sequence_ends_with_its_conversion_and_at_a_pause():
    data = data_of(
        [(1, 0), (2, 1), (3, 2), (4, 3), (5, 3 + HOUR), (6, 5 + 2 * HOUR)],
        [(7, 0), (8, 1), (9, 2)],
        action=["see", "buy", "buy", "see", "see", "see", "buy", "see", "see"],
    )
    options = {"cut": "conversion", "conversions": ("buy",)}
    assert cut(data, **options) == [[1, 2], [3], [4, 5], [6], [7], [8, 9]]
    assert booked(data, **options) == [2, 3, 0, 0, 7, 0]
    assert cut(data, gap=2 * HOUR, **options) == [[1, 2], [3], [4, 5, 6], [7], [8, 9]]


def test_the_last_conversion_of_a_sequence_counts_and_held_out_ones_do_not():
    events = [(1, 0), (2, 1), (3, 2)], [(4, 0), (5, 1)]
    data = data_of(*events, action=["buy", "save", "see", "see", "see"])
    data.events["action"][data.train_stop[2] :] = "buy"  # both held-out events
    assert booked(data, conversions=("buy",)) == [1, 0]
    assert booked(data, conversions=("buy", "save")) == [2, 0]
    assert cut(data, conversions=("buy",)) == [[1, 2, 3], [4, 5]]


def test_codes_of_actions_go_by_their_names_or_as_they_are():
    buy = synthetic.ACTIONS.index("buy")
    data = data_of([(1, 0), (2, 1), (3, 2)], action=[1, buy, 1])
    for name in ("buy", str(buy)):
        assert booked(data, conversions=(name,)) == [2]
    names = ("pay", "look")
    assert booked(data, conversions=("look",), action_names=names) == [3]


# Clean-up.


def test_repeated_clicks_go_but_not_conversions_nor_other_users():
    data = data_of(
        [(1, 0), (1, 5), (1, 10), (2, 11), (1, 12), (1, 18), (1, 19)],
        [(1, 19), (3, 20)],
        action=["see"] * 6 + ["buy", "see", "see"],
    )
    assert cut(data, repeat_seconds=5) == [[1, 2, 1, 1], [1, 3]]
    assert cut(data, repeat_seconds=4) == [[1, 1, 1, 2, 1, 1], [1, 3]]
    kept = [[1, 2, 1, 1, 1], [1, 3]]
    assert cut(data, repeat_seconds=5, conversions=("buy",)) == kept
    assert booked(data, repeat_seconds=5, conversions=("buy",)) == [1, 0]


def test_short_stays_go_unknown_ones_and_conversions_stay():
    data = data_of(
        [(1, 0), (2, 1), (3, 2), (1, 3), (4, 4)],
        dwell=[3.0, 2.9, np.nan, 0.5, 9.0],
        action=["see", "see", "see", "buy", "see"],
    )
    assert cut(data, min_stay=3) == [[1, 3, 4]]
    assert cut(data, min_stay=3, conversions=("buy",)) == [[1, 3, 1, 4]]


def test_a_stay_too_short_does_not_hide_a_repetition():
    data = data_of([(1, 0), (2, 1), (1, 2)], dwell=[9.0, 0.1, 9.0])
    assert cut(data, min_stay=1, repeat_seconds=5) == [[1]]


def test_users_with_more_training_events_than_the_most_go():
    data = data_of([(1, 0), (2, 1), (3, 2)], [(4, 0), (5, 1)])
    assert cut(data, max_user_events=2) == [[4, 5]]
    assert cut(data, max_user_events=3) == [[1, 2, 3], [4, 5]]


def test_short_sequences_go(pauses):
    assert cut(pauses, cut="gap", min_length=2) == [[1, 2], [4, 5], [6, 7]]


def test_booked_sequences_count_as_often_as_asked_if_long_enough():
    data = data_of(
        [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)],
        action=["see", "buy", "buy", "see", "see"],
    )
    options = {"cut": "conversion", "conversions": ("buy",), "oversample": 3}
    assert cut(data, **options) == [[1, 2]] * 3 + [[3]] * 3 + [[4, 5]]
    assert booked(data, **options) == [2, 2, 2, 3, 3, 3, 0]
    assert cut(data, min_length=2, **options) == [[1, 2]] * 3 + [[4, 5]]


# What no event may break.


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(itemwise.CUTS),
    protocol=st.sampled_from(["leave_one_out", "temporal"]),
)
def test_training_events_all_come_once_and_held_out_ones_never(seed, name, protocol):
    log, rng = (
        make_log(users=6, items=30, events=90, seed=seed),
        np.random.default_rng(0),
    )
    events = {
        "action": rng.choice(["see", "buy"], 90),
        "session": rng.integers(0, 4, 90),
    }
    time = NIGHT + rng.integers(0, 3 * DAY, 90)
    log = dataclasses.replace(log, events=events, time=time)
    data = prepare(log, protocol=protocol, test_share=0.3)
    config = itemwise.SequencesConfig(cut=name, conversions=("buy",))
    corpus = sequences.make(data, config)
    raw(data, corpus)
    # The log has no pair of user and item twice.
    user = np.repeat(corpus.user, np.diff(corpus.offsets))
    got = sorted(zip(user.tolist(), corpus.items.tolist()))
    wanted = [
        (u, int(data.items[at]))
        for u in range(1, len(data.train_stop))
        for at in range(data.offsets[u], data.train_stop[u])
    ]
    assert got == sorted(wanted)
    mine = set(got)
    pairs = zip(corpus.user.tolist(), corpus.booked.tolist())
    assert all(pair in mine for pair in pairs if pair[1])


def test_an_hours_pause_recovers_the_sessions_of_the_synthetic_log():
    config = synthetic.Config(
        num_users=40, num_items=60, num_events=600, num_markets=3, span_days=30
    )
    data = prepare(config.load())
    by_gap = sequences.make(data, itemwise.SequencesConfig(cut="gap", gap=3_600))
    own = sequences.make(data, itemwise.SequencesConfig(cut="session"))
    for field in ("items", "offsets", "user"):
        np.testing.assert_array_equal(getattr(by_gap, field), getattr(own, field))
    assert by_gap.ordered and 80 < len(own.user) < len(own.items)
    # Purchases end sessions there, so that cutting after them changes nothing.
    options = {"conversions": ("buy",), "gap": 3_600}
    ended = sequences.make(data, itemwise.SequencesConfig(cut="conversion", **options))
    assert (ended.booked > 0).sum() > 10
    np.testing.assert_array_equal(ended.offsets, own.offsets)
    last = own.items[own.offsets[1:] - 1]
    assert (ended.booked == np.where(ended.booked > 0, last, 0)).all()


# Refusals.


def unordered() -> prepared.Data:
    log = make_log()
    part = (np.arange(len(log)) % 5 == 0).astype(int)
    return prepare(dataclasses.replace(log, events={"part": part}), protocol="given")


def test_a_log_without_order_makes_sets_of_users():
    data = unordered()
    corpus = sequences.make(data, itemwise.SequencesConfig())
    assert not corpus.ordered
    for s, u in enumerate(corpus.user):
        mine = corpus.items[corpus.offsets[s] : corpus.offsets[s + 1]]
        trained = data.items[data.offsets[u] : data.train_stop[u]]
        assert sorted(mine) == sorted(trained)


@pytest.mark.parametrize("name", [name for name in itemwise.CUTS if name != "user"])
def test_a_log_without_order_is_not_cut(name):
    refused(
        unordered(),
        f"cut={name} needs the order of events.*set cut=user",
        cut=name,
        conversions=("buy",),
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"cut": "week"},
            "unknown --config.model.pairs.sequences.cut 'week'; there are: user, gap",
        ),
        ({"gap": -1}, "sequences.gap is -1; it must be at least 0"),
        ({"min_length": 0}, "sequences.min_length is 0; it must be at least 1"),
        ({"oversample": 0}, "sequences.oversample is 0; it must be at least 1"),
        ({"repeat_seconds": -1}, "sequences.repeat_seconds is -1"),
        ({"min_stay": -1}, "sequences.min_stay is -1"),
        ({"max_user_events": -1}, "sequences.max_user_events is -1"),
        ({"cut": "conversion"}, "sequences.cut=conversion needs to know which actions"),
        ({"oversample": 2}, "sequences.oversample=2 needs to know which actions"),
        ({"min_stay": 1}, "min_stay=1 needs an event column 'dwell'.*has action"),
        (
            {"cut": "session"},
            "cut=session needs an event column 'session'.*set cut=gap",
        ),
        ({"conversions": ("bye",)}, "'bye',.*no event has the action 'bye'.*buy, see"),
        ({"max_user_events": 1}, "leaves no training event; raise .*max_user_events=1"),
        ({"min_length": 9}, "no sequence has 9 items, the longest has 5; lower"),
    ],
)
def test_a_config_that_cannot_be_is_refused(pauses, config, expected):
    action = np.where(np.arange(len(pauses.items)) % 2, "see", "buy")
    refused(dataclasses.replace(pauses, events={"action": action}), expected, **config)


def test_conversions_without_actions_are_refused(pauses):
    refused(
        pauses, "needs an event column 'action'.*has none.*empty", conversions=("buy",)
    )


@pytest.mark.parametrize(
    "config", [{"cut": "gap"}, {"cut": "day"}, {"repeat_seconds": 1}]
)
def test_what_needs_times_says_so(config):
    data = data_of([(1, 0), (2, 0)], times=False)
    refused(data, "needs times, and a log by hand has none; name the column", **config)


def test_conversions_do_not_cut_where_times_are_days():
    data = data_of([(1, 0), (2, 0), (3, DAY)], action=["see", "buy", "see"])
    expected = "times of a log by hand are whole days; set cut=day"
    refused(data, expected, cut="conversion", conversions=("buy",))
    assert booked(data, cut="day", conversions=("buy",)) == [2, 0]


# Walks.


@pytest.mark.parametrize("ids", [[7, -3, 10**15], ["7", "é", "a:b"]])
def test_walks_are_read_from_their_file(tmp_path, ids):
    vocabulary, path = schema.Vocabulary(np.array(ids), 2), tmp_path / "walks.txt"
    path.write_text(f"{ids[1]}\n{ids[0]} {ids[1]} {ids[2]}\n", "utf-8")
    walks = sequences.read_walks(path, vocabulary)
    wanted = {"items": [2, 1, 2, 3], "offsets": [0, 1, 4], "user": [0, 0]}
    for field, values in (wanted | {"booked": [0, 0]}).items():
        np.testing.assert_array_equal(getattr(walks, field), values)
    assert walks.items.dtype == np.int32 and walks.ordered


def test_blank_lines_are_passed_over_and_strangers_named_with_their_line(tmp_path):
    vocabulary, path = schema.Vocabulary(np.array([5, 6]), 2), tmp_path / "w.txt"
    path.write_text("5 6\n\n  6\t5 \n")
    walks = sequences.read_walks(path, vocabulary)
    assert (walks.items.tolist(), walks.offsets.tolist()) == ([1, 2, 2, 1], [0, 2, 4])
    path.write_text("5 6\n\n6 77 5\n")
    with pytest.raises(InputError, match=r"w.txt, line 3: the item '77' is not in"):
        sequences.read_walks(path, vocabulary)


def test_files_that_hold_no_walks_are_refused(tmp_path):
    vocabulary, path = schema.Vocabulary(np.array([5, 6]), 2), tmp_path / "w.txt"
    with pytest.raises(InputError, match="w.txt could not be read as walks"):
        sequences.read_walks(path, vocabulary)
    path.write_bytes(b"\xff\xfe5")
    with pytest.raises(InputError, match="w.txt could not be read as walks"):
        sequences.read_walks(path, vocabulary)
    path.write_text("\n \n")
    with pytest.raises(InputError, match="holds no walks"):
        sequences.read_walks(path, vocabulary)
