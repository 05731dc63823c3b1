"""What rows of tables are made of: test figures, paired by seed, beside their like."""

import made_up_runs
import numpy as np
import pytest
from scipy import stats

from experiments.common import cells as cells_lib
from experiments.common import series, summaries, summary, tabulate
from recall_jax.training.loop import Diverged

BY = "ndcg@10"
BASE, OTHER = {"loss.temperature": "0.1"}, {"loss.temperature": "0.2"}


def cells_of(folder, own, figures, **how) -> list[cells_lib.Cell]:
    """A seed an entry."""
    return [
        made_up_runs.cell(folder, own, each, seed=seed, **how)
        for seed, each in enumerate(figures)
    ]


def rows_of(cells) -> dict[str, dict]:
    (group,) = summaries.summarize(cells)
    return {row["label"].partition("=")[2]: row for row in group["rows"]}


def test_differences_are_of_the_same_seeds_where_some_are_missing(tmp_path):
    """Seed 1 of the first and seed 2 of the other have no figures."""
    first = [(0.0, 0.1), Diverged("no number"), (0.0, 0.3), (0.0, 0.5)]
    other = [(0.0, 0.2), (0.0, 0.9), None, (0.0, 0.8)]
    rows = rows_of(
        [*cells_of(tmp_path, BASE, first), *cells_of(tmp_path, OTHER, other)]
    )
    gaps = [0.2 - 0.1, 0.8 - 0.5]
    error = np.std(gaps, ddof=1) / np.sqrt(2)
    assert rows["0.2"]["versus_first"] == {
        "metric": BY,
        "mean": pytest.approx(np.mean(gaps)),
        "standard_error": pytest.approx(error),
        "half_width": pytest.approx(stats.t.ppf(0.975, 1) * error),
        "seeds": 2,
    }
    assert rows["0.1"]["versus_first"] is None
    group = {"metrics": [BY], "compared_by": BY}
    shown = tabulate.shown_row(rows["0.2"], group=group)
    assert shown[f"vs first, {BY}"] == f"+0.2000 +-{12.7062 * error:.4f}"


def test_one_seed_in_common_makes_no_difference(tmp_path):
    first = cells_of(tmp_path, BASE, [(0.0, 0.1), None, (0.0, 0.3)])
    other = cells_of(tmp_path, OTHER, [None, (0.0, 0.2), (0.0, 0.6)])
    assert rows_of([*first, *other])["0.2"]["versus_first"] is None


def test_rows_of_models_have_test_figures(tmp_path):
    cells = cells_of(tmp_path, BASE, [(0.7, 0.1), (0.8, 0.3)])
    assert rows_of(cells)["0.1"]["metrics"][BY]["mean"] == pytest.approx(0.2)
    assert series.mean(cells, "test", BY) == pytest.approx(0.2)
    points = series.over_seconds(cells, BY)["a machine"]
    assert [point.mean for point in points] == [0.1, 0.3]
    values = {(row, metric): x for row, metric, x in tabulate.values(cells[0])}
    assert (values["valid", BY], values["test", BY]) == (0.7, 0.1)


def test_a_run_tells_its_validation_and_its_test_figures_apart(tmp_path):
    (cell,) = cells_of(tmp_path, BASE, [(0.7, 0.1)])
    lines = {
        line.split("|")[1].strip(): line
        for line in summary._figures(cell.results).splitlines()
    }
    assert "0.7000" in lines["on validation"] and "0.1000" not in lines["on validation"]
    assert "0.1000" in lines["dssm_synthetic, test"]


def test_figures_of_other_candidates_stand_apart(tmp_path):
    first = cells_of(tmp_path, BASE, [(0.1, 0.1)])
    other = cells_of(tmp_path, OTHER, [(0.2, 0.2)], candidates="100 drawn")
    groups = summaries.summarize([*first, *other])
    assert [group["candidates"] for group in groups] == [
        "whole catalogue ranked",
        "100 drawn",
    ]
    other[0].results["candidates"] = "whole catalogue ranked"
    assert len(summaries.summarize([*first, *other])) == 1
    other[0].data = {"source": "a log", "events": 6999}
    assert len(summaries.summarize([*first, *other])) == 2
