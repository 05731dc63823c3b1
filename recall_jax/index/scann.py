"""ScaNN as an index: a tree of parts, hashed scores, exact scores for the best of these.

Guo et al., Accelerating large-scale inference with anisotropic vector quantization, 2020.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from recall_jax.index import inputs, topk
from recall_jax.index import saved as saved_lib
from recall_jax.index import search as search_lib
from recall_jax.index.search import Exclude, Found

TREE_ROWS = 20_000  # under as many, brute force is as fast
FEW_ROWS = 20_000  # allowed, and they are scored one by one
LEAF_SAMPLE = 100  # rows a leaf is trained on; with 25 twice as much is missed
SAMPLE = 512  # rows whose neighbours show how many leaves the data asks for
HASH_ROWS = 16  # ScaNN cannot train its hashing on fewer


class ScannSettings(NamedTuple):
    """How far ScaNN approximates: fewer leaves and rows rescored are faster."""

    leaves: int  # parts of the tree; 0: no tree
    leaves_to_search: int
    reorder: int  # rows rescored exactly, beyond those asked for; 0: brute force
    dimensions_per_block: int = 1  # 2 is half the memory, and misses far more
    anisotropic_threshold: float = 0.0  # of ScaNN's loss for the hashing; 0: plain


def scann_settings(num_items: int, *, recall_target: float = 0.95) -> ScannSettings:
    """Settings for a catalogue's size and the share of the ten best rows to be found.

    Brute force under 20,000 rows. Above, 4 sqrt(n) leaves. As measured by
    `experiments.bench.search`, what is missed halves when twice as many are searched or
    twice as many rows rescored, and the leaves to search grow as n^(1/4).
    """
    inputs.check_recall(recall_target)
    if num_items < TREE_ROWS:
        return ScannSettings(leaves=0, leaves_to_search=0, reorder=0)
    leaves = 4 * math.isqrt(num_items)
    searched = math.ceil(num_items**0.25 / (9 * (1 - recall_target)))
    reorder = math.ceil(12 / (1 - recall_target))
    return ScannSettings(leaves, min(leaves, searched), min(num_items, reorder))


class _Request(NamedTuple):
    """One search: what is wanted, and what may not be returned."""

    queries: Float32[np.ndarray, "q d"]
    allowed: np.ndarray  # [n] mask
    keys: (
        np.ndarray
    )  # excluded pairs as sorted codes query * n + row, and one above all
    need: np.ndarray  # [q] rows that the answer has


@dataclasses.dataclass(frozen=True, eq=False)
class Scann:
    """Approximate search on a CPU. Rows may be missed, but filters never shorten an
    answer: more is asked for, in the end everything."""

    vectors: Float32[np.ndarray, "n d"]
    searcher: Any
    settings: ScannSettings
    similarity: str = "inner_product"
    ids: np.ndarray | None = None

    @classmethod
    def build(
        cls,
        vectors: inputs.Vectors,
        *,
        ids: np.ndarray | None = None,
        similarity: str = "inner_product",
        settings: ScannSettings | None = None,
        recall_target: float = 0.95,
    ) -> "Scann":
        """With `settings`, or those of `scann_settings` for the target, with more leaves
        where a sample of the rows does not find so many of its own neighbours."""
        vectors, ids = inputs.as_inner_product(vectors, ids=ids, similarity=similarity)
        auto = scann_settings(len(vectors), recall_target=recall_target)
        chosen = settings or auto
        searcher = _build_searcher(vectors, chosen)
        index = cls(vectors, searcher, chosen, similarity, ids)
        return index if settings else index._with_leaves_for(recall_target)

    def search(
        self,
        queries: inputs.Queries,
        k: int,
        exclude: Exclude | None = None,
        allowed: inputs.Allowed | None = None,
    ) -> Found:
        num_items, width = self.vectors.shape
        queries = inputs.as_asked(queries, width=width, similarity=self.similarity)
        total = len(queries)
        exclude = search_lib.fitting(
            exclude, k=k, num_queries=total, num_items=num_items
        )
        mask = inputs.allowed_mask(allowed, num_items=num_items)
        if mask is None:
            mask = np.ones(num_items, bool)
        elif mask.sum() <= FEW_ROWS:
            return self._search_few(queries, k, exclude, np.flatnonzero(mask))
        keys, counts = _distinct_pairs(exclude, allowed=mask)
        request = _Request(queries, mask, keys, np.minimum(k, mask.sum() - counts))
        answer = search_lib.nothing((total, k))
        # A group for each power of two: one long history does not slow the others.
        extra = search_lib.power_of_two(counts)
        for more in np.unique(extra).tolist():
            ask = math.ceil((k + more) * num_items / mask.sum())
            self._fill(answer, request, rows=np.flatnonzero(extra == more), ask=ask)
        return answer

    def save(self, folder: Path) -> None:
        """Take the place of an index in `folder`, at one moment."""
        record = {"similarity": self.similarity, "settings": self.settings._asdict()}
        saved_lib.write(
            folder,
            {"kind": "scann"} | record,
            arrays={"ids": self.ids},
            more=lambda data: self.searcher.serialize(str(data), relative_path=True),
        )

    @classmethod
    def load(cls, folder: Path) -> "Scann":
        saved = saved_lib.read(folder, kind="scann")
        settings = ScannSettings(**saved.manifest["settings"])
        searcher = _scann().load_searcher(
            str(saved.folder), assets_backcompat_shim=False
        )
        vectors = saved.array("dataset")  # as ScaNN calls it
        return cls(
            vectors, searcher, settings, saved.manifest["similarity"], saved.ids()
        )

    def _with_leaves_for(self, target):
        """A quarter more leaves, and again, until the sample finds its target."""
        num_items, (every, leaves) = len(self.vectors), self.settings[:2]
        if leaves == every:
            return self
        rows = np.random.default_rng(0).permutation(num_items)[:SAMPLE]
        best = search_lib.Exact.build(self.vectors).search(self.vectors[rows], 11)
        while True:
            settings = self.settings._replace(leaves_to_search=leaves)
            index = dataclasses.replace(self, settings=settings)
            answer = index.search(self.vectors[rows], 11)
            # Scores, as ties may be broken otherwise; all but the row itself, which is
            # found too easily.
            last = best.scores[:, -1:] - 1e-5 * np.abs(best.scores[:, -1:])
            share = ((answer.scores >= last).sum(axis=1) - 1).mean() / 10
            if share >= target or leaves == every:
                return index
            leaves = min(every, math.ceil(1.25 * leaves))

    def _search_few(self, queries, k, exclude, rows):
        """Every one of few rows is scored, whatever the settings."""
        answer = search_lib.nothing((len(queries), k))
        if not len(rows):
            return answer
        place = np.full(len(self.vectors), -1, np.int32)
        place[rows] = np.arange(len(rows))
        query = np.repeat(np.arange(len(queries)), np.diff(exclude.offsets))
        kept = place[exclude.ids] >= 0
        counts = np.bincount(query[kept], minlength=len(queries))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        # Padded, so that another set seldom needs another program.
        size = int(search_lib.power_of_two(len(rows)))
        padded = np.zeros((size, self.vectors.shape[1]), np.float32)
        padded[: len(rows)] = self.vectors[rows]
        width = min(k, size)
        ids, scores = search_lib.blocked_top_k(
            topk.inner_product,
            queries,
            operands=jnp.asarray(padded),
            k=width,
            num_items=size,
            exclude=Exclude(offsets, place[exclude.ids[kept]]),
            allowed=np.arange(size) < len(rows),
        )
        answer.ids[:, :width] = np.where(ids >= 0, rows[ids % len(rows)], -1)
        answer.scores[:, :width] = scores
        return answer

    def _fill(self, answer, request, *, rows, ask):
        """Answer `rows`, asking for more as long as too little is found."""
        num_items, leaves = len(self.vectors), self.settings.leaves_to_search
        while len(rows):
            ask, leaves = min(ask, num_items), min(leaves, self.settings.leaves)
            for block in _blocks(rows, width=ask):
                ids, scores = self._ask(request.queries[block], ask=ask, leaves=leaves)
                codes = block[:, None] * num_items + ids
                excluded = request.keys[np.searchsorted(request.keys, codes)] == codes
                gone = np.isnan(scores) | excluded | ~request.allowed[ids]
                best = _first_kept(ids, scores, gone=gone, k=answer.ids.shape[1])
                answer.ids[block], answer.scores[block] = best
            rows = rows[(answer.ids[rows] >= 0).sum(axis=1) < request.need[rows]]
            if ask == num_items and leaves == self.settings.leaves and len(rows):
                bad = np.isin(np.arange(len(request.queries)), rows)
                inputs.refuse_nan(bad, what="queries")
            ask, leaves = 4 * ask, max(1, 4 * leaves)

    def _ask(self, queries, *, ask, leaves):
        """Rows and scores [q, ask], best first; score NaN where ScaNN has no more."""
        ids, scores = self.searcher.search_batched_parallel(
            queries,
            final_num_neighbors=ask,
            pre_reorder_num_neighbors=min(
                ask + self.settings.reorder, len(self.vectors)
            ),
            leaves_to_search=leaves or None,
        )
        return ids.astype(np.int32), scores + np.float32(0)  # and no -0.0


def _scann():
    try:
        from scann import scann_ops_pybind
    except ImportError as error:
        raise search_lib.MissingPackage(
            "ScaNN is not installed: pip install scann"
        ) from error
    return scann_ops_pybind


def _build_searcher(vectors, settings):
    builder = _scann().builder(vectors, 1, "dot_product")
    if settings.leaves:
        builder = builder.tree(
            settings.leaves,
            settings.leaves_to_search,
            training_sample_size=min(len(vectors), LEAF_SAMPLE * settings.leaves),
            quantize_centroids=True,
        )
    if not settings.reorder or len(vectors) < HASH_ROWS:
        return builder.score_brute_force().build()
    threshold = settings.anisotropic_threshold or math.nan
    builder = builder.score_ah(
        settings.dimensions_per_block, anisotropic_quantization_threshold=threshold
    )
    return builder.reorder(settings.reorder).build()


def _distinct_pairs(exclude, *, allowed):
    """Exclusions of allowed rows as sorted codes query * n + row, closed by one larger
    than all, and how many each query has."""
    total, num_items = len(exclude.offsets) - 1, len(allowed)
    queries = np.repeat(np.arange(total), np.diff(exclude.offsets))
    kept = allowed[exclude.ids]
    keys = np.sort((queries * num_items + exclude.ids)[kept])
    keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique is ten times slower here
    counts = np.bincount(keys // num_items, minlength=total)
    return np.append(keys, np.iinfo(np.int64).max), counts


def _blocks(rows, *, width):
    """`rows` in parts whose answers of `width` entries stay within the budget."""
    size = max(1, search_lib.BLOCK_BYTES // (8 * width))
    return np.split(rows, np.arange(size, len(rows), size))


def _first_kept(ids, scores, *, gone, k):
    """The first k not gone of answers sorted by score, ties then by lower row."""
    kept = np.argsort(gone, axis=1, kind="stable")[:, :k]
    ids = np.take_along_axis(np.where(gone, -1, ids), kept, axis=1)
    scores = np.take_along_axis(np.where(gone, -np.inf, scores), kept, axis=1)
    order = np.lexsort((ids, -scores), axis=1)
    return (np.take_along_axis(x, order, axis=1) for x in (ids, scores))
