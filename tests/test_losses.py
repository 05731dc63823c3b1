import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from recall_jax import losses


def draw(seed: int, b: int, n: int, *, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    positive = scale * rng.normal(size=b)
    negative = scale * rng.normal(size=(b, n))
    where = jnp.asarray(rng.random((b, n)) < 0.6)
    return jnp.float32(positive), jnp.float32(negative), where


def test_examples_in_docstrings_run():
    assert doctest.testmod(losses).failed == 0


def test_softmax_by_hand():
    loss = losses.softmax_loss(jnp.array([1.0]), jnp.array([[0.0, 2.0]]))
    by_hand = np.log(np.exp(1.0) + np.exp(0.0) + np.exp(2.0)) - 1.0
    np.testing.assert_allclose(loss, [by_hand], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 9))
def test_softmax_equals_the_reference_under_any_mask(seed, b, n):
    positive, negative, where = draw(seed, b, n, scale=5.0)
    got = losses.softmax_loss(positive, negative, where=where)
    wanted = reference.softmax_loss(positive, negative, where)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_softmax_mask_equals_deletion_in_value_and_gradient():
    positive, negative, _ = draw(0, 3, 6)
    where = np.array([True, False, True, True, False, True])
    masked = jax.value_and_grad(
        lambda n: losses.softmax_loss(
            positive, n, where=jnp.broadcast_to(where, n.shape)
        ).sum()
    )(negative)
    deleted = jax.value_and_grad(lambda n: losses.softmax_loss(positive, n).sum())(
        negative[:, where]
    )
    np.testing.assert_allclose(masked[0], deleted[0], rtol=1e-6)
    np.testing.assert_allclose(masked[1][:, where], deleted[1], rtol=1e-6)
    assert (np.asarray(masked[1])[:, ~where] == 0).all()


def test_softmax_with_all_masked_is_zero_with_zero_gradient():
    positive, negative, _ = draw(0, 2, 3)
    value, gradients = jax.value_and_grad(
        lambda p, n: losses.softmax_loss(p, n, where=jnp.zeros(n.shape, bool)).sum(),
        argnums=(0, 1),
    )(positive, negative)
    assert value == 0
    assert all((np.asarray(g) == 0).all() for g in gradients)


@pytest.mark.parametrize("extreme", [1e4, 1e30])
def test_softmax_is_finite_on_extreme_scores(extreme):
    positive = jnp.array([extreme, -extreme])
    negative = jnp.array([[-extreme, extreme], [extreme, -extreme]])
    value, gradient = jax.value_and_grad(
        lambda n: losses.softmax_loss(positive, n).sum()
    )(negative)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_softmax_gradients_and_permutation():
    positive, negative, where = draw(1, 3, 5)
    check_grads(
        lambda p, n: losses.softmax_loss(*map(jnp.asarray, (p, n)), where=where),
        (positive, negative),
        order=1,
        modes=["rev"],
        rtol=1e-2,
    )
    order = np.random.default_rng(0).permutation(5)
    np.testing.assert_allclose(
        losses.softmax_loss(positive, negative, where=where),
        losses.softmax_loss(positive, negative[:, order], where=where[:, order]),
        rtol=1e-6,
    )


def test_logistic_equals_the_reference_and_survives_extremes():
    scores = jnp.array([-1e30, -50.0, -1.0, 0.0, 3.0, 50.0, 1e30])
    for label in (0.0, 1.0):
        labels = jnp.full_like(scores, label)
        got = losses.logistic_loss(scores, labels)
        np.testing.assert_allclose(
            got, reference.logistic_loss(scores, labels), rtol=1e-5, atol=1e-12
        )
    check_grads(
        lambda s: losses.logistic_loss(jnp.asarray(s), jnp.ones(s.shape)),
        (scores[2:5],),
        order=1,
        modes=["rev"],
        rtol=1e-2,
    )
