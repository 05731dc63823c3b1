"""The k best of a catalogue for a block of queries, as jitted programs.

`search_scores` takes any score function and holds all scores of the block.
`search_vectors` is for inner products with a large catalogue, whose scores would leave a
CPU's cache. It scores a tile of rows at a time and keeps only the largest score of each
group of neighbouring rows. The k best rows lie in the k groups that come first by their
largest score, then by row: a row outside of them has k rows before it, one of each group.
Only those groups are scored again. `search_devices` does either on each device's rows of a
catalogue that is split over them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recall_jax.devices import mesh
from recall_jax.devices.mesh import AXIS, SPLIT, WHOLE

PAIRS = 256  # excluded at a time; a power of two


class Tiles(NamedTuple):
    """Sizes of `search_vectors`. A tile of scores stays in the cache of a CPU."""

    queries: int = 128
    rows: int = 16_384  # a multiple of `group`
    group: int = 64

    def pay(self, num_items: int, *, k: int) -> bool:
        """Whether the catalogue is large enough, and k small enough, for tiles."""
        return num_items >= max(4 * self.rows, 4 * k * self.group)


def inner_product(
    queries: Float[Array, "b d"], vectors: Float[Array, "n d"]
) -> Float[Array, "b n"]:
    """s[i, j] = queries[i] . vectors[j], at full float32 precision on every device."""
    return jnp.matmul(queries, vectors.T, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames=("score", "k", "select"))
def search_scores(queries, pairs, operands, allowed, *, score, k, select):
    """Ids [b, k] (-1: none left), scores, and which queries have a score that is NaN.

    `pairs` are excluded (row of the block, item), a power of two of them or none; a row
    past the block is padding. `allowed` is a mask of items, or None.
    """
    scores = score(queries, operands).astype(jnp.float32)
    # top_k may put a NaN last, where nobody sees it; a maximum passes it on.
    is_nan = jnp.isnan(scores.max(axis=1))
    scores = _positive_zeros(_allowed_only(scores, allowed))
    scores = scores.at[pairs].set(-jnp.inf, mode="drop")
    values, ids = select(scores, k)
    return *_ordered(values, ids), is_nan


@functools.partial(jax.jit, static_argnames=("k", "tiles"))
def search_vectors(queries, pairs, vectors, allowed, *, k, tiles):
    """As `search_scores` of inner products; a NaN among excluded items is not seen."""
    columns, rows = jax.lax.sort((pairs[1], pairs[0]), num_keys=1)
    pairs = rows, columns  # so that a tile need not look at all
    maxima = _group_maxima(queries, pairs, vectors, allowed, tiles=tiles)
    num_groups = min(k, maxima.shape[1])
    groups = jnp.sort(jax.lax.top_k(maxima, num_groups)[1], axis=1)
    rows = groups[:, :, None] * tiles.group + jnp.arange(tiles.group)[None, None]
    rows = rows.reshape(len(queries), -1)

    def rescored(query_and_rows):
        query, rows = query_and_rows
        return inner_product(query[None], vectors[jnp.minimum(rows, len(vectors) - 1)])

    scores = jax.lax.map(rescored, (queries, rows))[:, 0]
    valid = rows < len(vectors)
    if allowed is not None:
        valid &= allowed[jnp.minimum(rows, len(vectors) - 1)]
    scores = _positive_zeros(jnp.where(valid, scores, -jnp.inf))
    places = _places(pairs, groups, group=tiles.group)
    scores = scores.at[pairs[0], places].set(-jnp.inf, mode="drop")
    values, best = jax.lax.top_k(scores, k)
    ids = jnp.take_along_axis(rows, best, axis=1)
    return *_ordered(values, ids), jnp.isnan(maxima).any(axis=1)


@functools.partial(jax.jit, static_argnames=("search", "k"))
def search_devices(queries, pairs, vectors, allowed, *, search, k):
    """As `search(queries, pairs, vectors, allowed, k=k)` of vectors that are split over
    the devices by rows: the k best of what is best on each."""
    spread_search = mesh.spread(
        functools.partial(_search_mine, search=search, k=k),
        in_specs=(WHOLE, WHOLE, SPLIT, SPLIT),
        out_specs=WHOLE,
    )
    return spread_search(queries, pairs, vectors, allowed)


def _search_mine(queries, pairs, vectors, allowed, *, search, k):
    """On one device. Rows rise with the devices, so that the first of equals among what
    all have found is the lowest row."""
    size = len(vectors)
    first = jax.lax.axis_index(AXIS) * size
    rows, columns = pairs[0], pairs[1] - first
    mine = (columns >= 0) & (columns < size)
    pairs = jnp.where(mine, rows, len(queries)), jnp.where(mine, columns, size)
    ids, scores, is_nan = search(queries, pairs, vectors, allowed, k=min(k, size))
    ids = jnp.where(ids < 0, -1, ids + first)
    ids, scores = (
        jax.lax.all_gather(x, AXIS, axis=1, tiled=True) for x in (ids, scores)
    )
    values, best = jax.lax.top_k(scores, k)
    ids_and_scores = _ordered(values, jnp.take_along_axis(ids, best, axis=1))
    return *ids_and_scores, jax.lax.psum(is_nan.astype(jnp.int32), AXIS) > 0


def _group_maxima(queries, pairs, vectors, allowed, *, tiles):
    """The largest score of each group of rows, [b, groups]; -inf where none is left."""

    def tile_maxima(start, size):
        tile = jax.lax.dynamic_slice_in_dim(vectors, start, size)
        scores = inner_product(queries, tile)
        if allowed is not None:
            mask = jax.lax.dynamic_slice_in_dim(allowed, start, size)
            scores = _allowed_only(scores, mask)
        if len(pairs[0]):
            scores = _without(scores, pairs, start=start)
        short = -size % tiles.group
        scores = jnp.pad(scores, ((0, 0), (0, short)), constant_values=-jnp.inf)
        return scores.reshape(len(queries), -1, tiles.group).max(axis=2)

    whole, rest = divmod(len(vectors), tiles.rows)
    parts = [tile_maxima(whole * tiles.rows, rest)] if rest else []
    if whole:
        starts = jnp.arange(whole) * tiles.rows
        many = jax.lax.map(lambda start: tile_maxima(start, tiles.rows), starts)
        parts = [jnp.moveaxis(many, 0, 1).reshape(len(queries), -1), *parts]
    maxima = jnp.concatenate(parts, axis=1)
    return _positive_zeros(maxima)


def _without(scores, pairs, *, start):
    """Scores of a tile, -inf where excluded; `pairs` rise by column."""
    rows, columns = pairs
    begin, end = jnp.searchsorted(columns, jnp.stack([start, start + scores.shape[1]]))
    step = min(PAIRS, len(rows))  # both powers of two: steps end where the pairs do

    def drop_some(turn, scores):
        row, column = (jax.lax.dynamic_slice(x, [turn * step], [step]) for x in pairs)
        local = column - start
        local = jnp.where(local < 0, scores.shape[1], local)  # -1 would be the last
        return scores.at[row, local].set(-jnp.inf, mode="drop")

    return jax.lax.fori_loop(begin // step, -(-end // step), drop_some, scores)


def _places(pairs, groups, *, group):
    """Where excluded items stand among the rows of their query's groups [b, k], which
    rise; past the end where they do not."""
    rows, columns = pairs
    own = groups[jnp.minimum(rows, len(groups) - 1)]
    wanted = columns // group
    place = jax.vmap(jnp.searchsorted)(own, wanted)
    last = groups.shape[1] - 1
    next_group = jnp.take_along_axis(own, jnp.minimum(place, last)[:, None], axis=1)[
        :, 0
    ]
    inside = (place <= last) & (next_group == wanted)
    return jnp.where(inside, place * group + columns % group, groups.shape[1] * group)


def _allowed_only(scores, allowed):
    return scores if allowed is None else jnp.where(allowed[None], scores, -jnp.inf)


def _positive_zeros(scores):
    """top_k takes -0.0 to be less than 0.0."""
    return jnp.where(scores == 0, 0.0, scores)


def _ordered(values, ids):
    """Equal scores by lower row: approx_max_k orders them anyhow."""
    falling, ids = jax.lax.sort((-values, ids), num_keys=2)
    return jnp.where(falling == jnp.inf, -1, ids), -falling
