"""A study after a paper: runs what is missing of its settings, then tells what each does.

    python -m experiments.ablate negatives
    python -m experiments.ablate negatives --dry
    python -m experiments.ablate negatives --full --seeds=5 --runs=runs/grid
    python -m experiments.ablate --write_page

A study is a file of experiments/studies. Each setting changes one thing of a base, with
every seed; --full runs every combination. A config has the folder
RUNS/cells/CONFIG/seed-N, named by what differs from its file, so that studies share the
runs that they have in common: a finished one is read, one cut off goes on. After each,
RUNS/NAME/ablation.md, .csv and .json are written anew. A run that diverges or fails is
told in its row and the others go on; the exit status is then 1.

--config.field=value overrides all settings and wants a folder of its own. --write_page
makes experiments/ABLATIONS.md of the studies in RUNS and of what their files say was
found, and puts the tables that README.md shows in their place.
JAX_COMPILATION_CACHE_DIR=FOLDER in the environment compiles a config once for all of its
seeds.
"""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from experiments.common import ablation, ablations_page, cli, missing, study
from experiments.common import cells as cells_lib
from experiments.common.cells import Cell
from recall_jax.types import InputError

RUNS = "runs/ablate"


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    runs = pathlib.Path(options.runs)
    if options.write_page:
        written = (
            ablations_page.write(runs, path=ablations_page.PATH),
            ablations_page.fill(runs, path=ablations_page.README),
        )
        print(f"written    {', '.join(written)}")
        return
    chosen_study = study.load(options.study)
    plan = study.grid if options.full else study.blocks
    shared = dict(text.split("=", 1) for text in options.shared)
    blocks = plan(chosen_study, shared=shared)
    cells = cells_lib.make_cells(
        study.entries(blocks),
        num_seeds=options.seeds or chosen_study.seeds,
        folder=runs / "cells",
    )
    if options.dry:
        print(expected(chosen_study, blocks, cells))
        return
    folder = runs / (options.study + "_full" * options.full)
    train(chosen_study, blocks, cells, folder=folder)


def train(
    chosen_study: study.Study,
    blocks: Sequence[study.Block],
    cells: Sequence[Cell],
    *,
    folder: pathlib.Path,
) -> None:
    """Run what is missing, and tell and write what there is.

    `missing.run_missing` alone trains: what would train several cells at once, as a sweep
    of traced values and seeds can, belongs there.
    """
    command = ["python", "-m", "experiments.ablate", *sys.argv[1:]]

    def write():
        return ablation.write(
            chosen_study, blocks, cells, folder=folder, command=command
        )

    write()
    missing.run_missing(cells, after_each=write)
    print(
        f"\n{ablation.heading(chosen_study, finding=chosen_study.finding or 'not yet measured')}\n"
    )
    print(f"{ablation.as_text(write())}\n")
    print(f"written    {folder}/ablation.md, ablation.csv, ablation.json")
    missing.end(cells)


def expected(
    chosen_study: study.Study, blocks: Sequence[study.Block], cells: Sequence[Cell]
) -> str:
    """What is finished, begun and missing of every setting, and how long the rest takes,
    by the runs that are finished or, without any, by what the study says."""
    config_cells = ablation.by_config(cells)
    named = {
        f"{block.factor}: {setting.label}".removeprefix(": "): config_cells[
            cells_lib.folder_name(setting.entry)
        ]
        for block in blocks
        for setting in block.settings
    }
    spent = [sum(cell.results["seconds"].values()) for cell in cells if cell.results]
    each = float(np.mean(spent)) if spent else chosen_study.seconds
    by = "the mean of those finished" if spent else "on two quiet cores, about"
    left = len(cells) - len(spent)
    estimate = (
        f"{len(cells)} runs, {left} to go: {left * each / 60:,.0f} minutes at "
        f"{each:,.0f} s a run ({by})"
    )
    return "\n".join([missing.progress(named), estimate])


def parse(argv: list[str]) -> list[str]:
    """The study's name as --study, --config.field=value as --shared=field=value."""
    name, overrides, rest = cli.split_overrides(argv)
    if name is not None:
        raise InputError("--config names one config; a study has its own, by name")
    shared = [f"--shared={field}={value}" for field, value in overrides.items()]
    program, *others = cli.parse_plain([*rest, *shared])
    options = flags.FLAGS
    if others and not options.study:
        options.study = others.pop(0)
    if not (options.study or options.write_page):
        raise InputError("which study? There are: " + ", ".join(study.names()))
    for text in options.shared:
        if "=" not in text:
            raise InputError(f"--shared={text}: write --config.FIELD=VALUE")
    if options.shared and pathlib.Path(options.runs) == pathlib.Path(RUNS):
        raise InputError(
            f"{', '.join(options.shared)} makes another study of it, whose table would "
            "take this one's place; name a folder with --runs=FOLDER"
        )
    return [program, *others]


def define_flags() -> None:
    flags.DEFINE_string("study", None, "which; or as the first argument")
    flags.DEFINE_integer(
        "seeds", None, "runs seeds 0 to this less one; default the study's", 1
    )
    flags.DEFINE_string("runs", RUNS, "folder of the runs and of the tables")
    flags.DEFINE_multi_string(
        "shared",
        [],
        "field=value of every setting; --config.field=value is short for it",
    )
    flags.DEFINE_bool("full", False, "every combination of the settings")
    flags.DEFINE_bool("dry", False, "tell what is missing and how long it takes")
    flags.DEFINE_bool(
        "write_page", False, f"write {ablations_page.PATH} of what is finished"
    )


if __name__ == "__main__":
    define_flags()
    cli.start(main, parse=parse)
