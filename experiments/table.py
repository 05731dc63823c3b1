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
from collections.abc import Sequence

from absl import flags

from experiments.common import cells as cells_lib
from experiments.common import cli, missing, results, summaries, tabulate
from experiments.common.cells import Cell
from recall_jax import files
from recall_jax.types import InputError, nearest


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    folder = pathlib.Path(options.runs)
    cells = cells_lib.make_cells(
        options.configs, num_seeds=options.seeds, folder=folder
    )
    check_by(options.by, cells)
    if options.dry:
        print(missing.plan(cells))
        return
    write(cells, folder, by=options.by)
    missing.run_missing(cells, after_each=lambda: write(cells, folder, by=options.by))
    print(f"\n{tabulate.as_text(summaries.summarize(cells, by=options.by))}\n")
    print(f"written    {folder}/table.md, table.csv, table.json")
    missing.end(cells)


def check_by(by: str, cells: Sequence[Cell]) -> None:
    """Raise InputError for a metric that none of the runs will have."""
    listed = dict.fromkeys(m for c in cells for m in c.config.evaluate.metrics)
    if by and by not in listed and not by.startswith(results.NOT_OF_LISTS):
        raise InputError(
            f"--by={by}: no config has it among evaluate.metrics"
            + nearest(by, list(listed))
        )


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
