"""Whether an export gives the trained model's vectors: its towers, and what is stored."""

import pathlib
from typing import Any

import numpy as np

from recall_jax import evaluate, export, towers, vectors
from recall_jax.data.dataset import Data
from recall_jax.towers import Run, Tower
from recall_jax.types import InputError

VERIFIED = 1024  # users and items that are compared with the trained model
TOLERANCE = 1e-5  # of a number, or of a larger one its share


def check_towers(
    building: pathlib.Path,
    specification: dict[str, Any],
    run: Run,
    split: dict[str, Tower],
) -> None:
    """Raise InputError before anything long where a tower, read back, is not the model's."""
    for side, tower in split.items():
        rows = _some(run.data, side)
        call = export.read_tower(building, specification, side=side)
        given = tower.gather(run.data.dataset, *rows)
        _compare(
            call(given), _trained(run, side, rows), what=f"the exported {side} tower"
        )


def check(exported: export.Exported, run: Run, *, dtype: str) -> None:
    """Raise InputError where the towers, on the columns that were saved, or the stored
    vectors are not what the trained model serves."""
    (items,), (users, ends) = _some(run.data, "item"), _some(run.data, "query")
    columns = {name: rows[items] for name, rows in exported.item_columns.items()}
    item, query = _trained(run, "item", (items,)), _trained(run, "query", (users, ends))
    _compare(exported.item(columns), item, what="the exported item tower")
    given = exported.known_user_columns(users)
    _compare(exported.query(given), query, what="the exported query tower")
    if run.encoder.complete is not None:
        served = evaluate.encode_items(
            run.encoder, run.params, data=run.data, batch_size=VERIFIED
        )
        item = np.asarray(served)[items - 1]
    stored = exported.item_vectors[items - 1]
    _compare(stored, item, what="items.npy", dtype=dtype)
    if exported.user_vectors is not None:
        stored = exported.user_vectors[users - 1]
        _compare(stored, query, what="users.npy", dtype=dtype)


def _some(data: Data, side: str) -> tuple[np.ndarray, ...]:
    """Items, or users and where their histories end, from all over the catalogue."""
    num = data.dataset.num_items if side == "item" else len(data.user_codes)
    ids = np.unique(np.linspace(1, num, min(num, VERIFIED)).astype(np.int32))
    return (ids,) if side == "item" else (ids, towers.history_ends(data, ids))


def _trained(run: Run, side: str, rows: tuple[np.ndarray, ...]) -> np.ndarray:
    encode = run.encoder.item if side == "item" else run.encoder.query
    return np.asarray(encode(run.params, run.data.dataset, *rows))


def _compare(
    found: np.ndarray, wanted: np.ndarray, *, what: str, dtype: str = "float32"
) -> None:
    allowed = TOLERANCE * np.maximum(np.abs(wanted), 1)
    apart = np.abs(found - wanted)
    wrong = ~(apart <= allowed + vectors.tolerance(wanted, dtype=dtype))  # NaN too
    if wrong.any():
        raise InputError(
            f"{what} is up to {np.nanmax(apart):.2g} from the trained model's vectors, "
            f"in {wrong.any(axis=1).mean():.0%} of {len(wrong):,} rows; nothing was "
            "replaced"
        )
