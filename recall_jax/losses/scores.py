"""From vectors to finished logits: temperature, log-q correction, masks.

A logit is s / temperature - strength * log q, the correction outside the temperature's
reach. Candidates are *columns*, which all examples of a batch share (the other positives,
drawn items, a queue, the catalogue), or an example's *own*. What is masked contributes
exactly 0 to a loss, in value and in gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Hyper = Float[Array, ""]


class Logits(NamedTuple):
    """What listwise losses take."""

    positive: Float[Array, "b"]
    negative: Float[Array, "b n"]
    where: Bool[Array, "b n"]


# Masks.


class RowKeys(NamedTuple):
    """What masks know of each example."""

    keys: tuple[Int[Array, "b"], ...]
    seen: Int[Array, "b h"] | None = None  # item ids it may not meet, 0 padding


class ColumnKeys(NamedTuple):
    """What masks know of each candidate; `keys` stand beside those of the rows."""

    keys: tuple[Int[Array, "n"], ...]
    item: Int[Array, "n"]
    valid: Bool[Array, "n"] | None = None


class Mask(NamedTuple):
    """Which columns an example meets, in O(b + n + b h) memory.

    Not those that share a key with it: its own row, its positive's id (an accidental
    hit), its user. Not an item it has seen. Not what is invalid (an unfilled place of
    a queue). `allowed` spells it out, all of it or a block of rows.
    """

    row_keys: tuple[Int[Array, "b"], ...]
    column_keys: tuple[Int[Array, "n"], ...]
    seen: Int[Array, "b h"] | None  # groups of columns; n where there is none
    group: Int[Array, "n"] | None  # of columns of the same item
    valid: Bool[Array, "n"] | None


def make_mask(rows: RowKeys, columns: ColumnKeys) -> Mask:
    """The mask of a batch; histories are looked up among the columns by a sort."""
    if rows.seen is None:
        return Mask(rows.keys, columns.keys, None, None, columns.valid)
    ordered = jnp.sort(columns.item)
    group = jnp.searchsorted(ordered, columns.item).astype(jnp.int32)
    at = jnp.searchsorted(ordered, rows.seen).astype(jnp.int32)
    last = ordered.size - 1
    present = (ordered[jnp.minimum(at, last)] == rows.seen) & (rows.seen != 0)
    seen = jnp.where(present, at, ordered.size)
    return Mask(rows.keys, columns.keys, seen, group, columns.valid)


def allowed(mask: Mask) -> Bool[Array, "b n"]:
    """True where a column stands against an example."""
    shape = (mask.row_keys[0].size, mask.column_keys[0].size)
    where = jnp.ones(shape, bool)
    for row, column in zip(mask.row_keys, mask.column_keys, strict=True):
        where &= row[:, None] != column[None, :]
    if mask.seen is not None:
        row = jnp.arange(shape[0])[:, None]
        met = jnp.zeros(shape, bool).at[row, mask.seen].set(True, mode="drop")
        where &= ~met[:, mask.group]
    if mask.valid is not None:
        where &= mask.valid[None, :]
    return where


def own_allowed(
    rows: RowKeys,
    item: Int[Array, "b m"],
    *,
    positive_id: Int[Array, "b"],
    valid: Bool[Array, "b m"],
) -> Bool[Array, "b m"]:
    """The same for candidates of each example's own: not its positive, nor one seen."""
    where = valid & (item != positive_id[:, None])
    if rows.seen is not None:
        where &= (item[:, :, None] != rows.seen[:, None, :]).all(-1)
    return where


def occurrences(
    ids: Int[Array, "b"], among: Int[Array, "n"], valid: Bool[Array, "n"] | None
) -> Int[Array, "b"]:
    """How often each id stands among valid columns, in O((b + n) log n)."""
    if valid is not None:
        among = jnp.where(valid, among, -1)
    ordered = jnp.sort(among)
    left, right = (jnp.searchsorted(ordered, ids, side=s) for s in ("left", "right"))
    return right - left


# Corrections.


class Correction(NamedTuple):
    """What is taken off the logits, times the strength: `positive` off the positive,
    `column` and `row` off column j of example i. None is 0."""

    positive: Float[Array, "b"] | None
    column: Float[Array, "n"] | None
    row: Float[Array, "b"] | None


NO_CORRECTION = Correction(None, None, None)


def log_q_correction(
    positive: Float[Array, "b"], column: Float[Array, "n"]
) -> Correction:
    """log q off positives and negatives alike (Yi et al. 2019): a constant added to
    log q changes nothing. Consistent where accidental hits stay in."""
    return Correction(positive, column, None)


def sampled_correction(
    column: Float[Array, "n"], *, drawn: Float[Array, "b"]
) -> Correction:
    """log(n q) off the negatives alone: the sum over n draws then estimates the sum
    over the catalogue (Bengio and Senecal 2008; Jean et al. 2015). `drawn` is n, masked
    ones counted."""
    return Correction(None, column, jnp.log(jnp.maximum(drawn, 1.0)))


def positive_excluded_correction(
    positive: Float[Array, "b"],
    column: Float[Array, "n"],
    *,
    others: Float[Array, "b"],
) -> Correction:
    """log(n' q / (1 - q(p))) off the negatives alone (Khrylchenko et al. 2025).

    The positive is in the denominator for certain, never by chance. Draws that are not
    the positive, n' = `others` of them, follow q renormalised without it; their mean of
    exp(s) / q' estimates the sum over the rest of the catalogue. The gradient is
    (1 - P(p)) (-ds_p + sum_j w_j ds_j), w the softmax of s - log q over the negatives:
    the paper's interaction weight 1 - P(p) comes out of the differentiation.
    """
    return Correction(None, column, excluded_row(positive, others=others))


def excluded_row(
    positive: Float[Array, "b"], *, others: Float[Array, "b"]
) -> Float[Array, "b"]:
    """log(n' / (1 - q(p))), the part of that correction that belongs to the example."""
    most = 1 - 1e-6  # a catalogue of one item leaves nothing to renormalise
    rest = jnp.log1p(-jnp.minimum(jnp.exp(positive), most))
    return jnp.log(jnp.maximum(others, 1.0)) - rest


def mixture_log_q(
    log_q: Float[Array, "n"],
    *,
    batch: Float[Array, ""] | float,
    drawn: int,
    num_items: int,
) -> Float[Array, "n"]:
    """log of (B q + B'/V) / (B + B'): B columns of the batch, each an item with
    probability q, and B' drawn uniformly (Yang et al. 2020, mixed negative sampling)."""
    return jnp.log((batch * jnp.exp(log_q) + drawn / num_items) / (batch + drawn))


# Logits.


def positive_logits(
    query: Float[Array, "b d"],
    item: Float[Array, "b d"],
    *,
    correction: Correction = NO_CORRECTION,
    temperature: Hyper,
    strength: Hyper,
) -> Float[Array, "b"]:
    """Each example's query against its own positive."""
    logits = jnp.sum(query * item, -1) / temperature
    return _less(logits, correction.positive, strength=strength)


def column_logits(
    query: Float[Array, "b d"],
    item: Float[Array, "n d"],
    *,
    correction: Correction = NO_CORRECTION,
    temperature: Hyper,
    strength: Hyper,
) -> Float[Array, "b n"]:
    """Every query against every column."""
    logits = query @ item.T / temperature
    column, row = correction.column, correction.row
    column = None if column is None else column[None, :]
    row = None if row is None else jnp.reshape(row, (-1, 1))
    logits = _less(logits, column, strength=strength)
    return _less(logits, row, strength=strength)


def own_logits(
    query: Float[Array, "b d"],
    item: Float[Array, "b m d"],
    *,
    log_q: Float[Array, "b m"] | None = None,
    temperature: Hyper,
    strength: Hyper,
) -> Float[Array, "b m"]:
    """Every query against its own candidates."""
    logits = jnp.einsum("bd,bmd->bm", query, item) / temperature
    return _less(logits, log_q, strength=strength)


def _less(logits: Array, correction: Array | None, *, strength: Hyper) -> Array:
    if correction is None:
        return logits
    return logits - strength * jnp.broadcast_to(correction, logits.shape)


def join(first: Logits, negative: Array, where: Array) -> Logits:
    """More negatives beside those there are."""
    return Logits(
        first.positive,
        jnp.concatenate([first.negative, negative], axis=-1),
        jnp.concatenate([first.where, where], axis=-1),
    )


def hardest(logits: Logits, *, num: int) -> Logits:
    """The `num` largest negatives of each example, or all if there are fewer."""
    masked = jnp.where(logits.where, jax.lax.stop_gradient(logits.negative), -jnp.inf)
    _, at = jax.lax.top_k(masked, min(num, masked.shape[-1]))
    negative, where = (
        jnp.take_along_axis(x, at, axis=-1) for x in (logits.negative, logits.where)
    )
    return Logits(logits.positive, negative, where)


# Whole batches, as most would write them.


def in_batch_scores(
    query: Float[Array, "b d"],
    item: Float[Array, "b d"],
    *,
    item_id: Int[Array, "b"],
    log_q: Float[Array, "b"] | None,
    temperature: Hyper,
    strength: Hyper,
) -> Logits:
    """The other rows' positives are the negatives, except those that are the same
    item; log q off both sides, None off none."""
    return sampled_scores(
        query,
        item,
        item,
        positive_id=item_id,
        negative_id=item_id,
        positive_log_q=log_q,
        negative_log_q=log_q,
        temperature=temperature,
        strength=strength,
    )


def sampled_scores(
    query: Float[Array, "b d"],
    positive: Float[Array, "b d"],
    negative: Float[Array, "n d"],
    *,
    positive_id: Int[Array, "b"],
    negative_id: Int[Array, "n"],
    positive_log_q: Float[Array, "b"] | None,
    negative_log_q: Float[Array, "n"] | None,
    temperature: Hyper,
    strength: Hyper,
) -> Logits:
    """n drawn items are every example's negatives, except where one is its positive.

    With negative_id all items of the catalogue and no log q this is the full softmax.
    """
    common = {
        "correction": Correction(positive_log_q, negative_log_q, None),
        "temperature": temperature,
        "strength": strength,
    }
    mask = make_mask(RowKeys((positive_id,)), ColumnKeys((negative_id,), negative_id))
    return Logits(
        positive_logits(query, positive, **common),
        column_logits(query, negative, **common),
        allowed(mask),
    )
