"""The bench of search runs, on sizes that say nothing about speed."""

import numpy as np
import pytest

from experiments.bench import search
from recall_jax.index import scann


def test_drawn_vectors_come_from_the_seed_and_their_spectrum_falls_off():
    vectors, queries = search.draw(2000, queries=50, clusters=100, decay=0.5)
    again, _ = search.draw(2000, queries=50, clusters=100, decay=0.5)
    np.testing.assert_array_equal(vectors, again)
    assert vectors.shape == (2000, 64) and queries.shape == (50, 64)
    variance = vectors.var(axis=0)
    assert variance[:8].mean() > 4 * variance[-8:].mean()


def test_auto_is_one_of_the_settings_and_each_has_its_figures(monkeypatch, tmp_path):
    pytest.importorskip("scann", reason="scann is not installed")
    monkeypatch.setattr(scann, "TREE_ROWS", 100)
    cases = [search.draw(num, queries=20, clusters=10) for num in (600, 400)]
    result = search.run(cases, rounds=1, recall_target=0.9)
    rows = result["rows"]
    assert [row["vectors"] for row in rows if row.get("auto")] == [600, 400]
    assert all(0 < row["recall@10"] <= 1 for row in rows)
    assert min(row[key] for row in rows for key in ("batch q/s", "single ms")) > 0
    assert all(row["recall@10"] > 0.99 for row in rows if row["index"] == "exact")
    assert result["auto_recall@10"] == result["auto_recall@10_600"], "of the largest"
    assert result["auto_speedup_over_exact"] > 0
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    search.draw_plot(rows, tmp_path / "plots" / "search.png")
    assert (tmp_path / "plots" / "search.png").read_bytes().startswith(b"\x89PNG")


def test_exact_evaluation_is_timed_and_its_memory_taken():
    taken, peak = search.evaluation(30, 200, 3, rounds=2)
    assert taken > 0 and 0 <= peak < 1000
