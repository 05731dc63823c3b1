"""Losses: pure functions of finished logits, one value per example.

Listwise losses take the positive's logit, the negatives' and which of them count;
temperature, correction and masks are `scores`' business. Pointwise losses take scores
and labels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def softmax_loss(
    positive: Float[Array, "..."],
    negative: Float[Array, "... n"],
    *,
    where: Bool[Array, "... n"] | None = None,
) -> Float[Array, "..."]:
    """logsumexp(p, n_1, ..., n_n) - p: softmax cross-entropy (Huang et al. 2013).

    A masked negative counts exactly 0, in value and in gradient; with all masked the
    loss is 0.

    >>> import jax.numpy as jnp
    >>> softmax_loss(jnp.array([0.0]), jnp.array([[0.0, 0.0, 0.0]])).round(4)
    Array([1.3863], dtype=float32)
    """
    if where is not None:
        negative = jnp.where(where, negative, -jnp.inf)
    top = jnp.maximum(positive, jnp.max(negative, axis=-1, initial=-jnp.inf))
    top = jax.lax.stop_gradient(top)
    rest = jnp.exp(negative - top[..., None]).sum(-1)
    return jnp.log(jnp.exp(positive - top) + rest) + top - positive


def logistic_loss(
    scores: Float[Array, "..."], labels: Float[Array, "..."]
) -> Float[Array, "..."]:
    """-y log sigma(s) - (1 - y) log(1 - sigma(s)): binary cross-entropy, pointwise.

    >>> import jax.numpy as jnp
    >>> logistic_loss(jnp.array([0.0, 100.0]), jnp.array([1.0, 1.0])).round(4)
    Array([0.6931, 0.    ], dtype=float32)
    """
    return jax.nn.softplus(scores) - labels * scores
