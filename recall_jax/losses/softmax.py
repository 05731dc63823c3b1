"""Softmax over b x n scores that are never all there: value and gradient by blocks.

The score matrix of a large batch does not fit a cache, or the memory. A block of rows
does: its scores, their exponentials, its share of every gradient are done before the
next block begins, so that memory is O(block x n) and each score is touched while it is
near. The gradient is computed with the value, since all that it lacks is a scalar.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recall_jax.devices import mesh
from recall_jax.losses import scores
from recall_jax.losses.candidates import SharedCandidates

BLOCK_ROWS = 256  # rows a block, as long as a block of scores stays within
BLOCK_SCORES = 1 << 24  # this many; then fewer, down to
FEWEST_ROWS = 16


def block_rows(num_rows: int, num_columns: int) -> int:
    """Rows of a block; blocks share the rows evenly, so that few are padded."""
    most = min(BLOCK_ROWS, max(FEWEST_ROWS, BLOCK_SCORES // num_columns))
    return math.ceil(num_rows / math.ceil(num_rows / most))


def softmax_sum(
    query: Float[Array, "b d"],
    columns: SharedCandidates,
    logits: scores.Logits,
    *,
    weight: Float[Array, "b"],
    temperature: scores.Hyper,
    strength: scores.Hyper,
) -> Float[Array, ""]:
    """sum_i weight_i softmax_loss of the positives in `logits` against the columns and
    the negatives in `logits`, finished ones both.

    Differentiable in query, columns' vectors, logits and temperature; masks, weights
    and corrections are constants.
    """
    rest, correction = _rest(logits), columns.correction
    # log(exp(rest) + sum_j exp(l_j - row)) = log(exp(rest + row) + sum_j exp(l_j)) - row
    row, bias = jnp.zeros_like(rest), jnp.zeros(len(columns.vector), query.dtype)
    if correction.row is not None:
        row = strength * correction.row
    if correction.column is not None:
        bias = -strength * correction.column
    row, *constants = jax.lax.stop_gradient((row, bias, weight, columns.mask))
    scaled = query / temperature
    numerator = logits.positive + row
    return _total(scaled, columns.vector, rest + row, numerator, *constants)


def _rest(logits: scores.Logits) -> Float[Array, "b"]:
    """log of the sum of exp of the positive and the negatives of each example."""
    if not logits.negative.shape[-1]:
        return logits.positive
    own = jnp.where(logits.where, logits.negative, -jnp.inf)
    own = jnp.concatenate([logits.positive[:, None], own], axis=-1)
    return jax.nn.logsumexp(own, axis=-1)


@jax.custom_vjp
def _total(query, column, rest, numerator, bias, weight, mask) -> Float[Array, ""]:
    """sum_i weight_i [log(exp(rest_i) + sum_j exp(query_i . column_j + bias_j)) -
    numerator_i], j over the columns that the mask allows."""
    return _forward(query, column, rest, numerator, bias, weight, mask)[0]


def _forward(query, column, rest, numerator, bias, weight, mask):
    """The value and, for a cotangent of 1, the gradients of the first four."""
    num_rows, size = len(query), block_rows(len(query), len(column))
    in_blocks = functools.partial(_in_blocks, size=size)
    by_row = (query, rest, numerator, weight, mask.row_keys, mask.seen)
    transposed = column.T

    def block(column_gradient, rows):
        query, rest, numerator, weight, keys, seen = rows
        where = scores.allowed(mask._replace(row_keys=keys, seen=seen))
        logits = jnp.where(where, query @ transposed + bias[None, :], -jnp.inf)
        top = jnp.maximum(rest, logits.max(-1))
        share = jnp.exp(logits - top[:, None])
        first = jnp.exp(rest - top)
        total = share.sum(-1) + first
        scale = (weight / total)[:, None]
        # [d, block] x [block, n] runs twice as fast on a CPU as its transpose, and on one
        # core faster yet where the small factor lies as it is read.
        column_gradient += jax.lax.optimization_barrier((query * scale).T) @ share
        # In this order a large top does not swallow the logarithm.
        value = (jnp.log(total) + (top - numerator)) * weight
        return column_gradient, (value, (share @ column) * scale, first * scale[:, 0])

    column_gradient, out = jax.lax.scan(
        block, jnp.zeros_like(transposed), jax.tree.map(in_blocks, by_row)
    )
    value, query_gradient, rest_gradient = (
        x.reshape(-1, *x.shape[2:])[:num_rows] for x in out
    )
    gradients = (query_gradient, column_gradient.T, rest_gradient, -weight)
    return value.sum(), gradients


def _backward(gradients, cotangent):
    return (*(cotangent * g for g in gradients), None, None, None)


_total.defvjp(_forward, _backward)


def _in_blocks(x: Array, *, size: int) -> Array:
    """Blocks of rows; what pads the last of them is zero."""
    num_blocks = -(-len(x) // size)
    padded = jnp.pad(x, [(0, num_blocks * size - len(x))] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(num_blocks, size, *x.shape[1:])


# Over columns that are split.


def split_softmax_sum(
    query: Float[Array, "b d"],
    columns: SharedCandidates,
    logits: scores.Logits,
    *,
    weight: Float[Array, "b"],
    temperature: scores.Hyper,
) -> Float[Array, ""]:
    """`softmax_sum` inside `mesh.spread`, of this device's rows against the columns
    of all devices, which stay where they are: queries go to them, [b, d] of all devices,
    and the maxima and sums over them come back. `columns` are this device's, their mask
    against the rows of all. Every device's cotangent must be the same.

    The scores are computed twice: a row's normaliser is known once all devices have
    summed.
    """
    everyone, columns_mask = mesh.everyone, columns.mask
    everything = jax.tree.map(everyone, (_rest(logits), weight))
    rest, weights = jax.lax.stop_gradient(everything)
    mine = (_rest(logits), logits.positive)
    return _split_total(
        query / temperature, columns.vector, *mine, rest, weights, columns_mask
    )


@jax.custom_vjp
def _split_total(query, column, rest, numerator, rests, weights, mask):
    """sum_i weight_i [log(exp(rest_i) + sum_j exp(query_i . column_j)) - numerator_i]
    over this device's rows i and all devices' columns j."""
    return _split_forward(query, column, rest, numerator, rests, weights, mask)[0]


def _split_forward(query, column, rest, numerator, rests, weights, mask):
    queries = mesh.everyone(query)
    size = block_rows(len(queries), len(column))
    in_blocks = functools.partial(_in_blocks, size=size)
    keys = jax.tree.map(in_blocks, (queries, mask.row_keys, mask.seen))
    transposed = column.T

    def logits_of(block):
        query, row_keys, seen = block
        where = scores.allowed(mask._replace(row_keys=row_keys, seen=seen))
        return jnp.where(where, query @ transposed, -jnp.inf)

    def normaliser(block):
        logits = logits_of(block)
        top = logits.max(-1)
        safe = jnp.where(top > -jnp.inf, top, 0.0)
        return top, jnp.exp(logits - safe[:, None]).sum(-1)

    top, total = (x.ravel()[: len(queries)] for x in jax.lax.map(normaliser, keys))
    most = jnp.maximum(jax.lax.pmax(top, mesh.AXIS), rests)
    total = jnp.where(top > -jnp.inf, total * jnp.exp(top - most), 0.0)
    total = mesh.total(total) + jnp.exp(rests - most)
    normal = most + jnp.log(total)

    def gradients(column_gradient, block):
        keys, normal, weight = block
        share = jnp.exp(logits_of(keys) - normal[:, None])
        scale = weight[:, None]
        column_gradient += (keys[0] * scale).T @ share
        return column_gradient, (share @ column) * scale

    # What pads the last block has weight 0.
    blocks = keys, in_blocks(normal), in_blocks(weights)
    column_gradient, query_gradient = jax.lax.scan(
        gradients, jnp.zeros_like(transposed), blocks
    )
    query_gradient = query_gradient.reshape(-1, query.shape[-1])[: len(queries)]
    mine, weight = mesh.mine((normal, weights))
    value = jnp.sum((mine - numerator) * weight)
    residuals = (
        mesh.scattered(query_gradient),
        column_gradient.T,
        jnp.exp(rest - mine) * weight,
        -weight,
    )
    return value, residuals


_split_total.defvjp(_split_forward, _backward)
