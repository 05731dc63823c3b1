"""A log laid out on disk by parts is the log laid out in memory, and whole or absent."""

import dataclasses
import json
import os
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recall_jax.data import coded, partition, prepare, prepared, split
from recall_jax.data.sources import logs, stream
from recall_jax.types import InputError

pl = pytest.importorskip("polars", reason="shards are read with polars")

COLUMNS = {"time": "ts"}


def write_shards(folder, rows: dict, *, shards: int = 2) -> str:
    """Rows as Parquet files of a folder, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(rows)
    size = -(-len(frame) // shards)
    for j in range(shards):
        frame[j * size : (j + 1) * size].write_parquet(folder / f"part-{j}.parquet")
    return str(folder)


def random_rows(
    *, events: int = 300, users: int = 20, items: int = 15, seed: int = 0, ids=str
) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "user": [ids(7 * u) for u in rng.integers(users, size=events)],
        "item": [ids(3 * i) for i in rng.zipf(1.3, events) % items],
        "ts": rng.integers(1_000, 1_000 + events // 3, events),
        "stars": rng.integers(1, 6, events).astype(np.float32),
        "weight": rng.random(events).astype(np.float32),
        "kind": rng.choice(["view", "buy", "skip"], events).tolist(),
    }


def in_memory(config: logs.Config, *, min_history: int = 1) -> prepared.Data:
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(logs.Config)}
    plain = logs.Config(**fields)
    return prepare.in_memory(
        split.by_protocol(plain.load(), config=plain),
        history_length=5,
        min_history=min_history,
        config=plain,
    )


def on_disk(config: stream.Config, *, min_history: int = 1) -> prepared.Data:
    return prepared.open_data(config, history_length=5, min_history=min_history)


def assert_same_log(actual: prepared.Data, wanted: prepared.Data):
    same = np.testing.assert_array_equal
    for name in ("items", "offsets", "train_stop", "popularity"):
        same(getattr(actual, name), getattr(wanted, name), err_msg=name)
    for name, vocabulary in wanted.vocabularies.items():
        assert actual.vocabularies[name].known == vocabulary.known
        assert actual.vocabularies[name].ids.tolist() == vocabulary.ids.tolist(), name
    for part in ("valid", "test"):
        for one, other in zip(getattr(actual, part), getattr(wanted, part)):
            same(one, other)
    for name in ("item_count", "num_items", "known_items", "known_users"):
        same(getattr(actual.dataset, name), getattr(wanted.dataset, name), err_msg=name)
    for side in ("user_columns", "item_columns"):
        one, other = (getattr(data.dataset, side) for data in (actual, wanted))
        assert one.keys() == other.keys()
        for name in other:
            same(one[name], other[name])
    if wanted.dataset.weights is not None:
        same(actual.log.weights, wanted.dataset.weights)
    assert (actual.repeats, actual.num_examples) == (
        wanted.repeats,
        wanted.num_examples,
    )
    assert actual.protocol.startswith(wanted.protocol)
    streamed = {column for column in wanted.schema.query if column.kind != "age"}
    assert set(actual.schema.query) == streamed
    assert actual.schema.item == wanted.schema.item


EVENTS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 5), st.integers(0, 12)),
    min_size=1,
    max_size=60,
)


COPIES_HOLD_THE_CUT = {  # with them nothing would lie before it
    "events": [(0, 0, 0), (0, 0, 0), (0, 0, 0), (1, 0, 1)],
    "protocol": "temporal",
    "times": True,
    "ids": str,
    "shards": 1,
    "size": 1,
    "min_history": 0,
}


@settings(deadline=None, max_examples=60)
@example(**COPIES_HOLD_THE_CUT)
@given(
    events=EVENTS,
    protocol=st.sampled_from(stream.PROTOCOLS),
    times=st.booleans(),
    ids=st.sampled_from([str, int]),
    shards=st.integers(1, 3),
    size=st.integers(1, 9),
    min_history=st.integers(0, 2),
)
def test_on_disk_it_equals_what_is_made_in_memory(
    events, protocol, times, ids, shards, size, min_history
):
    user, item, time = zip(*events)
    rows = {"user": [*map(ids, user)], "item": [*map(ids, item)], "ts": [*time]}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded, "SLICE", size)  # so that slices and buckets are many
        patch.setattr(partition, "SLICE", size)
        place = pathlib.Path(folder)
        path = write_shards(place / "shards", rows, shards=shards)
        config = stream.Config(
            path=path,
            time="ts" if times or protocol == "temporal" else "",
            protocol=protocol,
            valid_share=0.2,
            test_share=0.2,
        )
        try:
            wanted = in_memory(config, min_history=min_history)
        except InputError:  # nothing to train on, or to test by
            with pytest.raises(InputError):
                on_disk(config, min_history=min_history)
            return
        assert_same_log(on_disk(config, min_history=min_history), wanted)


@pytest.mark.parametrize(
    ("choice", "left"),
    [("auto", 302), ("kept", 304), ("dropped", 302), ("repeats", 300)],
)
def test_copies_are_dropped_on_disk_as_in_memory(tmp_path, monkeypatch, choice, left):
    """Four more rows of a user and an item: two copies, another action, another time."""
    monkeypatch.setattr(coded, "SLICE", 50)
    monkeypatch.setattr(partition, "SLICE", 50)
    user, item = np.divmod(np.arange(300), 30)
    rows = {"user": [*user], "item": [*item], "ts": [*range(5000, 5300)]}
    rows["kind"] = ["view"] * 150 + ["buy"] * 150
    more = [(7, 0, 5210, "buy"), (1, 1, 5031, "view"), (7, 0, 5210, "view")]
    for event in [*more, (8, 1, 5900, "buy")]:
        for name, value in zip(rows, event, strict=True):
            rows[name].append(value)
    path = write_shards(tmp_path / "log", rows, shards=3)
    config = stream.Config(path=path, **COLUMNS, action="kind", duplicates=choice)
    actual, wanted = on_disk(config), in_memory(config)
    assert len(wanted.items) == len(actual.items) == left
    assert_same_log(actual, wanted)


def test_filters_weights_and_features_are_as_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(coded, "SLICE", 64)
    monkeypatch.setattr(partition, "SLICE", 64)
    path = write_shards(tmp_path / "shards", random_rows(), shards=3)
    pl.DataFrame(
        {
            "item": [str(3 * i) for i in range(12)],
            "tags": [["a", "b"], ["b"], []] * 4,
            "price": np.linspace(1, 9, 12),
            "name": [f"thing {i}" for i in range(12)],
        }
    ).write_parquet(tmp_path / "items.parquet")
    config = stream.Config(
        path=path,
        **COLUMNS,
        weight="weight",
        action="kind",
        actions=("view", "buy"),
        rating="stars",
        min_rating=2.0,
        min_weight=0.1,
        item_features=str(tmp_path / "items.parquet"),
        text=("name",),
        text_buckets=50,
    )
    actual, wanted = on_disk(config), in_memory(config)
    assert_same_log(actual, wanted)
    assert set(actual.dataset.item_columns) == {"tags", "price", "name"}
    read = prepared.entities(config, actual)
    assert read.items.text["name"].tolist()[:3] == [
        wanted_name(config, raw) for raw in actual.vocabularies["item"].ids[:3]
    ]


def wanted_name(config, raw: str) -> str:
    rows = pl.read_parquet(config.item_features)
    return (rows.filter(pl.col("item") == raw)["name"].to_list() or [""])[0]


def test_it_is_prepared_once_and_anew_when_a_shard_changes(tmp_path, monkeypatch):
    config = stream.Config(
        path=write_shards(tmp_path / "log", random_rows()), **COLUMNS
    )
    first = on_disk(config)
    write = partition.write
    monkeypatch.setattr(partition, "write", None)
    again = on_disk(dataclasses.replace(config, window_examples=7))
    assert again.fingerprint() == first.fingerprint()
    monkeypatch.setattr(partition, "write", write)

    write_shards(tmp_path / "log", random_rows(seed=1))
    changed = on_disk(config)
    assert_same_log(changed, in_memory(config))
    assert changed.fingerprint() != first.fingerprint()
    assert len([p for p in (tmp_path / "log.prepared").iterdir() if p.is_dir()]) == 1
    temporal = on_disk(dataclasses.replace(config, protocol="temporal"))
    assert temporal.log.folder != changed.log.folder


@pytest.mark.parametrize("at", ["sort", "as_npy", "write_catalogue", "digest"])
def test_a_killed_preparation_leaves_nothing_that_looks_whole(
    at, tmp_path, monkeypatch
):
    config = stream.Config(
        path=write_shards(tmp_path / "log", random_rows()), **COLUMNS
    )

    def killed(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(partition, at, killed)
        with pytest.raises(KeyboardInterrupt):
            on_disk(config)
    place = tmp_path / "log.prepared"
    assert not [p for p in place.iterdir() if not p.name.startswith(".")]
    assert_same_log(on_disk(config), in_memory(config))
    assert not [*place.glob(".*.building")]


def test_arrays_that_were_cut_off_are_made_anew(tmp_path):
    config = stream.Config(
        path=write_shards(tmp_path / "log", random_rows()), **COLUMNS
    )
    folder = on_disk(config).log.folder
    whole = {path.name: path.read_bytes() for path in folder.glob("*.npy")}
    largest = max(folder.glob("*.npy"), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size - 8)
    assert_same_log(on_disk(config), in_memory(config))
    assert {path.name: path.read_bytes() for path in folder.glob("*.npy")} == whole


def test_shards_that_change_while_they_are_read_are_refused(tmp_path, monkeypatch):
    path = write_shards(tmp_path / "log", random_rows())
    config, write = stream.Config(path=path, **COLUMNS), partition.write

    def while_another_writes(*arguments, **named):
        result = write(*arguments, **named)
        os.utime(f"{path}/part-0.parquet", ns=(5, 5))
        return result

    monkeypatch.setattr(partition, "write", while_another_writes)
    with pytest.raises(InputError, match="changed while it was read"):
        on_disk(config)


REFUSALS = {
    "min_item_events": (5, "min_item_events"),
    "label": ("stars", "label"),
    "examples_per_user": (3, "examples_per_user"),
    "hidden_share": (0.1, "hidden_share"),
    "ties": ("both", "ties"),
    "session": ("kind", "session"),
    "protocol": ("given", "protocol=given.*dssm_logs"),
    "min_rating": (3.0, "config.data.rating"),
    "actions": (("buy",), "config.data.action"),
    "chunk_examples": (0, "chunk_examples"),
    "measured_users": (-1, "measured_users"),
}


@pytest.mark.parametrize("field", list(REFUSALS))
def test_what_is_not_streamed_is_told_before_anything_is_read(field):
    value, message = REFUSALS[field]
    with pytest.raises(InputError, match=message):
        on_disk(stream.Config(path="/nowhere", **{field: value}))


def test_mistakes_in_files_are_named(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n1,2\n")
    with pytest.raises(InputError, match="sink_parquet"):
        on_disk(stream.Config(path=str(tmp_path / "log.csv")))
    path = write_shards(tmp_path / "log", random_rows())
    with pytest.raises(InputError, match=r"no column 'usr'.*'user'"):
        on_disk(stream.Config(path=path, user="usr"))
    with pytest.raises(InputError, match="no event has the action 'bought'.*buy"):
        on_disk(stream.Config(path=path, action="kind", actions=("bought",)))
    with pytest.raises(InputError, match="no events are left after the filters"):
        on_disk(stream.Config(path=path, rating="stars", min_rating=9.0))
    with pytest.raises(InputError, match="data.prepared"):
        on_disk(stream.Config(path=f"{path}/*.parquet"))
    rows = random_rows()
    pl.DataFrame(rows | {"user": [*range(300)]}).write_parquet(f"{path}/part-9.parquet")
    with pytest.raises(InputError, match="part-9.*write one kind"):
        on_disk(stream.Config(path=path))
    rows["user"][70] = None
    with pytest.raises(InputError, match="row 70.*'user' should be an id"):
        on_disk(stream.Config(path=write_shards(tmp_path / "gap", rows, shards=1)))


def test_measured_users_are_drawn_once_and_said(tmp_path):
    path = write_shards(tmp_path / "log", random_rows())
    config = stream.Config(path=path, **COLUMNS, measured_users=6)
    data, again = on_disk(config), on_disk(config)
    assert len(data.valid) == len(data.test) == 6
    np.testing.assert_array_equal(data.test.user, again.test.user)
    np.testing.assert_array_equal(data.test.user, data.valid.user)
    assert (np.diff(data.test.user) > 0).all()
    assert "6 of 20 users validate, 6 of 20 users test" in data.protocol
    manifest = json.loads((data.log.folder / "manifest.json").read_text())
    assert manifest["events"] == len(data.items)
