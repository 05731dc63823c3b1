"""Indexes: the rows of a matrix with the largest inner product with each query.

`Exact`, `Approx` and `Scann` share one interface: `build(vectors)`, then
`search(queries, k, exclude)`, which gives `Found`. For cosine or Euclidean order,
normalise the vectors first: all three orders agree there.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Int64

from recall_jax.types import InputError

BLOCK_BYTES = 8 << 20  # of scores at a time: larger blocks leave a CPU's cache
BLOCK_ROWS = 32  # at least: fewer would read a large catalogue too often

Vectors = Float[Array | np.ndarray, "n d"]
Queries = Float[Array | np.ndarray, "q d"]


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
    """What evaluation asks of an index. Raises `InputError` for k outside 1..n or
    exclusions that do not fit, `FloatingPointError` where a score is not a number."""

    def search(
        self, queries: Queries, k: int, exclude: Exclude | None = None
    ) -> Found: ...


def inner_product(
    queries: Float[Array, "b d"], vectors: Float[Array, "n d"]
) -> Float[Array, "b n"]:
    """s[i, j] = queries[i] . vectors[j], at full float32 precision on every device."""
    return jnp.matmul(queries, vectors.T, precision=jax.lax.Precision.HIGHEST)


def blocked_top_k(
    score: Callable[[Any, Any], Float[Array, "b n"]],
    queries: Any,
    *,
    operands: Any = (),
    k: int,
    num_items: int,
    exclude: Exclude | None = None,
    select: Callable = jax.lax.top_k,
) -> Found:
    """The k best of all items for every query, a block of queries at a time.

    `score(queries of a block, operands)` gives [b, num_items]. It is traced, once for
    all blocks and searches of a shape as long as it is the same function object.
    `queries` is an array, or a tree of arrays with leading axis q. An item whose score
    is -inf is not returned. `select(scores, k)` gives (values, positions).
    """
    queries = jax.device_get(queries)
    total = len(jax.tree.leaves(queries)[0])
    exclude = _fitting(exclude, k=k, num_queries=total, num_items=num_items)
    size = max(1, min(total, max(BLOCK_ROWS, BLOCK_BYTES // (4 * num_items))))
    # The last block reaches back into the one before it, so that all have one shape.
    starts = np.minimum(np.arange(0, total, size), total - size)
    blocks = []
    for start, pairs in zip(starts, _padded_pairs(exclude, starts=starts, size=size)):
        rows = operator.itemgetter(slice(start, start + size))
        block, pairs = jax.device_put((jax.tree.map(rows, queries), pairs))
        blocks.append(_search_block(block, pairs, operands, score, k, select))
    return _joined(jax.device_get(blocks), starts=starts, shape=(total, k))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _search_block(queries, pairs, operands, score, k, select):
    scores = score(queries, operands).astype(jnp.float32)
    # top_k may put a NaN last, where nobody sees it; a maximum passes it on.
    is_nan = jnp.isnan(scores.max(axis=1))
    rows, columns = pairs
    scores = scores.at[rows, columns].set(-jnp.inf, mode="drop")
    values, ids = select(scores, k)
    # approx_max_k orders ties anyhow, and top_k takes -0.0 to be less than 0.0.
    falling, ids = jax.lax.sort((-values, ids), num_keys=2)
    return jnp.where(falling == jnp.inf, -1, ids), -falling, is_nan


def _padded_pairs(exclude, *, starts, size):
    """Each block's exclusions as (row in the block, item), all of one length.

    The length is a power of two, so that another search seldom needs another program.
    Pairs, not a row for every query: one query may exclude far more than the rest.
    """
    most = (exclude.offsets[starts + size] - exclude.offsets[starts]).max(initial=0)
    for start in starts:
        offsets = exclude.offsets[start : start + size + 1]
        count = offsets[-1] - offsets[0]
        rows = np.full(_power_of_two(most), size, np.int32)  # out of range: dropped
        columns = np.zeros_like(rows)
        rows[:count] = np.repeat(np.arange(size), np.diff(offsets))
        columns[:count] = exclude.ids[offsets[0] : offsets[-1]]
        yield rows, columns


def _joined(blocks, *, starts, shape):
    found, is_nan = _nothing(shape), np.zeros(shape[0], bool)
    for start, (ids, scores, nan) in zip(starts, blocks):
        rows = slice(start, start + len(ids))
        found.ids[rows], found.scores[rows], is_nan[rows] = ids, scores, nan
    _refuse_nan(is_nan, what="queries")
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Exact:
    """Every inner product, and the k largest."""

    vectors: Float[Array, "n d"]
    select: Callable = jax.lax.top_k

    @classmethod
    def build(cls, vectors: Vectors) -> "Exact":
        return cls(jnp.asarray(_checked(vectors), jnp.float32))

    def search(self, queries: Queries, k: int, exclude: Exclude | None = None) -> Found:
        return blocked_top_k(
            inner_product,
            _checked(queries, width=self.vectors.shape[1]),
            operands=self.vectors,
            k=k,
            num_items=len(self.vectors),
            exclude=exclude,
            select=self.select,
        )


class Approx:
    """`Exact` that selects by `jax.lax.approx_max_k`, which is faster on a TPU.

    There it may miss rows, also where exclusions leave fewer than k; elsewhere it is
    exact and no faster. (Chern et al., TPU-KNN, 2022)
    """

    @staticmethod
    def build(vectors: Vectors, *, recall_target: float = 0.95) -> Exact:
        exact = Exact.build(vectors)
        return dataclasses.replace(exact, select=_approx_max_k(recall_target))


@functools.cache
def _approx_max_k(recall_target):
    """One object a target, because another object would compile once more."""
    return functools.partial(jax.lax.approx_max_k, recall_target=recall_target)


class ScannSettings(NamedTuple):
    """How far ScaNN approximates: fewer leaves and rows rescored are faster."""

    leaves: int  # parts of the tree; 0: no tree
    leaves_to_search: int
    reorder: int  # rows rescored exactly, beyond those asked for; 0: brute force
    dimensions_per_block: int = 2
    anisotropic_threshold: float = 0.2


def scann_settings(num_items: int) -> ScannSettings:
    """ScaNN's rules of thumb: brute force under 20,000 rows, then about sqrt(n) leaves,
    a tenth of them searched, asymmetric hashing, and reordering."""
    if num_items < 20_000:
        return ScannSettings(leaves=0, leaves_to_search=0, reorder=0)
    leaves = math.isqrt(num_items)
    return ScannSettings(leaves, leaves_to_search=-(-leaves // 10), reorder=200)


@dataclasses.dataclass(frozen=True, eq=False)
class Scann:
    """ScaNN: a tree of parts, hashed scores, exact scores for the best of these.

    Rows may be missed, but exclusions never shorten an answer: more is asked for, in
    the end everything. (Guo et al., Accelerating large-scale inference with
    anisotropic vector quantization, 2020)
    """

    searcher: Any
    settings: ScannSettings
    shape: tuple[int, int]  # n, d

    @classmethod
    def build(
        cls, vectors: Vectors, *, settings: ScannSettings | None = None
    ) -> "Scann":
        vectors = _finite(_checked(vectors), what="vectors")
        settings = settings or scann_settings(len(vectors))
        return cls(_scann_searcher(vectors, settings), settings, vectors.shape)

    def search(self, queries: Queries, k: int, exclude: Exclude | None = None) -> Found:
        queries = _finite(_checked(queries, width=self.shape[1]), what="queries")
        total, num_items = len(queries), self.shape[0]
        exclude = _fitting(exclude, k=k, num_queries=total, num_items=num_items)
        keys, counts = _distinct_pairs(exclude, num_items=num_items)
        found = _nothing((total, k))
        need = np.minimum(k, num_items - counts)
        # A group for each power of two: one long history does not slow the others.
        extra = _power_of_two(counts)
        for more in np.unique(extra).tolist():
            rows = np.flatnonzero(extra == more)
            self._fill(found, queries, rows=rows, ask=k + more, need=need, keys=keys)
        return found

    def _fill(self, found, queries, *, rows, ask, need, keys):
        """Answer `rows`, asking for more as long as too little is found."""
        num_items, leaves = self.shape[0], self.settings.leaves_to_search
        while len(rows):
            ask, leaves = min(ask, num_items), min(leaves, self.settings.leaves)
            for block in _blocks(rows, width=ask):
                ids, scores = self._ask(queries[block], ask=ask, leaves=leaves)
                codes = block[:, None] * num_items + ids
                gone = np.isnan(scores) | (keys[np.searchsorted(keys, codes)] == codes)
                best = _first_kept(ids, scores, gone=gone, k=found.ids.shape[1])
                found.ids[block], found.scores[block] = best
            rows = rows[(found.ids[rows] >= 0).sum(axis=1) < need[rows]]
            if ask == num_items and leaves == self.settings.leaves and len(rows):
                _refuse_nan(np.isin(np.arange(len(queries)), rows), what="queries")
            ask, leaves = 4 * ask, max(1, 4 * leaves)

    def _ask(self, queries, *, ask, leaves):
        """Rows and scores [q, ask], best first; score NaN where ScaNN has no more."""
        ids, scores = self.searcher.search_batched_parallel(
            queries,
            final_num_neighbors=ask,
            pre_reorder_num_neighbors=min(ask + self.settings.reorder, self.shape[0]),
            leaves_to_search=leaves or None,
        )
        return ids.astype(np.int32), scores + np.float32(0)  # and no -0.0


def _scann_searcher(vectors, settings):
    try:
        from scann import scann_ops_pybind
    except ImportError as error:
        raise MissingPackage("ScaNN is not installed: pip install scann") from error
    builder = scann_ops_pybind.builder(vectors, 1, "dot_product")
    if settings.leaves:
        builder = builder.tree(settings.leaves, settings.leaves_to_search)
    if not settings.reorder:
        return builder.score_brute_force().build()
    threshold = settings.anisotropic_threshold
    builder = builder.score_ah(
        settings.dimensions_per_block, anisotropic_quantization_threshold=threshold
    )
    return builder.reorder(settings.reorder).build()


def _distinct_pairs(exclude, *, num_items):
    """Exclusions as sorted codes query * n + row, closed by one larger than all, and
    how many each query has."""
    total = len(exclude.offsets) - 1
    queries = np.repeat(np.arange(total), np.diff(exclude.offsets))
    keys = np.sort(queries * num_items + exclude.ids)
    keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique is ten times slower here
    counts = np.bincount(keys // num_items, minlength=total)
    return np.append(keys, np.iinfo(np.int64).max), counts


def _blocks(rows, *, width):
    """`rows` in parts whose answers of `width` entries stay within the budget."""
    size = max(1, BLOCK_BYTES // (8 * width))
    return np.split(rows, np.arange(size, len(rows), size))


def _first_kept(ids, scores, *, gone, k):
    """The first k not gone of answers sorted by score, ties then by lower row."""
    kept = np.argsort(gone, axis=1, kind="stable")[:, :k]
    ids = np.take_along_axis(np.where(gone, -1, ids), kept, axis=1)
    scores = np.take_along_axis(np.where(gone, -np.inf, scores), kept, axis=1)
    order = np.lexsort((ids, -scores), axis=1)
    return (np.take_along_axis(x, order, axis=1) for x in (ids, scores))


def _power_of_two(count):
    """The least power of two that holds `count`; 0 for 0."""
    return np.where(count > 0, 1 << np.frexp(np.maximum(count, 1) - 1)[1], 0)


def _finite(vectors, *, what):
    """As ScaNN reads them. It drops a row with a NaN score, where an index must raise."""
    vectors = np.ascontiguousarray(jax.device_get(vectors), np.float32)
    _refuse_nan(~np.isfinite(vectors).all(axis=1), what=what)
    return vectors


def _nothing(shape):
    return Found(np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32))


def _checked(vectors, *, width=None):
    wanted = "[n, d], neither 0" if width is None else f"[q, {width}], as the index"
    fits = vectors.ndim == 2 and vectors.shape[1] == (width or vectors.shape[1])
    if not fits or (width is None and 0 in vectors.shape):
        raise InputError(f"expected vectors {wanted}; got {list(vectors.shape)}")
    return vectors


def _fitting(exclude, *, k, num_queries, num_items):
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


def _refuse_nan(is_nan, *, what):
    if is_nan.any():
        raise FloatingPointError(
            f"{is_nan.sum()} of {len(is_nan)} {what}, the first at {is_nan.argmax()}, "
            "give scores that are not numbers; did the training diverge?"
        )
