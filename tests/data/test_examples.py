"""Which examples train, and what each may read: ages, searches, contexts, rows."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_log

from recall_jax.data import log as log_lib
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import split as split_lib
from recall_jax.data.log import Bag
from recall_jax.types import InputError

HISTORY = 4


def log_with_searches(seed: int = 0) -> log_lib.Interactions:
    log, rng = make_log(), np.random.default_rng(seed)
    lengths = rng.integers(0, 3, len(log))
    words = Bag(
        rng.integers(0, 9, lengths.sum()).astype(str), np.append(0, lengths.cumsum())
    )
    one = np.where(rng.random(len(log)) < 0.5, "", rng.integers(0, 5, len(log)))
    return dataclasses.replace(log, events={"query": words, "word": one})


def prepare(log=None, *, span: int = 1, min_history: int = 1, **options):
    config = log_lib.Config(**options)
    split = split_lib.by_protocol(log or make_log(), config=config)
    return prepare_lib.in_memory(
        split,
        history_length=HISTORY,
        min_history=min_history,
        span=span,
        config=config,
    )


def training_events(data):
    """(user, position) of every training event with one before it."""
    return [
        (user, position)
        for user in range(1, len(data.train_stop))
        for position in range(data.offsets[user] + 1, data.train_stop[user])
    ]


# As many examples a user as asked.


@pytest.mark.parametrize("most", [1, 3, 10**6])
def test_each_user_has_as_many_examples_as_asked_or_all_he_has(most):
    data, every = prepare(examples_per_user=most), training_events(prepare())
    user = np.asarray(data.dataset.example_user)
    pairs = list(zip(user.tolist(), np.asarray(data.dataset.example_position).tolist()))
    assert pairs == sorted(set(pairs)) and set(pairs) <= set(every)
    has = np.bincount([u for u, _ in every])
    np.testing.assert_array_equal(
        np.bincount(user, minlength=len(has)), np.minimum(has, most)
    )
    items = data.items[[position for _, position in pairs]]
    np.testing.assert_array_equal(
        data.dataset.item_count,
        np.bincount(items, minlength=data.dataset.num_items + 1),
    )


def test_which_they_are_goes_by_the_seed_and_not_by_their_place():
    def places(seed):
        data = prepare(examples_per_user=2, examples_seed=seed)
        user = np.asarray(data.dataset.example_user)
        return np.asarray(data.dataset.example_position) - data.offsets[user]

    np.testing.assert_array_equal(places(0), places(0))
    assert (places(0) != places(1)).any()
    many = np.concatenate([places(seed) for seed in range(8)])
    assert len(np.unique(many)) > 8, "early and late events alike"


def test_labelled_examples_are_not_thinned():
    log = dataclasses.replace(make_log(), events={"rating": np.ones(400, np.float32)})
    with pytest.raises(InputError, match="counts positives"):
        prepare(log, label="rating", examples_per_user=2)


# Age.


def test_the_age_is_the_time_to_the_end_of_training_and_0_in_use():
    data = prepare()
    batch = data.dataset.batch(jnp.arange(50))
    trains = [
        p
        for u in range(1, len(data.train_stop))
        for p in range(data.offsets[u], data.train_stop[u])
    ]
    age = data.times[trains].max() - data.times
    wanted = age[np.asarray(batch.position)] / age[trains].std()
    np.testing.assert_allclose(batch.query["example_age"], wanted, rtol=1e-5)
    assert batch.query["example_age"].max() > 1 > batch.query["example_age"].min()
    used = data.dataset.query(batch.user, batch.position)
    assert not np.any(used["example_age"])
    kinds = {column.name: column.kind for column in data.schema.query}
    assert kinds["example_age"] == "age"


def test_a_log_without_times_has_no_ages():
    data = prepare(dataclasses.replace(make_log(), time=None))
    assert "example_age" not in data.dataset.batch(jnp.arange(3)).query
    assert "example_age" not in [column.name for column in data.schema.query]


# Searches.


@pytest.mark.parametrize("name", ["query", "word"])
def test_searched_are_the_last_words_of_the_events_before_and_no_others(name):
    log = log_with_searches()
    data = prepare(log, tokens=name, tokens_length=3)
    split = split_lib.by_protocol(log, config=log_lib.Config())
    column, vocabulary = split.log.events[name], data.vocabularies["searched"]
    users = data.vocabularies["user"].ids.tolist()
    batch = data.dataset.batch(jnp.arange(data.num_examples))
    some = 0
    for j in range(0, data.num_examples, 7):
        user, position = int(batch.user[j]), int(batch.position[j])
        code = log.users.id.tolist().index(users[user - 1])
        place = split.start[code] + position - data.offsets[user]
        words = []
        for event in range(split.start[code], place):
            if name == "word":
                words += [column[event]] if column[event] else []
            else:
                words += column.values[
                    slice(*column.offsets[event : event + 2])
                ].tolist()
        wanted = vocabulary.lookup(vocabulary.encode(words[-3:])).tolist()
        wanted = [0] * (3 - len(wanted)) + wanted
        assert np.asarray(batch.query["searched"])[j].tolist() == wanted
        some += bool(words)
    assert some > 10


def test_words_are_numbered_by_training_events_alone():
    log = log_with_searches()
    split = split_lib.by_protocol(log, config=log_lib.Config())
    held = np.concatenate([split.valid, split.test])
    offsets = split.log.events["query"].offsets
    values = split.log.events["query"].values.copy()
    for event in held[held < len(log)]:
        values[offsets[event] : offsets[event + 1]] = "later"
    events = {"query": Bag(values, offsets)}
    split = dataclasses.replace(
        split, log=dataclasses.replace(split.log, events=events)
    )
    data = prepare_lib.in_memory(
        split,
        history_length=HISTORY,
        min_history=1,
        config=log_lib.Config(tokens="query"),
    )
    vocabulary = data.vocabularies["searched"]
    assert vocabulary.ids[-1] == "later" and vocabulary.known == len(vocabulary.ids) - 1
    column = {c.name: c for c in data.schema.query}["searched"]
    assert (column.rows, column.kind) == (vocabulary.rows, "sequence")
    assert int(data.dataset.tokens.max()) == vocabulary.known + 1 < column.rows


def test_a_column_of_words_that_is_not_there_is_told():
    with pytest.raises(InputError, match="data.tokens: .* no event column 'words'"):
        prepare(tokens="words")


# Context.


def test_around_holds_what_stands_on_both_sides_in_training_without_the_positive():
    data = prepare(context="around")
    batch = data.dataset.batch(jnp.arange(data.num_examples))
    for j in range(data.num_examples):
        user, position = int(batch.user[j]), int(batch.position[j])
        begin, stop = int(data.offsets[user]), int(data.train_stop[user])
        near = [p for p in range(begin, stop) if p != position]
        got = [i for i in np.asarray(batch.query["history"])[j].tolist() if i]
        assert len(got) == min(HISTORY, len(near))
        near_enough = [p for p in near if abs(p - position) <= HISTORY]
        assert set(got) <= set(data.items[near_enough].tolist())
        at = [next(p for p in near_enough if data.items[p] == i) for i in got]
        assert at == sorted(at) and position not in at
        if position - begin >= 2 and stop - 1 - position >= 2:
            assert at == [position - 2, position - 1, position + 1, position + 2]
    used = data.dataset.query(batch.user, batch.position)["history"]
    past = prepare().dataset.batch(jnp.arange(data.num_examples)).query["history"]
    np.testing.assert_array_equal(used, past)


def test_an_unknown_context_is_told():
    with pytest.raises(InputError, match="unknown --config.data.context 'future'"):
        prepare(context="future")


# Rows of examples.


def test_rows_hold_examples_end_to_end_and_the_item_before_each():
    data, plain = prepare(span=5), prepare()
    first = jnp.array([0, 3, 40])
    batch = data.dataset.batch(first)
    at = (np.asarray(first)[:, None] + np.arange(5)).ravel()
    one_by_one = plain.dataset.batch(jnp.asarray(at))
    for name in ("user", "item", "position", "weight", "label"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(one_by_one, name))
    history = one_by_one.query["history"][:, -1].reshape(3, 5)
    np.testing.assert_array_equal(batch.query["history"], history)
    np.testing.assert_array_equal(
        batch.query["segment"], np.asarray(batch.user).reshape(3, 5)
    )
    assert (
        data.num_rows == data.num_examples // 5 - 1 and plain.num_rows > data.num_rows
    )


def test_words_of_a_text_are_tokens_each():
    rng = np.random.default_rng(0)
    queries = np.array(["", "Red shoes", "red BOOTS"])[rng.integers(0, 3, 400)]
    data = prepare(dataclasses.replace(make_log(), events={"q": queries}), tokens="q")
    assert set(data.vocabularies["searched"].ids) == {"red", "shoes", "boots"}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.full(400, ""), "is empty"),
        (np.ones(400, np.float32), "numbers with fractions"),
    ],
)
def test_a_column_without_words_is_told(column, message):
    with pytest.raises(InputError, match=message):
        prepare(dataclasses.replace(make_log(), events={"q": column}), tokens="q")


def test_the_fingerprint_covers_what_models_read():
    log = make_log()
    genders = {"gender": np.roll(log.users.columns["gender"], 1)}
    changed = [
        log,
        dataclasses.replace(log, time=log.time * 2 + (log.time > 100)),
        dataclasses.replace(log, users=dataclasses.replace(log.users, columns=genders)),
        dataclasses.replace(
            log,
            items=dataclasses.replace(log.items, text={"title": np.array(["x"] * 20)}),
        ),
    ]
    assert len({prepare(log).fingerprint() for log in changed}) == 4


def test_the_fingerprint_covers_the_split():
    """The same events, of which one more of a user would train."""
    data = prepare()
    more = data.train_stop.copy()
    more[3] += 1
    other = dataclasses.replace(data, train_stop=more)
    assert other.fingerprint() != data.fingerprint()


@pytest.mark.parametrize(
    "options",
    [
        {"label": "rating"},
        {"examples_per_user": 3},
        {"context": "around"},
        {"min_history": 2},
    ],
)
def test_rows_are_of_all_positives_in_their_order(options):
    log = dataclasses.replace(make_log(), events={"rating": np.ones(400, np.float32)})
    with pytest.raises(InputError, match=f"{next(iter(options))}="):
        prepare(log, span=5, **options)
