"""What is finished of the runs of a table, and the running of the rest."""

import sys
from collections.abc import Callable, Sequence

import numpy as np

from experiments.common import cells as cells_lib
from experiments.common import cli, summary
from experiments.common.cells import Cell
from recall_jax.run import results as run_results
from recall_jax.training import log

STATES = ("finished", "begun", "missing")


def run_missing(cells: Sequence[Cell], *, after_each: Callable[[], None]) -> None:
    """Run what is not finished, a seed of every config before the next seed. What ends
    one run is its cell's problem, and the others go on."""
    with run_results.baselines_kept():
        _run_missing(cells, after_each=after_each)


def _run_missing(cells: Sequence[Cell], *, after_each: Callable[[], None]) -> None:
    todo = sorted((c for c in cells if not c.results), key=lambda cell: cell.seed)
    for number, cell in enumerate(todo, start=1):
        label = f"{cell.entry.label}, seed {cell.seed}"
        print(f"\n{label}: run {number} of {len(todo)}, {cell.state}")
        try:
            summary.train(cell.config, cell.workdir)
            cells_lib.read(cell)
        except Exception as problem:
            # A disk that is full, or a mistake of ours, is not of this config alone.
            if isinstance(problem, OSError) or cli.error_line(problem) is None:
                raise
            cell.problem = problem
            print(f"{label}: {cell.outcome}: {problem}", file=sys.stderr)
        after_each()


def end(cells: Sequence[Cell]) -> None:
    """Exit status 1 where a run gave no figures."""
    if failed := [cell for cell in cells if cell.problem]:
        message = (
            f"error: {len(failed)} of {len(cells)} runs gave no figures; see above"
        )
        print(message, file=sys.stderr)
        sys.exit(1)


def plan(cells: Sequence[Cell]) -> str:
    """Which seeds are finished, begun and missing, and about how long the rest takes;
    a run begun counts whole."""
    seconds, unknown = 0.0, 0
    for members in cells_lib.by_label(cells).values():
        mean, left = _mean_seconds(members), sum(not cell.results for cell in members)
        seconds, unknown = seconds + left * mean, unknown + left * (not mean)
    lines = [f"about {seconds / 60:,.1f} minutes to go, by the seeds that are finished"]
    if unknown:
        lines.append(
            f"{unknown} runs more of configs that have none, of unknown length"
        )
    return "\n".join([progress(cells_lib.by_label(cells)), *lines])


def progress(named: dict[str, Sequence[Cell]]) -> str:
    """Which seeds of each row are finished, begun and missing, and a run's seconds."""
    rows = []
    for label, members in named.items():
        seeds = {
            state: " ".join(str(cell.seed) for cell in members if cell.state == state)
            for state in STATES
        }
        mean = _mean_seconds(members)
        seconds = {"seconds a run": f"{mean:,.0f}" * bool(mean)}
        rows.append({"": label, **seeds, **seconds})
    return log.as_table(rows, ["", *STATES, "seconds a run"])


def _mean_seconds(cells: Sequence[Cell]) -> float:
    """Of those that are finished; 0 without any."""
    spent = [sum(cell.results["seconds"].values()) for cell in cells if cell.results]
    return float(np.mean(spent)) if spent else 0.0
