"""The protocol `file_order`: each of its oddities on a hand-made file, and the three
rows on the real one by which it is known."""

import dataclasses

import numpy as np
import pytest

from experiments.common import summary
from recall_jax.data import log as log_lib
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import prepared
from recall_jax.data import split as split_lib
from recall_jax.data.sources import movielens
from recall_jax.evaluate import baselines, measure
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.models import mf
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.types import InputError

ROWS = {1: 9, 2: 10, 3: 11, 4: 202, 5: 203, 6: 240}  # of each user
HISTORY = 50


def item_of(user: int, row: int) -> int:
    """Distinct within a user, so that an item tells its row."""
    return 1 + (7 * user + row) % 250


@pytest.fixture
def folder(tmp_path):
    """Users take turns, and each user's times run backwards. Movie 900 is the nine-row
    user's alone, movie 901 nobody's."""
    lines, sex = [], "FM"
    for row in range(max(ROWS.values())):
        for user, count in ROWS.items():
            if row < count:
                item = 900 if (user, row) == (1, 4) else item_of(user, row)
                lines.append(f"{user}::{item}::5::{978_300_760 - 60 * row}\n")
    users = [f"{u}::{sex[u % 2]}::25::{u}::0000{u}\n" for u in ROWS]
    genres = ["Drama|Comedy", "Action", "Comedy|Drama", ""]
    movies = [
        f"{j}::Movie {j} (1990)::{genres[j % 4]}\n" for j in [*range(1, 251), 900, 901]
    ]
    for name, text in (("ratings", lines), ("users", users), ("movies", movies)):
        (tmp_path / f"{name}.dat").write_text("".join(text))
    return tmp_path


def config_of(folder, **changes) -> movielens.Config:
    fields = {"protocol": "file_order", "num_ratings": 0, **changes}
    return movielens.Config(dir=str(folder), **fields)


def prepare(config, *, min_history: int = 1) -> prepared.Data:
    split = split_lib.by_protocol(config.load(), config=config)
    return prepare_lib.in_memory(split, history_length=HISTORY, min_history=min_history)


def rows_of(data, part=None) -> dict[int, list[tuple[int, list[int]]]]:
    """By raw user: the row that is predicted and the rows of its history, nearest
    first, of the training examples or of a part."""
    users, items = (data.vocabularies[name].ids for name in ("user", "item"))
    rows = {(u, item_of(u, row)): row for u in ROWS for row in range(ROWS[u])}
    if part is None:
        batch = data.dataset.batch(np.arange(data.num_examples))
        user, item = np.asarray(batch.user), np.asarray(batch.item)
        position = np.asarray(batch.position)
    else:
        user, position, item = part.user, part.start, data.items[part.start]
        assert (part.stop == part.start + 1).all()
    # Not through `query`, which has one id for all items without training events.
    past = np.asarray(data.dataset.past(user, position, length=HISTORY))
    examples = {}
    for u, i, ids in zip(users[user - 1].tolist(), item, past):
        history = [rows[u, items[j - 1]] for j in ids[::-1] if j]
        examples.setdefault(u, []).append((rows[u, items[i - 1]], history))
    return examples


def before(row: int) -> list[int]:
    return list(range(row - 1, max(row - HISTORY, 0) - 1, -1))


# What is an example, what a history.


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_examples_are_the_200_next_to_the_test_less_the_farthest(folder, share):
    """Of 10 rows 1..8 are left beside the test one, and 1 is dropped; of 202 rows
    1..200, of 203 rows 2..201, of 240 rows 39..238, and again the first is dropped. With
    a share of validation, whatever it is, the row before the last is no example."""
    firsts = {2: 2, 3: 2, 4: 2, 5: 3, 6: 40}  # user 1 has nine rows
    sizes = {2: 7, 3: 8, 4: 199, 5: 199, 6: 199}
    by_user = rows_of(prepare(config_of(folder, valid_share=share)))
    assert by_user.keys() == firsts.keys()
    for user, examples in by_user.items():
        stop = ROWS[user] - 1 - (share > 0)
        assert examples == [(row, before(row)) for row in range(firsts[user], stop)]
        assert len(examples) == sizes[user] - (share > 0)
    assert by_user[6][0] == (40, list(range(39, -1, -1)))  # rows before the window too


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_the_last_row_tests_and_the_one_before_it_validates_or_trains(folder, share):
    data = prepare(config_of(folder, valid_share=share))
    last = {user: n - 1 for user, n in ROWS.items() if user != 1}
    assert rows_of(data, data.test) == {u: [(n, before(n))] for u, n in last.items()}
    validates = {u: [(n - 1, before(n - 1))] for u, n in last.items()} if share else {}
    assert rows_of(data, data.valid) == validates
    clause = "the row before it validates" if share else "the rest trains"
    assert data.protocol == (
        "file_order, rows as they stand in the file, a user's last row tests (an "
        f"artificial order: compares tables, not models); {clause}"
    )


def test_histories_can_be_asked_to_be_longer_than_the_first_examples(folder):
    data = prepare(config_of(folder), min_history=5)
    firsts = {user: rows[0][0] for user, rows in rows_of(data).items()}
    assert firsts == {2: 5, 3: 5, 4: 5, 5: 5, 6: 40}


def test_no_time_is_read(folder):
    config = config_of(folder)
    log, data = config.load(), prepare(config)
    assert data.times is None and data.ordered
    log = dataclasses.replace(log, time=np.random.default_rng(0).permutation(log.time))
    split = split_lib.by_protocol(log, config=config)
    other = prepare_lib.in_memory(split, history_length=HISTORY, min_history=1)
    assert other.fingerprint() == data.fingerprint()


# What is counted, what is ranked.


def test_every_training_event_is_counted_and_every_example_once(folder):
    """Rows that are only history count in popularity and in the vocabulary's order."""
    data = prepare(config_of(folder))
    ids = data.vocabularies["item"].ids
    trained = [item_of(u, row) for u in range(2, 7) for row in range(ROWS[u] - 2)]
    assert data.popularity[1:].tolist() == [trained.count(item) for item in ids]
    assert (np.diff(data.popularity[1:]) <= 0).all()
    predicted = [
        item_of(u, row) for u, rows in rows_of(data).items() for row, _ in rows
    ]
    count = data.dataset.item_count[1:].tolist()
    assert count == [predicted.count(item) for item in ids]
    assert len(predicted) == data.num_examples < len(trained)


def test_every_item_of_a_user_who_stays_is_ranked_and_nothing_is_removed(folder):
    data = prepare(config_of(folder))
    present = {item_of(u, row) for u in range(2, 7) for row in range(ROWS[u])}
    assert set(data.vocabularies["item"].ids.tolist()) == present  # no 900, no 901
    size = data.dataset.num_items
    settings = measure.EvaluateConfig(metrics=(f"hr@{size}",), select_by=f"hr@{size}")
    measure.check(settings, data)
    assert not data.repeats and not measure.removes_seen(settings, data)
    search = baselines.popularity(data, data.test)
    ranking = measure.measure_search(
        search, data=data, part=data.test, config=settings
    ).lists
    assert (np.sort(ranking.ids[:, :-1]) == np.arange(size)).all()
    other_settings = dataclasses.replace(settings, seen="removed")
    assert measure.removes_seen(other_settings, data)


def test_the_constant_list_is_of_the_rows_before_the_last():
    """Items 8 (twice) and 9 (once), then by training events."""
    user = np.repeat(np.arange(3), 10)
    item = np.array(
        [[0, 1, 2, 3, 4, 5, 6, 7, z, y] for z, y in [(8, 9)] * 2 + [(9, 8)]]
    )
    item[2, 7] = 5
    log = log_lib.Interactions(
        user.astype(np.int32),
        item.ravel().astype(np.int32),
        log_lib.Entities(np.arange(3)),
        log_lib.Entities(np.arange(10)),
    )
    data = prepare_log(log)
    ranking = baselines.penultimate(data, data.test)(10, None)
    names = data.vocabularies["item"].ids[ranking.ids]
    assert (names == names[0]).all() and names[0, :3].tolist() == [8, 9, 5]
    ranks = ranking.scores[0].tolist()  # popularity is 4 at the most, so weight 5
    assert ranks == [10, 5, 4, 3, 3, 3, 3, 3, 3, 2]


def prepare_log(log) -> prepared.Data:
    split = split_lib.by_protocol(log, config=log_lib.Config(protocol="file_order"))
    return prepare_lib.in_memory(split, history_length=0, min_history=0)


def test_the_first_genre_is_a_column(folder):
    log = config_of(folder).load()
    genre = dict(zip(log.items.id.tolist(), log.items.columns["first_genre"].tolist()))
    assert [genre[j] for j in (1, 2, 3, 4)] == ["Action", "Comedy", "", "Drama"]


# The whole way.


def test_a_run_has_its_rows_once_more_with_the_refit(folder, tmp_path):
    config = Experiment(
        name="tiny",
        data=config_of(folder),
        model=mf.Config(width=4),
        negatives=NegativesConfig(kind="full", correction="none"),
        train=TrainConfig(epochs=2, batch_size=16, scan_steps=5, refit="all"),
        evaluate=measure.EvaluateConfig(
            metrics=("hr@10",), select_by="hr@10", indexes=()
        ),
    )
    results = summary.train(config, tmp_path / "run")
    rows = {"popularity", "bigram", "constant", "item_knn", "ease"}
    assert results["baselines"].keys() == rows | {f"{name}_refit" for name in rows}
    assert results["seen"] == "kept" and results["test_refit"]
    refused = dataclasses.replace(
        config, data=dataclasses.replace(config.data, protocol="temporal")
    )
    with pytest.raises(
        InputError, match="protocol=given and file_order.*under temporal"
    ):
        summary.train(refused, tmp_path / "other")


# Refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_user_events": 5}, "not of protocol file_order.*set them to 0"),
        ({"min_item_events": 5}, "not of protocol file_order.*set them to 0"),
        ({"ties": "shuffled"}, "data.ties=shuffled .*set data.ties=file"),
        ({"ties": "both"}, "data.ties=both .*set data.ties=file"),
        ({"valid_share": 1.0}, "data.valid_share is 1.0; it must be at least 0"),
        ({"valid_share": -0.1}, "data.valid_share is -0.1; it must be at least 0"),
    ],
)
def test_what_the_protocol_does_not_have_is_refused(folder, changes, message):
    config = config_of(folder, **changes)
    with pytest.raises(InputError, match=message):
        split_lib.by_protocol(config.load(), config=config)


def test_a_log_of_short_users_is_told_so(folder):
    config = config_of(folder)
    log = config.load()
    log = log.select(log.users.id[log.user] == 1)
    with pytest.raises(
        InputError, match="no user has 10 rows .the most is 9.*leave_on"
    ):
        split_lib.by_protocol(log, config=config)


def test_nothing_to_validate_by_is_told_before_training(folder):
    data = prepare(config_of(folder, valid_share=0.0))
    config = measure.EvaluateConfig(metrics=("hr@5",), select_by="hr@5")
    with pytest.raises(InputError, match="the validation part is empty"):
        measure.check(config, data)


# The real file.


def test_the_rows_of_ml_1m_are_the_known_ones(ml_1m):
    """If these move, the protocol moved. All of train counts, as after a refit."""
    config = config_of(ml_1m, valid_share=0.0, num_ratings=-1)
    split = split_lib.by_protocol(config.load(), config=config)
    data = prepare_lib.in_memory(split, history_length=0, min_history=0)
    assert (len(data.test), data.dataset.num_items) == (6040, 3706)
    assert len(data.items) == 1_000_209 and data.num_examples == 646_058
    settings = measure.EvaluateConfig(metrics=("hr@10",), select_by="hr@10")
    for name, low, high in (
        ("bigram", 0.50, 0.52),
        ("penultimate", 0.36, 0.38),
        ("popularity", 0.003, 0.005),
    ):
        search = getattr(baselines, name)(data, data.test)
        row = measure.measure_search(search, data=data, part=data.test, config=settings)
        assert low <= row.means()["hr@10"] <= high, name
