"""How vectors are stored: number formats, files that are gone on with, Parquet."""

import json
import re

import ml_dtypes
import numpy as np
import polars as pl
import pytest

from recall_jax.serve import vectors
from recall_jax.types import InputError


@pytest.fixture
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 8)).astype(np.float32) * rng.exponential(
        size=(50, 1)
    ).astype(np.float32)


def test_bfloat16_is_what_ml_dtypes_rounds_to(values):
    values[0] = [0.0, -0.0, 1e38, 1e-38, 1.00390625, 1.01171875, -1.00390625, 3e-39]
    stored, scale = vectors.as_stored(values, dtype="bfloat16")
    assert stored.dtype == np.uint16 and scale is None
    wanted = values.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(stored, wanted.view(np.uint16))
    back = vectors.decode(stored, dtype="bfloat16")
    np.testing.assert_array_equal(back, wanted.astype(np.float32))


def test_int8_has_a_scale_for_each_row_and_rounds_to_half_a_step(values):
    values[3] = 0
    stored, scale = vectors.as_stored(values, dtype="int8")
    assert stored.dtype == np.int8 and scale.shape == (50,) and scale[3] == 0
    assert (np.abs(stored).max(axis=1)[np.arange(50) != 3] == 127).all()
    back = vectors.decode(stored, dtype="int8", scale=scale)
    assert (np.abs(back - values) <= scale[:, None] * 0.5001).all()
    assert (np.abs(back - values) <= vectors.tolerance(values, dtype="int8")).all()


@pytest.mark.parametrize("dtype", vectors.DTYPES)
def test_what_is_stored_is_within_its_tolerance(values, dtype):
    stored, scale = vectors.as_stored(values, dtype=dtype)
    back = vectors.decode(stored, dtype=dtype, scale=scale)
    allowed = vectors.tolerance(values, dtype=dtype)
    assert (np.abs(back - values) <= allowed).all()
    if dtype != "float32":  # and the tolerance is not generous
        assert (np.abs(back - values) > allowed / 4).any()


def test_an_unknown_dtype_is_told():
    with pytest.raises(
        InputError, match="unknown --dtype 'int4'; .*there are: float32"
    ):
        vectors.check_dtype("int4")


class Stopped(Exception):
    pass


class Source:
    """Rows of `values`; what was asked for, and where it stops."""

    def __init__(self, values, stop=None):
        self.values, self.stop, self.asked = values, stop, []

    def __call__(self, rows):
        if self.stop is not None and rows.max() >= self.stop:
            raise Stopped
        self.asked += rows.tolist()
        return self.values[rows]


@pytest.fixture
def shards(monkeypatch):
    monkeypatch.setattr(vectors, "SHARD", 16)


@pytest.mark.parametrize("dtype", vectors.DTYPES)
def test_a_killed_writer_goes_on_where_it_stopped(tmp_path, values, shards, dtype):
    form = vectors.Form(dtype, *values.shape)
    with pytest.raises(Stopped):
        vectors.write(tmp_path, "items", Source(values, 40), form=form, key="a")
    source = Source(values)
    done = vectors.write(tmp_path, "items", source, form=form, key="a")
    assert source.asked == list(range(32, 50))
    assert done == vectors.Written(computed=18, reused=0, resumed=32)
    back = vectors.read(tmp_path, "items", form=vars(form))
    stored, scale = vectors.as_stored(values, dtype=dtype)
    np.testing.assert_array_equal(
        back, vectors.decode(stored, dtype=dtype, scale=scale)
    )


def test_what_is_made_of_something_else_begins_again(tmp_path, values, shards):
    form = vectors.Form("int8", *values.shape)
    with pytest.raises(Stopped):
        vectors.write(tmp_path, "items", Source(values, 40), form=form, key="a")
    form = vectors.Form("float32", *values.shape)
    done = vectors.write(tmp_path, "items", Source(values), form=form, key="b")
    assert done == vectors.Written(computed=50, reused=0, resumed=0)
    np.testing.assert_array_equal(
        vectors.read(tmp_path, "items", form=vars(form)), values
    )
    assert not (tmp_path / "items_scale.npy").exists()


def test_a_record_cut_in_half_begins_again(tmp_path, values, shards):
    (tmp_path / "items.progress.json").write_text('{"key": "a", "ro')
    form = vectors.Form("float32", *values.shape)
    done = vectors.write(tmp_path, "items", Source(values), form=form, key="a")
    assert done.computed == 50


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_rows_of_an_older_export_are_copied_in_their_new_order(
    tmp_path, values, shards, dtype
):
    stored, scale = vectors.as_stored(values, dtype=dtype)
    rng = np.random.default_rng(1)
    source = rng.permutation(50)
    source[[3, 20, 49]] = -1
    form, fresh = vectors.Form(dtype, *values.shape), Source(-values)
    old = vectors.Old(stored, scale, source)
    done = vectors.write(tmp_path, "items", fresh, form=form, key="a", old=old)
    assert fresh.asked == [3, 20, 49]
    assert (done.computed, done.reused) == (3, 47)
    wanted = np.where((source >= 0)[:, None], values[source], -values)
    encoded, scales = vectors.as_stored(wanted, dtype=dtype)
    np.testing.assert_array_equal(
        vectors.read(tmp_path, "items", form=vars(form)),
        vectors.decode(encoded, dtype=dtype, scale=scales),
    )


def test_a_full_disk_is_told_before_it_is_written_to(
    tmp_path, values, shards, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vectors.os, "posix_fallocate", full)
    source = Source(values)
    with pytest.raises(OSError, match="No space left"):
        form = vectors.Form("float32", *values.shape)
        vectors.write(tmp_path, "items", source, form=form, key="a")
    assert not source.asked


@pytest.mark.parametrize("dtype", vectors.DTYPES)
@pytest.mark.parametrize("ids", [np.arange(100, 150), np.char.mod("i%d", range(50))])
def test_parquet_has_raw_ids_and_the_same_vectors(tmp_path, values, dtype, ids):
    form = vectors.Form(dtype, *values.shape)
    vectors.write(tmp_path, "items", Source(values), form=form, key="a")
    vectors.write_parquet(tmp_path, "items", ids, form=form)
    frame = pl.read_parquet(tmp_path / "items.parquet")
    assert frame["id"].to_list() == ids.tolist()
    matrix = frame["vector"].to_numpy().astype(np.float32)
    if dtype == "int8":
        assert frame["vector"].dtype == pl.Array(pl.Int8, 8)
        matrix = matrix * frame["scale"].to_numpy()[:, None]
    wanted = vectors.read(tmp_path, "items", form=vars(form))
    np.testing.assert_array_equal(matrix, wanted)


def test_another_shape_than_specified_is_told(tmp_path, values):
    np.save(tmp_path / "items.npy", values)
    with pytest.raises(InputError, match=re.escape("float32[50, 8]")):
        vectors.read(tmp_path, "items", form=vars(vectors.Form("float32", 50, 9)))


def test_progress_is_recorded_behind_the_rows(tmp_path, values, shards):
    """A record never counts rows that are not in the file."""
    form = vectors.Form("float32", *values.shape)
    with pytest.raises(Stopped):
        vectors.write(tmp_path, "items", Source(values, 20), form=form, key="a")
    record = json.loads((tmp_path / "items.progress.json").read_text())
    assert record == {"key": "a", "rows": 16}
    stored = np.load(tmp_path / "items.npy")
    np.testing.assert_array_equal(stored[:16], values[:16])
    assert not stored[16:].any()
