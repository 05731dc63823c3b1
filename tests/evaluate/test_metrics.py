import doctest
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.evaluate import metrics
from recall_jax.evaluate.metrics import MISS
from recall_jax.types import InputError


def ranks_of(*rows):
    return np.array(rows, np.int32)


def target_ranks(ids, scores, targets):
    """Of one query."""
    lists = np.array([ids], np.int32), np.array([scores], np.float32)
    return metrics.target_ranks(*lists, targets=np.array([targets], np.int32))[0]


def test_examples_in_docstrings_run():
    result = doctest.testmod(metrics)
    assert result.attempted >= 12 and result.failed == 0


def test_rank_is_the_position_where_nothing_is_tied():
    ranks = target_ranks([7, 3, 5, 1], [4.0, 3.0, 2.0, 1.0], [5, 7, 3])
    np.testing.assert_array_equal(ranks, [2, 0, 1])
    assert ranks.dtype == np.int32


def test_a_target_that_is_absent_or_padding_is_a_miss():
    np.testing.assert_array_equal(
        target_ranks([7, 3, -1], [2.0, 1.0, -np.inf], [8, -1, 3]), [MISS, MISS, 1]
    )


def test_the_same_id_in_another_query_is_no_hit():
    ids, scores = np.array([[1, 2], [3, 4]]), np.array([[2.0, 1.0], [2.0, 1.0]])
    ranks = metrics.target_ranks(ids, scores, targets=np.array([[3], [1]]))
    np.testing.assert_array_equal(ranks, [[MISS], [MISS]])


def test_a_target_ranks_last_among_its_equals():
    scores = [3.0, 2.0, 2.0, 2.0, 1.0]
    np.testing.assert_array_equal(target_ranks([9, 4, 5, 6, 8], scores, [4]), [3])


def test_tied_targets_take_consecutive_places_after_the_others():
    scores = [3.0, 2.0, 2.0, 2.0, 1.0]
    ranks = target_ranks([9, 4, 5, 6, 8], scores, [6, 4])
    np.testing.assert_array_equal(ranks, [3, 2])


def test_a_target_tied_with_the_last_of_a_full_list_is_a_miss():
    ids, scores = [9, 4, 5, 6], [3.0, 2.0, 2.0, 2.0]
    np.testing.assert_array_equal(target_ranks(ids, scores, [4, 9]), [MISS, 0])
    np.testing.assert_array_equal(target_ranks(ids, scores, [6]), [MISS])


def test_in_a_list_that_ran_out_the_last_tie_counts():
    ids, scores = [9, 4, 5, -1], [3.0, 2.0, 2.0, -np.inf]
    np.testing.assert_array_equal(target_ranks(ids, scores, [4]), [2])
    np.testing.assert_array_equal(target_ranks([9, -1], [0.0, 0.0], [9]), [0])


def test_a_model_that_scores_everything_alike_gets_nothing():
    ids = np.arange(11)[None]
    for target in range(11):
        ranks = metrics.target_ranks(
            ids, np.full((1, 11), 0.5), targets=np.array([[target]])
        )
        assert metrics.hit_rate_at_k(ranks, k=10) == 0


def test_integer_valued_float64_scores_are_compared_exactly():
    scores = np.array([[2.0**40 + 1, 2.0**40, 1.0]])
    ranks = metrics.target_ranks(
        np.array([[0, 1, 2]]), scores, targets=np.array([[0, 1]])
    )
    np.testing.assert_array_equal(ranks, [[0, 1]])


def test_nan_is_an_error_that_names_number_and_query():
    scores = np.array([[1.0, 0.5], [np.nan, np.nan], [2.0, np.nan]])
    ids = np.array([[0, 1]] * 3)
    with pytest.raises(FloatingPointError, match="3 scores are NaN.*query 1"):
        metrics.target_ranks(ids, scores, targets=np.array([[0]] * 3))


def test_rising_scores_and_repeated_targets_are_errors():
    with pytest.raises(InputError, match="rise in 1 queries"):
        target_ranks([0, 1], [1.0, 2.0], [0])
    with pytest.raises(InputError, match="distinct"):
        target_ranks([0, 1], [2.0, 1.0], [0, 0])


def test_no_queries_give_no_ranks():
    empty = np.zeros((0, 5))
    targets = np.zeros((0, 2), np.int32)
    ranks = metrics.target_ranks(empty.astype(np.int32), empty, targets=targets)
    assert ranks.shape == (0, 2)


def slow_ranks(ids, scores, targets):
    """By counting, one target at a time."""
    ranks = np.full(targets.shape, MISS)
    for q, row in enumerate(targets):
        real = [(s, i) for s, i in zip(scores[q], ids[q], strict=True) if i != -1]
        last = scores[q, -1] if ids[q, -1] != -1 else None
        earlier = {}
        for score, item in real:
            if item in row:
                earlier.setdefault(score, []).append(item)
        for t, target in enumerate(row):
            own = [s for s, i in real if i == target]
            if target == -1 or not own or own[0] == last:
                continue
            others = sum(s >= own[0] and i not in row for s, i in real)
            better = sum(s > own[0] and i in row for s, i in real)
            ranks[q, t] = others + better + earlier[own[0]].index(target)
    return ranks


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 5))
def test_ranks_equal_counting_on_lists_full_of_ties(seed, listed, num_targets):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(10)[:listed] for _ in range(6)])
    scores = -np.sort(-rng.integers(0, 3, ids.shape).astype(np.float32), axis=1)
    ended = np.arange(listed) >= rng.integers(0, listed + 3, 6)[:, None]
    ids, scores = np.where(ended, -1, ids), np.where(ended, -np.inf, scores)
    targets = np.stack([rng.permutation(10)[:num_targets] for _ in range(6)])
    targets = np.where(rng.random(targets.shape) < 0.2, -1, targets)
    got = metrics.target_ranks(ids, scores, targets=targets)
    np.testing.assert_array_equal(got, slow_ranks(ids, scores, targets))


def test_values_by_hand():
    ranks = ranks_of([0, 3, MISS], [MISS, MISS, MISS], [4, 2, 1])
    relevant = np.array([3, 2, 8])
    table = metrics.metric_table(
        ranks,
        relevant,
        [
            "hr@1",
            "hr@3",
            "recall@4",
            "precision@4",
            "mrr@3",
            "mrr@1",
            "ndcg@4",
            "map@4",
        ],
    )
    log2 = np.log2
    by_hand = {
        "hr@1": [1, 0, 0],
        "hr@3": [1, 0, 1],
        "recall@4": [2 / 3, 0, 2 / 8],
        "precision@4": [2 / 4, 0, 2 / 4],
        "mrr@3": [1, 0, 1 / 2],
        "mrr@1": [1, 0, 0],  # rank 1 is the second place
        "ndcg@4": [
            (1 + 1 / log2(5)) / (1 + 1 / log2(3) + 1 / log2(4)),
            0,
            (1 / log2(3) + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4) + 1 / log2(5)),
        ],
        "map@4": [(1 + 2 / 4) / 3, 0, (1 / 2 + 2 / 3) / 4],
    }
    assert list(table) == list(by_hand)
    for name, values in by_hand.items():
        assert table[name].dtype == np.float64
        np.testing.assert_allclose(table[name], values, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["hr", "recall", "ndcg", "map"])
def test_a_perfect_list_gets_one(kind):
    ranks = ranks_of([2, 0, 1], [0, MISS, MISS])
    table = metrics.metric_table(ranks, np.array([3, 1]), [f"{kind}@3", f"{kind}@20"])
    for values in table.values():
        np.testing.assert_allclose(values, 1)


def test_ndcg_and_map_are_ideal_over_what_k_can_hold():
    ranks = ranks_of([0, 1])
    for metric in (metrics.ndcg_at_k, metrics.map_at_k):
        np.testing.assert_allclose(metric(ranks, k=2, num_relevant=np.array([50])), 1)


def test_with_one_target_hit_rate_is_recall_and_mrr_is_map():
    ranks = np.random.default_rng(0).integers(0, 30, (200, 1)).astype(np.int32)
    one = np.ones(200, int)
    names = ["hr@10", "recall@10", "mrr@10", "map@10"]
    values = metrics.metric_table(ranks, one, names)
    np.testing.assert_array_equal(values["hr@10"], values["recall@10"])
    np.testing.assert_allclose(values["mrr@10"], values["map@10"])


def test_a_query_without_relevant_items_is_an_error():
    with pytest.raises(InputError, match="query 1 has 0 relevant"):
        metrics.recall_at_k(ranks_of([0], [0]), k=5, num_relevant=np.array([1, 0]))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ndgc@10", "ndcg@10"),
        ("HR@5", "hr@5"),
        ("recal@20", "recall@20"),
        ("hr", "hr@10"),
        ("hr@0", "hr@10"),
        ("mrr@x", "mrr@10"),
        ("", "@10"),
    ],
)
def test_an_unknown_name_gets_the_nearest(wrong, right):
    with pytest.raises(InputError, match=f"did you mean .*{right}"):
        metrics.metric_table(ranks_of([0]), np.array([1]), [wrong])


def test_auc_equals_counting_pairs_with_ties_half():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(1, 6, 40) * 1.0, rng.integers(0, 5, 70) * 1.0
    above = positive[:, None] > negative
    tied = positive[:, None] == negative
    by_hand = (above + tied / 2).mean()
    np.testing.assert_allclose(metrics.auc(positive, negative), by_hand, rtol=1e-12)
    assert metrics.auc(np.ones(3), np.ones(5)) == 0.5


def test_auc_refuses_nan_and_nothing():
    with pytest.raises(FloatingPointError):
        metrics.auc(np.array([1.0, np.nan]), np.array([0.0]))
    with pytest.raises(InputError, match="0 negatives"):
        metrics.auc(np.array([1.0]), np.array([]))


def test_list_metrics_leave_out_the_end_of_short_lists_and_what_follows_k():
    ids = np.array([[0, 5, 9], [5, -1, -1]])
    assert metrics.coverage_at_k(ids, k=2, num_items=10) == 0.2
    assert metrics.average_popularity_rank(ids, k=2) == pytest.approx(10 / 3)


def test_gini_is_the_mean_absolute_difference_over_twice_the_mean():
    rng = np.random.default_rng(0)
    ids = rng.zipf(1.5, (300, 4)) % 20
    counts = np.bincount(ids[:, :3].ravel(), minlength=20)
    by_hand = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    got = metrics.gini_at_k(ids, k=3, num_items=20)
    np.testing.assert_allclose(got, by_hand, rtol=1e-12)
    assert metrics.gini_at_k(np.arange(20)[:, None], k=1, num_items=20) == 0


def test_an_id_beyond_the_catalogue_is_an_error():
    with pytest.raises(InputError, match="id 7 is not within 0..4"):
        metrics.coverage_at_k(np.array([[7]]), k=1, num_items=5)


def test_interval_agrees_with_the_normal_one_for_many_users():
    values = np.random.default_rng(1).random(4000)
    low, high = metrics.bootstrap_interval(values, samples=2000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    np.testing.assert_allclose(
        [low, high], values.mean() + half * np.array([-1, 1]), atol=half / 10
    )


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    draws = (rng.random((200, 400)) < 0.3).astype(float)
    covered = 0
    for seed, values in enumerate(draws):
        low, high = metrics.bootstrap_interval(
            values, seed=seed, samples=400, level=0.9
        )
        covered += low <= 0.3 <= high
    assert 165 <= covered <= 195


def test_interval_is_the_same_for_a_seed_and_narrower_for_a_lower_level():
    values = np.random.default_rng(3).random(500)
    first = metrics.bootstrap_interval(values, seed=4)
    assert first == metrics.bootstrap_interval(values, seed=4)
    assert first != metrics.bootstrap_interval(values, seed=5)
    low, high = metrics.bootstrap_interval(values, seed=4, level=0.5)
    assert first[0] < low < high < first[1]


def test_columns_have_the_interval_they_have_alone():
    values = np.random.default_rng(5).random((300, 3))
    low, high = metrics.bootstrap_interval(values, seed=6)
    for column in range(3):
        alone = metrics.bootstrap_interval(values[:, column], seed=6)
        np.testing.assert_allclose([low[column], high[column]], alone, rtol=1e-12)


def test_more_users_than_draws_at_a_time_still_resample(monkeypatch):
    values = np.random.default_rng(7).random(100)
    whole = metrics.bootstrap_interval(values)
    monkeypatch.setattr(metrics, "_DRAWS", 10)
    np.testing.assert_allclose(metrics.bootstrap_interval(values), whole, atol=0.02)


def test_interval_refuses_nan_and_nothing():
    with pytest.raises(FloatingPointError):
        metrics.bootstrap_interval(np.array([0.0, np.nan]))
    with pytest.raises(InputError, match="no queries"):
        metrics.bootstrap_interval(np.array([]))


def test_interval_over_six_thousand_users_takes_no_time():
    values = np.random.default_rng(8).random(6040)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        metrics.bootstrap_interval(values)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5  # 0.03 on two quiet cores
