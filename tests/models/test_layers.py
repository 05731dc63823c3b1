"""What towers are made of: normalisation, activations, gates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from recall_jax import schema
from recall_jax.models import graph, layers
from recall_jax.types import InputError


class Small(nnx.Module):
    """An MLP, with a table as every model has."""

    def __init__(self, **options):
        table = schema.Table("item", 3, 2, ("item",))
        self.tables = layers.embeds((table,), scale=1.0, rngs=nnx.Rngs(0))
        self.mlp = layers.MLP((3, 5, 2), dropout=0.0, rngs=nnx.Rngs(1), **options)

    def __call__(self, x):
        return self.mlp(jnp.asarray(x))


def trained(parts, x, *, steps: int = 1):
    """The last output and the running statistics after some training passes."""
    statistics = parts.statistics
    for _ in range(steps):
        model = parts.graph.training_model(
            parts.tables, parts.dense, statistics, key=jax.random.key(0)
        )
        out = model(x)
        statistics = graph.statistics_of(model)
    return out, statistics


def by_hand(model, hidden, x, *, mean, var):
    last = model.mlp.layers[-1]
    norm = model.mlp.norms[0]
    hidden = (hidden - mean) / np.sqrt(var + 1e-5)
    scale, shift = np.asarray(norm.scale[...]), np.asarray(norm.bias[...])
    hidden = np.maximum(hidden * scale + shift, 0)
    return hidden @ np.asarray(last.kernel[...]) + np.asarray(last.bias[...])


def test_batch_norm_goes_by_the_batch_in_training_and_by_what_ran_in_use():
    model = Small(activation="relu", norm="batch")
    parts = graph.make_graph(model, ())
    x = np.random.default_rng(0).normal(2, 3, (64, 3)).astype(np.float32)
    first = model.mlp.layers[0]
    hidden = x @ np.asarray(first.kernel[...]) + np.asarray(first.bias[...])
    mean, var = hidden.mean(0), hidden.var(0)

    out, once = trained(parts, x)
    wanted = by_hand(model, hidden, x, mean=mean, var=var)
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)
    moved = by_hand(model, hidden[:4], x[:4], mean=0.1 * mean, var=0.9 + 0.1 * var)
    used = parts.graph.model(parts.tables, parts.dense, once)(x[:4])
    np.testing.assert_allclose(used, moved, rtol=1e-4, atol=1e-5)

    _, after = trained(parts, x, steps=200)
    used = parts.graph.model(parts.tables, parts.dense, after)(x[:1])
    np.testing.assert_allclose(used, wanted[:1], rtol=1e-3, atol=1e-4)


def test_batch_norm_is_of_the_whole_batch_on_eight_devices():
    parts = graph.make_graph(Small(activation="relu", norm="batch"), ())
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("devices")))
    run = jax.jit(lambda x: trained(parts, x))
    for one, eight in zip(
        jax.tree.leaves(run(x)), jax.tree.leaves(run(split)), strict=True
    ):
        np.testing.assert_allclose(one, eight, rtol=1e-5, atol=1e-6)


def test_statistics_take_no_gradient_and_layer_norm_has_none():
    parts = graph.make_graph(Small(activation="tanh", norm="batch"), ())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)

    def statistics(x):
        return sum(leaf.sum() for leaf in jax.tree.leaves(trained(parts, x)[1]))

    assert not np.any(jax.grad(statistics)(x))
    plain = graph.make_graph(Small(activation="tanh", norm="layer"), ())
    assert not jax.tree.leaves(plain.statistics)


def test_prelu_starts_at_a_quarter_and_learns_a_slope_a_unit():
    activation = layers.Activation("prelu", width=3)
    x = jnp.array([[-1.0, 0.0, 2.0]])
    np.testing.assert_allclose(activation(x), [[-0.25, 0.0, 2.0]])
    activation.slope[...] = jnp.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(activation(x), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "sin", "norm": "none"}, "model.activation 'sin'"),
        ({"activation": "relu", "norm": "group"}, "model.norm 'group'"),
    ],
)
def test_unknown_names_are_told_with_those_there_are(options, message):
    with pytest.raises(InputError, match=message):
        Small(**options)


def test_gates_start_neutral_and_weigh_each_field_by_all_of_them():
    gates = layers.Gates(3, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    fields = [jnp.asarray(rng.normal(size=(4, n)), jnp.float32) for n in (2, 5, 1)]
    for before, after in zip(fields, gates(fields), strict=True):
        np.testing.assert_allclose(before, after)
    gates.squeeze.kernel[...] = jnp.eye(3)[:, :2]
    gates.excite.kernel[...] = jnp.array([[0.0, 1, 0], [0, 0, 2.0]])
    means = np.stack([np.asarray(field).mean(-1) for field in fields], -1)
    logits = np.maximum(means[:, :2], 0) @ np.array([[0.0, 1, 0], [0, 0, 2.0]])
    weights = 2 / (1 + np.exp(-logits))
    for j, (before, after) in enumerate(zip(fields, gates(fields), strict=True)):
        np.testing.assert_allclose(after, before * weights[:, j : j + 1], rtol=1e-5)


@pytest.mark.parametrize("learned", [(True,), (False,), (False, True)])
def test_weighted_sums_have_the_gradients_of_their_product(learned):
    rng = np.random.default_rng(0)
    x, weights = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((5, 7, 3), (5, len(learned), 7))
    )

    def plain(x, weights):
        return jnp.einsum("bhd,bkh->bkd", x, weights)

    def gradients(sums):
        return jax.grad(lambda *args: jnp.sin(sums(*args)).sum(), argnums=(0, 1))

    custom = functools.partial(layers._weighted_sums, learned)
    np.testing.assert_array_equal(custom(x, weights), plain(x, weights))
    of_x, of_weights = gradients(custom)(x, weights)
    expected, of_all = gradients(plain)(x, weights)
    np.testing.assert_allclose(of_x, expected, rtol=1e-5, atol=1e-6)
    for k, is_learned in enumerate(learned):
        wanted = of_all[:, k] if is_learned else np.zeros((5, 7))
        np.testing.assert_allclose(of_weights[:, k], wanted, rtol=1e-5, atol=1e-6)
