"""Encoders of sequences against float64 loops; masks, padding, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recall_jax.models import histories, layers
from recall_jax.types import InputError

WIDTH = 4
NAMES = sorted(histories.ENCODERS)


def make(name: str):
    """An encoder with every parameter random, biases too."""
    encoder = histories.ENCODERS[name](WIDTH, rngs=nnx.Rngs(0))
    graph, state = nnx.split(encoder, nnx.Param)
    rng = np.random.default_rng(1)
    drawn = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), state)
    return nnx.merge(graph, jax.tree.map(lambda p: p.astype(jnp.float32), drawn))


def encode(encoder, x: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.asarray(encoder(jnp.asarray(x), jnp.asarray(where)))


def make_sequences(*, num: int = 5, length: int = 7, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, length, WIDTH)).astype(np.float32)


def wide(linear: nnx.Linear) -> np.ndarray:
    return np.asarray(linear.kernel[...], np.float64)


def bias(linear: nnx.Linear) -> np.ndarray:
    return np.asarray(linear.bias[...], np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def attention_loop(encoder, x: np.ndarray) -> np.ndarray:
    """Of one sequence [m, d] without padding, as all of these."""
    total, pooled = 0.0, np.zeros(WIDTH)
    for at in x:
        hidden = np.tanh(at @ wide(encoder.hidden) + bias(encoder.hidden))
        weight = np.exp(hidden @ wide(encoder.query)[:, 0])
        total += weight
        pooled += weight * at
    return pooled / total


def gru_loop(encoder, x: np.ndarray) -> np.ndarray:
    w, u = (np.split(wide(k), 3, 1) for k in (encoder.inputs, encoder.states))
    b = np.split(bias(encoder.inputs), 3)
    h = np.zeros(WIDTH)
    for at in x:
        z = sigmoid(at @ w[0] + h @ u[0] + b[0])
        r = sigmoid(at @ w[1] + h @ u[1] + b[1])
        c = np.tanh(at @ w[2] + b[2] + r * (h @ u[2]))
        h = z * h + (1 - z) * c
    return h


def cnn_loop(encoder, x: np.ndarray) -> np.ndarray:
    padded = np.concatenate([np.zeros((1, WIDTH)), x, np.zeros((1, WIDTH))])
    seen = [
        np.tanh(padded[j : j + 3].ravel() @ wide(encoder.window) + bias(encoder.window))
        for j in range(len(x))
    ]
    return np.max(seen, axis=0)


LOOPS = {"attention": attention_loop, "gru": gru_loop, "cnn": cnn_loop}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_an_encoder_is_its_plain_loop(name, length):
    encoder, x = make(name), make_sequences(length=length)
    got = encode(encoder, x, np.ones(x.shape[:2], bool))
    wanted = [LOOPS[name](encoder, one.astype(np.float64)) for one in x]
    np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_padding_on_either_side_changes_nothing_whatever_it_holds(name):
    encoder, x = make(name), make_sequences()
    plain = encode(encoder, x, np.ones(x.shape[:2], bool))
    filler = 100 * np.ones_like(x[:, :3])
    present, padding = np.ones(x.shape[:2], bool), np.zeros(filler.shape[:2], bool)
    left = encode(
        encoder, np.concatenate([filler, x], 1), np.concatenate([padding, present], 1)
    )
    right = encode(
        encoder, np.concatenate([x, filler], 1), np.concatenate([present, padding], 1)
    )
    np.testing.assert_allclose(left, plain, atol=1e-6)
    np.testing.assert_allclose(right, plain, atol=1e-6)


@pytest.mark.parametrize("name", ["attention", "gru"])
def test_a_masked_step_between_others_is_as_if_deleted(name):
    encoder, x = make(name), make_sequences()
    where = np.ones(x.shape[:2], bool)
    where[:, [0, 2, 5]] = False
    np.testing.assert_allclose(
        encode(encoder, x, where),
        encode(encoder, x[:, [1, 3, 4, 6]], where[:, [1, 3, 4, 6]]),
        atol=1e-6,
    )


def test_a_window_of_the_cnn_sees_zeros_at_a_masked_step():
    encoder, x = make("cnn"), make_sequences(num=1)
    where = np.array([[True, True, False, True, True, True, True]])
    zeroed = x * where[..., None]
    full = np.concatenate([np.zeros((1, WIDTH)), zeroed[0], np.zeros((1, WIDTH))])
    seen = [
        np.tanh(full[j : j + 3].ravel() @ wide(encoder.window) + bias(encoder.window))
        for j in np.flatnonzero(where[0])
    ]
    np.testing.assert_allclose(
        encode(encoder, x, where)[0], np.max(seen, axis=0), atol=2e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_with_all_masked_the_vector_is_zero_and_gradients_are_finite(name):
    encoder, x = make(name), make_sequences(num=3)
    where = np.array([[False] * 7, [True] * 7, [False] * 7])
    vectors = encode(encoder, x, where)
    assert (vectors[[0, 2]] == 0).all() and (vectors[1] != 0).all()
    graph, state = nnx.split(encoder, nnx.Param)

    def total(state, x):
        return (nnx.merge(graph, state)(x, jnp.asarray(where)) ** 2 + 1).sum()

    for_state, for_x = jax.grad(total, argnums=(0, 1))(state, jnp.asarray(x))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(for_state))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(for_state))
    assert (for_x[0] == 0).all() and (for_x[2] == 0).all()
    assert np.isfinite(for_x).all() and np.abs(for_x[1]).max() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e4, 0.0])
def test_extreme_values_stay_finite(name, scale):
    encoder, x = make(name), scale * make_sequences()
    where = np.arange(7) < np.arange(3, 8)[:, None]
    value, gradient = jax.value_and_grad(
        lambda x: encoder(x, jnp.asarray(where)).sum()
    )(jnp.asarray(x))
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
def test_any_leading_axes_are_kept(name):
    encoder, x = make(name), make_sequences(num=6)
    where = np.arange(7) < np.arange(6)[:, None]
    flat = encode(encoder, x, where)
    folded = encode(encoder, x.reshape(2, 3, 7, WIDTH), where.reshape(2, 3, 7))
    np.testing.assert_allclose(folded.reshape(6, WIDTH), flat, atol=1e-6)
    np.testing.assert_allclose(encode(encoder, x[4], where[4]), flat[4], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "sees_order"), [("attention", 0), ("gru", 1), ("cnn", 1)]
)
def test_gru_and_cnn_see_order_and_attention_does_not(name, sees_order):
    encoder, x = make(name), make_sequences()
    where = np.ones(x.shape[:2], bool)
    turned = encode(encoder, x[:, ::-1], where)
    assert np.allclose(encode(encoder, x, where), turned, atol=1e-5) != sees_order


def test_a_history_pool_sets_its_kinds_side_by_side_the_means_first():
    x, where = make_sequences(), np.arange(7) >= np.arange(5)[:, None]

    def make_pool(*kinds):
        return layers.HistoryPool(kinds, length=7, width=WIDTH, rngs=nnx.Rngs(0))

    both = encode(make_pool("gru", "mean", "recency"), x, where)
    assert both.shape == (5, 3 * WIDTH)
    mean = encode(layers.masked_mean, x, where)
    np.testing.assert_allclose(both[:, :WIDTH], mean, atol=1e-6)
    np.testing.assert_allclose(
        encode(make_pool("recency"), x, where), both[:, 4:8], atol=1e-6
    )
    np.testing.assert_allclose(
        encode(make_pool("gru"), x, where), both[:, 8:], atol=1e-6
    )


def test_an_unknown_kind_of_history_is_refused():
    with pytest.raises(InputError, match="'lstm'; there are: mean, recency, attention"):
        layers.HistoryPool(("mean", "lstm"), length=7, width=4, rngs=nnx.Rngs(0))


def test_a_masked_softmax_of_extreme_logits_is_exact():
    logits = jnp.array([[1e4, 1e4, -1e4, 2e4], [5.0, -1e4, 0.0, 0.0]])
    where = jnp.array([[True, True, True, False], [False] * 4])
    wanted = [[0.5, 0.5, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(histories.masked_softmax(logits, where), wanted)
