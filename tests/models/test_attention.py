"""Causal self-attention against loops, and what no position may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recall_jax.models import histories, layers
from recall_jax.types import InputError

H, D = 6, 8


def encoder(**changes) -> histories.Transformer:
    sizes = {"width": D, "length": H, "blocks": 2, "heads": 2}
    model = histories.Transformer(**{**sizes, **changes}, dropout=0.3, rngs=nnx.Rngs(0))
    model.eval()
    rng = np.random.default_rng(1)
    for block in model.blocks:
        block.bias[...] = jnp.asarray(rng.normal(size=block.bias.shape), jnp.float32)
    return model


def random(*shape, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def by_loops(block, x, segment):
    """One head after the other, one position after the other, float64."""
    parts = np.asarray(block.parts(x), np.float64)
    size, out = D // block.heads, np.zeros((H, D))
    for head in range(block.heads):
        columns = slice(head * size, (head + 1) * size)
        query, key, value = (
            parts[:, j * D : (j + 1) * D][:, columns] for j in range(3)
        )
        bias = np.asarray(block.bias[...], np.float64)[head]
        for i in range(H):
            seen = [j for j in range(i + 1) if segment[j] == segment[i]]
            logits = [query[i] @ key[j] / size**0.5 + bias[i - j] for j in seen]
            weights = np.exp(logits - np.max(logits))
            weights /= weights.sum()
            out[i, columns] = sum(w * value[j] for w, j in zip(weights, seen))
    return out @ np.asarray(block.out.kernel[...]) + np.asarray(block.out.bias[...])


def test_attention_is_the_weighted_mean_of_what_a_position_sees():
    block = encoder().blocks[0]
    x = random(1, H, D)
    segment = jnp.array([[4, 4, 7, 7, 7, 4]])
    got = block.attend(x, histories.visible(segment))
    np.testing.assert_allclose(
        got[0], by_loops(block, x[0], np.asarray(segment[0])), rtol=1e-4, atol=1e-5
    )


def test_nothing_that_comes_after_or_is_of_another_segment_reaches_a_position():
    model, x = encoder(), random(1, H, D)
    segment = jnp.array([[1, 1, 1, 2, 2, 2]])
    jacobian = jax.jacobian(lambda x: model(x, segment)[..., 0])(x)[0, :, 0]
    reached = np.abs(np.asarray(jacobian)).sum(-1) > 1e-7
    wanted = np.tril(np.ones((3, 3), bool))
    np.testing.assert_array_equal(reached, np.kron(np.eye(2, dtype=bool), wanted))


def test_a_sequence_means_the_same_wherever_it_begins():
    model, x = encoder(), random(1, 3, D)
    other = random(1, 3, D, seed=5)
    alone = model(x, jnp.ones((1, 3), jnp.int32))
    segment = jnp.array([[1, 1, 1, 2, 2, 2]])
    first = model(jnp.concatenate([x, other], 1), segment)[:, :3]
    last = model(jnp.concatenate([other, x], 1), segment)[:, 3:]
    np.testing.assert_allclose(alone, first, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(alone, last, rtol=1e-4, atol=1e-5)


def test_longer_than_it_was_made_for_the_farthest_distance_serves():
    """Like one made for the length whose farther distances have the farthest's bias."""
    short, long = encoder(length=2), encoder()
    for one, other in zip(short.blocks, long.blocks, strict=True):
        other.bias[...] = one.bias[...][:, jnp.array([0, 1, 1, 1, 1, 1])]
    x, segment = random(2, H, D), jnp.ones((2, H), jnp.int32)
    np.testing.assert_allclose(
        short(x, segment), long(x, segment), rtol=1e-5, atol=1e-6
    )


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match=r"model\.heads 3 does not divide the width 8"):
        encoder(heads=3)


def test_the_last_position_that_is_there_speaks_for_a_history():
    pool = layers.HistoryPool(
        ("mean", "self_attention"), length=H, width=D, rngs=nnx.Rngs(2)
    )
    x = random(3, H, D)
    where = jnp.array([[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1], [0] * 6]) > 0
    out = pool(x, where)
    assert out.shape == (3, 2 * D)
    vector = out[:, D:]
    assert not np.any(vector[2]) and np.any(vector[0])
    changed = x.at[0, :2, 0].add(9.0)
    np.testing.assert_allclose(pool(changed, where)[0], out[0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(pool(x.at[0, 2, 0].add(1.0), where)[0, D:], vector[0])
    right = jnp.roll(x, -2, axis=1), jnp.roll(where, -2, axis=1)
    np.testing.assert_allclose(pool(*right)[0, D:], vector[0], rtol=1e-4, atol=1e-5)
