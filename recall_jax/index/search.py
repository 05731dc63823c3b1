"""Indexes: the rows of a matrix with the largest inner product with each query.

`Exact` and `Approx` here and `Scann` in `scann` share one interface: `build` from
vectors and, if wanted, their ids; `search(queries, k, exclude, allowed)`, which gives
`Found`; `save(folder)` and `load(folder)`. The order is by inner product or by cosine;
the Euclidean one agrees with both where the vectors are normalised. Built under a mesh
(`mesh.use`), `Exact` and `Approx` split the vectors over its devices, and all search.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Int64

from recall_jax.devices import mesh
from recall_jax.devices import rows as rows_lib
from recall_jax.index import inputs, topk
from recall_jax.index import saved as saved_lib
from recall_jax.types import InputError

BLOCK_BYTES = 8 << 20  # of scores at a time: larger blocks leave a CPU's cache
BLOCK_ROWS = 32  # at least: fewer would read a large catalogue too often
TILES = topk.Tiles()


class MissingPackage(ImportError):
    """An optional package is not installed; the text says how to install it."""


class Exclude(NamedTuple):
    """Rows that a query may not get: query i has ids[offsets[i]:offsets[i + 1]]."""

    offsets: Int64[np.ndarray, "q+1"]
    ids: Int32[np.ndarray, "total"]  # rows 0..n-1, in any order, repeats allowed


class Found(NamedTuple):
    """The best rows of each query, best first, equal scores by lower row. Which of the
    rows tied with the last are returned is left open; `metrics` counts none of them."""

    ids: Int32[np.ndarray, "q k"]  # rows 0..n-1; -1 where no candidate is left
    scores: Float32[np.ndarray, "q k"]  # -inf where no candidate is left


class Index(Protocol):
    """What evaluation and serving ask of an index.

    A row is returned if it is not among the query's excluded ones and, given `allowed`,
    among these; an answer has k rows as long as there are k such rows. Raises
    `InputError` for k outside 1..n or filters that do not fit, `FloatingPointError`
    where a score is not a number.
    """

    ids: np.ndarray | None  # [n] integers or strings: what the rows are called

    def search(
        self,
        queries: inputs.Queries,
        k: int,
        exclude: Exclude | None = None,
        allowed: inputs.Allowed | None = None,
    ) -> Found: ...

    def save(self, folder: Path) -> None: ...


def named(answer: Found, ids: np.ndarray) -> list[np.ndarray]:
    """The ids of what each query found, best first, as many as there are."""
    return [ids[rows[rows >= 0]] for rows in answer.ids]


def rows_of(wanted: np.ndarray, ids: np.ndarray) -> Int32[np.ndarray, "some"]:
    """The rows of some of an index's ids. Raises InputError for one it does not have."""
    order = np.argsort(ids)
    place = np.searchsorted(ids, wanted, sorter=order)
    rows = order[np.minimum(place, len(order) - 1)]
    unknown = ids[rows] != wanted
    if unknown.any():
        raise InputError(
            f"{unknown.sum()} of {len(wanted)} ids are not in the index, the first "
            f"{wanted[unknown.argmax()].item()!r}"
        )
    return rows.astype(np.int32)


def blocked_top_k(
    score: Callable[[Any, Any], Float[Array, "b n"]],
    queries: Any,
    *,
    operands: Any = (),
    k: int,
    num_items: int,
    exclude: Exclude | None = None,
    allowed: inputs.Allowed | None = None,
    select: Callable = jax.lax.top_k,
) -> Found:
    """The k best of all items for every query, a block of queries at a time.

    `score(queries of a block, operands)` gives [b, num_items]. It is traced, once for
    all blocks and searches of a shape as long as it is the same function object.
    `queries` is an array, or a tree of arrays with leading axis q. An item whose score
    is -inf is not returned. `select(scores, k)` gives (values, positions).
    """
    mask = jax.device_put(inputs.allowed_mask(allowed, num_items=num_items))

    def program(block, pairs):
        block, pairs = jax.device_put((block, pairs))
        return topk.search_scores(
            block, pairs, operands, mask, score=score, k=k, select=select
        )

    return _in_blocks(
        program,
        queries,
        k=k,
        num_items=num_items,
        exclude=exclude,
        size=_block_size(num_items),
    )


def _block_size(num_items: int) -> int:
    return max(BLOCK_ROWS, BLOCK_BYTES // (4 * num_items))


def _top_k(
    queries: Float[np.ndarray, "q d"],
    vectors: rows_lib.Rows,
    *,
    k: int,
    exclude: Exclude | None,
    allowed: inputs.Allowed | None,
    select: Callable = jax.lax.top_k,
) -> Found:
    """The k largest inner products, by `select` or, of a large catalogue, by tiles."""
    with mesh.use(vectors.mesh):
        devices = 1 if vectors.mesh is None else mesh.num_devices()
        own = len(vectors.array) // devices
        tiled = select is jax.lax.top_k and TILES.pay(own, k=min(k, own))
        search = _by_tiles(TILES) if tiled else _by_scores(select)
        mask = inputs.allowed_mask(allowed, num_items=vectors.num)
        if padding := len(vectors.array) - vectors.num:
            mask = np.ones(vectors.num, bool) if mask is None else mask
            mask = np.pad(mask, (0, padding))
        mask = jax.device_put(mask) if devices == 1 else mesh.share(mask)

        def program(block, pairs):
            if devices == 1:
                block, pairs = jax.device_put((block, pairs))
                return search(block, pairs, vectors.array, mask, k=k)
            block, pairs = mesh.on_each((block, pairs))
            return topk.search_devices(
                block, pairs, vectors.array, mask, search=search, k=k
            )

        return _in_blocks(
            program,
            queries,
            k=k,
            num_items=vectors.num,
            exclude=exclude,
            size=TILES.queries if tiled else _block_size(own),
        )


# One object for the same search, because another would compile once more.


@functools.cache
def _by_scores(select):
    return functools.partial(
        topk.search_scores, score=topk.inner_product, select=select
    )


@functools.cache
def _by_tiles(tiles):
    return functools.partial(topk.search_vectors, tiles=tiles)


def _in_blocks(program, queries, *, k, num_items, exclude, size):
    """Answers of `program(block of queries, excluded pairs)`, joined."""
    queries = jax.device_get(queries)
    total = len(jax.tree.leaves(queries)[0])
    exclude = fitting(exclude, k=k, num_queries=total, num_items=num_items)
    size = max(1, min(total, size))
    # The last block reaches back into the one before it, so that all have one shape.
    starts = np.minimum(np.arange(0, total, size), total - size)
    blocks = []
    for start, pairs in zip(starts, _padded_pairs(exclude, starts=starts, size=size)):
        rows = operator.itemgetter(slice(start, start + size))
        blocks.append(program(jax.tree.map(rows, queries), pairs))
    return _joined(jax.device_get(blocks), starts=starts, shape=(total, k))


def _padded_pairs(exclude, *, starts, size):
    """Each block's exclusions as (row in the block, item), all of one length.

    The length is a power of two, so that another search seldom needs another program.
    Pairs, not a row for every query: one query may exclude far more than the rest.
    """
    most = (exclude.offsets[starts + size] - exclude.offsets[starts]).max(initial=0)
    for start in starts:
        offsets = exclude.offsets[start : start + size + 1]
        count = offsets[-1] - offsets[0]
        rows = np.full(power_of_two(most), size, np.int32)  # out of range: dropped
        columns = np.zeros_like(rows)
        rows[:count] = np.repeat(np.arange(size), np.diff(offsets))
        columns[:count] = exclude.ids[offsets[0] : offsets[-1]]
        yield rows, columns


def _joined(blocks, *, starts, shape):
    answer, is_nan = nothing(shape), np.zeros(shape[0], bool)
    for start, (ids, scores, nan) in zip(starts, blocks):
        rows = slice(start, start + len(ids))
        answer.ids[rows], answer.scores[rows], is_nan[rows] = ids, scores, nan
    inputs.refuse_nan(is_nan, what="queries")
    return answer


@dataclasses.dataclass(frozen=True, eq=False)
class Exact:
    """Every inner product, and the k largest; of equals the lower rows."""

    vectors: rows_lib.Rows  # [n, d]
    similarity: str = "inner_product"
    ids: np.ndarray | None = None

    @classmethod
    def build(
        cls,
        vectors: inputs.Vectors,
        *,
        ids: np.ndarray | None = None,
        similarity: str = "inner_product",
    ) -> "Exact":
        rows, ids = inputs.spread(vectors, ids=ids, similarity=similarity)
        return cls(rows, similarity, ids)

    def search(
        self,
        queries: inputs.Queries,
        k: int,
        exclude: Exclude | None = None,
        allowed: inputs.Allowed | None = None,
    ) -> Found:
        width = self.vectors.array.shape[1]
        queries = inputs.as_asked(queries, width=width, similarity=self.similarity)
        return _top_k(queries, self.vectors, k=k, exclude=exclude, allowed=allowed)

    def save(self, folder: Path) -> None:
        """Take the place of an index in `folder`, at one moment."""
        record = {"kind": "exact", "similarity": self.similarity}
        arrays = {"vectors": self.vectors.on_host(), "ids": self.ids}
        saved_lib.write(folder, record, arrays=arrays)

    @classmethod
    def load(cls, folder: Path) -> "Exact":
        saved = saved_lib.read(folder, kind="exact")
        vectors = rows_lib.split_rows(saved.array("vectors"))
        return cls(vectors, saved.manifest["similarity"], saved.ids())


@dataclasses.dataclass(frozen=True, eq=False)
class Approx:
    """`Exact` that selects by `jax.lax.approx_max_k`, which is faster on a TPU.

    There it may miss rows, also where exclusions leave fewer than k; elsewhere it is
    exact and no faster. (Chern et al., TPU-KNN, 2022)
    """

    vectors: rows_lib.Rows  # [n, d]
    similarity: str = "inner_product"
    ids: np.ndarray | None = None
    recall_target: float = 0.95

    @classmethod
    def build(
        cls,
        vectors: inputs.Vectors,
        *,
        ids: np.ndarray | None = None,
        similarity: str = "inner_product",
        recall_target: float = 0.95,
    ) -> "Approx":
        inputs.check_recall(recall_target)
        rows, ids = inputs.spread(vectors, ids=ids, similarity=similarity)
        return cls(rows, similarity, ids, recall_target)

    def search(
        self,
        queries: inputs.Queries,
        k: int,
        exclude: Exclude | None = None,
        allowed: inputs.Allowed | None = None,
    ) -> Found:
        width = self.vectors.array.shape[1]
        return _top_k(
            inputs.as_asked(queries, width=width, similarity=self.similarity),
            self.vectors,
            k=k,
            exclude=exclude,
            allowed=allowed,
            select=_approx_max_k(self.recall_target),
        )

    def save(self, folder: Path) -> None:
        """Take the place of an index in `folder`, at one moment."""
        record = {"similarity": self.similarity, "recall_target": self.recall_target}
        arrays = {"vectors": self.vectors.on_host(), "ids": self.ids}
        saved_lib.write(folder, {"kind": "approx"} | record, arrays=arrays)

    @classmethod
    def load(cls, folder: Path) -> "Approx":
        saved = saved_lib.read(folder, kind="approx")
        similarity, recall = (
            saved.manifest[x] for x in ("similarity", "recall_target")
        )
        vectors = rows_lib.split_rows(saved.array("vectors"))
        return cls(vectors, similarity, saved.ids(), recall)


@functools.cache
def _approx_max_k(recall_target):
    return functools.partial(jax.lax.approx_max_k, recall_target=recall_target)


def nothing(shape):
    return Found(np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32))


def fitting(exclude, *, k, num_queries, num_items):
    """`exclude`, empty for None, once it and k are known to fit the search."""
    if not 1 <= k <= num_items:
        raise InputError(f"k={k} is not within 1..{num_items}, the rows of the index")
    if exclude is None:
        return Exclude(np.zeros(num_queries + 1, np.int64), np.zeros(0, np.int32))
    offsets, ids = exclude
    if len(offsets) != num_queries + 1 or offsets[-1] != len(ids):
        raise InputError(
            f"exclude has {len(offsets)} offsets up to {offsets[-1]} for {len(ids)} ids; "
            f"{num_queries} queries need {num_queries + 1}, the last equal to the ids"
        )
    if len(ids) and not 0 <= ids.min() <= ids.max() < num_items:
        raise InputError(
            f"exclude has ids {ids.min()}..{ids.max()}; the index has rows "
            f"0..{num_items - 1}"
        )
    return exclude


def power_of_two(count):
    """The least power of two that holds `count`; 0 for 0."""
    return np.where(count > 0, 1 << np.frexp(np.maximum(count, 1) - 1)[1], 0)
