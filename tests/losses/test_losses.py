"""Every loss against its formula: a table of losses, and what must hold for each."""

import doctest
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

from recall_jax.losses import losses

# Scores are multiples of 1/8 and the margin lies between two of them: no hinge is ever
# at its kink, where the slope is a matter of choice.
MARGIN = 5 / 16
ITEMS = 11
LN2 = np.log(2)


class Case(NamedTuple):
    loss: Callable
    reference: Callable
    hypers: dict[str, float]


LISTWISE = {
    "softmax": Case(losses.softmax_loss, reference.softmax_loss, {}),
    "bpr": Case(losses.bpr_loss, reference.bpr_loss, {}),
    "hinge": Case(losses.hinge_loss, reference.hinge_loss, {"margin": MARGIN}),
    "cosine_contrastive": Case(
        losses.cosine_contrastive_loss,
        reference.cosine_contrastive_loss,
        {"margin": MARGIN, "negative_weight": 1.5},
    ),
    "gbce": Case(
        functools.partial(losses.gbce_loss, num_items=ITEMS),
        functools.partial(reference.gbce_loss, num_items=ITEMS),
        {"calibration": 0.75},
    ),
}
POINTWISE = {
    "logistic": Case(losses.logistic_loss, reference.logistic_loss, {}),
    "squared": Case(losses.squared_loss, reference.squared_loss, {}),
}
CASES = LISTWISE | POINTWISE
every_loss = pytest.mark.parametrize("name", CASES)
every_listwise = pytest.mark.parametrize("name", LISTWISE)
many = settings(max_examples=40, deadline=None)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)


def scores_of(shape):
    eighths = hnp.arrays(
        np.int8, shape, elements=st.integers(-40, 40), fill=st.nothing()
    )
    return eighths.map(lambda x: np.float32(x) / 8)


@st.composite
def batches(draw, name: str):
    """Two arrays for a loss, and the rest that it is given: hypers and any mask."""
    if name in POINTWISE:
        shape = draw(st.sampled_from([(), (3,), (2, 3)]))
        quarters = hnp.arrays(np.int8, shape, elements=st.integers(0, 4))
        return draw(scores_of(shape)), np.float32(draw(quarters)) / 4, {}
    b, n = draw(st.sampled_from([(1, 1), (3, 2), (3, 4)]))
    where = draw(hnp.arrays(bool, (b, n), fill=st.nothing()))
    hypers = CASES[name].hypers
    return draw(scores_of(b)), draw(scores_of((b, n))), hypers | {"where": where}


def batch_of(name: str, *, lead: tuple[int, ...] = (3,)):
    """One of them, of given axes, with a mask of some but not all."""
    rng = np.random.default_rng(0)
    positive = np.float32(rng.integers(-40, 41, lead)) / 8
    if name in POINTWISE:
        return positive, np.float32(rng.integers(0, 5, lead)) / 4, {}
    negative = np.float32(rng.integers(-40, 41, (*lead, 4))) / 8
    where = rng.random((*lead, 4)) < 0.6
    return positive, negative, CASES[name].hypers | {"where": where}


@functools.partial(jax.jit, static_argnums=0)
def outcome(loss: Callable, first, second, **rest):
    """A loss's values, and the gradient of their sum in either array."""

    def total(*arrays):
        values = loss(*arrays, **rest)
        return values.sum(), values

    (_, values), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(
        first, second
    )
    return values, *gradients


def held(name: str, *, drawn: int, kept: int) -> dict[str, float]:
    """The hypers for `kept` negatives in place of `drawn` of which the rest are masked.

    They are the same but for gbce: its beta counts masked negatives as drawn, and what
    holds beta after a deletion is another calibration."""
    hypers = CASES[name].hypers
    if name != "gbce":
        return hypers
    others = ITEMS - 1
    return {"calibration": hypers["calibration"] * (others - drawn) / (others - kept)}


def test_examples_in_docstrings_run():
    result = doctest.testmod(losses)
    assert result.attempted >= 14 and result.failed == 0


def sigma(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    "loss, first, second, wanted",
    [
        (losses.softmax_loss, 1.0, [0.0, 2.0], np.log(np.e + 1 + np.e**2) - 1),
        (losses.bpr_loss, 1.0, [1.0, 3.0], (LN2 + np.log(1 + np.e**2)) / 2),
        (functools.partial(losses.hinge_loss, margin=0.5), 1.0, [0.75, 0.25], 0.125),
        (functools.partial(losses.hinge_loss, margin=0.5), 1.0, [1.5, 2.0], 1.25),
        (
            functools.partial(
                losses.cosine_contrastive_loss, margin=0.25, negative_weight=3.0
            ),
            0.5,
            [0.75, 0.0, 0.5],
            0.5 + 3 * 0.75 / 3,
        ),
        (  # two of four others drawn: beta = 0.5 (0.5 (1 - 2) + 2)
            functools.partial(losses.gbce_loss, num_items=5, calibration=0.5),
            1.0,
            [0.0, -1.0],
            -0.75 * np.log(sigma(1)) - np.log(sigma(0)) - np.log(sigma(1)),
        ),
        (losses.logistic_loss, 1.0, 1.0, np.log(1 + np.exp(-1))),
        (losses.logistic_loss, 1.0, 0.0, np.log(1 + np.e)),
        (losses.logistic_loss, 1.0, 0.25, np.log(1 + np.e) - 0.25),
        (losses.squared_loss, 3.0, 5.0, 4.0),
    ],
)
def test_value_by_hand(loss, first, second, wanted):
    got = jax.jit(loss)(np.float32([first]), np.float32([second]))
    close(got, [wanted])


@every_loss
@many
@given(data=st.data())
def test_value_and_gradient_equal_the_reference_under_any_mask(name, data):
    first, second, rest = data.draw(batches(name))
    got = outcome(CASES[name].loss, first, second, **rest)
    function = functools.partial(CASES[name].reference, **rest)
    in_first = reference.slopes(lambda x: function(x, second).sum(), first)
    in_second = reference.slopes(lambda x: function(first, x).sum(), second)
    jax.tree.map(close, got, (function(first, second), in_first, in_second))


@every_loss
def test_gradients_in_scores_and_hypers_pass_check_grads(name):
    first, second, rest = batch_of(name)
    masks = {"where": jnp.asarray(rest.pop("where"))} if "where" in rest else {}
    loss = jax.jit(lambda a, b, hypers: CASES[name].loss(a, b, **masks, **hypers))
    with jax.enable_x64(True):
        arrays = np.float64(first), np.float64(second)
        check_grads(loss, (*arrays, rest), order=1, modes=["fwd", "rev"])


@every_listwise
@many
@given(data=st.data())
def test_masking_equals_deletion_in_value_and_gradient(name, data):
    positive, negative, rest = data.draw(batches(name))
    masked = jax.device_get(outcome(CASES[name].loss, positive, negative, **rest))
    assert (masked[2][~rest["where"]] == 0).all()
    for j, kept in enumerate(rest["where"]):
        hypers = held(name, drawn=kept.size, kept=kept.sum())
        row = positive[j], negative[j, kept]
        deleted = outcome(CASES[name].loss, *row, **hypers)
        jax.tree.map(close, (*(x[j] for x in masked[:2]), masked[2][j, kept]), deleted)


@every_listwise
@pytest.mark.parametrize("noise", [1e4, -1e4, 1e30, -1e30, np.inf, -np.inf])
def test_what_is_masked_changes_not_a_bit(name, noise):
    positive, negative, rest = batch_of(name)
    where = rest["where"]
    assert 0 < where.sum() < where.size
    noisy = np.where(where, negative, np.float32(noise))
    wanted = outcome(CASES[name].loss, positive, negative, **rest)
    got = outcome(CASES[name].loss, positive, noisy, **rest)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize(
    "name, wanted, wanted_slope",  # of a positive at 0
    [
        ("softmax", 0.0, 0.0),
        ("bpr", 0.0, 0.0),
        ("hinge", 0.0, 0.0),
        ("cosine_contrastive", 1.0, -1.0),
        ("gbce", 0.55 * LN2, -0.55 / 2),
    ],
)
def test_with_all_masked_or_none_given_only_the_positive_counts(
    name, wanted, wanted_slope
):
    _, negative, rest = batch_of(name)
    positive, nowhere = np.zeros(3, np.float32), np.zeros_like(rest["where"])
    rows = (positive, negative), (positive, negative[:, :0])
    rests = rest | {"where": nowhere}, held(name, drawn=4, kept=0)
    for arrays, keywords in zip(rows, rests, strict=True):
        value, slope, negative_slope = outcome(CASES[name].loss, *arrays, **keywords)
        close(value, [wanted] * 3)
        close(slope, [wanted_slope] * 3)
        assert (np.asarray(negative_slope) == 0).all()


@pytest.mark.parametrize(
    "name, size",
    [(name, size) for name in CASES for size in (1e4, 1e30) if name != "squared"]
    # The square of 1e30 is no float32.
    + [("squared", 1e4), ("squared", 1e18)],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_scores_give_finite_values_and_gradients(name, size, sign):
    first, second = sign * np.float32([size, size, 0]), np.float32([0, 1, 0.5])
    if name in LISTWISE:
        signs = [[1, -1, 0, 1], [-1, -1, -1, -1], [1, 1, 1, -1]]
        second = sign * np.float32(size) * np.float32(signs)
    hypers = CASES[name].hypers
    value, *gradients = outcome(CASES[name].loss, first, second, **hypers)
    wanted = CASES[name].reference(first, second, **hypers)
    rounding = np.spacing(np.float32(size))
    np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=rounding)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize(
    "name, hopeless, settled",  # slopes in the positive and in each of its negatives
    [
        ("softmax", (-1.0, 1 / 4), (0.0, 0.0)),
        ("bpr", (-1.0, 1 / 4), (0.0, 0.0)),
        ("hinge", (-1.0, 1 / 4), (0.0, 0.0)),
        ("cosine_contrastive", (-1.0, 1.5 / 4), (-1.0, 0.0)),
        ("gbce", (-0.55, 1.0), (0.0, 0.0)),
    ],
)
def test_slopes_at_extreme_scores_by_hand(name, size, hopeless, settled):
    positive = np.float32([-size, size, size])
    negative = np.tile(-positive[:, None], 4)
    _, *slopes = outcome(CASES[name].loss, positive, negative, **CASES[name].hypers)
    close(slopes[0], [hopeless[0], settled[0], settled[0]])
    close(slopes[1], [[x] * 4 for x in (hopeless[1], settled[1], settled[1])])


@pytest.mark.parametrize("level", [-1e30, -1e4, 1e4, 1e30])
@pytest.mark.parametrize("name, wanted", [("softmax", np.log(5)), ("bpr", LN2)])
def test_equal_scores_cost_the_same_at_any_level(name, wanted, level):
    positive, negative = (
        np.full(3, level, np.float32),
        np.full((3, 4), level, np.float32),
    )
    close(outcome(CASES[name].loss, positive, negative)[0], [wanted] * 3)


@every_listwise
@many
@given(data=st.data())
def test_the_order_of_the_negatives_does_not_matter(name, data):
    positive, negative, rest = data.draw(batches(name))
    order = np.array(data.draw(st.permutations(range(negative.shape[1]))))
    permuted = rest | {"where": rest["where"][:, order]}
    wanted = jax.device_get(outcome(CASES[name].loss, positive, negative, **rest))
    got = outcome(CASES[name].loss, positive, negative[:, order], **permuted)
    jax.tree.map(close, got, (*wanted[:2], wanted[2][:, order]))


@every_loss
def test_weights_of_a_mean_count_examples(name):
    loss, (first, second, rest) = CASES[name].loss, batch_of(name)
    first[1] = -1e4  # what has no weight may be extreme

    def mean(first, second, weight, rest):
        return loss(first, second, **rest) @ weight / weight.sum()

    value_and_slopes = jax.jit(jax.value_and_grad(mean, (0, 1)))
    weighted = value_and_slopes(first, second, jnp.float32([2, 0, 1]), rest)
    copies = np.array([0, 0, 2])
    chosen = {k: x[copies] if k == "where" else x for k, x in rest.items()}
    copied = value_and_slopes(first[copies], second[copies], jnp.ones(3), chosen)
    close(weighted[0], copied[0])
    for slope, copy in zip(weighted[1], copied[1], strict=True):
        close(slope[0], copy[0] + copy[1])
        assert (np.asarray(slope[1]) == 0).all()
        close(slope[2], copy[2])


@every_loss
def test_leading_axes_equal_one_slice_after_the_other(name):
    loss, (first, second, rest) = CASES[name].loss, batch_of(name, lead=(2, 3))
    got = jax.device_get(outcome(loss, first, second, **rest))
    for j in range(2):
        rest_j = {k: x[j] if k == "where" else x for k, x in rest.items()}
        wanted = outcome(loss, first[j], second[j], **rest_j)
        jax.tree.map(close, tuple(x[j] for x in got), wanted)


@every_loss
def test_vmap_over_examples_equals_the_batch(name):
    loss, (first, second, rest) = CASES[name].loss, batch_of(name)
    axes = {k: 0 if k == "where" else None for k in rest}
    mapped = jax.vmap(lambda a, b, rest: outcome(loss, a, b, **rest), (0, 0, axes))
    wanted = outcome(loss, first, second, **rest)
    jax.tree.map(close, mapped(first, second, rest), wanted)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].hypers])
def test_vmap_over_hypers_equals_one_after_the_other(name):
    loss, (first, second, rest) = CASES[name].loss, batch_of(name)
    where = rest.pop("where")
    grid = {k: jnp.float32([0.0, x, 1.0]) for k, x in rest.items()}
    mapped = jax.vmap(
        lambda hypers: outcome(loss, first, second, where=where, **hypers)
    )
    got = jax.device_get(mapped(grid))
    assert (np.ptp(got[0], axis=0) > 0.01).any()
    for j in range(3):
        hypers = {k: float(x[j]) for k, x in grid.items()}
        wanted = outcome(loss, first, second, where=where, **hypers)
        jax.tree.map(close, tuple(x[j] for x in got), wanted)


@pytest.mark.parametrize("num_items", [5, 8, 10**6])
def test_gbce_runs_from_plain_cross_entropy_to_the_rate(num_items):
    positive, negative, _ = batch_of("gbce")
    up = reference.logistic_loss(positive, np.ones(3))
    down = reference.logistic_loss(negative, np.zeros((3, 4))).sum(-1)
    gbce = jax.jit(functools.partial(losses.gbce_loss, num_items=num_items))
    close(gbce(positive, negative, calibration=0.0), up + down)
    close(gbce(positive, negative, calibration=1.0), 4 / (num_items - 1) * up + down)


def test_gbce_counts_masked_negatives_as_drawn():
    gbce = jax.jit(functools.partial(losses.gbce_loss, num_items=5, calibration=1.0))
    positive, negative = np.zeros(1, np.float32), np.zeros((1, 2), np.float32)
    where = np.array([[True, False]])
    close(gbce(positive, negative, where=where), [(2 / 4 + 1) * LN2])
    close(gbce(positive, negative[:, :1]), [(1 / 4 + 1) * LN2])


@pytest.mark.parametrize("num_items", [1, 2, 5])
def test_gbce_draws_no_more_than_everything(num_items):
    gbce = functools.partial(losses.gbce_loss, num_items=num_items, calibration=1.0)
    positive, negative = np.zeros(1, np.float32), np.zeros((1, 4), np.float32)
    close(jax.jit(gbce)(positive, negative), [(1 + 4) * LN2])


@jax.jit
def mean_and_slope(values, where):
    mean = functools.partial(losses.masked_mean, where=where)
    return mean(values), jax.grad(lambda x: mean(x).sum())(values)


@many
@given(data=st.data())
def test_masked_mean_is_the_mean_of_what_is_left(data):
    _, values, rest = data.draw(batches("softmax"))
    where = rest["where"]
    mean, slope = mean_and_slope(values, where)
    close(mean, [reference.mean(x[j]) for x, j in zip(values, where, strict=True)])
    close(slope, where / np.maximum(where.sum(-1, keepdims=True), 1))
    close(mean_and_slope(values, None)[0], values.mean(-1))


def test_masked_mean_drops_even_infinity():
    values, where = jnp.array([2.0, jnp.inf, 4.0]), jnp.array([True, False, True])
    assert losses.masked_mean(values, where) == 3
