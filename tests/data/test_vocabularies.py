"""Vocabularies in files: every id comes back as it is, with its type."""

import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax import schema
from recall_jax.data import prepared
from recall_jax.data.sources import stream
from recall_jax.serve import recommender
from recall_jax.types import InputError

pl = pytest.importorskip("polars", reason="shards are written with polars")

KINDS = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    # NumPy's fixed-width strings end before the zero characters at their ends.
    "str": st.text(st.characters(codec="utf-8")).map(lambda x: x.rstrip("\0")),
}


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(sorted(KINDS)), st.text(st.characters(codec="utf-8")))
def test_any_vocabulary_survives_its_file(data, kind, name):
    ids = np.array(data.draw(st.lists(KINDS[kind], unique=True)), kind)
    vocabulary = schema.Vocabulary(ids, data.draw(st.integers(0, len(ids))))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "vocabularies.json"
        path.write_text(schema.dump_vocabularies({name: vocabulary}), "utf-8")
        ((again, loaded),) = schema.load_vocabularies(path).items()
    assert (again, loaded.known) == (name, vocabulary.known)
    assert loaded.ids.tolist() == ids.tolist()
    assert loaded.ids.dtype.kind == ids.dtype.kind
    assert kind == "str" or loaded.ids.dtype == ids.dtype
    codes = loaded.encode(ids.tolist())
    assert codes.tolist() == list(range(1, len(ids) + 1))


def test_strings_of_python_come_back_as_strings(tmp_path):
    ids = np.array(["a", "b" * 50], object)
    path = tmp_path / "vocabularies.json"
    path.write_text(schema.dump_vocabularies({"x": schema.Vocabulary(ids, 1)}))
    assert schema.load_vocabularies(path)["x"].ids.tolist() == ids.tolist()


def test_ids_beyond_a_float_are_found_by_who_asks():
    far = np.array([2**64 - 1, 2**63, 5, 2**63 + 1], np.uint64)
    numbered = recommender._numbered(far)
    assert numbered["18446744073709551615"] == 1 and numbered[str(2**63 + 1)] == 4


# Streamed logs.


def streamed(folder, *parts: pl.Series) -> schema.Vocabulary:
    """Of the users of a log whose shards have these user columns."""
    log = folder / "log"
    log.mkdir(parents=True)
    for j, user in enumerate(parts):
        item = pl.Series(np.arange(len(user)) % 4)
        pl.DataFrame({"user": user, "item": item}).write_parquet(log / f"{j}.parquet")
    config = stream.Config(path=str(log))
    opened = prepared.open_data(config, history_length=2, min_history=1)
    return opened.vocabularies["user"]


def users(*ids: int, kind) -> pl.Series:
    """Each four times."""
    return pl.Series([x for x in ids for _ in range(4)], dtype=kind)


SMALL, FAR = (3, 8), (2**63 + 1, 2**64 - 1, 2**63)


@pytest.mark.parametrize("order", ["small first", "far first"])
def test_unsigned_ids_beyond_int64_are_streamed(tmp_path, order):
    parts = [users(*SMALL, kind=pl.Int64), users(*FAR, kind=pl.UInt64)]
    vocabulary = streamed(tmp_path, *parts[:: -1 if order == "far first" else 1])
    assert vocabulary.ids.dtype == np.uint64
    assert set(vocabulary.ids.tolist()) == {*SMALL, *FAR}


def test_one_users_events_in_shards_of_several_types_are_one_users(tmp_path):
    parts = [users(3, 8, kind=pl.UInt16), users(3, 2**63, kind=pl.UInt64)]
    assert set(streamed(tmp_path, *parts).ids.tolist()) == {3, 8, 2**63}


@pytest.mark.parametrize("order", [1, -1])
def test_ids_that_no_type_holds_are_refused(tmp_path, order):
    parts = [users(-3, 8, kind=pl.Int64), users(*FAR, kind=pl.UInt64)]
    with pytest.raises(InputError, match="column 'user' has ids below 0 and ids of 2"):
        streamed(tmp_path, *parts[::order])


def test_small_ids_of_any_type_stay_int64(tmp_path):
    assert streamed(tmp_path, users(3, 8, kind=pl.UInt64)).ids.dtype == np.int64


ODD = ("", "..", ".", "price/unit", "x" * 300, "Case", "case", "naïve", "file", "a.npy")


def test_columns_of_any_name_are_streamed(tmp_path):
    """Names that differ by case, or that NumPy's archives take for something else."""
    rows = {
        name: pl.Series([f"{j}{x}" for x in range(4)]) for j, name in enumerate(ODD)
    }
    rows["a"] = pl.Series([0.5, 1.5, 2.5, 3.5])
    items = pl.DataFrame({"item": [0, 1, 2, 3]} | rows)
    items.write_parquet(tmp_path / "items.parquet")
    log = {"user": users(*SMALL, kind=pl.Int64), "item": [0, 1, 2, 3, 0, 1, 2, 3]}
    pl.DataFrame(log).write_parquet(tmp_path / "log.parquet")
    config = stream.Config(
        path=str(tmp_path / "log.parquet"),
        item_features=f"{tmp_path}/items.parquet",
        item_columns=(*ODD, "a"),  # one without a name is left out otherwise
    )
    data = prepared.open_data(config, history_length=2, min_history=1)
    assert set(data.dataset.item_columns) == {*ODD, "a"}
    ids = data.vocabularies["item"].ids.tolist()
    for j, name in enumerate(ODD):
        vocabulary = data.vocabularies[name]
        column = np.asarray(data.dataset.item_columns[name])[1:]
        of_each = [
            vocabulary.ids[code - 1] for code in column if code <= vocabulary.known
        ]
        wanted = [f"{j}{x}" for x, code in zip(ids, column) if code <= vocabulary.known]
        assert of_each == wanted and of_each
    assert data.dataset.item_columns["a"].dtype == np.float32
    (unnamed,) = [c for c in data.schema.item if not c.name]
    assert unnamed.has_ids
