"""Negative samplers: ids with their exact log q; word2vec's popularity suppression."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from recall_jax.types import Key


class Sampler(NamedTuple):
    """A distribution over catalogue ids 1..V, as an alias table: a pytree, so that it
    travels as an argument of the step and not as a constant inside it.

    Cell j, drawn uniformly, keeps id j + 1 with probability keep[j] and gives
    alias[j] otherwise (Walker 1977): O(1) a draw, exact at any V, where a float32
    cumulative sum cannot tell a million items apart.
    """

    keep: Float[Array, "V"]
    alias: Int[Array, "V"]
    log_q: Float[Array, "V_and_1"]  # by catalogue id; -inf at padding

    def draw(self, key: Key, *, shape: tuple[int, ...]) -> Int[Array, "..."]:
        """Catalogue ids, drawn independently with replacement."""
        cell_key, keep_key = jax.random.split(key)
        cell = jax.random.randint(cell_key, shape, 0, self.keep.size)
        kept = jax.random.uniform(keep_key, shape) < self.keep[cell]
        return jnp.where(kept, cell + 1, self.alias[cell])


Keep = np.ndarray | float  # chance that a drawn item is kept, else drawn again


def uniform(num_items: int, *, keep: Keep = 1.0) -> Sampler:
    """Every item alike."""
    return weighted(np.ones(num_items) * keep)


def popularity(count: np.ndarray, *, alpha: float, keep: Keep = 1.0) -> Sampler:
    """Probability proportional to count^alpha; items never counted are never drawn.

    `count` [V] holds the training events of catalogue ids 1..V. alpha 0.75 is
    word2vec's (Mikolov et al. 2013), 1 the distribution of in-batch negatives.
    """
    return weighted(popularity_weight(count, alpha=alpha) * keep)


def popularity_weight(count: np.ndarray, *, alpha: float) -> np.ndarray:
    """count^alpha [V]; 0 where there is nothing to count, also for alpha 0."""
    return np.where(count > 0, np.maximum(count, 1.0) ** alpha, 0.0)


def log_uniform(num_items: int, *, keep: Keep = 1.0) -> Sampler:
    """P(i) = log((i + 1) / i) / log(V + 1) over ids in frequency order, as catalogue ids
    are: near Zipf's law. By the alias table, since exp of a float32 skips large ids."""
    return weighted(np.log1p(1 / np.arange(1, num_items + 1)) * keep)


def keep_probability(count: np.ndarray, *, threshold: float) -> np.ndarray:
    """min(1, sqrt(s/p) + s/p) of each item, p its share of all counts, s the threshold:
    word2vec's code (Mikolov et al. 2013). Items never counted are kept."""
    share = np.asarray(count, np.float64) / np.sum(count)
    with np.errstate(divide="ignore"):
        ratio = threshold / share
    return np.minimum(1.0, np.sqrt(ratio) + ratio)


def weighted(weight: np.ndarray) -> Sampler:
    """Probability proportional to `weight` [V] >= 0, some of it positive."""
    share = np.asarray(weight, np.float64) / np.sum(weight, dtype=np.float64)
    keep, alias = alias_tables(share, np.array([0, len(share)]))
    with np.errstate(divide="ignore"):
        log_q = np.log(np.concatenate([[0.0], share]))
    return Sampler(
        jnp.asarray(keep, jnp.float32),
        jnp.asarray(alias + 1, jnp.int32),
        jnp.asarray(log_q, jnp.float32),
    )


class Grouped(NamedTuple):
    """A distribution within each group of items (a market), all in one alias table.

    Items lie sorted by group; group g holds places start[g]:start[g + 1].
    """

    group: Int[Array, "V_and_1"]  # by catalogue id; padding's is the last, empty one
    start: Int[Array, "G_and_1"]
    item: Int[Array, "V"]  # catalogue id at each place
    keep: Float[Array, "V"]
    alias: Int[Array, "V"]  # a place
    log_q: Float[Array, "V_and_1"]  # by catalogue id: log P(item | its group)

    def draw(
        self, key: Key, like: Int[Array, "b"], *, num: int
    ) -> tuple[Int[Array, "b num"], Array]:
        """`num` items of the group of each of `like`, independently with replacement,
        and which are there at all: a group may have none that can be drawn."""
        cell_key, keep_key = jax.random.split(key)
        shape, group = (len(like), num), self.group[like]
        first, size = self.start[group], self.start[group + 1] - self.start[group]
        step = jax.random.randint(cell_key, shape, 0, jnp.maximum(size, 1)[:, None])
        cell = jnp.minimum(first[:, None] + step, self.item.size - 1)
        kept = jax.random.uniform(keep_key, shape) < self.keep[cell]
        item = self.item[jnp.where(kept, cell, self.alias[cell])]
        return item, jnp.broadcast_to((size > 0)[:, None], shape)


def grouped(weight: np.ndarray, group: np.ndarray) -> Grouped:
    """Probability proportional to `weight` [V] within each `group` [V] of codes >= 0;
    items of weight 0 are never drawn."""
    some = np.flatnonzero(weight > 0)
    order = some[np.argsort(group[some], kind="stable")]
    num_groups = int(group.max(initial=0)) + 1
    start = np.searchsorted(group[order], np.arange(num_groups + 1))
    share = np.asarray(weight, np.float64)[order]
    share /= np.bincount(group[order], weights=share)[group[order]]
    keep, alias = alias_tables(share, start)
    log_q = np.full(len(weight) + 1, -np.inf)
    log_q[order + 1] = np.log(share)
    start = np.append(start, len(order))  # one empty group more, for padding
    return Grouped(
        jnp.asarray(np.append(num_groups, group), jnp.int32),
        jnp.asarray(start, jnp.int32),
        jnp.asarray(order + 1, jnp.int32),
        jnp.asarray(keep, jnp.float32),
        jnp.asarray(alias, jnp.int32),
        jnp.asarray(log_q, jnp.float32),
    )


def alias_tables(
    weight: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Walker's alias tables (1977) of many rows at once, without a loop over any.

    Row r lies at start[r]:start[r + 1] of `weight` [cells] >= 0, and each that has
    cells has a positive one. Cell j of a row, drawn uniformly, is kept with probability
    keep[j] and gives alias[j], a position in `weight`, of the same row, otherwise.

    Cells below their row's mean are filled up by those above it, in order: a small one
    takes the first large one whose excess is not used up; a large one whose last small
    one took too much is itself filled up by the next large one. Cumulative sums of
    deficits and excesses say who meets whom (the sweep of Huebschle-Schneider and
    Sanders 2022). The sums are of integers, parts of a mean, so that deficits and
    excesses of a row come out exactly equal, and one sweep over all rows never takes
    from the next. A part is 2^-50 of a mean; less fine where there are many cells,
    2^-36 for fifty million, since a sum stays below 2^62.
    """
    if not len(weight):
        return np.zeros(0), np.zeros(0, np.int64)
    height, level, one = _levels(weight, start)
    small, large = np.flatnonzero(level < one), np.flatnonzero(level >= one)
    deficit = np.concatenate([[0], np.cumsum(one - level[small])])
    excess = np.cumsum(level[large] - one)
    keep, alias = np.clip(height, 0.0, 1.0), np.arange(len(weight))
    alias[small] = large[np.searchsorted(excess, deficit[:-1], side="right")]
    over = deficit[np.searchsorted(deficit, excess, side="left")] - excess
    keep[large] = np.maximum(1 - over / one, 0.0)
    drawn_on = np.flatnonzero(over)  # never a row's last
    alias[large[drawn_on]] = large[drawn_on + 1]
    return keep, alias


def _levels(
    weight: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Weights over the mean of their row, as floats and as counts of parts of it, which
    sum to a row's size exactly; and the parts of a mean."""
    bits = min(50, 62 - len(weight).bit_length())
    start = np.asarray(start, np.int64)
    size = np.diff(start)[np.diff(start) > 0]
    first = start[:-1][np.diff(start) > 0]
    height = np.asarray(weight, np.float64)
    height = height / np.repeat(np.add.reduceat(height, first) / size, size)
    level = np.floor(np.ldexp(height, bits)).astype(np.int64)
    # What rounding left over goes to a row's first cells, a part each.
    each, more = np.divmod((size << bits) - np.add.reduceat(level, first), size)
    level += np.repeat(each, size)
    level += np.arange(len(level)) < np.repeat(first + more, size)
    return height, level, 1 << bits
