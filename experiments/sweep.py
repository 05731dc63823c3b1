"""Many settings of one config, trained together: a grid or a sample over its fields.

    python -m experiments.sweep --config=dssm_synthetic --seeds=5
        --over "loss.temperature=0.02,0.05,0.1" --over "optim.learning_rate=log(1e-4,1e-2,5)"
    python -m experiments.sweep --config=dssm_synthetic --samples=20
        --over "optim.learning_rate=loguniform(1e-4,1e-1)" --over "model.dropout=0,0.2" --dry

An --over is FIELD=A,B,C, or log(LOW,HIGH,N), linear(LOW,HIGH,N), and with --samples=N
uniform(LOW,HIGH), loguniform(LOW,HIGH); without any the config's get_sweep() says them.
--config.field=value holds for all settings.

Learning rate, temperature, margin, log-q strength, weight decay, sampler exponents and
seeds train together in one program, compiled once and split over the devices; settings
that differ in anything else form groups (BUILD_NOTES.md). A run has the folder
RUNS/SETTING/seed-N, as experiments.run would leave it, its results.json with "together":
how many runs have shared the seconds. RUNS/sweep.md, sweep.csv and sweep.json compare
them; the best setting is chosen on validation, so fields that change what is measured
are refused: compare those with experiments.table. Cut off, the same command goes on. A
setting that diverges is a row that says so; one that fails is tried again by the same
command, but not once --halving has stopped others without it.
"""

import collections
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import flags

from experiments.common import cells as cells_lib
from experiments.common import cli, grid, programs, ranking, rungs
from experiments.common import plan as plan_lib
from experiments.common.cells import Cell
from experiments.common.programs import Shared
from recall_jax import files
from recall_jax.run import data as data_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run import results as run_results
from recall_jax.training import lanes
from recall_jax.types import InputError


def main(argv: list[str]) -> None:
    del argv
    options, entry = flags.FLAGS, flags.FLAGS.config
    overs = options.over or cli.load_sweep(entry.name)
    if data_lib.is_streamed(entry.config):
        raise InputError(
            f"{entry.name} reads its log in windows, another for each seed, which one "
            "program cannot share; run its settings with experiments.table"
        )
    settings = grid.make_settings(
        entry, overs, samples=options.samples, seed=options.sample_seed
    )
    plan_lib.check(settings, memory_gb=options.memory_gb)
    rungs.check(settings, options.halving)
    folder = pathlib.Path(options.runs or f"runs/sweep_{entry.config.name}")
    cells = cells_lib.make_cells(settings, num_seeds=options.seeds, folder=folder)
    for cell in cells:
        programs.read_end(cell)
    if options.dry:
        print(plan(cells, options))
        return
    request = {
        "config": entry.label,
        "overrides": entry.overrides,
        "over": list(overs),
        "samples": [options.samples, options.sample_seed],
        "seeds": options.seeds,
        "halving": options.halving,
    }
    with files.lock(folder):
        plan_lib.refuse_another(folder, request)
        with programs.locked(cells), run_results.baselines_kept():
            plan_lib.note(folder, request)
            run_all(cells, folder, options)
    print(f"\n{ranking.as_text(cells)}\n")
    print(f"written    {folder}/sweep.md, sweep.csv, sweep.json")
    if failed := [cell for cell in cells if cell.outcome == "failed"]:
        message = f"error: {len(failed)} of {len(cells)} runs failed; see above"
        print(message, file=sys.stderr)
        sys.exit(1)


def run_all(cells: Sequence[Cell], folder: pathlib.Path, options: Any) -> None:
    """Train, rung by rung, and measure what is missing; writes the tables after each
    portion. What training needs to go on is kept while a run is left that failed."""
    groups, held = folder / "groups", {}
    for path in sorted(groups.glob("decided-*.json")):
        rungs.follow(cells, folder_lib.read_json(path))
    parts = []
    if any(map(programs.goes_on, cells)):
        parts = _parts(cells, groups, held, options)
    for rung, mark in enumerate(rungs.marks(cells, options.halving)):
        decided = groups / f"decided-{rung}.json"
        if decided.exists():
            continue
        reached = collections.defaultdict(list)
        for scores in _trained(parts, groups, held, options, rung=rung, until=mark):
            for label, values in scores.items():
                reached[label] += values
            ranking.write(cells, folder)
        if mark is None or not reached:  # where all have failed, nothing is decided
            break
        content = rungs.decide(cells, reached, halving=options.halving, epoch=mark)
        folder_lib.write_json(decided, content)
        rungs.follow(cells, content)
    ranking.write(cells, folder)
    if not any(map(programs.left, cells)):
        shutil.rmtree(groups, ignore_errors=True)


def _parts(
    cells: Sequence[Cell], groups: pathlib.Path, held: dict[str, Shared], options: Any
) -> list[list[Cell]]:
    """The portions of an earlier command, and all other runs in portions that fit."""
    parts = programs.kept_parts(cells, groups)
    placed = {programs.name(cell) for part in parts for cell in part}
    for group in plan_lib.make_groups(cells):
        rest = [cell for cell in group if programs.name(cell) not in placed]
        parts += _portions(rest, held, options) if rest else []
    programs.keep_parts(parts, groups)
    return parts


def _trained(
    parts: list[list[Cell]],
    groups: pathlib.Path,
    held: dict[str, Shared],
    options: Any,
    *,
    rung: int,
    until: int | None,
) -> Iterator[dict[str, list[float]]]:
    """What the settings of each portion reached; one that is too large becomes two, in
    `parts` too."""
    queue = list(parts)
    while queue:
        part = queue.pop(0)
        try:
            yield _train(part, groups, held, options, rung=rung, until=until)
        except lanes.TooLarge as problem:
            print(f"{problem}: they train in two portions")
            halves = [part[: len(part) // 2], part[len(part) // 2 :]]
            at = parts.index(part)
            parts[at : at + 1] = halves
            queue = halves + queue
            programs.keep_parts(parts, groups)


def _held(cell: Cell, held: dict[str, Shared]) -> Shared:
    """The data of a run; of different ones the last is kept."""
    key = plan_lib.data_of(cell.config)
    if key not in held:
        held.clear()
        held[key] = programs.share(cell.config)
    return held[key]


def _portions(
    group: list[Cell], held: dict[str, Shared], options: Any
) -> list[list[Cell]]:
    """A group in portions that fit; where it cannot even be built, its runs failed."""
    devices = jax.devices()
    try:
        data = _held(group[0], held).prepared.data
        size = plan_lib.measure(group[0].config, data)
        return plan_lib.portions(
            group,
            state_bytes=size.state_bytes,
            limit=plan_lib.device_bytes(options.memory_gb, devices),
            num_devices=len(devices),
        )
    except Exception as problem:
        if programs.ours(problem):
            raise
        programs.note_problem(group, problem)
        return []


def _train(
    part: list[Cell],
    groups: pathlib.Path,
    held: dict[str, Shared],
    options: Any,
    *,
    rung: int,
    until: int | None,
) -> dict[str, list[float]]:
    """Train one portion to the end of a rung, and measure it after the last one; what
    each setting's runs reached on validation."""
    portion = programs.portion_at(part, groups, rung=rung)
    last, going = until is None, [c for c in portion.cells if programs.goes_on(c)]
    if not portion.cells or (last and not going):
        return {}
    epochs = portion.cells[0].config.train.epochs
    print(f"\n{len(portion.cells)} runs to epoch {until or epochs} of {epochs}")
    try:
        shared = _held(portion.cells[0], held)
        trained = programs.train_portion(
            portion,
            shared,
            until=until or epochs,
            mode=options.mode,
            limit=plan_lib.device_bytes(options.memory_gb, jax.devices()),
        )
        programs.note_diverged(portion.cells, trained)
        if last:
            programs.measure(portion.cells, trained, shared)
    except Exception as problem:
        if isinstance(problem, lanes.TooLarge) or programs.ours(problem):
            raise
        programs.note_problem(portion.cells, problem)
        return {}
    for cell in portion.cells:
        if (cell.workdir / "results.json").exists():
            cells_lib.read(cell)
    reached = collections.defaultdict(list)
    for cell, lane in zip(portion.cells, trained.lanes, strict=True):
        if not lane.problem:
            reached[cell.entry.label].append(lane.progress.best)
    return reached


def plan(cells: Sequence[Cell], options: Any) -> str:
    """What would be trained, in which programs, and what that takes; trains nothing."""
    held: dict[str, Shared] = {}
    parts = []
    for group in plan_lib.make_groups(cells):
        for part in _portions(group, held, options):
            data = _held(part[0], held).prepared.data
            parts.append((part, plan_lib.measure(part[0].config, data)))
    first, marks = cells[0].config, rungs.marks(cells, options.halving)
    return plan_lib.as_text(
        parts,
        marks=[mark or first.train.epochs for mark in marks],
        mode=options.mode,
        seconds=plan_lib.known_seconds(cells, pathlib.Path(f"runs/{first.name}")),
        left=sum(map(programs.goes_on, cells)),
    )


def define_flags() -> None:
    flags.DEFINE_string("config", None, "name or file of the config")
    flags.DEFINE_multi_string("over", None, f"a field and its values: {grid.FORM}")
    flags.DEFINE_integer("samples", 0, "draw so many settings; 0: all", lower_bound=0)
    flags.DEFINE_integer("sample_seed", 0, "of these draws")
    flags.DEFINE_integer("seeds", 1, "runs seeds 0 to this less one", lower_bound=1)
    flags.DEFINE_string("runs", None, "folder; default runs/sweep_NAME")
    flags.DEFINE_integer(
        "halving", 0, "keep one of so many settings at each rung; 0: all", lower_bound=0
    )
    flags.DEFINE_enum(
        "mode",
        "auto",
        ["auto", "map", "vmap"],
        "settings of a device one after the other, or all at once; auto: map on a CPU",
    )
    flags.DEFINE_float(
        "memory_gb", 0.0, "of a device; 0: what it has, of a CPU half the host's"
    )
    flags.DEFINE_bool("dry", False, "tell the plan; train nothing")


if __name__ == "__main__":
    define_flags()
    plan_lib.one_device_a_core()
    cli.start(main, parse=cli.parse_entry)
