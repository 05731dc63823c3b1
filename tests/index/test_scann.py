"""ScaNN beyond the shared cases: its settings, and asking for more."""

import builtins

import numpy as np
import pytest
from test_search import by_argsort, check, excluding, integers, scann

from recall_jax.index import scann as scann_lib
from recall_jax.index import search
from recall_jax.types import InputError


def test_scann_answers_do_not_depend_on_blocks(monkeypatch):
    monkeypatch.setattr(search, "BLOCK_BYTES", 8 * 50)
    rows = [range(2 * q) for q in range(11)]
    check(scann, integers(30, 3), integers(11, 3, seed=1), 6, excluding(*rows))


def test_scann_tree_finds_most_and_all_when_all_is_searched():
    pytest.importorskip("scann", reason="scann is not installed")
    vectors, queries = integers(2000, 8), integers(30, 8, seed=1)
    best, _ = by_argsort(vectors, queries, 200)
    exclude = excluding(*[row[: 6 * q] for q, row in enumerate(best)])
    all_of_it = scann_lib.ScannSettings(leaves=44, leaves_to_search=44, reorder=2000)
    check(
        lambda x: scann_lib.Scann.build(x, settings=all_of_it),
        vectors,
        queries,
        3,
        exclude,
    )
    some = all_of_it._replace(leaves_to_search=15, reorder=100)
    index = scann_lib.Scann.build(np.float32(vectors), settings=some)
    result = index.search(np.float32(queries), 10, exclude)
    wanted, _ = by_argsort(vectors, queries, 10, exclude)
    hits = np.mean([np.isin(a, b).mean() for a, b in zip(result.ids, wanted)])
    assert hits > 0.5  # about 0.8, and never quite the same tree


def test_scann_tree_asks_for_more_until_the_answer_is_long_enough():
    """One leaf holds about twenty rows, and a query wants 300 of 700 left."""
    pytest.importorskip("scann", reason="scann is not installed")
    few = scann_lib.ScannSettings(leaves=50, leaves_to_search=1, reorder=0)
    vectors = np.float32(integers(1000, 4))
    index = scann_lib.Scann.build(vectors, settings=few)
    exclude = excluding([*range(300)] * 3, range(990), range(1000), [])
    result = index.search(np.float32(integers(4, 4, seed=1)), 300, exclude)
    np.testing.assert_array_equal((result.ids >= 0).sum(axis=1), [300, 10, 0, 300])
    assert result.ids[0].min() >= 300 and set(result.ids[1][:10]) == set(
        range(990, 1000)
    )
    for row in result.ids:
        assert len(set(row[row >= 0])) == (row >= 0).sum()


def test_scann_settings_follow_the_catalogue_and_the_target():
    assert scann_lib.scann_settings(19_999).reorder == 0
    sizes = [scann_lib.scann_settings(10**e).leaves for e in (5, 6, 7)]
    assert sizes == [1264, 4000, 12648]
    some = [scann_lib.scann_settings(10**6, recall_target=x) for x in (0.8, 0.95, 0.99)]
    for field in ("leaves_to_search", "reorder"):
        values = [getattr(settings, field) for settings in some]
        assert values[0] < values[1] < values[2]
    almost = scann_lib.scann_settings(10**6, recall_target=1 - 1e-9)
    assert almost.leaves_to_search == almost.leaves and almost.reorder == 10**6
    with pytest.raises(InputError, match="recall_target 1.0 is not between 0 and 1"):
        scann_lib.scann_settings(10**6, recall_target=1.0)


def test_scann_searches_more_leaves_where_the_data_asks_for_them(monkeypatch):
    pytest.importorskip("scann", reason="scann is not installed")
    monkeypatch.setattr(scann_lib, "TREE_ROWS", 100)
    vectors = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)
    index = scann_lib.Scann.build(vectors)  # noise has no parts: the hardest case
    rule = scann_lib.scann_settings(3000)
    assert index.settings.leaves_to_search > 2 * rule.leaves_to_search
    queries = np.random.default_rng(1).normal(size=(50, 16)).astype(np.float32)
    result = index.search(queries, 10)
    best, _ = by_argsort(vectors, queries, 10)
    hits = np.mean([np.isin(a, b).mean() for a, b in zip(result.ids, best)])
    assert hits > 0.85  # the target is 0.95, on average over trees


def test_without_scann_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("scann"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(search.MissingPackage, match="pip install scann"):
        scann_lib.Scann.build(np.ones((3, 2), np.float32))
