import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from marks import slow_but

from recall_jax.pairs import skipgram

G, T, C, D, N, S, K = 4, 4, 8, 5, 2, 6, 3  # N groups of G / N blocks


def arrays(seed: int):
    rng = np.random.default_rng(seed)
    center, context = rng.normal(size=(G, T, D)), rng.normal(size=(G, C, D))
    negative, pairs = rng.normal(size=(N, S, D)), rng.random((G, T, C)) < 0.4
    return (*map(jnp.float32, (center, context, negative)), jnp.asarray(pairs))


def by_pairs(center, context, negative, pairs):
    """The same sum over pairs, each with its group's negatives at weight K / S."""
    center, context = jnp.broadcast_arrays(center[:, :, None], context[:, None])
    of_block = jnp.repeat(negative, G // N, axis=0)[:, None, None]
    negative = jnp.broadcast_to(of_block, (G, T, C, S, D))
    loss = reference.pair_loss(center, context, negative, negative_weight=K / S)
    return jnp.sum(jnp.where(pairs, loss, 0.0))


@pytest.mark.parametrize("seed", slow_but({0}, range(3)))
def test_blocks_equal_pairs_in_value_and_gradient(seed):
    *vectors, pairs = arrays(seed)

    def by_block(*vectors):
        return skipgram.block_loss(*vectors, pairs=pairs, num_negatives=K)

    value, gradients = jax.value_and_grad(by_block, argnums=(0, 1, 2))(*vectors)
    other, expected = jax.value_and_grad(
        lambda *vectors: by_pairs(*vectors, pairs), argnums=(0, 1, 2)
    )(*vectors)
    np.testing.assert_allclose(value, other, rtol=1e-5)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_cbow_predicts_a_center_from_the_mean_of_its_contexts():
    target, item, negative, pairs = arrays(1)
    pairs = pairs.at[0, 0].set(False)  # a center without contexts is not predicted
    expected = 0.0
    for g, t in np.ndindex(G, T):
        if pairs[g, t].any():
            mean = item[g][pairs[g, t]].mean(axis=0)
            expected += reference.pair_loss(
                mean, target[g, t], negative[g // (G // N)], negative_weight=K / S
            )
    value = skipgram.cbow_block_loss(
        item, target, negative, pairs=pairs, num_negatives=K
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_global_context_and_same_market_terms_equal_their_formulae():
    center, booked, *_ = arrays(2)
    center, booked = center[:2], booked[:2, :T]
    market = jnp.stack([booked + 1, booked - 1], axis=2)
    where = jnp.array([[True, True, False, True], [False, True, True, True]])
    sigma = jax.nn.sigmoid
    expected = -sum(
        jnp.log(sigma(booked[g, t] @ center[g, t]))
        for g, t in np.argwhere(np.asarray(where))
    )
    value = skipgram.global_context_loss(center, booked, where=where)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    both = jnp.stack([where, ~where], axis=-1)
    expected = -sum(
        jnp.log(sigma(-market[g, t, m] @ center[g, t]))
        for g, t, m in np.argwhere(np.asarray(both))
    )
    value = skipgram.same_market_loss(center, market, where=both)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e3, 1e15])
def test_extreme_scores_stay_finite(scale):
    *vectors, pairs = arrays(3)
    value, gradients = jax.value_and_grad(
        lambda *v: skipgram.block_loss(*v, pairs=pairs, num_negatives=K),
        argnums=(0, 1, 2),
    )(*(scale * x for x in vectors))
    assert all(np.isfinite(x).all() for x in (value, *gradients))


def test_no_pairs_cost_nothing():
    *vectors, pairs = arrays(4)
    value, gradient = jax.value_and_grad(
        lambda h: skipgram.block_loss(
            h, *vectors[1:], pairs=jnp.zeros_like(pairs), num_negatives=K
        )
    )(vectors[0])
    assert value == 0 and not gradient.any()
