import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.losses import losses, scores

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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_a_mask_is_what_it_says_column_by_column(seed, with_seen, with_valid):
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 5, (2, 6)), rng.integers(0, 5, (2, 7))
    item, seen = rng.integers(1, 6, 7), rng.integers(0, 8, (6, 3))
    valid = rng.random(7) < 0.5
    rows = scores.RowKeys(tuple(map(jnp.asarray, keys[0])))
    columns = scores.ColumnKeys(tuple(map(jnp.asarray, keys[1])), jnp.asarray(item))
    if with_seen:
        rows = rows._replace(seen=jnp.asarray(seen))
    if with_valid:
        columns = columns._replace(valid=jnp.asarray(valid))
    got = np.asarray(scores.allowed(scores.make_mask(rows, columns)))
    for i in range(6):
        for j in range(7):
            met = (keys[0][:, i] == keys[1][:, j]).any()
            met |= with_seen and item[j] in seen[i]
            met |= with_valid and not valid[j]
            assert got[i, j] == (not met)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_own_candidates_are_masked_alike(seed):
    rng = np.random.default_rng(seed)
    positive, own = rng.integers(1, 6, 4), rng.integers(1, 6, (4, 3))
    seen, valid = rng.integers(0, 6, (4, 2)), rng.random((4, 3)) < 0.7
    got = scores.own_allowed(
        scores.RowKeys((), jnp.asarray(seen)),
        jnp.asarray(own),
        positive_id=jnp.asarray(positive),
        valid=jnp.asarray(valid),
    )
    for i, j in np.ndindex(4, 3):
        met = own[i, j] == positive[i] or own[i, j] in seen[i]
        assert got[i, j] == (valid[i, j] and not met)


def test_occurrences_counts_valid_columns():
    ids, among = jnp.array([3, 1, 9]), jnp.array([1, 3, 3, 2, 3])
    assert scores.occurrences(ids, among, None).tolist() == [3, 1, 0]
    valid = jnp.array([True, True, False, True, True])
    assert scores.occurrences(ids, among, valid).tolist() == [2, 1, 0]


def test_the_three_corrections_by_hand():
    """Two users, three columns, s / t = 0 everywhere: what is left is the correction."""
    q = np.array([0.5, 0.25, 0.25])
    log_q = jnp.log(jnp.float32(q))
    positive = log_q[:2]
    forms = {
        "log_q": scores.log_q_correction(positive, log_q),
        "sampled": scores.sampled_correction(log_q, drawn=jnp.array([4.0, 4.0])),
        "excluded": scores.positive_excluded_correction(
            positive, log_q, others=jnp.array([2.0, 3.0])
        ),
    }
    by_hand = {
        "log_q": (-np.log(q[:2]), -np.log([q, q])),
        "sampled": ([0, 0], -np.log([4 * q, 4 * q])),
        "excluded": ([0, 0], -np.log([2 * q / 0.5, 3 * q / 0.75])),
    }
    zeros = jnp.zeros((3, 2))
    for name, form in forms.items():
        arguments = {"correction": form, **HYPERS}
        got = (
            scores.positive_logits(zeros[:2], zeros[:2], **arguments),
            scores.column_logits(zeros[:2], zeros, **arguments),
        )
        for one, other in zip(got, by_hand[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_catalogue_of_one_item_leaves_the_correction_finite():
    zero = jnp.zeros(1)
    form = scores.positive_excluded_correction(zero, zero, others=zero)
    assert np.isfinite(form.row).all()


def test_the_mixtures_q_sums_to_one_and_lies_between_both():
    q = np.array([0.7, 0.2, 0.1, 0.0])
    with np.errstate(divide="ignore"):
        log_q = jnp.log(jnp.float32(q))
    mixed = np.exp(scores.mixture_log_q(log_q, batch=30.0, drawn=10, num_items=4))
    np.testing.assert_allclose(mixed, (30 * q + 10 / 4) / 40, rtol=1e-5)
    np.testing.assert_allclose(mixed.sum(), 1, rtol=1e-5)


def test_the_hardest_are_the_largest_that_are_allowed():
    logits = scores.Logits(
        jnp.zeros(2),
        jnp.array([[1.0, 5.0, 3.0, 2.0], [4.0, 0.0, 1.0, 9.0]]),
        jnp.array([[True, False, True, True], [True, False, False, False]]),
    )
    hard = scores.hardest(logits, num=2)
    assert hard.negative[0].tolist() == [3.0, 2.0] and hard.where[0].all()
    assert hard.negative[1, 0] == 4.0 and hard.where[1].tolist() == [True, False]


def test_gradients_reach_the_hardest_alone():
    def loss(negative):
        logits = scores.Logits(jnp.zeros(1), negative, jnp.ones((1, 4), bool))
        hard = scores.hardest(logits, num=2)
        return losses.softmax_loss(hard.positive, hard.negative, where=hard.where)[0]

    gradient = jax.grad(loss)(jnp.array([[1.0, 5.0, 3.0, 2.0]]))
    assert (np.asarray(gradient[0]) > 0).tolist() == [False, True, True, False]
