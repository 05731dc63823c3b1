"""What an index is given, checked and as it is read: vectors, ids, queries, filters."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from recall_jax.devices import rows
from recall_jax.types import InputError, unknown

SIMILARITIES = ("inner_product", "cosine")

Vectors = Float[Array | np.ndarray, "n d"] | rows.Rows
Queries = Float[Array | np.ndarray, "q d"]
Allowed = Bool[np.ndarray, "any"] | Int[np.ndarray, "some"]
"""The only rows that may be returned, of every query: a mask, or rows in any order."""


def as_inner_product(
    vectors: Vectors, *, ids: np.ndarray | None, similarity: str
) -> tuple[Float32[np.ndarray, "n d"], np.ndarray | None]:
    """The vectors whose inner products give the order, and the ids if there are any.

    Cosine: of length 1, or 0. Raises InputError for a shape, a similarity or ids that
    do not fit, FloatingPointError for what is not finite.
    """
    if similarity not in SIMILARITIES:
        raise unknown("similarity", similarity, SIMILARITIES)
    if isinstance(vectors, rows.Rows):
        vectors = vectors.on_host()
    if vectors.ndim != 2 or 0 in vectors.shape:
        got = list(vectors.shape)
        raise InputError(f"expected vectors [n, d], neither 0; got {got}")
    finite = _finite(vectors, what="vectors")
    return _scaled(finite, similarity), _checked_ids(ids, num_items=len(finite))


def spread(
    vectors: Vectors, *, ids: np.ndarray | None, similarity: str
) -> tuple[rows.Rows, np.ndarray | None]:
    """As `as_inner_product`, over the devices there are."""
    if not isinstance(vectors, rows.Rows) or similarity != "inner_product":
        vectors, ids = as_inner_product(vectors, ids=ids, similarity=similarity)
        return rows.split_rows(vectors), ids
    # They stay where they are.
    finite = vectors._replace(array=_finite_rows(vectors.array)).on_host()
    refuse_nan(~finite[:, 0], what="vectors")
    vectors = vectors._replace(array=vectors.array.astype(jnp.float32))
    return vectors, _checked_ids(ids, num_items=vectors.num)


@jax.jit
def _finite_rows(vectors: Float[Array, "n d"]) -> Bool[Array, "n 1"]:
    return jnp.isfinite(vectors).all(axis=1, keepdims=True)


def as_asked(
    queries: Queries, *, width: int, similarity: str
) -> Float32[np.ndarray, "q d"]:
    """Queries of an index of that width, of length 1 for cosine."""
    if queries.ndim != 2 or queries.shape[1] != width:
        got = list(queries.shape)
        raise InputError(f"expected vectors [q, {width}], as the index; got {got}")
    return _scaled(_finite(queries, what="queries"), similarity)


def allowed_mask(
    allowed: Allowed | None, *, num_items: int
) -> Bool[np.ndarray, "n"] | None:
    """The mask of rows that may be returned; None where all may."""
    if allowed is None:
        return None
    if allowed.dtype == bool:
        if len(allowed) != num_items:
            raise InputError(
                f"allowed is a mask of {len(allowed)} rows; the index has {num_items}"
            )
        return allowed
    if len(allowed) and not 0 <= allowed.min() <= allowed.max() < num_items:
        raise InputError(
            f"allowed has rows {allowed.min()}..{allowed.max()}; the index has rows "
            f"0..{num_items - 1}"
        )
    mask = np.zeros(num_items, bool)
    mask[allowed] = True
    return mask


def refuse_nan(is_nan: Bool[np.ndarray, "some"], *, what: str) -> None:
    """Raise FloatingPointError that says how many there are and where the first is."""
    if is_nan.any():
        raise FloatingPointError(
            f"{is_nan.sum()} of {len(is_nan)} {what}, the first at {is_nan.argmax()}, "
            "give scores that are not numbers; did the training diverge?"
        )


def check_recall(target: float) -> None:
    if not 0 < target < 1:
        raise InputError(f"recall_target {target} is not between 0 and 1; try 0.95")


def _finite(vectors, *, what):
    """Float32 on the host. ScaNN drops a row whose score is NaN: an index must raise."""
    vectors = np.ascontiguousarray(jax.device_get(vectors), np.float32)
    refuse_nan(~np.isfinite(vectors).all(axis=1), what=what)
    return vectors


def _scaled(vectors, similarity):
    if similarity == "inner_product":
        return vectors
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    vectors = vectors / np.where(largest > 0, largest, 1)  # squares may overflow
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _checked_ids(ids, *, num_items):
    if ids is None:
        return None
    ids = np.asarray(ids)
    if ids.shape != (num_items,) or ids.dtype.kind not in "iuU":
        raise InputError(
            f"ids are {num_items} integers or strings, one a vector; got {ids.dtype} "
            f"{list(ids.shape)}"
        )
    distinct = len(np.unique(ids))
    if distinct < num_items:
        raise InputError(f"ids has {num_items - distinct} repeats; each names one row")
    return ids
