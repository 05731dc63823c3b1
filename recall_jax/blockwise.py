"""Softmax over b x n scores that are never all there: value and gradient by blocks.

The score matrix of a large batch does not fit a cache, or the memory. A block of rows
does: its scores, their exponentials, its share of every gradient are done before the
next block begins, so that memory is O(block x n) and each score is touched while it is
near. The gradient is computed with the value, since all that it lacks is a scalar.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recall_jax import scores
from recall_jax.candidates import Columns

BLOCK_ROWS = 256  # rows a block, as long as a block of scores stays within
BLOCK_SCORES = 1 << 24  # this many; then fewer, down to
FEWEST_ROWS = 16


def block_rows(num_rows: int, num_columns: int) -> int:
    """Rows of a block; blocks share the rows evenly, so that few are padded."""
    most = min(BLOCK_ROWS, max(FEWEST_ROWS, BLOCK_SCORES // num_columns))
    return math.ceil(num_rows / math.ceil(num_rows / most))


def softmax_sum(
    query: Float[Array, "b d"],
    columns: Columns,
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
    rest, correction = logits.positive, columns.correction
    if logits.negative.shape[-1]:
        own = jnp.where(logits.where, logits.negative, -jnp.inf)
        own = jnp.concatenate([logits.positive[:, None], own], axis=-1)
        rest = jax.nn.logsumexp(own, axis=-1)
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


@jax.custom_vjp
def _total(query, column, rest, numerator, bias, weight, mask) -> Float[Array, ""]:
    """sum_i weight_i [log(exp(rest_i) + sum_j exp(query_i . column_j + bias_j)) -
    numerator_i], j over the columns that the mask allows."""
    return _forward(query, column, rest, numerator, bias, weight, mask)[0]


def _forward(query, column, rest, numerator, bias, weight, mask):
    """The value and, for a cotangent of 1, the gradients of the first four."""
    num_rows, size = len(query), block_rows(len(query), len(column))
    num_blocks = -(-num_rows // size)

    def in_blocks(x):  # what pads the last block has weight 0
        padded = jnp.pad(
            x, [(0, num_blocks * size - num_rows)] + [(0, 0)] * (x.ndim - 1)
        )
        return padded.reshape(num_blocks, size, *x.shape[1:])

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
        # [d, block] x [block, n] runs twice as fast on a CPU as its transpose.
        column_gradient += (query * scale).T @ share
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
