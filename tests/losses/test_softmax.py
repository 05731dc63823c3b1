"""The blockwise softmax equals the plain one, and never holds the score matrix."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from recall_jax.losses import candidates, losses, scores, softmax

B, N, D, M, H = 11, 13, 5, 3, 4
HYPERS = {"temperature": jnp.float32(0.4), "strength": jnp.float32(0.8)}


def plain_softmax_sum(query, columns, logits, *, weight, temperature, strength):
    """What `softmax.softmax_sum` computes, with the whole matrix."""
    shared = scores.column_logits(
        query,
        columns.vector,
        correction=columns.correction,
        temperature=temperature,
        strength=strength,
    )
    both = scores.join(
        scores.Logits(logits.positive, shared, scores.allowed(columns.mask)),
        logits.negative,
        logits.where,
    )
    loss = losses.softmax_loss(both.positive, both.negative, where=both.where)
    return jnp.sum(loss * weight)


CASES = list(
    itertools.product(
        ["none", "log_q", "row"], ["keys", "seen", "valid"], ["shared", "own"]
    )
)


def draw(seed: int, *, correction="row", mask="seen", own="own", scale=1.0):
    """Arguments (floats, integers) of a case."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.float32(scale * rng.normal(size=shape))
    integers = lambda high, *shape: jnp.asarray(rng.integers(0, high, shape), jnp.int32)
    columns = scores.ColumnKeys(
        (integers(6, N), integers(9, N)),
        integers(6, N),
        jnp.asarray(rng.random(N) < 0.6) if mask == "valid" else None,
    )
    seen = integers(6, B, H) if mask != "keys" else None
    masks = scores.make_mask(
        scores.RowKeys((integers(6, B), integers(9, B)), seen), columns
    )
    corrections = {
        "none": scores.NO_CORRECTION,
        "log_q": scores.Correction(None, normal(N), None),
        "row": scores.Correction(None, normal(N), normal(B)),
    }
    num_own = M if own == "own" else 0
    logits = scores.Logits(
        normal(B), normal(B, num_own), jnp.asarray(rng.random((B, num_own)) < 0.5)
    )
    shared = candidates.SharedCandidates(normal(N, D), masks, corrections[correction])
    weight = jnp.asarray(rng.random(B) * (rng.random(B) < 0.8), jnp.float32)
    return (normal(B, D), shared, logits), weight


def value_and_gradients(function, args, weight):
    """Of everything that is differentiable."""
    query, columns, logits = args

    def total(query, vector, positive, negative, temperature):
        return function(
            query,
            columns._replace(vector=vector),
            logits._replace(positive=positive, negative=negative),
            weight=weight,
            temperature=temperature,
            strength=HYPERS["strength"],
        )

    return jax.value_and_grad(total, argnums=(0, 1, 2, 3, 4))(
        query,
        columns.vector,
        logits.positive,
        logits.negative,
        HYPERS["temperature"],
    )


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(softmax, "BLOCK_ROWS", 4)  # 11 rows: one block is padded


@pytest.mark.parametrize(("correction", "mask", "own"), CASES)
def test_it_equals_the_plain_form(small_blocks, correction, mask, own):
    blocks, plain = (
        jax.jit(functools.partial(value_and_gradients, f))
        for f in (softmax.softmax_sum, plain_softmax_sum)
    )
    for seed in range(5):
        args = draw(seed, correction=correction, mask=mask, own=own, scale=1.5)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5),
            blocks(*args),
            plain(*args),
        )


@pytest.mark.parametrize(
    ("rows", "columns", "block"),
    [
        (1, 1, 1),
        (7, 2, 3),
        (5, 30, 8),
        pytest.param(40, 9, 13, marks=pytest.mark.slow),
    ],
)
def test_at_any_shape(rows, columns, block):
    rng = np.random.default_rng(rows)
    query, vector = (jnp.float32(rng.normal(size=(n, 3))) for n in (rows, columns))
    ids = [jnp.asarray(rng.integers(0, 8, n), jnp.int32) for n in (rows, columns)]
    shared = candidates.SharedCandidates(
        vector,
        scores.make_mask(
            scores.RowKeys((ids[0],)), scores.ColumnKeys((ids[1],), ids[1])
        ),
        scores.NO_CORRECTION,
    )
    logits = scores.Logits(query[:, 0], query[:, :0], jnp.zeros((rows, 0), bool))
    args = (query, shared, logits), jnp.ones(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "BLOCK_ROWS", block)
        got = value_and_gradients(softmax.softmax_sum, *args)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5),
        got,
        value_and_gradients(plain_softmax_sum, *args),
    )


def test_gradients_are_those_of_the_value(small_blocks):
    (query, columns, logits), weight = draw(3)

    def total(query, vector, temperature):
        return softmax.softmax_sum(
            jnp.asarray(query),
            columns._replace(vector=jnp.asarray(vector)),
            logits,
            weight=weight,
            temperature=jnp.asarray(temperature),
            strength=HYPERS["strength"],
        )

    args = (query, columns.vector, HYPERS["temperature"])
    check_grads(total, args, order=1, modes=["rev"], rtol=1e-2, atol=1e-2)


def test_masked_columns_contribute_exactly_zero(small_blocks):
    (query, columns, logits), weight = draw(4, mask="valid", own="shared")
    gone = ~np.asarray(columns.mask.valid)
    assert gone.any()
    spoiled = jnp.where(gone[:, None], 1e4, columns.vector)
    value, gradients = value_and_gradients(
        softmax.softmax_sum, (query, columns, logits), weight
    )
    other = value_and_gradients(
        softmax.softmax_sum, (query, columns._replace(vector=spoiled), logits), weight
    )
    assert (np.asarray(gradients[1])[gone] == 0).all()
    jax.tree.map(np.testing.assert_array_equal, (value, gradients), other)


def test_with_every_column_masked_the_loss_is_zero(small_blocks):
    (query, columns, logits), weight = draw(5, mask="valid", own="shared")
    nothing = columns.mask._replace(valid=jnp.zeros(N, bool))
    args = (query, columns._replace(mask=nothing), logits), weight
    value, gradients = value_and_gradients(softmax.softmax_sum, *args)
    assert abs(value) < 1e-5
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e3, 1e15])
def test_it_is_finite_on_extreme_scores(small_blocks, scale):
    args = draw(6, scale=scale)
    assert all(
        np.isfinite(x).all()
        for x in jax.tree.leaves(value_and_gradients(softmax.softmax_sum, *args))
    )


def test_a_constant_added_to_log_q_of_both_sides_changes_nothing(small_blocks):
    args, weight = draw(7, correction="log_q", own="shared")
    query, columns, logits = args
    shift = 3.0
    moved = scores.Correction(None, columns.correction.column + shift, None)
    moved_logits = logits._replace(
        positive=logits.positive - HYPERS["strength"] * shift
    )
    one = value_and_gradients(softmax.softmax_sum, args, weight)
    other = value_and_gradients(
        softmax.softmax_sum,
        (query, columns._replace(correction=moved), moved_logits),
        weight,
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), one, other
    )


def test_vmap_over_temperatures_equals_a_loop(small_blocks):
    (query, columns, logits), weight = draw(8)

    def total(temperature):
        return softmax.softmax_sum(
            query,
            columns,
            logits,
            weight=weight,
            temperature=temperature,
            strength=HYPERS["strength"],
        )

    temperatures = jnp.array([0.1, 0.5, 1.0])
    both = jax.vmap(jax.value_and_grad(total))(temperatures)
    each = [jax.value_and_grad(total)(t) for t in temperatures]
    for j, (value, gradient) in enumerate(each):
        np.testing.assert_allclose(both[0][j], value, rtol=1e-5)
        np.testing.assert_allclose(both[1][j], gradient, rtol=1e-4)


def in_batch(query, item, ids, seen):
    """An in-batch loss with everything on, from a batch's arrays alone."""
    rows = scores.RowKeys((ids,), seen)
    mask = scores.make_mask(rows, scores.ColumnKeys((ids,), ids))
    log_q = jnp.log1p(ids.astype(jnp.float32))
    columns = candidates.SharedCandidates(
        item, mask, scores.log_q_correction(log_q, log_q)
    )
    positive = scores.positive_logits(
        query, item, correction=columns.correction, **HYPERS
    )
    none = scores.Logits(positive, query[:, :0], jnp.zeros((len(query), 0), bool))
    return softmax.softmax_sum(
        query, columns, none, weight=jnp.ones(len(query)), **HYPERS
    )


@pytest.fixture
def optimized():
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def test_memory_is_a_blocks_not_the_matrix(optimized):
    """b = 65,536: the scores alone would take 17 GB, histories of all pairs far more."""
    b, h = 65_536, 50
    floats = jax.ShapeDtypeStruct((b, 64), jnp.float32)
    ids = jax.ShapeDtypeStruct((b,), jnp.int32)
    seen = jax.ShapeDtypeStruct((b, h), jnp.int32)
    gradient = jax.jit(jax.value_and_grad(in_batch, argnums=(0, 1)))
    memory = gradient.lower(floats, floats, ids, seen).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1 << 29


@pytest.mark.parametrize("form", ["blockwise", "plain"])
def test_eight_devices_give_the_loss_and_gradients_of_one(form, monkeypatch):
    if form == "plain":
        monkeypatch.setattr(softmax, "softmax_sum", plain_softmax_sum)
    rng = np.random.default_rng(0)
    b = 64
    args = (
        *(jnp.float32(rng.normal(size=(b, 8))) for _ in range(2)),
        jnp.asarray(rng.integers(1, 40, b), jnp.int32),
        jnp.asarray(rng.integers(0, 40, (b, 3)), jnp.int32),
    )
    gradient = jax.jit(jax.value_and_grad(in_batch, argnums=(0, 1)))
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("devices"))
    on_eight = gradient(*jax.device_put(args, split))
    assert len(on_eight[1][0].sharding.device_set) == 8
    jax.tree.map(
        # Sums whose terms reach about 8: some ulp of those, whatever the sum.
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=8e-6),
        gradient(*args),
        jax.device_get(on_eight),
    )
