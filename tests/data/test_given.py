"""The protocol `given`: what each part holds, by brute force, and what it refuses."""

import dataclasses
import functools

import numpy as np
import pytest
from conftest import make_log
from hypothesis import example, settings
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from recall_jax.data import prepare as prepare_lib
from recall_jax.data import prepared
from recall_jax.data import split as split_lib
from recall_jax.data.log import Entities, Interactions
from recall_jax.data.sources import lightgcn, logs
from recall_jax.evaluate import baselines, measure
from recall_jax.index import search as search_lib
from recall_jax.types import InputError


def log_of(*events: tuple[int, int, int]) -> Interactions:
    """A log from (user, item, part) triples."""
    user, item, part = (np.array(column) for column in zip(*events, strict=True))
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        Entities(np.arange(user.max() + 1)),
        Entities(np.arange(item.max() + 1)),
        events={"part": part},
        source="a test",
    )


def random_log(*, users=12, items=30, events=200, seed=0) -> Interactions:
    """Pairs in a random order, a third of them test, without times."""
    log = make_log(users=users, items=items, events=events, seed=seed)
    part = (np.random.default_rng(seed).random(events) < 1 / 3).astype(int)
    return dataclasses.replace(log, time=None, events={"part": part})


def parts_of(split) -> list[tuple[list, list, list]]:
    """Items of each user's training, validation and test part, as they lie."""
    item, ends = split.log.item.tolist(), zip(split.start, split.start[1:])
    return [
        (item[start:valid], item[valid:test], item[test:stop])
        for (start, stop), valid, test in zip(ends, split.valid, split.test)
    ]


def prepare(log, *, valid_share=0.2, seed=0, history_length=0) -> prepared.Data:
    split = split_lib.given(log, valid_share=valid_share, seed=seed)
    return prepare_lib.in_memory(split, history_length=history_length, min_history=0)


# What each part holds.


def check_parts(log, *, valid_share: float, seed: int) -> None:
    """Train and validation together are the user's train lines, test his test lines,
    and validation is as large as asked: no event is lost, moved or doubled."""
    split = split_lib.given(log, valid_share=valid_share, seed=seed)
    assert len(split.log) == len(log) and not split.ordered
    parts = parts_of(split)
    for user in range(len(log.users)):
        mine = [
            sorted(log.item[(log.user == user) & (log.events["part"] == part)].tolist())
            for part in (0, 1)
        ]
        train, valid, test = parts[user]
        assert sorted(train + valid) == mine[0]
        assert sorted(test) == mine[1]
        wanted = round(valid_share * len(mine[0]))
        if valid_share and len(mine[0]) >= 3:
            wanted = max(wanted, 1)
        # One at least trains, whatever the share.
        assert len(valid) == min(wanted, max(len(mine[0]) - 1, 0))
        lines = slice(split.start[user], split.start[user + 1])
        assert (split.log.user[lines] == user).all()
        expected = [0] * len(mine[0]) + [1] * len(mine[1])
        assert split.log.events["part"][lines].tolist() == expected


@settings(max_examples=60, deadline=None)
@hypothesis_given(
    st.dictionaries(
        st.tuples(st.integers(0, 6), st.integers(0, 9)),
        st.sampled_from([0, 0, 1]),
        min_size=1,
        max_size=50,
    ),
    st.sampled_from([0, 1e-9, 0.1, 0.25, 0.5, 0.9]),
    st.integers(0, 5),
)
@example({(0, 0): 1, (2, 0): 0}, 0.1, 0)  # test alone; nothing; train alone
def test_every_user_keeps_his_events_part_by_part(pairs, valid_share, seed):
    log = log_of(*[(*pair, part) for pair, part in pairs.items()])
    check_parts(log, valid_share=valid_share, seed=seed)


def test_of_fewer_than_three_training_events_one_in_ten_is_none():
    """Nobody's only events may go; from three on there is always one to validate."""
    events = [(user, item, 0) for user in range(6) for item in range(user)]
    events += [(user, 9, 1) for user in range(6)]
    split = split_lib.given(log_of(*events), valid_share=0.1, seed=0)
    sizes = [tuple(map(len, parts)) for parts in parts_of(split)]
    assert sizes == [(0, 0, 1), (1, 0, 1), (2, 0, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1)]


def test_the_test_part_is_the_published_one_whatever_the_seed_and_share(tmp_path):
    published = {3: {7, 9}, 5: {1}, 8: {2, 3, 4}}
    train = {3: (1, 2, 3, 4, 5), 5: (2, 3, 4), 8: (1, 7, 9)}
    for name, lines in (("train", train), ("test", published)):
        text = [f"{user} {' '.join(map(str, lines[user]))}" for user in lines]
        (tmp_path / f"{name}.txt").write_text("\n".join(text))
    validated = set()
    for seed in range(4):
        for valid_share in (0, 0.1, 0.6):
            config = lightgcn.Config(
                dir=str(tmp_path), valid_seed=seed, valid_share=valid_share
            )
            split = split_lib.by_protocol(config.load(), config=config)
            data = prepare_lib.in_memory(split, history_length=0, min_history=0)
            users, items = (data.vocabularies[n].ids for n in ("user", "item"))
            test_items = {
                int(users[user - 1]): set(items[data.items[start:stop] - 1].tolist())
                for user, start, stop in zip(*data.test)
            }
            assert test_items == published
            validated.add(str(parts_of(split)))
    assert len(validated) > 6  # data.valid_seed and data.valid_share reach the split


def test_another_seed_cuts_other_events_and_the_same_seed_the_same():
    log = random_log()
    cut = [
        parts_of(split_lib.given(log, valid_share=0.3, seed=seed)) for seed in (0, 0, 1)
    ]
    assert cut[0] == cut[1]
    differing = [set(a[1]) != set(b[1]) for a, b in zip(cut[0], cut[2])]
    assert np.mean(differing) > 0.5


def test_every_training_event_is_as_likely_to_validate_wherever_its_line_has_it():
    """Of ten, two validate: a fifth of 500 seeds each, give or take five deviations."""
    log = log_of(*[(0, item, 0) for item in range(10)], (0, 10, 1))
    count = np.zeros(10)
    for seed in range(500):
        ((_, valid, _),) = parts_of(split_lib.given(log, valid_share=0.2, seed=seed))
        count[valid] += 1
    assert count.sum() == 1000
    assert (abs(count / 500 - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 500)).all()


@pytest.mark.parametrize(
    "num_test",
    [
        20,
        21,
    ],
)
def test_test_events_have_no_say_in_what_validates(num_test):
    train = [(user, item, 0) for user in range(8) for item in range(5 + user)]
    some = [(user, 20 + item, 1) for user in range(5) for item in range(4)]
    others = [(7, 20 + item, 1) for item in range(num_test)]
    cut = [
        parts_of(split_lib.given(log_of(*train, *test), valid_share=0.3, seed=0))
        for test in (some, others)
    ]
    assert [parts[:2] for parts in cut[0]] == [parts[:2] for parts in cut[1]]
    assert [parts[2] for parts in cut[0]] != [parts[2] for parts in cut[1]]


def test_a_share_of_0_trains_on_all():
    log = random_log()
    data = prepare(log, valid_share=0)
    trained = int((log.events["part"] == 0).sum())
    assert data.num_examples == trained == data.popularity.sum()
    assert len(data.valid) == 0 and len(data.test)
    assert "all of train trains" in data.protocol
    assert "20% of each user's" in prepare(log).protocol


# What is made of it.


def pairs_of(data) -> dict[str, set]:
    """(raw user, raw item) that train, validate and test, from the arrays."""
    users, items = (data.vocabularies[name].ids for name in ("user", "item"))
    batch = data.dataset.batch(np.arange(data.num_examples))
    user, item = np.asarray(batch.user), np.asarray(batch.item)
    pairs = {"train": set(zip(users[user - 1], items[item - 1]))}
    for name in ("valid", "test"):
        pairs[name] = {
            (users[user - 1], items[item - 1])
            for user, start, stop in zip(*getattr(data, name))
            for item in data.items[start:stop]
        }
    return pairs


def test_parts_share_no_pair_and_miss_none():
    log = random_log()
    parts = pairs_of(prepare(log))
    pairs = set(zip(log.users.id[log.user], log.items.id[log.item]))
    assert sum(map(len, parts.values())) == len(pairs) == len(log)
    assert set.union(*parts.values()) == pairs
    test = log.events["part"] == 1
    assert parts["test"] == set(
        zip(log.users.id[log.user[test]], log.items.id[log.item[test]])
    )


def test_popularity_and_order_count_training_only():
    log = random_log(items=60)
    data = prepare(log, valid_share=0.4)
    count = dict.fromkeys(log.items.id[np.unique(log.item)].tolist(), 0)
    for _, item in pairs_of(data)["train"]:
        count[int(item)] += 1
    ids = data.vocabularies["item"].ids.tolist()
    assert data.popularity[1:].tolist() == [count[item] for item in ids]
    assert data.dataset.item_count[1:].tolist() == data.popularity[1:].tolist()
    assert (np.diff(data.popularity[1:]) <= 0).all()
    assert data.dataset.known_items == sum(n > 0 for n in count.values()) < len(ids)


def test_lists_never_hold_what_was_seen_and_the_tests_history_has_validation_too():
    log = random_log()
    data = prepare(log, valid_share=0.4)
    pairs = pairs_of(data)
    users, items = (data.vocabularies[n].ids for n in ("user", "item"))
    config = measure.EvaluateConfig(metrics=("recall@30",), select_by="recall@30")
    rng, size = np.random.default_rng(0), data.dataset.num_items
    vectors = rng.normal(size=(size, 4)).astype(np.float32)
    for part, seen in ((data.valid, ["train"]), (data.test, ["train", "valid"])):
        queries = rng.normal(size=(len(part), 4)).astype(np.float32)
        searches = [
            functools.partial(search_lib.Exact.build(vectors).search, queries),
            baselines.popularity(data, part),
        ]
        for search in searches:
            result = measure.measure_search(search, data=data, part=part, config=config)
            for user, row in zip(part.user, result.lists.ids):
                name = users[user - 1]
                met = {item for kind in seen for u, item in pairs[kind] if u == name}
                listed = {items[j] for j in row if j >= 0}
                # k is the whole catalogue: all that is not removed is there.
                assert listed == set(items) - met
            # So every target is found, whatever the order.
            assert result.means() == {"recall@30": 1.0}


def test_every_users_targets_are_all_of_his_part():
    log = random_log()
    data = prepare(log)
    aim = measure.targets(data, data.test, seen=True)
    test = log.events["part"] == 1
    count = {log.users.id[u]: n for u, n in enumerate(np.bincount(log.user[test]))}
    names = data.vocabularies["user"].ids[data.test.user - 1]
    assert aim.count.tolist() == [count[name] for name in names]
    assert aim.count.max() > 3


def test_a_user_with_test_events_alone_is_asked_with_an_empty_history():
    log = log_of((0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 0, 0), (1, 2, 1), (2, 1, 1))
    data = prepare(log)
    user = int(np.flatnonzero(data.user_codes == 2)[0]) + 1
    assert user in data.test.user and user > data.dataset.known_users
    query = data.dataset.query(np.array([user]), data.offsets[[user]])
    assert query["user"].tolist() == [data.dataset.known_users + 1]
    aim = measure.targets(data, data.test, seen=True)
    row = data.test.user.tolist().index(user)
    assert np.diff(aim.exclude.offsets)[row] == 0


# Refusals.


def test_a_log_without_parts_is_told_which_protocols_it_can_have(tmp_path):
    log = dataclasses.replace(random_log(), events={})
    with pytest.raises(InputError, match="a random log is one log; choose leave_one_"):
        split_lib.given(log, valid_share=0.1, seed=0)
    path = tmp_path / "log.csv"
    path.write_text("user,item\n1,a\n2,b\n1,c\n")
    config = logs.Config(str(path), protocol="given")
    with pytest.raises(InputError, match="log.csv is one log; .*config.data.protocol"):
        split_lib.by_protocol(config.load(), config=config)


def test_a_log_with_times_can_have_parts_too():
    log = dataclasses.replace(random_log(), time=np.arange(200))
    config = measure.EvaluateConfig(metrics=("hr@5",), select_by="hr@5")
    measure.check(config, prepare(log))


def test_a_part_that_is_no_number_is_refused():
    log = random_log()
    parts = np.where(log.events["part"] > 0, "test", "train")
    log = dataclasses.replace(log, events={"part": parts})
    with pytest.raises(InputError, match="part"):
        split_lib.given(log, valid_share=0.1, seed=0)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InputError, match=f"data.valid_share is {share}; it must be"):
        split_lib.given(random_log(), valid_share=share, seed=0)


def test_nothing_to_validate_by_is_told_before_training():
    data = prepare(random_log(), valid_share=0)
    config = measure.EvaluateConfig(metrics=("hr@5",), select_by="hr@5")
    with pytest.raises(InputError, match="the validation part is empty"):
        measure.check(config, data)


def test_no_training_events_are_told():
    with pytest.raises(InputError, match="the training part is empty"):
        prepare(log_of((0, 0, 1), (1, 1, 1)))
