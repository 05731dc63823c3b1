import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax import sampling

DRAWS = 200_000
CHI_SQUARE_999 = {9: 27.9, 199: 267.0}  # quantile .999 by degrees of freedom


def chance_of(keep: np.ndarray, alias: np.ndarray) -> np.ndarray:
    """What an alias table draws, worked out cell by cell."""
    chance = np.zeros(len(keep))
    for cell in range(len(keep)):
        chance[cell] += keep[cell] / len(keep)
        chance[alias[cell]] += (1 - keep[cell]) / len(keep)
    return chance


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda w: sum(w) > 1e-9)
)
def test_alias_tables_are_exact(weight):
    share = np.array(weight) / np.sum(weight)
    keep, alias = sampling.alias_table(share)
    assert (keep >= 0).all() and (keep <= 1).all()
    np.testing.assert_allclose(chance_of(keep, alias), share, atol=1e-9)


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
@pytest.mark.parametrize("size", [10, 200])
def test_frequencies_match_the_stated_log_q(kind, size):
    count = np.ceil(1000 / np.arange(1, size + 1))
    sampler = (
        sampling.uniform(size)
        if kind == "uniform"
        else sampling.popularity(count, alpha=0.75)
    )
    ids = np.asarray(sampler.draw(jax.random.key(0), shape=(DRAWS,)))
    expected = np.exp(np.asarray(sampler.log_q, np.float64))[1:]
    assert expected.sum() == pytest.approx(1, 1e-5)
    drawn = np.bincount(ids, minlength=size + 1)
    assert drawn[0] == 0
    chi_square = ((drawn[1:] - DRAWS * expected) ** 2 / (DRAWS * expected)).sum()
    assert chi_square < CHI_SQUARE_999[size - 1]


def test_popularity_is_count_to_the_alpha_and_never_the_uncounted():
    sampler = sampling.popularity(np.array([16.0, 1.0, 0.0]), alpha=0.75)
    np.testing.assert_allclose(np.exp(sampler.log_q), [0, 8 / 9, 1 / 9, 0], rtol=1e-6)
    ids = np.asarray(sampler.draw(jax.random.key(1), shape=(10_000,)))
    assert set(ids.tolist()) == {1, 2}


def test_rare_items_of_a_large_catalogue_are_still_drawn():
    """A float32 cumulative sum would lose the second half of them."""
    sampler = sampling.uniform(2_000_000)
    ids = np.asarray(sampler.draw(jax.random.key(2), shape=(DRAWS,)))
    quarters = np.bincount((ids - 1) // 500_000, minlength=4)
    assert abs(quarters - DRAWS / 4).max() < 5 * np.sqrt(DRAWS * 3 / 16)
