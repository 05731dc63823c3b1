"""k-means against a plain loop, the plane, and agreement by hand."""

import numpy as np
import pytest

from experiments.common import clusters
from recall_jax.types import InputError


def blobs(*, num: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around k far centres, and which."""
    rng = np.random.default_rng(seed)
    label = rng.integers(k, size=num)
    centre = 10 * rng.normal(size=(k, 4))
    return (centre[label] + rng.normal(size=(num, 4))).astype(np.float32), label


def lloyd(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres and clusters once nothing moves, in float64."""
    while True:
        away = np.square(rows[:, None] - centres[None]).sum(axis=2)
        of = away.argmin(axis=1)
        moved = np.stack([rows[of == j].mean(axis=0) for j in range(len(centres))])
        if np.allclose(moved, centres):
            return centres, of
        centres = moved


def test_planted_clusters_are_found_the_largest_first():
    rows, label = blobs(num=700, k=6)
    clustering = clusters.k_means(rows, 6, seed=0)
    of = np.asarray(clustering.of)
    assert clusters.purity(of, label) == 1.0
    sizes = np.bincount(of, minlength=6)
    assert (np.diff(sizes) <= 0).all() and sizes.sum() == 700
    away = np.square(rows - np.asarray(clustering.centres)[of]).sum(axis=1)
    np.testing.assert_allclose(clustering.spread, away.mean(), rtol=1e-4)


def test_nothing_moves_any_more_by_a_plain_loop():
    rows = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
    clustering = clusters.k_means(rows, 5, seed=3)
    centres, of = lloyd(
        rows.astype(np.float64), np.asarray(clustering.centres, np.float64)
    )
    np.testing.assert_allclose(clustering.centres, centres, atol=1e-3)
    assert np.mean(np.asarray(clustering.of) == of) > 0.99


def test_a_seed_gives_the_same_again_and_another_may_not():
    rows = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    first, again, other = (clusters.k_means(rows, 9, seed=s) for s in (5, 5, 6))
    for one, two in zip(first, again):
        np.testing.assert_array_equal(one, two)
    assert (np.asarray(first.of) != np.asarray(other.of)).any()


def test_equal_rows_and_as_many_clusters_as_rows():
    same = clusters.k_means(np.ones((5, 2), np.float32), 3, seed=0)
    assert np.asarray(same.of).tolist() == [0] * 5 and float(same.spread) == 0
    alone = clusters.k_means(np.eye(4, dtype=np.float32), 4, seed=0)
    assert sorted(np.asarray(alone.of).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("k", [0, 6])
def test_a_number_of_clusters_out_of_range_is_refused(k):
    with pytest.raises(InputError, match=f"{k} clusters of 5 vectors: choose 1 to 5"):
        clusters.k_means(np.ones((5, 2)), k, seed=0)


def test_the_plane_is_that_of_the_largest_variance():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 3)) * [1.0, 9.0, 4.0] + [5.0, -7.0, 2.0]
    flat = clusters.principal_axes(rows)
    centred = rows - rows.mean(axis=0)
    for axis, column in enumerate((1, 2)):
        correlation = np.corrcoef(flat.at[:, axis], centred[:, column])[0, 1]
        assert abs(correlation) > 0.99
        far = np.abs(flat.at[:, axis]).argmax()
        assert flat.at[far, axis] > 0
    variance = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    np.testing.assert_allclose(flat.share, variance[:2] / variance.sum())
    np.testing.assert_allclose(clusters.principal_axes(-rows).share, flat.share)


def test_one_column_and_equal_rows_have_a_plane():
    flat = clusters.principal_axes(np.array([[1.0], [2.0], [6.0]]))
    np.testing.assert_allclose(flat.at, [[-2, 0], [-1, 0], [3, 0]], atol=1e-12)
    assert not clusters.principal_axes(np.ones((3, 2))).at.any()


def test_agreement_by_hand():
    of, label = np.array([0, 0, 0, 1]), np.array(["a", "a", "b", "b"])
    assert clusters.purity(of, label) == 0.75
    one = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    both = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    shared = one + np.log(2) - both
    np.testing.assert_allclose(
        clusters.normalized_mutual_information(of, label),
        2 * shared / (one + np.log(2)),
    )
    assert clusters.normalized_mutual_information(of, np.zeros(4)) == 0
    assert clusters.normalized_mutual_information(np.zeros(4), np.zeros(4)) == 0
    crossed = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert abs(clusters.normalized_mutual_information(*crossed)) < 1e-12


def test_shuffled_labels_have_less_and_their_most_is_no_less_than_their_mean():
    label = np.repeat(np.arange(10), 20).astype(str)
    agreement = clusters.agreement(
        clusters.normalized_mutual_information,
        np.repeat(np.arange(10), 20),
        label,
        seed=0,
    )
    assert agreement.value == pytest.approx(1)
    assert 0 < agreement.shuffled <= agreement.most < 0.4
