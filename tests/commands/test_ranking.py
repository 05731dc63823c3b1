"""Which setting of a sweep comes first, and by which figures: validation chooses."""

import json

import made_up_runs
import numpy as np
import pytest

from experiments.common import cells as cells_lib
from experiments.common import ranking
from recall_jax.training.loop import Diverged

BY = "ndcg@10"  # select_by
FIELD = "optim.learning_rate"


@pytest.fixture
def cells(tmp_path):
    """Cells of settings by learning rate, a seed an entry."""

    def make(**settings) -> list[cells_lib.Cell]:
        return [
            made_up_runs.cell(tmp_path, {FIELD: rate}, figures, seed=seed)
            for rate, seeds in settings.items()
            for seed, figures in enumerate(seeds)
        ]

    return make


def order(rows) -> list[str]:
    return [row["own"][FIELD] for row in rows]


def test_validation_chooses_and_test_is_only_told(cells):
    """The best on test is the worst on validation, and the other way round."""
    runs = cells(a=[(0.1, 0.6)], b=[(0.3, 0.2)], c=[(0.2, 0.4)])
    rows = ranking.ranked(runs)
    assert order(rows) == ["b", "c", "a"]
    assert [row["valid"] for row in rows] == [0.3, 0.2, 0.1]
    assert [row["test"][BY] for row in rows] == [0.2, 0.4, 0.6]


def test_select_by_chooses_and_no_other_metric(cells):
    """hr@10 of these is the other way round, on validation and on test."""
    runs = cells(a=[(0.1, 0.1)], b=[(0.3, 0.3)])
    assert order(ranking.ranked(runs)) == ["b", "a"]
    for cell in runs:
        cell.config.evaluate.select_by = "hr@10"
    assert order(ranking.ranked(runs)) == ["a", "b"]


def test_figures_are_means_and_deviations_over_finished_seeds(cells):
    valid, test = [0.1, 0.2, 0.6], [0.3, 0.35, 0.25]
    seeds = list(zip(valid, test))
    (row,) = ranking.ranked(cells(a=[*seeds, None, Diverged("no number")]))
    assert row["valid"] == pytest.approx(np.mean(valid))
    assert row["valid_sd"] == pytest.approx(np.std(valid, ddof=1))
    assert row["test"] == pytest.approx({"hr@10": 0.5, BY: 0.3, "recall@20": 0.6})
    assert (row["finished"], row["seeds"]) == (3, 5)
    ends = ["finished"] * 3 + ["missing", "diverged"]
    assert row["outcomes"] == dict(zip("01234", ends))


def test_one_seed_has_no_deviation(cells):
    (row,) = ranking.ranked(cells(a=[(0.1, 0.2)]))
    assert row["valid_sd"] is None


def test_fewer_finished_seeds_come_after_worse_means(cells):
    runs = cells(
        lost=[Diverged("no number")] * 2,
        one=[(0.9, 0.9), None],
        two=[(0.1, 0.1), (0.2, 0.2)],
    )
    rows = ranking.ranked(runs)
    assert order(rows) == ["two", "one", "lost"]
    assert rows[-1]["valid"] is None and rows[-1]["test"] == {}


def test_equals_keep_the_order_in_which_they_were_asked_for(cells):
    alike = {"c": [(0.2, 0.1)], "a": [(0.2, 0.9)], "b": [(0.2, 0.5)]}
    assert order(ranking.ranked(cells(**alike))) == ["c", "a", "b"]
    none = cells(b=[None], a=[None])
    assert order(ranking.ranked(none)) == ["b", "a"]


def shown(text: str) -> list[list[str]]:
    """The cells of the first table."""
    lines = text.split("\n\n")[0].splitlines()
    return [[x.strip() for x in line[1:-1].split("|")] for line in lines]


def test_the_table_says_which_figure_is_of_which_part(cells):
    runs = cells(
        a=[(0.1, 0.6), (0.2, 0.5)],
        b=[(0.3, 0.2), (0.5, 0.3)],
        c=[(0.7, 0.1), Diverged("no number")],
        d=[None, None],
    )
    text = ranking.as_text(runs)
    heading, _, *rows = shown(text)
    assert heading == [
        FIELD,
        f"valid {BY}",
        "sd",
        f"test {BY}",
        "seeds",
    ]
    assert [row[0] for row in rows] == ["b", "a", "c", "d"]
    assert rows[0][1:] == ["0.4000", "0.1414", "0.2500", "2"]
    assert [row[-1] for row in rows[2:]] == ["1 of 2, 1 diverged", "0 of 2, 2 missing"]
    label = "dssm_synthetic:optim.learning_rate=b"
    assert (
        f"best on validation: {label}, {BY} 0.4000; on test 0.2500. Validation chose it"
    ) in text
    assert runs[2].command in text and "learning_rate=b --seed=0" in runs[2].command


def test_without_a_finished_run_nothing_is_best(cells, tmp_path):
    runs = cells(a=[None], b=[Diverged("no number")])
    assert "best on validation" not in ranking.as_text(runs)
    ranking.write(runs, tmp_path)
    assert json.loads((tmp_path / "sweep.json").read_text())["best"] is None


def test_files_name_the_best_on_validation(cells, tmp_path):
    runs = cells(a=[(0.1, 0.6)], b=[(0.3, 0.2)])
    ranking.write(runs, tmp_path)
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert written["best"] == "dssm_synthetic:optim.learning_rate=b"
    assert written["settings"] == ranking.ranked(runs)
    assert [group["compared_by"] for group in written["groups"]] == [BY]
    lines = (tmp_path / "sweep.csv").read_text().splitlines()
    assert f"dssm_synthetic,optim.learning_rate=b,0,valid,{BY},0.3" in lines
    assert f"dssm_synthetic,optim.learning_rate=b,0,test,{BY},0.2" in lines
    assert "best on validation" in (tmp_path / "sweep.md").read_text()
