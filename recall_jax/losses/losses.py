"""Losses: pure functions of finished logits, one value per example.

Listwise losses take the positive's logit [...], the negatives' [..., n] and `where`,
which of them count; temperature, correction and masks are `scores`' business. A masked
negative contributes exactly 0, in value and in gradient: masking equals deletion.
`hinge_loss` and `cosine_contrastive_loss` want similarities instead of logits. Pointwise
losses take scores and labels. Weights multiply what comes out.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Scalar = Float[Array, ""] | float


def softmax_loss(
    positive: Float[Array, "..."],
    negative: Float[Array, "... n"],
    *,
    where: Bool[Array, "... n"] | None = None,
) -> Float[Array, "..."]:
    """logsumexp(p, n_1, ..., n_n) - p: softmax cross-entropy (Huang et al. 2013).

    With all negatives masked the loss is 0.

    >>> import jax.numpy as jnp
    >>> softmax_loss(jnp.array([0.0]), jnp.array([[0.0, 0.0, 0.0]])).round(4)
    Array([1.3863], dtype=float32)
    """
    if where is not None:
        negative = jnp.where(where, negative, -jnp.inf)
    top = jnp.maximum(positive, jnp.max(negative, axis=-1, initial=-jnp.inf))
    top = jax.lax.stop_gradient(top)
    rest = jnp.exp(negative - top[..., None]).sum(-1)
    return jnp.log(jnp.exp(positive - top) + rest) + (top - positive)


def bpr_loss(
    positive: Float[Array, "..."],
    negative: Float[Array, "... n"],
    *,
    where: Bool[Array, "... n"] | None = None,
) -> Float[Array, "..."]:
    """mean_j softplus(n_j - p): Bayesian personalised ranking (Rendle et al. 2009).

    >>> import jax.numpy as jnp
    >>> bpr_loss(jnp.array([0.0]), jnp.array([[0.0, 0.0]])).round(4)
    Array([0.6931], dtype=float32)
    """
    return masked_mean(jax.nn.softplus(negative - positive[..., None]), where)


def hinge_loss(
    positive: Float[Array, "..."],
    negative: Float[Array, "... n"],
    *,
    margin: Scalar,
    where: Bool[Array, "... n"] | None = None,
) -> Float[Array, "..."]:
    """mean_j max(0, margin + n_j - p), of similarities: the triplet loss
    (Weinberger and Saul 2009; Schroff et al. 2015).

    >>> import jax.numpy as jnp
    >>> hinge_loss(jnp.array([0.5]), jnp.array([[0.5, -0.9]]), margin=0.5)
    Array([0.25], dtype=float32)
    """
    return masked_mean(jax.nn.relu(margin + negative - positive[..., None]), where)


def cosine_contrastive_loss(
    positive: Float[Array, "..."],
    negative: Float[Array, "... n"],
    *,
    margin: Scalar,
    negative_weight: Scalar,
    where: Bool[Array, "... n"] | None = None,
) -> Float[Array, "..."]:
    """1 - p + w mean_j max(0, n_j - margin), of cosines (Mao et al. 2021, SimpleX).

    >>> import jax.numpy as jnp
    >>> cosine_contrastive_loss(
    ...     jnp.array([0.75]), jnp.array([[1.0, 0.0]]), margin=0.5, negative_weight=2.0
    ... )
    Array([0.75], dtype=float32)
    """
    pushed = masked_mean(jax.nn.relu(negative - margin), where)
    return 1 - positive + negative_weight * pushed


def gbce_loss(
    positive: Float[Array, "..."],
    negative: Float[Array, "... n"],
    *,
    num_items: int,
    calibration: Scalar,
    where: Bool[Array, "... n"] | None = None,
) -> Float[Array, "..."]:
    """-beta log sigma(p) - sum_j log sigma(-n_j), beta = a (t (1 - 1/a) + 1/a) with the
    sampling rate a = n / (V - 1), calibration t in [0, 1] (Petrov and Macdonald 2023,
    gSASRec).

    t = 0 is plain binary cross-entropy (beta 1), t = 1 gives beta = a. n counts the
    negatives given, masked ones too: the rate at which they were drawn, at most 1.

    >>> import jax.numpy as jnp
    >>> p, n = jnp.array([0.0]), jnp.array([[0.0]])
    >>> gbce_loss(p, n, num_items=3, calibration=1.0).round(4)  # (1/2 + 1) log 2
    Array([1.0397], dtype=float32)
    """
    rate = min(negative.shape[-1] / max(num_items - 1, 1), 1.0)
    beta = calibration * (rate - 1) + 1
    pushed = jax.nn.softplus(negative)
    if where is not None:
        pushed = jnp.where(where, pushed, 0)
    return beta * jax.nn.softplus(-positive) + pushed.sum(-1)


def logistic_loss(
    scores: Float[Array, "..."], labels: Float[Array, "..."]
) -> Float[Array, "..."]:
    """-y log sigma(s) - (1 - y) log(1 - sigma(s)): binary cross-entropy, pointwise.

    >>> import jax.numpy as jnp
    >>> logistic_loss(jnp.array([0.0, 100.0]), jnp.array([1.0, 1.0])).round(4)
    Array([0.6931, 0.    ], dtype=float32)
    """
    return jax.nn.softplus(scores) - labels * scores


def squared_loss(
    scores: Float[Array, "..."], labels: Float[Array, "..."]
) -> Float[Array, "..."]:
    """(s - y)^2, pointwise: matrix completion's (Koren et al. 2009).

    >>> import jax.numpy as jnp
    >>> squared_loss(jnp.array([3.0]), jnp.array([5.0]))
    Array([4.], dtype=float32)
    """
    return (scores - labels) ** 2


def masked_mean(
    values: Float[Array, "... n"], where: Bool[Array, "... n"] | None
) -> Float[Array, "..."]:
    """Mean over the last axis of the unmasked; 0 where there are none."""
    if where is None:
        where = jnp.ones(values.shape, bool)
    count = jnp.maximum(where.sum(-1), 1)
    return jnp.where(where, values, 0).sum(-1) / count
