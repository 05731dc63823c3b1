"""Several configs with several seeds as one table: runs what is missing, then compares.

    python -m experiments.table --configs=mf_ml1m,dssm_ml1m --seeds=5
    python -m experiments.table --configs=dssm_ml1m,dssm_ml1m:model.dropout=0.2 --dry
    python -m experiments.table --runs=runs/ties --config.evaluate.indexes=
        --configs=dssm_ml1m,dssm_ml1m:data.ties=shuffled:train.epochs=4
        --configs='dssm_ml1m:model.hidden=[64,32]'

An entry of --configs is the name or file of a config, and after it, each behind a colon,
overrides of its own; a list stands in brackets (quote them for zsh). --configs may be
given several times. --config.field=value overrides all entries, an entry's own win.

A run has the folder RUNS/ENTRY/seed-N, named by all its overrides, so that runs of other
overrides never mix: a finished one is read, one cut off goes on. After each, RUNS/table.md
(with the commands), table.csv (a value a line) and table.json are written anew; they are
of the last command in RUNS. A run that diverges or fails is told in its row and the
others go on; the exit status is then 1.
"""

import json
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags

from experiments import run
from experiments.common import cells as cells_lib
from experiments.common import cli, results, summaries, tabulate
from experiments.common.cells import Cell
from recall_jax import files
from recall_jax.run import results as run_results
from recall_jax.training import log
from recall_jax.types import InputError, nearest

STATES = ("finished", "begun", "missing")


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    folder = pathlib.Path(options.runs)
    cells = cells_lib.make_cells(
        options.configs, num_seeds=options.seeds, folder=folder
    )
    check_by(options.by, cells)
    if options.dry:
        print(plan(cells))
        return
    write(cells, folder, by=options.by)
    run_missing(cells, after_each=lambda: write(cells, folder, by=options.by))
    print(f"\n{tabulate.as_text(summaries.summarize(cells, by=options.by))}\n")
    print(f"written    {folder}/table.md, table.csv, table.json")
    failed = [cell for cell in cells if cell.problem]
    if failed:
        message = (
            f"error: {len(failed)} of {len(cells)} runs gave no figures; see above"
        )
        print(message, file=sys.stderr)
        sys.exit(1)


def check_by(by: str, cells: Sequence[Cell]) -> None:
    """Raise InputError for a metric that none of the runs will have."""
    listed = dict.fromkeys(m for c in cells for m in c.config.evaluate.metrics)
    if by and by not in listed and not by.startswith(results.NOT_OF_LISTS):
        raise InputError(
            f"--by={by}: no config has it among evaluate.metrics"
            + nearest(by, list(listed))
        )


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
            run.run(cell.config, cell.workdir)
            cells_lib.read(cell)
        except Exception as problem:
            # A disk that is full, or a mistake of ours, is not of this config alone.
            if isinstance(problem, OSError) or cli.error_line(problem) is None:
                raise
            cell.problem = problem
            print(f"{label}: {cell.outcome}: {problem}", file=sys.stderr)
        after_each()


def write(cells: Sequence[Cell], folder: pathlib.Path, *, by: str = "") -> None:
    """table.md, table.csv and table.json of what is finished by now."""
    groups = summaries.summarize(cells, by=by)
    command = shlex.join(["python", "-m", "experiments.table", *sys.argv[1:]])
    rows = [row for group in groups for row in group["rows"] if "command" in row]
    text = [f"```sh\n{command}\n```", tabulate.as_text(groups), "## A run of each row"]
    text += [f"`{row['label']}`\n\n```sh\n{row['command']}\n```" for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / "table.md", "\n\n".join(text) + "\n")
    files.write_atomically(folder / "table.csv", tabulate.as_csv(cells))
    content = json.dumps({"command": command, "groups": groups}, indent=1)
    files.write_atomically(folder / "table.json", content + "\n")


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


def define_flags() -> None:
    flags.DEFINE_multi_string("configs", None, f"A,B,...; each {cli.ENTRY}")
    flags.DEFINE_integer("seeds", 3, "runs seeds 0 to this less one", lower_bound=1)
    flags.DEFINE_string("runs", "runs/table", "folder of the runs and of the table")
    flags.DEFINE_string(
        "by", "", "metric of the differences to the first config; default select_by"
    )
    flags.DEFINE_bool(
        "dry", False, "tell what there is and what is missing; run nothing"
    )


if __name__ == "__main__":
    define_flags()
    cli.start(main, parse=cli.parse_many)
