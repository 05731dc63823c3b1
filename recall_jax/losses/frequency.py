"""How often an item stands in a batch, estimated from the stream of batches: its log q.

Exact counts need a table of the catalogue and a pass over the data. Where there is
neither (a stream, a catalogue that grows), hash arrays of the gaps between sightings or
a count-min sketch follow the stream in constant memory, and its drift with it. Both err
to one side where items share buckets: the estimate is too high, never too low. The state
is a pytree that belongs in the training state.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

LEAST_Q = 1e-12  # of what was never seen: log q stays finite


class Hashes(NamedTuple):
    """Multiply-shift hashes of 32-bit ids (Dietzfelbinger et al. 1997): two ids meet in
    a given hash with probability at most 2 / width."""

    factor: UInt32[Array, "hashes"]
    term: UInt32[Array, "hashes"]


def make_hashes(num: int, *, seed: int) -> Hashes:
    rng = np.random.default_rng([seed, num])
    factor, term = rng.integers(0, 2**32, (2, num), dtype=np.uint32)
    return Hashes(jnp.asarray(factor | 1), jnp.asarray(term))


def buckets(
    hashes: Hashes, ids: Int[Array, "b"], *, width: int
) -> Int[Array, "hashes b"]:
    """Bucket 0..width - 1 of each id under each hash; `width` is a power of two."""
    bits = width.bit_length() - 1
    mixed = ids.astype(jnp.uint32)[None, :] * hashes.factor[:, None]
    mixed = mixed + hashes.term[:, None]
    # A shift by all 32 bits would be undefined.
    return ((mixed >> 1) >> (31 - bits)).astype(jnp.int32)


class Gaps(NamedTuple):
    """Yi et al. (2019), algorithm 2: for each bucket the step of the last sighting and
    a moving average of the gap between sightings, in steps.

    Of several hashes the largest gap wins: a shared bucket is seen too often. A gap
    g says that an item is in a batch with chance 1/g = 1 - (1 - q)^b, which saturates
    where b q is above about 2: `log_q` inverts it, and cannot tell q above
    1 - b^(-1/b), where a batch without the item comes once in b steps, from that. An
    item that stays away keeps its last gap until it is seen again.
    """

    hashes: Hashes
    last: Int[Array, "hashes width"]  # step of the last sighting, from 1; 0 never
    gap: Float[Array, "hashes width"]
    count: Int[Array, "hashes width"]  # sightings
    step: Int[Array, ""]

    def update(self, ids: Int[Array, "b"], *, rate: float) -> "Gaps":
        """After a batch. The first 1/rate gaps are averaged plainly, then each new one
        moves the average by `rate`: small is exact, large follows a drift sooner. An
        item's duplicates within the batch are one sighting."""
        step = self.step + 1
        row = jnp.arange(len(self.last))[:, None]
        at = (row, buckets(self.hashes, ids, width=self.last.shape[1]))
        # Whatever shares a bucket within the batch writes the same value there.
        count = self.count[at] + 1
        share = jnp.maximum(rate, 1 / count.astype(jnp.float32))
        since = (step - self.last[at]).astype(jnp.float32)
        return self._replace(
            last=self.last.at[at].max(jnp.broadcast_to(step, count.shape)),
            gap=self.gap.at[at].set(self.gap[at] + share * (since - self.gap[at])),
            count=self.count.at[at].max(count),
            step=step,
        )

    def log_q(self, ids: Int[Array, "b"], *, batch_size: int) -> Float[Array, "b"]:
        """log of the chance that one draw is the item. An item never seen counts as
        one whose first sighting is due."""
        row = jnp.arange(len(self.last))[:, None]
        at = (row, buckets(self.hashes, ids, width=self.last.shape[1]))
        unseen = (self.step + 1).astype(jnp.float32)
        gap = jnp.where(self.count[at] > 0, self.gap[at], unseen).max(axis=0)
        log_absent = jnp.log1p(-1 / jnp.maximum(gap, 1.0))  # from a whole batch
        log_absent = jnp.maximum(log_absent, -np.log(batch_size)) / batch_size
        return jnp.log(jnp.maximum(-jnp.expm1(log_absent), LEAST_Q))


def init_gaps(*, num_hashes: int, width: int, seed: int = 0) -> Gaps:
    """Nothing seen yet; `width` buckets a hash, a power of two."""
    shape = (num_hashes, width)
    return Gaps(
        make_hashes(num_hashes, seed=seed),
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros(shape, jnp.int32),
        jnp.zeros((), jnp.int32),
    )


class Sketch(NamedTuple):
    """A count-min sketch (Cormode and Muthukrishnan 2005) whose counts fade.

    The estimate is never below the (faded) share and, with W buckets and k hashes,
    above it by more than 4/W with probability at most 2^-k. Counts are float32: with
    rate 0 a bucket stands still at 2^24 sightings.
    """

    hashes: Hashes
    count: Float[Array, "hashes width"]
    total: Float[Array, ""]

    def update(self, ids: Int[Array, "b"], *, rate: float) -> "Sketch":
        """After a batch. What lies 1/rate batches back counts 1/e of what is new; rate 0
        forgets nothing."""
        row = jnp.arange(len(self.count))[:, None]
        at = (row, buckets(self.hashes, ids, width=self.count.shape[1]))
        faded = self.count * (1 - rate)
        return self._replace(
            count=faded.at[at].add(1.0), total=self.total * (1 - rate) + len(ids)
        )

    def log_q(self, ids: Int[Array, "b"], *, batch_size: int) -> Float[Array, "b"]:
        """log of the item's share of the stream; `batch_size` plays no part."""
        row = jnp.arange(len(self.count))[:, None]
        at = (row, buckets(self.hashes, ids, width=self.count.shape[1]))
        share = self.count[at].min(axis=0) / jnp.maximum(self.total, 1.0)
        return jnp.log(jnp.maximum(share, LEAST_Q))


def init_sketch(*, num_hashes: int, width: int, seed: int = 0) -> Sketch:
    """Nothing counted yet; `width` buckets a hash, a power of two."""
    return Sketch(
        make_hashes(num_hashes, seed=seed),
        jnp.zeros((num_hashes, width)),
        jnp.zeros(()),
    )


class ExactFrequency(NamedTuple):
    """log q by catalogue id, known beforehand; nothing to update."""

    table: Float[Array, "V_and_1"]

    def update(self, ids: Int[Array, "b"], *, rate: float) -> "ExactFrequency":
        return self

    def log_q(self, ids: Int[Array, "b"], *, batch_size: int) -> Float[Array, "b"]:
        return self.table[ids]


def exact(count: np.ndarray) -> ExactFrequency:
    """From the training examples [V] of catalogue ids 1..V."""
    with np.errstate(divide="ignore"):
        log_q = np.log(np.append(0.0, count) / np.sum(count))
    return ExactFrequency(jnp.asarray(np.maximum(log_q, np.log(LEAST_Q)), jnp.float32))
