"""Negative samplers: ids with their exact log q."""

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


def uniform(num_items: int) -> Sampler:
    """Every catalogue item alike."""
    return weighted(np.ones(num_items))


def popularity(count: np.ndarray, *, alpha: float) -> Sampler:
    """Probability proportional to count^alpha; items never counted are never drawn.

    `count` [V] holds the training events of catalogue ids 1..V. alpha 0.75 is
    word2vec's (Mikolov et al. 2013), 1 the distribution of in-batch negatives.
    """
    return weighted(np.where(count > 0, np.maximum(count, 1.0) ** alpha, 0.0))


def weighted(weight: np.ndarray) -> Sampler:
    """Probability proportional to `weight` [V] >= 0, some of it positive."""
    share = np.asarray(weight, np.float64) / np.sum(weight)
    keep, alias = alias_table(share)
    with np.errstate(divide="ignore"):
        log_q = np.log(np.concatenate([[0.0], share]))
    return Sampler(
        jnp.asarray(keep, jnp.float32),
        jnp.asarray(alias + 1, jnp.int32),
        jnp.asarray(log_q, jnp.float32),
    )


def alias_table(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walker's alias table of probabilities [V] that sum to 1, without a loop.

    Cells below the mean are filled up by those above it, in order: a small one takes
    the first large one whose excess is not used up; a large one whose last small one
    took too much is itself filled up by the next large one. Cumulative sums of
    deficits and excesses say who meets whom (the sweep of Huebschle-Schneider and
    Sanders 2022).
    """
    height = share * len(share)
    small, large = np.flatnonzero(height < 1), np.flatnonzero(height >= 1)
    keep, alias = height.copy(), np.arange(len(share))
    if not len(small):
        return np.ones(len(share)), alias
    deficit = np.cumsum(1 - height[small])
    excess = np.cumsum(height[large] - 1)
    before = np.concatenate([[0.0], deficit[:-1]])
    last = len(large) - 1
    donor = np.minimum(np.searchsorted(excess, before, side="right"), last)
    alias[small] = large[donor]
    reached = np.searchsorted(deficit, excess, side="left")
    over = np.where(
        reached < len(small), deficit[np.minimum(reached, len(small) - 1)] - excess, 0.0
    )
    keep[large] = np.clip(1 - over, 0.0, 1.0)
    alias[large] = large[np.minimum(np.arange(len(large)) + 1, last)]
    keep[large[last]] = 1.0
    return keep, alias
