import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recall_jax import losses, scores

HYPERS = {"temperature": jnp.float32(0.1), "strength": jnp.float32(1.0)}


def vectors(seed: int, *shape: int):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def test_a_logit_is_similarity_over_temperature_less_strength_times_log_q():
    """The correction stays outside the temperature's reach."""
    logits = scores.in_batch_scores(
        jnp.array([[1.0, 0.0], [0.0, 2.0]]),
        jnp.array([[3.0, 0.0], [0.0, 1.0]]),
        item_id=jnp.array([1, 2]),
        log_q=jnp.array([-1.0, -2.0]),
        temperature=jnp.float32(0.5),
        strength=jnp.float32(0.25),
    )
    np.testing.assert_allclose(logits.positive, [6 + 0.25, 4 + 0.5])
    np.testing.assert_allclose(logits.negative, [[6.25, 0.5], [0.25, 4.5]])
    assert logits.where.tolist() == [[False, True], [True, False]]


def test_an_accidental_hit_changes_nothing():
    """A batch with a repeated item loses what the same batch without it does."""
    query, item = vectors(0, 3, 4), vectors(1, 3, 4).at[2].set(vectors(1, 3, 4)[0])

    def loss_of(item, item_id, rows):
        logits = scores.in_batch_scores(
            query[:rows], item, item_id=item_id, log_q=None, **HYPERS
        )
        return losses.softmax_loss(
            logits.positive, logits.negative, where=logits.where
        )[0]

    twice = jax.value_and_grad(loss_of)(item, jnp.array([7, 8, 7]), 3)
    once = jax.value_and_grad(loss_of)(item[:2], jnp.array([7, 8]), 2)
    np.testing.assert_allclose(twice[0], once[0], rtol=1e-6)
    np.testing.assert_allclose(twice[1][:2], once[1], rtol=1e-5, atol=1e-6)
    assert (np.asarray(twice[1][2]) == 0).all()


def test_a_constant_added_to_log_q_changes_nothing():
    query, item, log_q = vectors(0, 5, 4), vectors(1, 5, 4), vectors(2, 5)
    values = []
    for shift in (0.0, 3.5):
        logits = scores.in_batch_scores(
            query, item, item_id=jnp.arange(5), log_q=log_q + shift, **HYPERS
        )
        values.append(
            losses.softmax_loss(logits.positive, logits.negative, where=logits.where)
        )
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_sampling_the_whole_catalogue_is_the_full_softmax():
    query, items = vectors(0, 4, 8), vectors(1, 10, 8)
    positive = jnp.array([3, 1, 10, 3])
    logits = scores.sampled_scores(
        query,
        items[positive - 1],
        items,
        positive_id=positive,
        negative_id=jnp.arange(1, 11),
        positive_log_q=None,
        negative_log_q=None,
        **HYPERS,
    )
    got = losses.softmax_loss(logits.positive, logits.negative, where=logits.where)
    every = jax.nn.log_softmax(query @ items.T / 0.1)
    wanted = -jnp.take_along_axis(every, (positive - 1)[:, None], 1)[:, 0]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("corrected", [True, False])
def test_sampled_softmax_with_log_q_estimates_the_full_gradient(corrected):
    """Popularity-drawn negatives lean towards the head; the correction undoes it."""
    rng = np.random.default_rng(0)
    query, items = vectors(0, 64, 8), vectors(1, 30, 8)
    share = 1 / np.arange(1, 31)
    share /= share.sum()
    log_q = jnp.log(jnp.float32(np.concatenate([[1.0], share])))
    positive = jnp.asarray(rng.integers(1, 31, 64))
    drawn = jnp.asarray(rng.choice(30, 4000, p=share) + 1)
    hypers = {"temperature": jnp.float32(1.0), "strength": jnp.float32(1.0)}

    def gradient(ids, log_q):
        def loss(query):
            logits = scores.sampled_scores(
                query,
                items[positive - 1],
                items[ids - 1],
                positive_id=positive,
                negative_id=ids,
                # n draws stand for the whole catalogue: log(n q) on the negatives,
                # while the positive, always there, stands for itself.
                positive_log_q=None if log_q is None else jnp.zeros(64),
                negative_log_q=None if log_q is None else log_q[ids] + np.log(4000.0),
                **hypers,
            )
            return losses.softmax_loss(
                logits.positive, logits.negative, where=logits.where
            ).sum()

        return jax.grad(loss)(query)

    full = gradient(jnp.arange(1, 31), None)
    sampled = gradient(drawn, log_q if corrected else None)
    error = float(jnp.linalg.norm(sampled - full) / jnp.linalg.norm(full))
    assert (error < 0.1) == corrected
