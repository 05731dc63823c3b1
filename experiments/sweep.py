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
RUNS/SETTING/seed-N, as experiments.run would leave it. RUNS/sweep.md, sweep.csv and
sweep.json compare them; the best setting is chosen on validation. Cut off, the same
command goes on. A setting that diverges is a row that says so.
"""

import collections
import json
import math
import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import (
    cli,
    compare,
    over,
    run_files,
    streaming,
    sweep_plan,
    sweep_runs,
    table,
    tabulate,
)
from experiments.compare import Cell
from experiments.sweep_runs import Portion, Shared
from recall_jax import checkpoint, logs, sweep
from recall_jax.types import InputError


def main(argv: list[str]) -> None:
    del argv
    options, entry = flags.FLAGS, flags.FLAGS.config
    overs = options.over or cli.load_sweep(entry.name)
    if streaming.is_streamed(entry.config):
        raise InputError(
            f"{entry.name} reads its log in windows, another for each seed, which one "
            "program cannot share; run its settings with experiments.table"
        )
    settings = over.make_settings(
        entry, overs, samples=options.samples, seed=options.sample_seed
    )
    if options.halving == 1 or (
        options.halving and any("train.epochs" in each.own for each in settings)
    ):
        raise InputError(
            "--halving=N keeps one of N settings at a rung, N at least 2, and its rungs "
            "are epochs that all settings have; do not sweep over train.epochs"
        )
    folder = pathlib.Path(options.runs or f"runs/sweep_{entry.config.name}")
    cells = table.make_cells(settings, num_seeds=options.seeds, folder=folder)
    for cell in cells:
        sweep_runs.read_end(cell)
    if options.dry:
        print(plan(cells, options))
        return
    asked = {
        "config": entry.label,
        "overrides": entry.overrides,
        "over": list(overs),
        "samples": [options.samples, options.sample_seed],
        "seeds": options.seeds,
        "halving": options.halving,
    }
    with checkpoint.lock(folder):
        sweep_plan.refuse_another(folder, asked)
        run_all(cells, folder, options)
    print(f"\n{as_text(cells)}\n")
    print(f"written    {folder}/sweep.md, sweep.csv, sweep.json")
    if failed := [cell for cell in cells if cell.outcome == "failed"]:
        told = f"error: {len(failed)} of {len(cells)} runs failed; see above"
        print(told, file=sys.stderr)
        sys.exit(1)


def run_all(cells: Sequence[Cell], folder: pathlib.Path, options: Any) -> None:
    """Train, rung by rung, and measure what is missing; writes the table after each
    portion."""
    marks = _marks(cells, options.halving)
    groups = folder / "groups"
    held: dict[str, Shared] = {}
    parts: list[list[Cell]] = []
    if any(map(sweep_runs.goes_on, cells)):
        for group in sweep_plan.make_groups(cells):
            parts += _portions(group, held, options)
    for rung, mark in enumerate(marks):
        decided = groups / f"decided-{rung}.json"
        if decided.exists():
            continue
        reached, queue = {}, list(parts)
        while queue:
            part = queue.pop(0)
            try:
                found = _train(part, groups, held, options, rung=rung, until=mark)
            except sweep.TooLarge as problem:
                print(f"{problem}: they train in two portions")
                halves = [part[: len(part) // 2], part[len(part) // 2 :]]
                at = parts.index(part)
                parts[at : at + 1] = halves
                queue = halves + queue
                continue
            reached |= found
            write(cells, folder)
        if mark != marks[-1]:
            _halve(cells, reached, options.halving, epoch=mark)
            run_files.write_json(decided, {"epoch": mark})
            write(cells, folder)
    write(cells, folder)
    if not any(map(sweep_runs.goes_on, cells)):
        shutil.rmtree(groups, ignore_errors=True)


def _marks(cells: Sequence[Cell], halving: int) -> list[int | None]:
    """Epochs up to which each rung trains; None: all that a config has."""
    num = len({cell.entry.label for cell in cells})
    epochs = cells[0].config.train.epochs
    return [*sweep_plan.rungs(halving, num=num, epochs=epochs)[:-1], None]


def _held(cell: Cell, held: dict[str, Shared]) -> Shared:
    """The data of a run; of different ones the last is kept."""
    key = sweep_plan.data_of(cell.config)
    if key not in held:
        held.clear()
        held[key] = sweep_runs.share(cell.config)
    return held[key]


def _portions(
    group: list[Cell], held: dict[str, Shared], options: Any
) -> list[list[Cell]]:
    """A group in portions that fit; where it cannot even be built, its runs failed."""
    devices = jax.devices()
    try:
        data = _held(group[0], held).prepared.data
        size = sweep_plan.measure(group[0].config, data)
        return sweep_plan.portions(
            group,
            state_bytes=size.state_bytes,
            limit=sweep_plan.device_bytes(options.memory_gb, devices),
            num_devices=len(devices),
        )
    except Exception as problem:
        if sweep_runs.ours(problem):
            raise
        sweep_runs.note_problem(group, problem)
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
    portion = sweep_runs.portion_at(part, groups, rung=rung)
    last, going = until is None, [c for c in portion.cells if sweep_runs.goes_on(c)]
    if not portion.cells or (last and not going):
        return {}
    epochs = portion.cells[0].config.train.epochs
    print(f"\n{len(portion.cells)} runs to epoch {until or epochs} of {epochs}")
    before: Portion | None = None
    if rung:
        before = sweep_runs.portion_at(part, groups, rung=rung - 1)
    try:
        shared = _held(portion.cells[0], held)
        trained = sweep_runs.train_portion(
            portion,
            before,
            shared,
            until=until or epochs,
            mode=options.mode,
            limit=sweep_plan.device_bytes(options.memory_gb, jax.devices()),
        )
        sweep_runs.note_diverged(portion.cells, trained)
        if last:
            sweep_runs.measure(portion.cells, trained, shared)
    except Exception as problem:
        if isinstance(problem, sweep.TooLarge) or sweep_runs.ours(problem):
            raise
        sweep_runs.note_problem(portion.cells, problem)
        return {}
    for cell in portion.cells:
        if (cell.workdir / "results.json").exists():
            table.read(cell)
    reached = collections.defaultdict(list)
    for cell, lane in zip(portion.cells, trained.lanes, strict=True):
        if not lane.problem:
            reached[cell.entry.label].append(lane.progress.best)
    return reached


def _halve(
    cells: Sequence[Cell], reached: dict[str, list[float]], halving: int, *, epoch: int
) -> None:
    """Stop all settings but the best on validation, the mean over their seeds: one of
    `halving`, of those that began this rung."""
    means = {label: float(np.mean(values)) for label, values in reached.items()}
    order = sorted(means, key=lambda label: -means[label])
    kept = math.ceil(len(order) / halving)
    metric = cells[0].config.evaluate.select_by
    for place, label in enumerate(order[kept:], start=kept + 1):
        told = (
            f"stopped by --halving={halving} at epoch {epoch}: validation {metric} "
            f"{means[label]:.4f}, place {place} of {len(order)}; {kept} went on"
        )
        for cell in cells:
            if cell.entry.label == label and sweep_runs.goes_on(cell):
                cell.stopped = told
                sweep_runs.note_end(cell, outcome="stopped", told=told)


def plan(cells: Sequence[Cell], options: Any) -> str:
    """What would be trained, in which programs, and what that takes; trains nothing."""
    held: dict[str, Shared] = {}
    parts = []
    for group in sweep_plan.make_groups(cells):
        for part in _portions(group, held, options):
            data = _held(part[0], held).prepared.data
            parts.append((part, sweep_plan.measure(part[0].config, data)))
    first = cells[0].config
    return sweep_plan.told(
        parts,
        marks=[mark or first.train.epochs for mark in _marks(cells, options.halving)],
        mode=options.mode,
        seconds=sweep_plan.known_seconds(cells, pathlib.Path(f"runs/{first.name}")),
        left=sum(map(sweep_runs.goes_on, cells)),
    )


def ranked(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row a setting, the best on validation first; means over its finished seeds."""
    by_label: dict[str, list[Cell]] = {}
    for cell in cells:
        by_label.setdefault(cell.entry.label, []).append(cell)
    rows = []
    for label, members in by_label.items():
        done, metric = [c for c in members if c.results], _metric(cells)
        values = [cell.results["valid"][metric] for cell in done]
        tested = (
            {name: _mean(done, name) for name in compare.metrics_of(done[0])}
            if (done)
            else {}
        )
        rows.append(
            {
                "setting": label,
                "own": members[0].entry.own,
                "valid": float(np.mean(values)) if done else None,
                "valid_sd": float(np.std(values, ddof=1)) if len(done) > 1 else None,
                "test": tested,
                "finished": len(done),
                "seeds": len(members),
                "outcomes": {str(c.seed): c.outcome for c in members},
                "command": members[0].command,
            }
        )
    # A mean over fewer seeds than others have says less, whatever it is.
    return sorted(rows, key=lambda row: (-row["finished"], -(row["valid"] or 0.0)))


def _metric(cells: Sequence[Cell]) -> str:
    return cells[0].config.evaluate.select_by


def _mean(cells: Sequence[Cell], metric: str) -> float:
    return float(np.mean([compare.means(cell, "test")[metric] for cell in cells]))


def as_text(cells: Sequence[Cell]) -> str:
    """The ranking, the best setting, and the comparison with baselines."""
    rows, metric = ranked(cells), _metric(cells)
    shown = [
        {
            **row["own"],
            f"valid {metric}": row["valid"],
            "sd": row["valid_sd"],
            f"test {metric}": row["test"].get(metric),
            "seeds": _told(row),
        }
        for row in rows
    ]
    lines = [logs.table(shown, list(shown[0]))]
    if rows[0]["finished"]:
        best = rows[0]
        lines.append(
            f"best on validation: {best['setting']}, {metric} {best['valid']:.4f}; on "
            f"test {best['test'][metric]:.4f}. Validation chose it, so only its test "
            "figure stands for the sweep."
        )
        lines.append(f"```sh\n{best['command']}\n```")
    groups = compare.summarize(cells, by=metric)
    return "\n\n".join([*lines, tabulate.as_text(groups)])


def _told(row: dict[str, Any]) -> str:
    """5; or of which 5 how many: 3 of 5, 2 diverged."""
    counts = collections.Counter(row["outcomes"].values())
    done = counts.pop("finished", 0)
    if not counts:
        return str(done)
    others = [f"{count} {name}" for name, count in sorted(counts.items())]
    return ", ".join([f"{done} of {row['seeds']}", *others])


def write(cells: Sequence[Cell], folder: pathlib.Path) -> None:
    """sweep.md, sweep.csv and sweep.json of what is finished by now."""
    command = shlex.join(["python", "-m", "experiments.sweep", *sys.argv[1:]])
    text = f"```sh\n{command}\n```\n\n{as_text(cells)}\n"
    rows = ranked(cells)
    content = {
        "command": command,
        "best": rows[0]["setting"] if rows[0]["finished"] else None,
        "settings": rows,
        "groups": compare.summarize(cells, by=_metric(cells)),
    }
    checkpoint.write_atomically(folder / "sweep.md", text)
    checkpoint.write_atomically(folder / "sweep.csv", tabulate.as_csv(cells))
    checkpoint.write_atomically(
        folder / "sweep.json", json.dumps(content, indent=1) + "\n"
    )


def one_device_a_core() -> None:
    """Show a CPU to JAX as a device a core, before it is first asked: settings side by
    side use the cores better than the pieces of one step do."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def define_flags() -> None:
    flags.DEFINE_string("config", None, "name or file of the config")
    flags.DEFINE_multi_string("over", None, f"a field and its values: {over.FORM}")
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
    one_device_a_core()
    cli.start(main, parse=cli.parse_entry)
