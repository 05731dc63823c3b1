"""Runs of several configs and seeds, grouped and averaged: the rows of a table."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.common import cells as cells_lib
from experiments.common import cli
from experiments.common import results as results_lib
from experiments.common.cells import Cell
from recall_jax.evaluate import measure
from recall_jax.run import config

FURTHER = {
    "exact": "  the same through exact",
    "approx": "  the same through approx",
    "scann": "  the same through scann",
    "test_ties_shuffled": "  trained and tested, ties shuffled",
    "test_refit": "  refitted on all of train",
}
"""Rows of results.json that stand under a config's own where a run has them."""


MEASURED = ("source", "events", "protocol", "seen", "candidates")
"""What figures must share to be compared."""


def summarize(cells: Sequence[Cell], *, by: str = "") -> list[dict[str, Any]]:
    """Groups of what may be compared, each with its rows; differences are in the metric
    `by`, or in the one that chooses checkpoints.

    One group has one source, protocol, number of events, treatment of seen items and
    choice of what is ranked; it begins with the baselines of its first finished run. The last group may be of
    configs without any figures, its "protocol" None.
    """
    groups: dict[tuple | None, list[Cell]] = {}
    keys = {_data_of(cell): key_of(cell) for cell in cells if cell.results}
    for cell in cells:
        # A run that failed belongs beside those on the same data.
        key = key_of(cell) if cell.results else keys.get(_data_of(cell))
        groups.setdefault(key, []).append(cell)
    unknown = groups.pop(None, [])
    summaries = [_group(key, members, by=by) for key, members in groups.items()]
    return summaries + (
        [_group((None,) * len(MEASURED), unknown, by=by)] if unknown else []
    )


def key_of(cell: Cell) -> tuple:
    """What a finished run's figures share with those they compare with (`MEASURED`)."""
    data, results = cell.data, cell.results
    measured = results["protocol"], results["seen"], results["candidates"]
    return data["source"], data["events"], *measured


def _data_of(cell: Cell) -> str:
    data = config.as_dict(cell.config.data)
    settings = cell.config.evaluate
    return json.dumps([data, settings.seen, measure.ranked(settings)])


def _group(key: tuple, cells: list[Cell], *, by: str) -> dict[str, Any]:
    labelled = cells_lib.by_label(cells)
    finished = [cell for cell in cells if cell.results]
    first = labelled[finished[0].entry.label] if finished else []
    by = by or (first[0].config.evaluate.select_by if first else "")
    rows = [
        make_row(finished[:1], name, label=name.replace("_", " "))
        for name in (baselines(finished[0]) if finished else ())
    ]
    for label, members in labelled.items():
        rows.append(make_row(members, "test", label=label, first=first, by=by))
        rows += [
            make_row(members, name, label=row_label, first=first, by=by)
            for name, row_label in FURTHER.items()
            if any(means(cell, name) for cell in members)
        ]
    rows += [
        make_row(finished[:1], name, label=f"new items, {_told(name)}")
        for name in (new_items(finished[0]) if finished else ())
        if name != "test_new"
    ]
    rows += [
        make_row(members, "test_new", label=f"new items, {label}", first=first, by=by)
        for label, members in labelled.items()
        if any("test_new" in new_items(cell) for cell in members)
    ]
    metrics = dict.fromkeys(m for cell in finished for m in metrics_of(cell))
    return dict(zip(MEASURED, key)) | {
        "metrics": list(metrics),
        "compared_by": by or None,
        "indexes": sorted({cell.results["index"] for cell in finished}),
        "devices": sorted({cell.results["device"] for cell in finished}),
        "together": any(cell.results.get("together", 1) > 1 for cell in finished),
        "rows": rows,
    }


def baselines(cell: Cell) -> list[str]:
    """Their names; an oracle bounds all the others and comes last."""
    return sorted(cell.results["baselines"], key=lambda name: name == "oracle")


def means(cell: Cell, row: str) -> dict[str, float]:
    """Metrics by name; none where the run has no such row."""
    if not cell.results:
        return {}
    figures = results_lib.rows(cell.results).get(row)
    further = results_lib.further(cell.results).get(row, {})
    return (figures.means if figures else {}) | further


def metrics_of(cell: Cell) -> list[str]:
    """Of its rows; not every row need have all of them."""
    return list(means(cell, "test"))


def new_items(cell: Cell) -> list[str]:
    """Names of the rows of items hidden from training."""
    return results_lib.hidden_rows(cell.results) if cell.results else []


def _told(name: str) -> str:
    return name.removesuffix("_new").replace("_", " ")


def make_row(
    cells: list[Cell],
    name: str,
    *,
    label: str,
    first: Sequence[Cell] = (),
    by: str = "",
) -> dict[str, Any]:
    """One row over the seeds that have it; of a baseline `cells` is one run."""
    done = [cell for cell in cells if means(cell, name)]
    row = {
        "label": label,
        "row": name,
        "baseline": name not in ("test", "test_new") and name not in FURTHER,
        "seeds": [cell.seed for cell in done],
        "metrics": {
            metric: _statistics(done, name, metric)
            for metric in (metrics_of(done[0]) if done else ())
            if metric in means(done[0], name)
        },
    }
    if row["baseline"]:
        return row
    seconds = {"test": "train", "test_refit": "refit_train"}.get(name)
    spent = [cell.results["seconds"].get(seconds) for cell in done if seconds]
    row |= {
        "config": cells[0].entry.name,
        "overrides": cells[0].entry.overrides,
        "versus_first": None
        if cells[0] in first
        else _versus(done, name, first, metric=by),
        "train_seconds": float(np.mean(spent)) if spent else None,
        "num_params": done[0].results["num_params"] if done else None,
    }
    if name == "test":
        row["command"] = cells[0].command
        row["outcomes"] = {str(cell.seed): cell.outcome for cell in cells}
        row["problems"] = {
            str(cell.seed): cell.stopped or cli.error_line(cell.problem)
            for cell in cells
            if cell.problem or cell.stopped
        }
    return row


def _statistics(cells: list[Cell], row: str, metric: str) -> dict[str, float | None]:
    mean, sd = _mean_and_sd([means(cell, row)[metric] for cell in cells])
    return {"mean": mean, "sd": sd, "half_width": _half_width(cells, row, metric)}


def _mean_and_sd(values: list[float]) -> tuple[float, float | None]:
    """Over seeds; the standard deviation by n - 1, None of one seed."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), sd


def _half_width(cells: list[Cell], row: str, metric: str) -> float | None:
    """Of the 95 % interval over users, the mean over seeds."""
    cell_intervals = [results_lib.rows(cell.results)[row].intervals for cell in cells]
    bounds = [intervals.get(metric) for intervals in cell_intervals]
    if None in bounds:
        return None
    return float(np.mean([(high - low) / 2 for low, high in bounds]))


def _versus(
    cells: list[Cell], row: str, first: Sequence[Cell], *, metric: str
) -> dict[str, Any] | None:
    """Mean difference to the first config on the same seeds, its standard error, and half
    its 95 % interval by Student's t; None with fewer than two seeds in common."""
    theirs = {cell.seed: means(cell, row).get(metric) for cell in first}
    pairs = [(means(cell, row).get(metric), theirs.get(cell.seed)) for cell in cells]
    gaps = [ours - other for ours, other in pairs if None not in (ours, other)]
    if len(gaps) < 2:
        return None
    mean, sd = _mean_and_sd(gaps)
    error = sd / math.sqrt(len(gaps))
    return {
        "metric": metric,
        "mean": mean,
        "standard_error": error,
        "half_width": error * float(stats.t.ppf(0.975, len(gaps) - 1)),
        "seeds": len(gaps),
    }
