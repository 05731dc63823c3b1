"""The runs of a sweep that one program trains, from their configs to results.json."""

import collections
import dataclasses
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from experiments import cli, figures, run, run_files, streaming, training
from experiments.compare import Cell
from recall_jax import checkpoint, evaluate, fit, pairs, sweep, together, train
from recall_jax.config import Experiment
from recall_jax.types import InputError


@dataclasses.dataclass
class Shared:
    """What all runs on the same data share: the data, and what baselines reach there,
    measured when the first run needs it."""

    prepared: training.Prepared
    seconds: float  # that it took to lay out
    compared: figures.Compared | None = None


def share(config: Experiment) -> Shared:
    """The data of a config, checked for evaluation."""
    start = time.perf_counter()
    prepared = training.prepare(config)
    for part in filter(None, prepared):
        evaluate.check(config.evaluate, part)
    run.describe(config, prepared.data)
    return Shared(prepared, time.perf_counter() - start)


class Portion(NamedTuple):
    """Runs of one program, at one rung of a sweep, and where their state is kept."""

    cells: list[Cell]
    folder: pathlib.Path


class Trained(NamedTuple):
    """How far each run of a portion has come, and what measures it."""

    encoder: evaluate.Encoder
    loops: list[fit.Loop]
    lanes: tuple[sweep.Lane, ...]
    like: train.TrainState


def portion_at(cells: Sequence[Cell], groups: pathlib.Path, *, rung: int) -> Portion:
    """The portion's runs at a rung: those that began there, or that now begin."""
    names = "\n".join(_name(cell) for cell in cells)
    digest = hashlib.sha256(names.encode()).hexdigest()[:12]
    folder = groups / digest / f"rung-{rung}"
    path, going = folder / "lanes.json", [c for c in cells if goes_on(c)]
    if not path.exists():
        return Portion(going, folder)
    begun = set(run_files.read_json(path))
    return Portion([c for c in cells if _name(c) in begun], folder)


def _name(cell: Cell) -> str:
    return f"{cell.entry.label} {cell.seed}"


def goes_on(cell: Cell) -> bool:
    return not (cell.results or cell.problem or cell.stopped)


def train_portion(
    portion: Portion,
    before: Portion | None,
    shared: Shared,
    *,
    until: int,
    mode: str,
    limit: float,
) -> Trained:
    """Train a portion's runs up to epoch `until`, from where they were cut off or from
    where `before`, the rung below, left them. Raises sweep.TooLarge."""
    cells = portion.cells
    encoder, loops, states = make_loops(cells, shared)
    layout = together.make_layout(len(cells), mode=mode, devices=jax.devices())
    folder, orders = portion.folder / "checkpoints", orders_of(cells)
    group = sweep.Group(loops, orders, folder, layout, limit)
    stack = sweep.restore(group.folder, states[0], num=len(cells))
    if stack is None and before is not None:
        stack = sweep.restore(
            before.folder / "checkpoints", states[0], num=len(before.cells)
        )
        places = {_name(cell): at for at, cell in enumerate(before.cells)}
        # Without a checkpoint every run had ended in its first epoch, and none goes on.
        stack = stack and stack.select([places[_name(cell)] for cell in cells])
    stack = stack or sweep.begin(states)
    portion.folder.mkdir(parents=True, exist_ok=True)
    run_files.write_json(portion.folder / "lanes.json", [_name(c) for c in cells])
    lanes = sweep.fit_together(group, stack, slots=states[0].slots, until=until)
    return Trained(encoder, loops, lanes, states[0])


def make_loops(
    cells: Sequence[Cell], shared: Shared
) -> tuple[evaluate.Encoder, list[fit.Loop], list[train.TrainState]]:
    """The loop and the first state of each run: one step, one encoder and one set of
    arrays for all, but for what traced fields and seeds decide."""
    data, first = shared.prepared.data, cells[0].config
    ready = training.make_loop(first, data, cells[0].workdir)
    plan, span = ready.loop.plan, ready.loop.span
    corpora: dict[tuple[float, ...], pairs.Corpus] = {}
    built: dict[tuple, training.Built] = {}
    loops, states = [], []
    for cell in cells:
        config = cell.config
        if (alpha := _exponents(config)) not in corpora:
            corpora[alpha] = training.make_corpus(config, data)
        start = config.seed, config.loss.temperature
        if start not in built:
            built[start] = training.build(config, data, batch_size=plan.size * span)
        run_files.write_description(config, data, cell.workdir)
        hypers = train.make_hypers(
            config.optim, config.loss, config.negatives, num_steps=plan.num_steps
        )
        key = built[start].order_key
        feed = streaming.make_feed(config, data, corpora[alpha], plan=plan, key=key)
        changes = {"feed": feed, "hypers": hypers, "workdir": cell.workdir}
        loops.append(dataclasses.replace(ready.loop, **changes))
        states.append(built[start].state)
    return ready.encoder, loops, states


def orders_of(cells: Sequence[Cell]) -> list[int]:
    """The place of the first run whose data order a run shares: that of its seed."""
    seeds = [cell.seed for cell in cells]
    return [seeds.index(seed) for seed in seeds]


def _exponents(config: Experiment) -> tuple[float, ...]:
    """Of the samplers, which are tables made on the host."""
    pairs = getattr(config.model, "pairs", None)
    return config.negatives.alpha, *([pairs.alpha] if pairs else ())


def note_diverged(cells: Sequence[Cell], trained: Trained) -> None:
    """Runs that have diverged, in their folders and on the cells."""
    for cell, lane in zip(cells, trained.lanes, strict=True):
        if lane.problem and not cell.problem:
            cell.problem = fit.Diverged(lane.problem)
            note_end(cell, outcome="diverged", told=lane.problem)


def measure(cells: Sequence[Cell], trained: Trained, shared: Shared) -> None:
    """results.json of every run that has none and has not failed, as `run.run` leaves
    it; one whose measurement fails has a problem instead."""
    for cell, loop, lane in zip(cells, trained.loops, trained.lanes, strict=True):
        if not goes_on(cell):
            continue
        try:
            results = _measured(cell, loop, lane, trained, shared, num=len(cells))
        except Exception as problem:
            if ours(problem):
                raise
            note_problem([cell], problem)
            continue
        run_files.write_json(cell.workdir / "results.json", results)
        print(f"measured   {_name(cell)}, in {cell.workdir}")


def _measured(
    cell: Cell,
    loop: fit.Loop,
    lane: sweep.Lane,
    trained: Trained,
    shared: Shared,
    *,
    num: int,
) -> dict[str, Any]:
    config = cell.config
    if shared.compared is None:
        shared.compared = figures.measure_baselines(config, shared.prepared.data)
    fitted = sweep.fitted(loop, lane, trained.like)
    seconds = collections.Counter(data=shared.seconds / num, train=0)
    seconds.update(fitted.seconds)
    return run.measure(
        config,
        shared.prepared,
        cell.workdir,
        trained.encoder,
        fitted,
        seconds=seconds,
        compared=shared.compared,
    )


def ours(problem: Exception) -> bool:
    """Whether it is of the disk, or a mistake of ours, and not of some runs alone."""
    return isinstance(problem, OSError) or cli.told(problem) is None


def note_problem(cells: Sequence[Cell], problem: Exception) -> None:
    """What ended those of these runs that go on; the next command tries them again."""
    for cell in filter(goes_on, cells):
        cell.problem = problem
        print(f"{_name(cell)}: {cell.outcome}: {problem}", file=sys.stderr)


def note_end(cell: Cell, *, outcome: str, told: str) -> None:
    """Write how a run ended without figures, so that it is not tried again."""
    content = json.dumps({"outcome": outcome, "told": told}) + "\n"
    checkpoint.write_atomically(cell.workdir / "ended.json", content)


def read_end(cell: Cell) -> None:
    """How a run ended in an earlier command, onto its cell."""
    path = cell.workdir / "ended.json"
    if cell.results or not path.exists():
        return
    found = run_files.read_json(path)
    if found["outcome"] == "stopped":
        cell.stopped = found["told"]
    elif found["outcome"] == "diverged":
        cell.problem = fit.Diverged(found["told"])
    else:
        raise InputError(f"{path} has an unknown outcome; remove it to try again")
