"""What was shown and passed over: kept apart, laid out for each user, and labels."""

import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest
from conftest import make_log

from recall_jax.data import log as log_lib
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import prepared
from recall_jax.data import split as split_lib
from recall_jax.data.log import Interactions
from recall_jax.data.sources import logs, synthetic
from recall_jax.evaluate import measure
from recall_jax.types import InputError

USERS, ITEMS, HISTORY = 15, 40, 4


def log_with_exposures(*, seed=0, num_shown=400, **events) -> Interactions:
    """Positives and exposures of the same users and items, times tied between them; the
    last users have no positives, the last items exposures alone."""
    rng = np.random.default_rng(seed)
    log = make_log(users=USERS - 2, items=ITEMS - 5, events=150, seed=seed)
    whole = make_log(users=USERS, items=ITEMS)
    log = dataclasses.replace(log, users=whole.users, items=whole.items, events=events)
    shown = Interactions(
        rng.integers(0, USERS, num_shown).astype(np.int32),
        rng.integers(0, ITEMS, num_shown).astype(np.int32),
        log.users,
        log.items,
        time=rng.integers(-20, 100, num_shown),
    )
    return dataclasses.replace(log, shown=shown)


def split_of(log, protocol="leave_one_out") -> split_lib.Split:
    config = log_lib.Config(protocol=protocol, valid_share=0.2, test_share=0.2)
    return split_lib.by_protocol(log, config=config)


def prepare(log, *, protocol="leave_one_out", label="", min_history=0) -> prepared.Data:
    return prepare_lib.in_memory(
        split_of(log, protocol),
        history_length=HISTORY,
        min_history=min_history,
        config=log_lib.Config(label=label),
    )


def passed_over(log, split) -> list[tuple[int, int, int]]:
    """(user code, item code, time) by the definition: before his last training event,
    of items that somebody trains on, and not among those he took up in training."""
    train = [
        np.arange(start, valid) for start, valid in zip(split.start[:-1], split.valid)
    ]
    trained_items = set(split.log.item[np.concatenate(train)].tolist())
    kept = []
    for user, item, time in zip(log.shown.user, log.shown.item, log.shown.time):
        mine = train[user]
        if not len(mine) or item not in trained_items:
            continue
        later = time < split.log.time[mine].max()
        if later and item not in split.log.item[mine]:
            kept.append((int(user), int(item), int(time)))
    return kept


def codes(data, user, item) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the log from catalogue ids."""
    user, item = np.asarray(user), np.asarray(item)
    return data.user_codes[user - 1], data.item_codes[item - 1]


CASES = [
    (protocol, seed) for protocol in ("leave_one_out", "temporal") for seed in (0, 1)
]


# Kept apart.


@pytest.mark.parametrize("protocol", ["leave_one_out", "temporal"])
def test_nothing_else_knows_of_them(protocol):
    """Histories, popularity, counts, vocabularies, targets and what is removed from the
    lists are those of a log that never had any."""
    log = log_with_exposures()
    data = prepare(log, protocol=protocol)
    bare = prepare(dataclasses.replace(log, shown=None), protocol=protocol)
    assert len(data.dataset.shown_items) > 10
    assert bare.dataset.shown_items is None
    without = dataclasses.replace(data.dataset, shown_items=None, shown_offsets=None)
    ours, theirs = jax.tree.flatten(without), jax.tree.flatten(bare.dataset)
    assert ours[1] == theirs[1]
    for mine, other in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_array_equal(mine, other)
    np.testing.assert_array_equal(data.popularity, bare.popularity)
    for name, vocabulary in data.vocabularies.items():
        assert vocabulary.known == bare.vocabularies[name].known
        assert vocabulary.ids.tolist() == bare.vocabularies[name].ids.tolist()
    for part in ("valid", "test"):
        ours, theirs = getattr(data, part), getattr(bare, part)
        np.testing.assert_array_equal(np.stack(ours), np.stack(theirs))
        aim, other = (
            measure.targets(d, getattr(d, part), seen=True) for d in (data, bare)
        )
        np.testing.assert_array_equal(aim.positions, other.positions)
        np.testing.assert_array_equal(aim.exclude.ids, other.exclude.ids)
        np.testing.assert_array_equal(aim.exclude.offsets, other.exclude.offsets)
    config = measure.EvaluateConfig(metrics=("hr@5",), select_by="hr@5")
    measure.check(config, data)


def test_who_and_what_has_exposures_alone_is_in_no_catalogue():
    data = prepare(log_with_exposures())
    assert not set(data.user_codes) & {USERS - 2, USERS - 1}
    assert not set(data.item_codes) & set(range(ITEMS - 5, ITEMS))


# Laid out.


@pytest.mark.parametrize(("protocol", "seed"), CASES)
def test_each_users_are_those_of_the_definition(protocol, seed):
    log = log_with_exposures(seed=seed)
    data = prepare(log, protocol=protocol)
    offsets = np.asarray(data.dataset.shown_offsets)
    assert len(offsets) == len(data.offsets) and offsets[1] == 0
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pairs = zip(*(x.tolist() for x in codes(data, user, data.dataset.shown_items)))
    kept = passed_over(log, split_of(log, protocol))
    assert Counter(pairs) == Counter((user, item) for user, item, _ in kept)
    assert 20 < len(kept) < len(log.shown) / 2


def test_a_log_where_none_is_left_has_none():
    log = log_with_exposures()
    late = dataclasses.replace(log.shown, time=log.shown.time + 10_000)
    data = prepare(dataclasses.replace(log, shown=late))
    assert data.dataset.shown_items is None and data.dataset.shown_offsets is None


def test_a_log_without_times_cannot_tell_what_came_before():
    log = log_with_exposures()
    data = prepare(dataclasses.replace(log, time=None))
    assert data.dataset.shown_items is None


def test_draws_are_each_users_own_all_of_them_and_flagged_where_there_are_none():
    log = log_with_exposures(num_shown=60)
    data = prepare(log)
    own = {}
    for user, item, _ in passed_over(log, split_of(log)):
        own.setdefault(user, Counter())[item] += 1
    users = np.arange(1, len(data.user_codes) + 1)
    draw = jax.jit(data.dataset.draw_shown, static_argnames="num")
    items, some = draw(jax.random.key(0), users, num=2000)
    assert items.shape == some.shape == (len(users), 2000)
    without = 0
    for user, row, flags in zip(data.user_codes, items, np.asarray(some)):
        if user not in own:
            assert not flags.any()
            without += 1
            continue
        assert flags.all()
        count = Counter(data.item_codes[np.asarray(row) - 1].tolist())
        assert count.keys() == own[user].keys()
        for item, n in own[user].items():  # in proportion: draws are independent
            share = n / own[user].total()
            spread = np.sqrt(2000 * share * (1 - share))
            assert abs(count[item] - 2000 * share) <= 5 * spread
    assert 0 < without < len(users)
    again, _ = draw(jax.random.key(1), users, num=2000)
    assert not np.array_equal(items, again)


# Labels.


def labelled_log(**changes) -> Interactions:
    rng = np.random.default_rng(3)
    return log_with_exposures(grade=rng.integers(1, 5, 150), **changes)


@pytest.mark.parametrize(("protocol", "seed"), CASES)
def test_examples_carry_labels_and_exposures_are_examples_of_label_0(protocol, seed):
    """Every field of every example, from the log alone."""
    log = labelled_log(seed=seed)
    split, data = (
        split_of(log, protocol),
        prepare(log, protocol=protocol, label="grade"),
    )
    wanted = []
    for user, start, valid in zip(range(USERS), split.start, split.valid):
        items = split.log.item[start:valid].tolist()
        for j, item in enumerate(items):
            grade = split.log.events["grade"][start + j]
            wanted.append((user, item, float(grade), *items[max(0, j - HISTORY) : j]))
    for user, item, time in passed_over(log, split):
        mine = slice(split.start[user], split.start[user + 1])
        before = split.log.item[mine][split.log.time[mine] <= time]
        wanted.append((user, item, 0.0, *before[-HISTORY:].tolist()))
    batch = data.dataset.batch(np.arange(data.num_examples))
    user, item = (x.tolist() for x in codes(data, batch.user, batch.item))
    history = np.asarray(batch.query["history"])
    past = [data.item_codes[row[row > 0] - 1].tolist() for row in history]
    label = np.asarray(batch.label).tolist()
    examples = [(*row, *items) for *row, items in zip(user, item, label, past)]
    assert Counter(examples) == Counter(wanted)
    assert data.num_examples == len(wanted)
    assert {0.0, 1.0, 4.0} <= set(label)
    np.testing.assert_array_equal(batch.weight, 1)
    # Counts and popularity know of positives alone.
    assert data.dataset.item_count.sum() == data.popularity.sum()
    config = measure.EvaluateConfig(metrics=("hr@5",), select_by="hr@5")
    measure.check(config, data)


def test_labels_stay_with_their_events_where_the_first_are_left_out():
    """min_history drops each user's first examples, and only theirs."""
    log = dataclasses.replace(labelled_log(), shown=None)
    every, some = (prepare(log, label="grade", min_history=n) for n in (0, 2))
    batches = [d.dataset.batch(np.arange(d.num_examples)) for d in (every, some)]
    begin = every.offsets[np.asarray(batches[0].user)]
    kept = np.asarray(batches[0].position) >= begin + 2
    assert 0 < kept.sum() < len(kept)
    for one, other in zip(batches[0][1:], batches[1][1:]):
        np.testing.assert_array_equal(np.asarray(one)[kept], other)


def test_without_a_label_examples_are_positives_of_label_1():
    data = prepare(labelled_log())
    batch = data.dataset.batch(np.arange(data.num_examples))
    assert data.num_examples == data.popularity.sum()
    np.testing.assert_array_equal(batch.label, 1)


@pytest.mark.parametrize(
    ("events", "label", "message"),
    [
        ({"grade": np.ones(150)}, "stars", "'stars' is no column .* there are: grade"),
        ({}, "stars", "'stars' is no column .* a random log; there are: none"),
        ({"kind": np.array(["a"] * 150)}, "kind", "'kind' is no column of numbers"),
        ({"grade": np.repeat([1, np.nan], 75)}, "grade", "events have no label"),
        ({"grade": np.repeat([1, np.inf], 75)}, "grade", "events have no label"),
    ],
    ids=["unknown", "no columns", "strings", "nan", "infinite"],
)
def test_a_label_that_is_none_is_refused(events, label, message):
    with pytest.raises(InputError, match=message):
        prepare(log_with_exposures(**events), label=label)


def test_what_could_be_a_label_is_listed_and_no_column_of_strings():
    log = labelled_log()
    log.events["kind"] = np.array(["a"] * 150)
    with pytest.raises(InputError, match="there are: grade$"):
        prepare(log, label="kind")


def test_a_label_and_a_weight_exclude_each_other():
    log = dataclasses.replace(labelled_log(), weight=np.ones(150, np.float32))
    with pytest.raises(InputError, match="data.label and data.weight exclude each"):
        prepare(log, label="grade")


def test_the_fingerprint_is_of_labels_and_exposures_too():
    """Or a run would go on with other ones."""
    log = labelled_log()
    grades = dataclasses.replace(log, events={"grade": log.events["grade"][::-1]})
    fewer = dataclasses.replace(log, shown=log.shown.select(np.arange(200)))
    prints = {prepare(x, label="grade").fingerprint() for x in (log, grades, fewer)}
    assert len(prints) == 3


# Where they come from.

CSV = """user,item,kind,ts,rating
1,a,show,100,
1,b,click,101,5
2,a,buy,102,2
1,c,show,103,
3,c,hover,104,
2,b,click,105,4
9,z,show,106,
"""


def csv_config(folder, **changes) -> logs.Config:
    (folder / "log.csv").write_text(CSV)
    path = str(folder / "log.csv")
    return logs.Config(path, action="kind", time="ts", rating="rating", **changes)


def rows(log) -> list[tuple]:
    raw = log.users.id[log.user], log.items.id[log.item], log.time
    return list(zip(*(x.tolist() for x in raw)))


def test_a_csvs_exposures_are_the_actions_named(tmp_path):
    config = csv_config(
        tmp_path, exposures=("show",), actions=("click", "buy"), min_rating=3.0
    )
    log = config.load()
    assert rows(log) == [(1, "b", 101), (2, "b", 105)]
    assert rows(log.shown) == [(1, "a", 100), (1, "c", 103), (9, "z", 106)]
    assert len(config.read()) == 7
    config = dataclasses.replace(config, exposures=("show", "hover"), actions=())
    log = dataclasses.replace(config, min_rating=0.0).load()
    assert rows(log) == [(1, "b", 101), (2, "a", 102), (2, "b", 105)]
    assert rows(log.shown)[2] == (3, "c", 104) and len(log.shown) == 4
    assert csv_config(tmp_path).load().shown is None


def test_exposures_that_the_log_does_not_have_are_told(tmp_path):
    with pytest.raises(
        InputError, match="no event has the action 'shwo'; there are bu"
    ):
        csv_config(tmp_path, exposures=("shwo",)).load()
    config = dataclasses.replace(csv_config(tmp_path, exposures=("show",)), action="")
    with pytest.raises(InputError, match="'action' column .*config.data.action=COL"):
        config.load()


def test_a_log_of_exposures_alone_is_told(tmp_path):
    every = ("show", "hover", "click", "buy")
    with pytest.raises(InputError, match="data.exposures"):
        csv_config(tmp_path, exposures=every).load()


def test_ratings_of_a_log_of_ones_own_are_labels(tmp_path):
    """As MovieLens has them: every rating is an event, and its label."""
    log = make_log(users=10, items=20, events=120)
    stars = {pair: 1 + sum(pair) % 5 for pair in zip(log.user, log.item)}
    lines = [
        f"{user},{item},{stars[user, item]},{time}"
        for user, item, time in zip(log.user, log.item, log.time)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,stars,ts", *lines]))
    config = logs.Config(
        str(tmp_path / "log.csv"), time="ts", rating="stars", label="rating"
    )
    split = split_lib.by_protocol(config.load(), config=config)
    data = prepare_lib.in_memory(split, history_length=0, min_history=0, config=config)
    batch = data.dataset.batch(np.arange(data.num_examples))
    users, items = (data.vocabularies[name].ids for name in ("user", "item"))
    pairs = zip(users[np.asarray(batch.user) - 1], items[np.asarray(batch.item) - 1])
    assert batch.label.tolist() == [stars[pair] for pair in pairs]
    assert len(set(batch.label.tolist())) == 5


def test_a_synthetic_log_has_its_shown_rows_apart():
    config = synthetic.Config(num_users=60, num_items=40, num_events=700, num_markets=4)
    log, whole = config.load(), synthetic.generate(config).log
    assert (log.events["action"] > 0).all() and (log.shown.events["action"] == 0).all()
    assert rows(log) == rows(whole.select(whole.events["action"] > 0))
    assert rows(log.shown) == rows(whole.select(whole.events["action"] == 0))
    assert len(prepare(log).dataset.shown_items) > 50
