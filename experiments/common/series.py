"""Points of a chart from the runs of one config: means over seeds, and their spread."""

from collections.abc import Iterable, Sequence

import numpy as np

from experiments.common import groups, results, summaries
from experiments.common.cells import Cell
from experiments.common.plots import Point
from recall_jax.evaluate import metrics as metrics_lib


def mean(cells: Sequence[Cell], row: str, metric: str) -> float:
    """Over the seeds that have the metric; below everything where none has."""
    values = [summaries.means(cell, row).get(metric) for cell in cells]
    return float(np.mean([x for x in values if x is not None] or [-np.inf]))


def point(rows: Iterable[results.Row], metric: str, *, x: float) -> Point | None:
    """A metric over the seeds that have it."""
    rows = [row for row in rows if metric in row.means]
    if not rows:
        return None
    values = [row.means[metric] for row in rows]
    bounds = [row.intervals[metric] for row in rows if metric in row.intervals]
    users = tuple(np.mean(bounds, axis=0).tolist()) if bounds else None
    return Point(x, float(np.mean(values)), min(values), max(values), users)


def of_metrics(
    cells: Sequence[Cell], row: str, metrics: Iterable[str]
) -> dict[str, Point]:
    """A row's points by metric, without those that no run has."""
    rows = rows_of(cells, row)
    points = {metric: point(rows, metric, x=0.0) for metric in metrics}
    return {metric: at for metric, at in points.items() if at}


def in_segments(
    cells: Sequence[Cell], row: str, members: Iterable[str], metric: str
) -> list[Point]:
    """A row's points in those of the segments that have the metric; x is the number of
    the segment."""
    rows_by_cell = [results.segment_rows(cell.results) for cell in cells]
    points = []
    for place, name in enumerate(members):
        rows = [
            rows[f"{row}_{name}"] for rows in rows_by_cell if f"{row}_{name}" in rows
        ]
        points.append(point(rows, metric, x=place))
    return [at for at in points if at]


def over_seconds(cells: Iterable[Cell], metric: str) -> dict[str, list[Point]]:
    """By device a metric on test over the seconds of training, a point a run; not of
    runs that trained together, whose seconds are shares."""
    by_device: dict[str, list[Point]] = {}
    for cell in cells:
        value = summaries.means(cell, "test").get(metric)
        seconds = cell.results["seconds"].get("train")
        if None not in (value, seconds) and groups.num_together(cell) == 1:
            at = Point(seconds, value, value, value)
            by_device.setdefault(cell.results["device"], []).append(at)
    return by_device


def rows_of(cells: Sequence[Cell], name: str = "test") -> list[results.Row]:
    """A row of every run that has it, with the metrics that are of no list."""
    pairs = [(cell, results.rows(cell.results).get(name)) for cell in cells]
    return [
        row._replace(means=summaries.means(cell, name)) for cell, row in pairs if row
    ]


def curve_rows(cells: Sequence[Cell]) -> list[results.Row]:
    """The model's figures at several k, of the runs that have them."""
    rows = [results.curves(cell.results).get("test") for cell in cells]
    return [row for row in rows if row]


def curve_kinds(rows: Iterable[results.Row]) -> list[str]:
    """What is drawn over k: recall, and hit rates where they are another thing."""
    differ = any(
        abs(value - row.means[name.replace("hr@", "recall@")]) > 1e-12
        for row in rows
        for name, value in row.means.items()
        if name.startswith("hr@")
    )
    return ["recall", "hr", "ndcg"] if differ else ["recall", "ndcg"]


def curve(rows: Sequence[results.Row], kind: str) -> list[Point]:
    """A kind of metric, as "hr", over k."""
    names = {name: None for row in rows for name in row.means}
    sizes = sorted(k for what, k in map(metrics_lib.parse, names) if what == kind)
    points = [point(rows, f"{kind}@{k}", x=k) for k in sizes]
    return [at for at in points if at]
