"""Skip-gram and CBOW with negative sampling, on pairs and on whole blocks of a sequence.

Of a center i and each of its contexts c (Mikolov et al. 2013),

    -log sigma(z_c . h_i) - sum over k negatives n of log sigma(-z_n . h_i)

h are rows of the input side, which is kept, z of the context table. In the block form
all pairs of a block come from one gather of its tokens and small matrix products, and S
negatives are shared by a group of blocks, each counting k/S: in value and gradient the
pair form with those negatives. All are pure functions and sums over what `pairs` allows.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

PRODUCT = 96


def block_loss(
    center: Float[Array, "g t d"],
    context: Float[Array, "g c d"],
    negative: Float[Array, "n s d"],
    *,
    pairs: Bool[Array, "g t c"],
    num_negatives: int,
) -> Float[Array, ""]:
    """The sum of the loss over all pairs of g blocks of t centers and c contexts; the
    blocks are n groups of g / n, each with its own s negatives."""
    positive = positive_loss(center, context, pairs)
    pushed = negative_loss(center, negative, num_negatives=num_negatives)
    return positive + jnp.sum(pushed * jnp.sum(pairs, axis=-1, dtype=pushed.dtype))


@jax.custom_vjp
def positive_loss(
    center: Float[Array, "g t d"],
    context: Float[Array, "g c d"],
    pairs: Bool[Array, "g t c"],
) -> Float[Array, ""]:
    """The sum of softplus(-z_c . h) over all `pairs` of each block.

    Its own gradient, since one pass over the scores gives both, and since the product for
    the contexts is a third faster on a CPU where the scores are transposed in memory
    first.
    """
    return _positive(center, context, pairs)[0]


def _positive(center, context, pairs):
    scores = jnp.einsum("gtd,gcd->gtc", center, context)
    below = jnp.exp(-jnp.abs(scores))
    loss = jnp.sum(_log_product(jnp.where(pairs, 1.0 + below, 1.0)))
    loss += jnp.sum(jnp.where(pairs, jnp.maximum(-scores, 0.0), 0.0))
    pull = jnp.where(scores >= 0, below, 1.0) / (1.0 + below)
    return loss, (jnp.where(pairs, -pull, 0.0), center, context)


def _positive_gradient(saved, gradient):
    pull, center, context = saved
    pull = pull * gradient
    # Without the barrier the transposition is folded back into the product.
    turned = jax.lax.optimization_barrier(pull.swapaxes(1, 2))
    of_center = jnp.einsum("gtc,gcd->gtd", pull, context)
    return of_center, jnp.einsum("gct,gtd->gcd", turned, center), None


positive_loss.defvjp(_positive, _positive_gradient)


def cbow_block_loss(
    item: Float[Array, "g c d"],
    target: Float[Array, "g t d"],
    negative: Float[Array, "n s d"],
    *,
    pairs: Bool[Array, "g t c"],
    num_negatives: int,
) -> Float[Array, ""]:
    """The mean of the contexts' input vectors against each center's context vector:
    one prediction for each center that has contexts."""
    weight = pairs.astype(item.dtype)
    count = weight.sum(axis=-1)
    mean = jnp.einsum("gtc,gcd->gtd", weight, item)
    mean /= jnp.maximum(count, 1.0)[..., None]
    positive = softplus(-jnp.sum(mean * target, axis=-1))
    pushed = negative_loss(mean, negative, num_negatives=num_negatives)
    return jnp.sum(jnp.where(count > 0, positive + pushed, 0.0))


def negative_loss(
    center: Float[Array, "g t d"],
    negative: Float[Array, "n s d"],
    *,
    num_negatives: int,
) -> Float[Array, "g t"]:
    """k/S sum_n softplus(z_n . h): what one positive of each center costs in negatives."""
    groups, shared, width = negative.shape
    grouped = center.reshape(groups, -1, width)
    scores = jnp.einsum("nbd,nsd->nbs", grouped, negative)
    cost = softplus_sum(scores) * (num_negatives / shared)
    return cost.reshape(center.shape[:-1])


def global_context_loss(
    center: Float[Array, "g t d"],
    booked: Float[Array, "g t d"],
    *,
    where: Bool[Array, "g t"],
) -> Float[Array, ""]:
    """sum of softplus(-z_booked . h): the item that a session converted is a context of
    every item in it, however far away (Grbovic and Cheng 2018)."""
    score = jnp.sum(center * booked, axis=-1)
    return jnp.sum(jnp.where(where, softplus(-score), 0.0))


def same_market_loss(
    center: Float[Array, "g t d"],
    negative: Float[Array, "g t m d"],
    *,
    where: Bool[Array, "g t m"],
) -> Float[Array, ""]:
    """sum of softplus(z_m . h) over negatives m of each center's own market (Grbovic and
    Cheng 2018)."""
    scores = jnp.einsum("gtmd,gtd->gtm", negative, center)
    return jnp.sum(jnp.where(where, softplus(scores), 0.0))


def softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 + e^x), finite at any x but inf."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@jax.custom_vjp
def softplus_sum(x: Float[Array, "... n"]) -> Float[Array, "..."]:
    """sum_j log(1 + e^x_j); a term of -inf is 0, in value and gradient.

    One logarithm of the product in place of one a term, and one exponential for value
    and gradient together: they are half of a step's time otherwise.

    >>> import jax.numpy as jnp
    >>> softplus_sum(jnp.array([0.0, 0.0, -jnp.inf])).round(4)
    Array(1.3863, dtype=float32)
    """
    return _softplus_sum(x)[0]


def _softplus_sum(x):
    below = jnp.exp(-jnp.abs(x))
    value = jnp.sum(jnp.maximum(x, 0.0), axis=-1) + _log_product(1.0 + below)
    return value, (x, below)


def _softplus_sum_gradient(saved, gradient):
    x, below = saved
    return (gradient[..., None] * jnp.where(x >= 0, 1.0, below) / (1.0 + below),)


def _log_product(factor: Float[Array, "... n"]) -> Float[Array, "..."]:
    """Of factors between 1 and 2: up to PRODUCT of them stay within float32."""
    parts = range(0, factor.shape[-1], PRODUCT)
    return sum(jnp.log(jnp.prod(factor[..., j : j + PRODUCT], axis=-1)) for j in parts)


softplus_sum.defvjp(_softplus_sum, _softplus_sum_gradient)
