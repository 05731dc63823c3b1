"""Vectors in files: their number formats, and files that a killed writer goes on with."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from recall_jax import files
from recall_jax.types import InputError, unknown

DTYPES = ("float32", "bfloat16", "int8")
"""How vectors are stored. bfloat16 as uint16, the upper half of a float32, since NumPy
has no such type; int8 with a float32 scale for each row, value = int8 x scale."""

STORED = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
SHARD = 65_536  # rows between two records of what is done


def check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise unknown("--dtype", dtype, DTYPES)


def as_stored(
    values: np.ndarray, *, dtype: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Vectors float32 [n, d] as they are stored, and the scale of each row of int8.

    bfloat16 rounds to nearest, ties to even. An int8 row's largest value is 127; a row
    of zeros has the scale 0.

    >>> stored, scale = as_stored(np.array([[0.5, -1.0]], np.float32), dtype="int8")
    >>> stored.tolist()
    [[64, -127]]
    """
    values = np.ascontiguousarray(values, np.float32)
    if dtype == "float32":
        return values, None
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)
        return (rounded >> 16).astype(np.uint16), None
    scale = np.abs(values).max(axis=1, initial=0.0) / np.float32(127)
    unit = values / np.where(scale > 0, scale, 1)[:, None]
    return np.rint(unit).astype(np.int8), scale


def decode(
    stored: np.ndarray, *, dtype: str, scale: np.ndarray | None = None
) -> np.ndarray:
    """Vectors float32 of what `as_stored` gave."""
    if dtype == "float32":
        return stored
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32) * scale[:, None]


def tolerance(values: np.ndarray, *, dtype: str) -> np.ndarray:
    """How far what is stored may be from float32 vectors, [n, 1]: half a step of the
    format at the row's largest value, and rounding."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    return largest * {"float32": 0.0, "bfloat16": 2.0**-8, "int8": 0.51 / 127}[dtype]


@dataclasses.dataclass(frozen=True)
class Form:
    """How the vectors of `name`.npy are stored; as a JSON object in a specification."""

    dtype: str
    rows: int
    width: int


def read(folder: pathlib.Path, name: str, *, form: dict[str, Any]) -> np.ndarray:
    """Vectors float32 [n, d]; of float32 files, pages are read when they are used."""
    path = folder / f"{name}.npy"
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    wanted = (form["rows"], form["width"])
    if stored.shape != wanted or stored.dtype != STORED[form["dtype"]]:
        raise InputError(
            f"{path} is {stored.dtype}{list(stored.shape)}, and the specification says "
            f"{form['dtype']}{list(wanted)}; export again"
        )
    return decode(stored, dtype=form["dtype"], scale=read_scale(folder, name))


def read_scale(folder: pathlib.Path, name: str) -> np.ndarray | None:
    path = folder / f"{name}_scale.npy"
    return np.load(path, allow_pickle=False) if path.exists() else None


def write(
    folder: pathlib.Path,
    name: str,
    compute: Callable[[np.ndarray], np.ndarray],
    *,
    form: Form,
    key: str,
    old: "Old | None" = None,
) -> "Written":
    """Fill `name`.npy with compute(rows [n]) -> float32 [n, d], rows 0, 1, ..., a shard
    at a time.

    What is done stands in `name`.progress.json with `key`, which says what it is made
    of: a later call with the same key goes on where a killed one stopped. Rows that
    `old` has are copied.
    """
    progress = folder / f"{name}.progress.json"
    done = _done(progress, key=key)
    stored, scale = _open(folder, name, form=form, anew=not done)
    computed = reused = 0
    for start in range(done, form.rows, SHARD):
        stop = min(start + SHARD, form.rows)
        source = np.full(stop - start, -1) if old is None else old.source[start:stop]
        kept, fresh = np.flatnonzero(source >= 0), np.flatnonzero(source < 0)
        if len(fresh):
            encoded, scales = as_stored(compute(start + fresh), dtype=form.dtype)
            stored[start + fresh] = encoded
            if scale is not None:
                scale[start + fresh] = scales
        if len(kept):
            stored[start + kept] = old.stored[source[kept]]
            if scale is not None:
                scale[start + kept] = old.scale[source[kept]]
        stored.flush()
        if scale is not None:
            scale.flush()
        record = json.dumps({"key": key, "rows": stop})
        files.write_atomically(progress, record)
        computed, reused = computed + len(fresh), reused + len(kept)
    return Written(computed, reused, done)


@dataclasses.dataclass(frozen=True)
class Written:
    """Rows that were computed, copied from an older export, and there already."""

    computed: int
    reused: int
    resumed: int


@dataclasses.dataclass(frozen=True)
class Old:
    """Stored vectors of an older export; new row r is its row source[r], or none: -1."""

    stored: np.ndarray
    scale: np.ndarray | None
    source: np.ndarray


def _done(progress: pathlib.Path, *, key: str) -> int:
    """Rows that are on disk; 0 where they are made of something else."""
    try:
        record = json.loads(progress.read_text("utf-8"))
    except (OSError, ValueError):
        return 0
    return record["rows"] if record["key"] == key else 0


def _open(
    folder: pathlib.Path, name: str, *, form: Form, anew: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """The file of vectors and that of their scales, if there is one, mapped to write."""
    path, scales = folder / f"{name}.npy", folder / f"{name}_scale.npy"
    stored = _mapped(path, (form.rows, form.width), STORED[form.dtype], anew=anew)
    if form.dtype == "int8":
        return stored, _mapped(scales, (form.rows,), np.float32, anew=anew)
    scales.unlink(missing_ok=True)  # of a killed writer of int8
    return stored, None


def _mapped(path: pathlib.Path, shape: tuple, dtype: Any, *, anew: bool) -> np.ndarray:
    if not anew:
        return np.lib.format.open_memmap(path, mode="r+")
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with open(path, "r+b") as file:  # a full disk is told here; later it would kill
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped


def write_parquet(
    folder: pathlib.Path, name: str, ids: np.ndarray, *, form: Form
) -> None:
    """`name`.parquet: columns id (raw) and vector, a list of float32; of int8 vectors a
    list of int8 and the column scale."""
    try:
        import polars as pl
    except ImportError as problem:
        raise InputError(
            "Parquet is written with polars; install it: pip install polars"
        ) from problem
    stored = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    columns = {"id": pl.Series(ids)}
    if form.dtype == "bfloat16":
        stored = decode(stored, dtype=form.dtype)
    inner = pl.Int8 if form.dtype == "int8" else pl.Float32
    columns["vector"] = pl.Series(stored, dtype=pl.Array(inner, form.width))
    if form.dtype == "int8":
        columns["scale"] = pl.Series(read_scale(folder, name))
    pl.DataFrame(columns).write_parquet(
        folder / f"{name}.parquet", row_group_size=SHARD, statistics=False
    )
