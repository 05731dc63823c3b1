import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_data, make_log

from recall_jax import schema
from recall_jax.data import log as log_lib
from recall_jax.data import prepare
from recall_jax.data import prepared as prepared_lib
from recall_jax.data import split as split_lib
from recall_jax.data.log import Bag
from recall_jax.data.sources import logs, stream
from recall_jax.types import InputError


def split_of(log, **changes):
    return split_lib.by_protocol(log, config=log_lib.Config(**changes))


def test_histories_are_what_stands_before_and_never_the_target():
    log = make_log()
    split, data = split_of(log), make_data(history_length=4)
    sorted_log = split.log
    raw_of_user = data.vocabularies["user"].ids
    raw_of_item = data.vocabularies["item"].ids
    batch = data.dataset.batch(jnp.arange(data.num_examples))
    position = np.asarray(data.dataset.example_position)
    for j in range(0, data.num_examples, 17):
        user = int(batch.user[j])
        code = np.flatnonzero(log.users.id == raw_of_user[user - 1])[0]
        mine = sorted_log.item[split.start[code] : split.valid[code]]
        raw = log.items.id[mine]
        at = position[j] - data.offsets[user]
        assert raw_of_item[int(batch.item[j]) - 1] == raw[at]
        wanted = raw[max(0, at - 4) : at]
        got = np.asarray(batch.query["history"][j])
        assert (got[: 4 - len(wanted)] == 0).all()
        np.testing.assert_array_equal(raw_of_item[got[4 - len(wanted) :] - 1], wanted)
        assert at >= 1


def test_catalogue_ids_fall_with_training_frequency_and_strangers_share_a_row():
    data = make_data(users=40, items=60, events=200)
    popularity = data.popularity[1:]
    assert (np.diff(popularity) <= 0).all()
    known_items = data.dataset.known_items
    assert known_items < data.dataset.num_items, "the log should hold untrained items"
    assert popularity[known_items - 1] > 0 and (popularity[known_items:] == 0).all()
    columns = data.dataset.item(jnp.arange(data.dataset.num_items + 1))
    assert columns["item"][0] == 0
    np.testing.assert_array_equal(columns["item"][known_items + 1 :], known_items + 1)
    assert data.vocabularies["item"].rows == known_items + 2


def test_popularity_counts_training_events_only():
    data = make_data()
    trained = len(data.items) - len(data.valid) - len(data.test)
    assert data.popularity.sum() == trained
    assert float(data.dataset.item_count.sum()) == data.num_examples


def test_features_stand_at_their_entity():
    log, data = make_log(), make_data()
    bag = log.items.columns["tags"]
    ids = data.vocabularies["tags"].ids
    for inner in range(1, data.dataset.num_items + 1):
        code = data.item_codes[inner - 1]
        wanted = bag.values[bag.offsets[code] : bag.offsets[code + 1]]
        got = np.asarray(data.dataset.item_columns["tags"][inner])
        assert sorted(ids[got[got > 0] - 1]) == sorted(wanted)
    price = np.asarray(data.dataset.item_columns["price"])[1:]
    weighted = np.average(price, weights=data.popularity[1:])
    assert abs(weighted) < 1e-5
    assert np.average(price**2, weights=data.popularity[1:]) == pytest.approx(1, 1e-4)


def test_a_value_without_training_events_reads_the_unknown_row():
    log = make_log(users=40, items=60, events=200)
    tags = np.arange(60).astype(str)  # every item its own
    entities = dataclasses.replace(log.items, columns={"own": tags})
    data = prepare.in_memory(
        split_of(dataclasses.replace(log, items=entities)),
        history_length=0,
        min_history=0,
    )
    known_items = data.dataset.known_items
    column = np.asarray(data.dataset.item_columns["own"])
    assert (column[known_items + 1 :] == data.vocabularies["own"].known + 1).all()
    assert len(set(column[1 : known_items + 1])) == known_items


def test_a_missing_value_of_a_bag_is_padding():
    log = make_log()
    empty = Bag(np.array([], "<U1"), np.zeros(len(log.items) + 1, np.int64))
    entities = dataclasses.replace(log.items, columns={"tags": empty})
    data = prepare.in_memory(
        split_of(dataclasses.replace(log, items=entities)),
        history_length=3,
        min_history=1,
    )
    assert (np.asarray(data.dataset.item_columns["tags"]) == 0).all()


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("name", ["user", "item", "history", "example_age"])
def test_a_name_that_is_reserved_is_said_to_be(side, name):
    log = make_log()
    old = getattr(log, f"{side}s")
    new = dataclasses.replace(old, columns=old.columns | {name: old.id.astype(str)})
    split = split_of(dataclasses.replace(log, **{f"{side}s": new}))
    expected = f"the {side} features: .*'{name}' is reserved.*data.{side}_columns lists"
    with pytest.raises(InputError, match=expected):
        prepare.in_memory(split, history_length=3, min_history=1)


def test_a_name_that_is_free_is_taken():
    log = make_log()
    columns = log.items.columns | {"searched": log.items.id, "history": log.items.id}
    items = dataclasses.replace(log.items, columns=columns)
    split = split_of(dataclasses.replace(log, items=items))
    data = prepare.in_memory(split, history_length=0, min_history=1)
    assert {"searched", "history"} <= {column.name for column in data.schema.item}


@pytest.mark.parametrize("kind", [logs.Config, stream.Config])
def test_the_file_of_a_reserved_name_is_told(tmp_path, kind):
    pl = pytest.importorskip("polars", reason="shards are read with polars")
    rows = {"user": [1, 1, 1, 1, 2, 2, 2, 2], "item": [1, 2, 3, 4, 1, 2, 3, 4]}
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    features_ = {"item": [1, 2, 3, 4], "history": [*"abcd"], "kind": [*"aabb"]}
    pl.DataFrame(features_).write_parquet(tmp_path / "kinds.parquet")
    config = kind(
        path=str(tmp_path / "log.parquet"), item_features=f"{tmp_path}/kinds.parquet"
    )

    def prepared(config):
        if kind is stream.Config:
            return prepared_lib.open_data(config, history_length=3, min_history=1)
        split = split_lib.by_protocol(config.load(), config=config)
        return prepare.in_memory(split, history_length=3, min_history=1, config=config)

    with pytest.raises(InputError, match="kinds.parquet: .* 'history' is reserved"):
        prepared(config)
    left = prepared(dataclasses.replace(config, item_columns=("kind",)))
    assert [column.name for column in left.schema.item] == ["item", "kind"]


def test_one_name_on_both_sides_is_refused():
    log = make_log()
    items = dataclasses.replace(log.items, columns={"gender": log.items.id})
    with pytest.raises(InputError, match='"gender" stands on both sides'):
        prepare.in_memory(
            split_of(dataclasses.replace(log, items=items)),
            history_length=3,
            min_history=1,
        )


def test_nothing_to_train_on_is_said():
    with pytest.raises(
        InputError, match="more than 500 training .* lower model.min_history"
    ):
        make_data(min_history=500)


def test_times_and_weights_lie_as_the_events_do():
    """Each event's weight is its place in the log, which tells user, item and time."""
    log = make_log()
    log = dataclasses.replace(log, weight=np.arange(len(log), dtype=np.float32))
    data = prepare.in_memory(split_of(log), history_length=3, min_history=1)
    at = np.asarray(data.dataset.weights).astype(int)
    users = np.repeat(np.arange(len(data.offsets) - 1), np.diff(data.offsets))
    np.testing.assert_array_equal(log.item[at], data.item_codes[data.items - 1])
    np.testing.assert_array_equal(log.user[at], data.user_codes[users - 1])
    np.testing.assert_array_equal(log.time[at], data.times)


def test_parts_of_leave_one_out_are_the_last_two():
    data = make_data()
    assert (data.test.start == data.offsets[data.test.user + 1] - 1).all()
    assert (data.valid.start == data.offsets[data.valid.user + 1] - 2).all()
    assert (data.valid.stop == data.test.start).all()


def test_vocabularies_survive_their_file(tmp_path):
    data = make_data()
    path = tmp_path / "vocabularies.json"
    path.write_text(schema.dump_vocabularies(data.vocabularies))
    for name, loaded in schema.load_vocabularies(path).items():
        kept = data.vocabularies[name]
        assert loaded.known == kept.known
        np.testing.assert_array_equal(loaded.ids, kept.ids)
        assert loaded.ids.dtype.kind == kept.ids.dtype.kind
    items = data.vocabularies["item"]
    assert items.encode(items.ids[:3]).tolist() == [1, 2, 3]
    assert items.encode([-5]).tolist() == [len(items.ids) + 1]
    assert items.lookup(items.encode([-5])).tolist() == [items.known + 1]


def test_values_beyond_the_most_that_are_kept_are_warned_of():
    log = make_log()
    many = Bag(np.arange(20 * len(log.items)) % 50, np.arange(len(log.items) + 1) * 20)
    entities = dataclasses.replace(log.items, columns={"tags": many})
    split = split_of(dataclasses.replace(log, items=entities))
    with pytest.warns(UserWarning, match="'tags' has up to 20 values; the first 16"):
        data = prepare.in_memory(split, history_length=3, min_history=1)
    assert data.dataset.item_columns["tags"].shape[1] == 16


def test_what_is_missing_of_a_dense_feature_stands_at_the_mean():
    log = make_log()
    price = log.items.columns["price"].copy()
    missing = np.arange(0, len(price), 3)
    price[missing] = np.nan
    entities = dataclasses.replace(log.items, columns={"price": price})
    data = prepare.in_memory(
        split_of(dataclasses.replace(log, items=entities)),
        history_length=3,
        min_history=1,
    )
    column = np.asarray(data.dataset.item_columns["price"])[1:]
    gone = np.isin(data.item_codes, missing)
    assert (column[gone] == 0).all()
    mean = np.average(column[~gone], weights=data.popularity[1:][~gone])
    assert abs(mean) < 1e-5
