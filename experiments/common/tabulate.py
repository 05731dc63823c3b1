"""A comparison of runs as text: Markdown to read, CSV to compute with."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from experiments.common import results as results_lib
from experiments.common import summaries
from experiments.common.cells import Cell
from recall_jax.training import log

ENDS = ("diverged", "failed", "stopped")  # of runs without figures


def as_text(groups: Iterable[dict[str, Any]]) -> str:
    """Every group's table in Markdown, how to read it, and what failed."""
    return "\n\n".join(_group_text(group) for group in groups)


def _group_text(group: dict[str, Any]) -> str:
    rows, metrics = group["rows"], group["metrics"]
    if not metrics:
        parts = [
            log.as_table([shown_row(row, group=group) for row in rows], columns(group))
        ]
        return "\n".join(
            ["## No figures yet", "", *parts, "", *problems(rows)]
        ).rstrip()
    lines = [f"## {group['source']}, {group['events']:,} events", ""]
    shown = [shown_row(row, group=group) for row in rows]
    lines += [log.as_table(shown, columns(group)), ""]
    parts = [f"- {line}" for line in legend(group)]
    return "\n".join([*lines, *parts, *problems(rows)])


def columns(group: dict[str, Any]) -> list[str]:
    """Of a group's table, the first without a name."""
    if not (metrics := group["metrics"]):
        return ["", "seeds"]
    versus = [versus_column(group)] if _compares(group) else []
    last = "seconds", "parameters", "seeds"
    return ["", metrics[0], "+-", *metrics[1:], *versus, *last]


def _compares(group: dict[str, Any]) -> bool:
    return any(row.get("versus_first") for row in group["rows"])


def versus_column(group: dict[str, Any]) -> str:
    return f"vs first, {group['compared_by']}"


def legend(group: dict[str, Any]) -> list[str]:
    """How a group's table is read."""
    measured = (
        f"{group['protocol']}; {group['candidates']}, seen items {group['seen']}, ties "
        "in score count against the model"
    )
    spread = (
        "mean over seeds (standard deviation over seeds); +- is half the 95 % bootstrap "
        f"interval over users of {group['metrics'][0]}, mean over seeds"
    )
    versus = (
        f"vs first: difference in {group['compared_by']} to the first config on the same "
        "seeds, mean +- half its 95 % interval (Student's t over seeds)"
    )
    seconds = f"seconds of training, mean over seeds; on {', '.join(group['devices'])}"
    if group["together"]:
        seconds += "; of runs trained together, a share of their time"
    lines = [measured, spread, *([versus] if _compares(group) else []), seconds]
    if group["indexes"] != ["exact"]:
        lines.append(f"rows of models searched through {', '.join(group['indexes'])}")
    return lines


def problems(rows: list[dict[str, Any]]) -> list[str]:
    """What ended runs, said once for the seeds that it ended alike."""
    seeds: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for seed, said in row.get("problems", {}).items():
            alike = row["label"], row["outcomes"][seed], said
            seeds.setdefault(alike, []).append(seed)
    return [
        f"- {label}, seed {', '.join(ended)}, {outcome}: {said}"
        for (label, outcome, said), ended in seeds.items()
    ]


def shown_row(row: dict[str, Any], *, group: dict[str, Any]) -> dict[str, str]:
    """The cells of a row as text."""
    shown = {"": row["label"], "seeds": _seeds(row)}
    for name, value in row["metrics"].items():
        spread = "" if value["sd"] is None else f" ({value['sd']:.4f})"
        shown[name] = f"{value['mean']:.4f}{spread}"
    first = next(iter(group["metrics"]), None)
    if (width := row["metrics"].get(first, {}).get("half_width")) is not None:
        shown["+-"] = f"{width:.4f}"
    if gap := row.get("versus_first"):
        shown[versus_column(group)] = f"{gap['mean']:+.4f} +-{gap['half_width']:.4f}"
    if row.get("train_seconds") is not None:
        shown["seconds"] = f"{row['train_seconds']:,.1f}"
    if row["row"] == "test" and row["num_params"] is not None:
        shown["parameters"] = f"{row['num_params']:,}"
    return shown


def _seeds(row: dict[str, Any]) -> str:
    """5; or of which 5 how many: 3 of 5, 1 diverged."""
    if row["baseline"]:
        return ""
    done = len(row["seeds"])
    outcomes = list(row.get("outcomes", {}).values())
    if done == len(outcomes) or not outcomes:
        return str(done)
    counts = {name: outcomes.count(name) for name in ENDS}
    ends = [f"{count} {name}" for name, count in counts.items() if count]
    return ", ".join([f"{done} of {len(outcomes)}", *ends])


def as_csv(cells: Iterable[Cell]) -> str:
    """One value a line, of finished runs. A row of a segment is named after both, as
    test_head, and has its number of queries. Row "run" holds what is no metric of a row:
    seconds, parameters, steps; row "targets" lists of nothing but what was to be
    found."""
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n").writerow
    write(["config", "overrides", "seed", "row", "metric", "value"])
    for cell in cells:
        overrides = ":".join(f"{k}={v}" for k, v in cell.entry.overrides.items())
        for row, metric, value in values(cell) if cell.results else ():
            write([cell.entry.name, overrides, cell.seed, row, metric, value])
    return file.getvalue()


def values(cell: Cell) -> Iterator[tuple[str, str, float]]:
    """A run's figures: row, metric, value."""
    results = cell.results
    for name, row in results_lib.rows(results).items():
        for metric, value in summaries.means(cell, name).items():
            yield name, metric, value
        for metric, (low, high) in row.intervals.items():
            yield name, f"{metric}_low", low
            yield name, f"{metric}_high", high
        if row.queries is not None:
            yield name, "queries", row.queries
    for name, row in results_lib.curves(results).items():
        means = summaries.means(cell, name)
        for metric, value in row.means.items():
            if metric not in means:
                yield name, metric, value
    for name, measures in results["lists"].get("rows", {}).items():
        for measure, value in measures.items():
            yield name, measure, value
    yield from _of_indexes(results)
    for name, seconds in results["seconds"].items():
        yield "run", f"{name}_seconds", seconds
    for name in ("num_params", "steps", "best_step", "examples_per_second"):
        yield "run", name, results[name]


def _of_indexes(results: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Times of each index, and what it costs against exact."""
    for name, figures in results["indexes"].items():
        row = "test" if name == results["index"] else name
        for time in ("build_seconds", "search_seconds", "queries_per_second"):
            if figures.get(time) is not None:
                yield row, time, figures[time]
        for metric, gap in figures.get("versus_exact", {}).items():
            yield row, f"{metric}_versus_exact", gap["absolute"]
