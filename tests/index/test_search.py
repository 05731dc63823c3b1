"""Every index answers the same cases as a plain argsort."""

import dataclasses
import math

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.index import scann as scann_lib
from recall_jax.index import search as search_lib
from recall_jax.index import topk
from recall_jax.index.search import Exclude
from recall_jax.types import InputError


def scann(vectors):
    pytest.importorskip("scann", reason="scann is not installed")
    return scann_lib.Scann.build(vectors)


def scann_forced(vectors):
    """A tree and hashing at any size, but all leaves searched and all rows rescored."""
    pytest.importorskip("scann", reason="scann is not installed")
    num = len(vectors)
    leaves = max(1, math.isqrt(num))
    all_of_it = scann_lib.ScannSettings(leaves, leaves, reorder=num)
    return scann_lib.Scann.build(vectors, settings=all_of_it)


class SmallTiles(topk.Tiles):
    def pay(self, num_items, *, k):
        return True


@dataclasses.dataclass(frozen=True, eq=False)
class Tiled(search_lib.Exact):
    """The exact index as it treats a large catalogue."""

    def search(self, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search_lib, "TILES", SmallTiles(queries=4, rows=6, group=3))
            return super().search(*arguments)


BUILDERS = {
    "exact": search_lib.Exact.build,
    "tiled": Tiled.build,
    "approx": search_lib.Approx.build,
    "scann": scann,
    "scann_forced": scann_forced,
}
PREFER_LOWER = (search_lib.Exact.build, Tiled.build)  # among those tied with the last


@pytest.fixture(params=BUILDERS.values(), ids=BUILDERS)
def build(request):
    return request.param


def excluding(*rows):
    offsets = np.cumsum([0] + [len(row) for row in rows])
    return Exclude(offsets, np.array([i for row in rows for i in row], np.int32))


def by_argsort(vectors, queries, k, exclude=None, allowed=None):
    """Ids and scores [q, k], ties by lower id, excluded ones left out."""
    scores = np.asarray(queries, np.float64) @ np.asarray(vectors, np.float64).T
    if allowed is not None:
        scores[:, np.setdiff1d(np.arange(len(vectors)), allowed)] = -np.inf
    for q in range(len(scores) if exclude else 0):
        scores[q, exclude.ids[exclude.offsets[q] : exclude.offsets[q + 1]]] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(scores, ids, axis=1)
    return np.where(values == -np.inf, -1, ids), values


def check(build, vectors, queries, k, exclude=None, allowed=None):
    """`vectors` and `queries` hold small integers, so that scores are the same numbers
    however they are summed, and ties are ties."""
    vectors, queries = np.float32(vectors), np.float32(queries)
    result = build(vectors).search(queries, k, exclude, allowed)
    ids, scores = by_argsort(vectors, queries, k, exclude, allowed)
    assert (result.ids.dtype, result.scores.dtype) == (np.int32, np.float32)
    assert result.ids.shape == result.scores.shape == (len(queries), k)
    np.testing.assert_array_equal(result.scores, scores)
    # Of rows tied with the last any may be returned, though Exact prefers the lower.
    sure = (scores > scores[:, -1:]) | (ids == -1) | (build in PREFER_LOWER)
    np.testing.assert_array_equal(result.ids[sure], ids[sure])
    real = result.ids >= 0
    own = np.einsum("qd,qkd->qk", queries, vectors[result.ids])
    np.testing.assert_array_equal(result.scores[real], own[real])
    tied = real[:, 1:] & (result.scores[:, 1:] == result.scores[:, :-1])
    assert (result.ids[:, 1:] > result.ids[:, :-1])[tied].all()


def integers(*shape, seed=0, largest=50):
    return np.random.default_rng(seed).integers(-largest, largest + 1, shape)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_first_some_and_all(build, k):
    check(build, integers(40, 6), integers(9, 6, seed=1), k)


@pytest.mark.parametrize("d", [1, 2, 3, 17, 64, 512])
def test_widths(build, d):
    check(build, integers(30, d), integers(5, d, seed=1), 4)


@pytest.mark.parametrize("k", [1, 5, 30])
def test_many_ties(build, k):
    check(build, integers(30, 2, largest=1), integers(20, 2, seed=1, largest=1), k)


def test_duplicate_vectors(build):
    check(build, np.repeat(integers(6, 4), 5, axis=0), integers(8, 4, seed=1), 12)


@pytest.mark.parametrize("d", [1, 8])
def test_zero_vectors_come_by_row_whatever_the_sign_of_zero(build, d):
    zeros = np.zeros((9, d)) * np.where(np.arange(9) % 2, 1, -1)[:, None]
    check(build, zeros, integers(6, d), 9)
    check(build, integers(9, d), np.zeros((3, d)), 9)


def test_one_vector(build):
    check(build, integers(1, 5), integers(4, 5, seed=1), 1)
    check(build, integers(1, 5), integers(2, 5, seed=1), 1, excluding([0], []))


def test_no_queries(build):
    check(build, integers(10, 3), integers(0, 3), 4)


def test_exclusions_of_very_different_length(build):
    rng = np.random.default_rng(2)
    rows = [rng.permutation(60)[:count] for count in (0, 1, 58, 3, 60, 59, 20, 0)]
    for k in (1, 5, 60):
        check(build, integers(60, 4), integers(8, 4, seed=1), k, excluding(*rows))


def test_everything_excluded_gives_nothing(build):
    exclude = excluding(range(12), range(12))
    result = build(np.float32(integers(12, 3))).search(np.ones((2, 3)), 4, exclude)
    assert (result.ids == -1).all() and (result.scores == -np.inf).all()


def test_all_but_one_excluded_gives_that_one(build):
    exclude = excluding([i for i in range(12) if i != 7])
    check(build, integers(12, 3), integers(1, 3, seed=1), 5, exclude)


def test_nothing_excluded_is_no_exclusion(build):
    check(build, integers(12, 3), integers(3, 3, seed=1), 5, excluding([], [], []))


def test_repeated_and_unordered_exclusions_count_once(build):
    exclude = excluding([5, 2, 5, 5, 2, 9], [0] * 40)
    check(build, integers(12, 3), integers(2, 3, seed=1), 12, exclude)


def test_the_best_rows_excluded_do_not_shorten_the_answer(build):
    vectors, queries = integers(200, 8), integers(6, 8, seed=1)
    best, _ = by_argsort(vectors, queries, 100)
    rows = [best[q, : 20 * q] for q in range(6)]
    check(build, vectors, queries, 21, excluding(*rows))


def test_only_allowed_rows_are_returned(build):
    vectors, queries = integers(60, 4), integers(8, 4, seed=1)
    for count in (0, 1, 2, 17, 59, 60):
        rows = np.random.default_rng(count).permutation(60)[:count]
        for k in (1, 5, 60):
            check(build, vectors, queries, k, allowed=rows)


@pytest.mark.parametrize("few", [0, 10**6])
def test_allowed_rows_and_exclusions_together_do_not_shorten_the_answer(
    monkeypatch, build, few
):
    """`few` is below and above the number of rows that ScaNN scores one by one."""
    monkeypatch.setattr(scann_lib, "FEW_ROWS", few)
    vectors, queries = integers(90, 8), integers(6, 8, seed=1)
    best, _ = by_argsort(vectors, queries, 90)
    rows = [best[q, : 14 * q] for q in range(6)]
    for allowed in (np.arange(0, 90, 3), best[5, 60:], best[0, :1], best[2, :0]):
        for k in (1, 7, 90):
            check(build, vectors, queries, k, excluding(*rows), allowed)


def test_a_mask_allows_as_its_rows_do_and_repeats_count_once(build):
    index = build(np.float32(integers(20, 3)))
    queries = np.float32(integers(4, 3, seed=1))
    rows = np.array([19, 2, 2, 7, 2])
    by_mask = index.search(queries, 4, None, np.isin(np.arange(20), rows))
    by_rows = index.search(queries, 4, None, rows)
    assert set(by_rows.ids.ravel()) == {2, 7, 19, -1}
    jax.tree.map(np.testing.assert_array_equal, by_mask, by_rows)


def test_all_allowed_is_no_filter(build):
    check(build, integers(20, 3), integers(4, 3, seed=1), 20, None, np.arange(20))


def test_orders_by_inner_product_cosine_and_distance_agree_once_normalised(build):
    rng = np.random.default_rng(3)
    vectors, queries = rng.normal(size=(50, 8)), rng.normal(size=(7, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    distance = np.linalg.norm(queries[:, None] - vectors, axis=2)
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    unit = np.linalg.norm(queries[:, None] / lengths[:, None] - vectors, axis=2)
    cosine = queries @ vectors.T / lengths
    ids = build(np.float32(vectors)).search(np.float32(queries), 50).ids
    for order in (-cosine, distance, unit):
        np.testing.assert_array_equal(ids, np.argsort(order, axis=1))


def test_takes_arrays_of_the_device_and_lower_precision(build):
    vectors = jnp.asarray(integers(20, 4), jnp.bfloat16)
    queries = jnp.asarray(integers(3, 4, seed=1), jnp.bfloat16)
    result = build(vectors).search(queries, 5)
    wanted = by_argsort(np.float32(vectors), np.float32(queries), 5)
    np.testing.assert_array_equal(result.scores, wanted[1])


def test_nan_is_an_error_and_says_how_many(build):
    vectors = np.float32(integers(10, 3))
    queries = np.float32(integers(6, 3, seed=1))
    queries[[1, 4], 2] = np.nan
    with pytest.raises(FloatingPointError, match="2 of 6 queries, the first at 1"):
        build(vectors).search(queries, 2)
    vectors[3, 0] = np.nan
    with pytest.raises(FloatingPointError):
        build(vectors).search(queries[:1], 2)


def test_nan_with_a_sign_is_an_error_too(build):
    """top_k puts it last, where nobody would see it."""
    vectors = np.float32(integers(10, 3))
    vectors[3] = -np.float32(np.nan)
    with pytest.raises(FloatingPointError):
        build(vectors).search(np.ones((2, 3), np.float32), 2)


def test_k_outside_the_catalogue_names_both_numbers(build):
    index = build(np.float32(integers(10, 3)))
    for k in (0, 11):
        with pytest.raises(InputError, match=f"k={k} is not within 1..10"):
            index.search(np.ones((2, 3), np.float32), k)


def test_what_does_not_fit_is_an_error(build):
    index, queries = build(np.float32(integers(10, 3))), np.ones((2, 3), np.float32)
    with pytest.raises(InputError, match="2 offsets .* 2 queries need 3"):
        index.search(queries, 2, excluding([1]))
    with pytest.raises(InputError, match="has ids -1..10; the index has rows 0..9"):
        index.search(queries, 2, excluding([-1], [10]))
    with pytest.raises(InputError, match="as the index; got .2, 4."):
        index.search(np.ones((2, 4), np.float32), 2)
    with pytest.raises(InputError, match="a mask of 9 rows; the index has 10"):
        index.search(queries, 2, None, np.ones(9, bool))
    with pytest.raises(InputError, match="allowed has rows 3..10; the index has"):
        index.search(queries, 2, None, np.array([3, 10]))
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(InputError, match="expected vectors"):
            build(np.ones(shape, np.float32))


@pytest.mark.parametrize("build", PREFER_LOWER, ids=["exact", "tiled"])
@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(0, 10**6),
)
def test_exact_equals_argsort_on_any_shape(build, n, q, d, k, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, n, rng.integers(0, 2 * n)) for _ in range(q)]
    allowed = rng.permutation(n)[: rng.integers(n + 1)] if seed % 2 else None
    vectors, queries = integers(n, d, seed=seed, largest=2), integers(q, d, seed=seed)
    check(build, vectors, queries, min(k, n), excluding(*rows), allowed)


@pytest.mark.parametrize("total", [1, 4, 5, 8, 11])
def test_blocks_do_not_show(monkeypatch, total):
    monkeypatch.setattr(search_lib, "BLOCK_ROWS", 4)
    monkeypatch.setattr(search_lib, "BLOCK_BYTES", 0)
    rows = [[q % 20, 3] for q in range(total)]
    vectors, queries = integers(20, 3), integers(total, 3, seed=1)
    check(search_lib.Exact.build, vectors, queries, 6, excluding(*rows))


def test_two_searches_are_one_program(monkeypatch):
    monkeypatch.setattr(search_lib, "BLOCK_ROWS", 16)
    monkeypatch.setattr(search_lib, "BLOCK_BYTES", 0)
    vectors, k = np.float32(integers(70, 5)), 9
    index = search_lib.Exact.build(vectors)
    with compilations.counted() as seen:
        for total in (40, 57):  # neither is a multiple of the block
            queries = np.float32(integers(total, 5, seed=total))
            exclude = excluding(*[range(2 + q % 2) for q in range(total)])
            index.search(queries, k, exclude)
        other = search_lib.Exact.build(2 * vectors)
        other.search(queries, k, exclude)
    assert seen.count == 1
    with compilations.counted() as seen:
        for _ in range(2):
            search_lib.Approx.build(vectors).search(queries, k, exclude)
    assert seen.count == 1


def test_scores_never_hold_all_queries_by_all_items(monkeypatch):
    shapes = []

    def score(queries, vectors):
        scores = topk.inner_product(queries, vectors)
        shapes.append(scores.shape)
        return scores

    monkeypatch.setattr(search_lib, "BLOCK_BYTES", 4 * 50 * 100)
    queries, vectors = np.ones((1000, 3), np.float32), np.ones((100, 3), np.float32)
    search_lib.blocked_top_k(score, queries, operands=vectors, k=3, num_items=100)
    assert shapes == [(50, 100)]


def test_other_scorers_take_the_same_path():
    """Counts of what follows the last item: whole numbers, queries not vectors."""
    table = integers(20, 20)
    queries = {"last": np.arange(15), "weight": np.arange(1, 16)}

    def score(queries, table):
        return queries["weight"][:, None] * table[queries["last"]]

    result = search_lib.blocked_top_k(
        score,
        queries,
        operands=jnp.asarray(table),
        k=4,
        num_items=20,
        exclude=excluding(*[[q] for q in range(15)]),
    )
    masked = np.float32(queries["weight"][:, None] * table[:15])
    masked[np.arange(15), np.arange(15)] = -np.inf
    np.testing.assert_array_equal(result.scores, -np.sort(-masked, axis=1)[:, :4])


def test_scores_have_full_float32_precision():
    rng = np.random.default_rng(4)
    vectors, queries = rng.normal(size=(300, 64)), rng.normal(size=(20, 64))
    vectors, queries = np.float32(vectors), np.float32(queries)
    result = search_lib.Exact.build(vectors).search(queries, 300)
    _, scores = by_argsort(vectors, queries, 300)
    np.testing.assert_allclose(result.scores, scores, atol=2e-5)
    program = jax.jit(topk.inner_product).lower(queries, vectors).as_text()
    assert "HIGHEST" in program
