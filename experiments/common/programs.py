"""The runs of a sweep that one program trains, from their configs to results.json."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from experiments.common import cells as cells_lib
from experiments.common import cli
from experiments.common.cells import Cell
from recall_jax import files
from recall_jax.evaluate import encode
from recall_jax.evaluate import measure as measure_lib
from recall_jax.pairs import corpus
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.run import experiment as experiment_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run import overview
from recall_jax.run import results as run_results
from recall_jax.run.config import Experiment
from recall_jax.training import checkpoint
from recall_jax.training import lanes as lanes_lib
from recall_jax.training import loop as loop_lib
from recall_jax.training import stack as stack_lib
from recall_jax.training import step as step_lib
from recall_jax.types import InputError

ENDS = {"diverged": loop_lib.Diverged, "failed": InputError}


@dataclasses.dataclass
class Shared:
    """What all runs on the same data share: the data, and what baselines reach there,
    measured when the first run needs it."""

    prepared: data_lib.Prepared
    seconds: float  # that it took to lay out
    compared: run_results.Compared | None = None


def share(config: Experiment) -> Shared:
    """The data of a config, checked for evaluation."""
    start = time.perf_counter()
    prepared = data_lib.read(config)
    for part in filter(None, prepared):
        measure_lib.check(config.evaluate, part)
    overview.show(config, prepared.data)
    return Shared(prepared, time.perf_counter() - start)


@contextlib.contextmanager
def locked(cells: Sequence[Cell]) -> Iterator[None]:
    """Hold the folders of all runs that are not finished, and read what another process
    has finished there. Raises InputError, naming the folder, if another has one."""
    going = list(filter(goes_on, cells))
    _allow_files(256 + 2 * len(going))  # a lock of each, and what it logs
    with contextlib.ExitStack() as held:
        for cell in going:
            held.enter_context(files.lock(cell.workdir))
            if (cell.workdir / "results.json").exists():
                cells_lib.read(cell)
        yield


def _allow_files(num: int) -> None:
    """Let this process have `num` files open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and hard < num:
        raise InputError(
            f"a sweep of so many runs has {num} files open, and {hard} are allowed "
            "(ulimit -Hn); raise that, or sweep over fewer settings"
        )
    if soft != unlimited and soft < num:
        resource.setrlimit(resource.RLIMIT_NOFILE, (num, hard))


class Portion(NamedTuple):
    """Runs of one program, at one rung of a sweep, and where their state is kept."""

    cells: list[Cell]
    groups: pathlib.Path
    members: str  # of which program, by a hash
    rung: int

    @property
    def folder(self) -> pathlib.Path:
        return self.groups / self.members / f"rung-{self.rung}"

    @property
    def names(self) -> list[str]:
        return list(map(name, self.cells))


class Trained(NamedTuple):
    """How far each run of a portion has come, and what measures it."""

    encoder: encode.Towers
    loops: list[loop_lib.Loop]
    lanes: tuple[lanes_lib.Lane, ...]
    like: step_lib.TrainState  # shapes of a state


def portion_at(cells: Sequence[Cell], groups: pathlib.Path, *, rung: int) -> Portion:
    """The portion's runs at a rung: those that began there, or that now begin."""
    names = "\n".join(map(name, cells))
    members = hashlib.sha256(names.encode()).hexdigest()[:12]
    portion = Portion(list(filter(goes_on, cells)), groups, members, rung)
    path = portion.folder / "lanes.json"
    if not path.exists():
        return portion
    begun = set(folder_lib.read_json(path))
    return portion._replace(cells=[c for c in cells if name(c) in begun])


def keep_parts(parts: Sequence[Sequence[Cell]], groups: pathlib.Path) -> None:
    """Note which runs train in one program: the next command may have other devices, and
    less would fit after a split than was thought before."""
    groups.mkdir(parents=True, exist_ok=True)
    names = [list(map(name, part)) for part in parts]
    folder_lib.write_json(groups / "portions.json", names)


def kept_parts(cells: Sequence[Cell], groups: pathlib.Path) -> list[list[Cell]]:
    """The portions that an earlier command has noted; none of another sweep, which had
    not begun."""
    path, named = groups / "portions.json", {name(cell): cell for cell in cells}
    noted = folder_lib.read_json(path) if path.exists() else []
    return [
        [named[one] for one in part]
        for part in noted
        if all(one in named for one in part)
    ]


def name(cell: Cell) -> str:
    return f"{cell.entry.label} {cell.seed}"


def goes_on(cell: Cell) -> bool:
    """Whether this command has still to train or measure it."""
    return not (cell.results or cell.problem or cell.stopped)


def left(cell: Cell) -> bool:
    """Whether some command has still to: it goes on, or failed and is tried again."""
    return not (cell.results or (cell.workdir / "ended.json").exists())


def train_portion(
    portion: Portion, shared: Shared, *, until: int, mode: str, limit: float
) -> Trained:
    """Train a portion's runs up to epoch `until`, from where they were cut off, or the
    rung below left them. Raises lanes.TooLarge."""
    cells = portion.cells
    encoder, loops, states = make_loops(cells, shared)
    layout = stack_lib.make_layout(len(cells), mode=mode, devices=jax.devices())
    folder, orders = portion.folder / "checkpoints", orders_of(cells)
    group = lanes_lib.Program(loops, orders, folder, layout, limit)
    like, slots = lanes_lib.outline(states[0]), states[0].slots
    stacks = [_restored(portion, like) or lanes_lib.begin(states)]
    portion.folder.mkdir(parents=True, exist_ok=True)
    folder_lib.write_json(portion.folder / "lanes.json", portion.names)
    # Nothing here holds states while they train: a CPU's share this memory.
    del states
    with lanes_lib.memory_told(len(cells)):
        lanes = lanes_lib.fit_together(group, stacks.pop(), slots=slots, until=until)
    return Trained(encoder, loops, lanes, like)


def _restored(portion: Portion, like: step_lib.TrainState) -> lanes_lib.Stack | None:
    """Where these runs stand by the newest checkpoint that has them all, of their rung or
    the one below; None where there is none.

    It need not be of this portion: one that was too large has been split.
    """
    for rung in range(portion.rung, max(portion.rung - 2, -1), -1):
        checkpoints = []
        for path in portion.groups.glob(f"*/rung-{rung}/lanes.json"):
            names, folder = folder_lib.read_json(path), path.parent / "checkpoints"
            step = checkpoint.latest_step(folder)
            if step is not None and set(portion.names) <= set(names):
                checkpoints.append((step, folder, names))
        if checkpoints:
            _, folder, names = max(checkpoints)
            stack = lanes_lib.restore(folder, like, num=len(names))
            return stack.select([names.index(one) for one in portion.names])
    return None


def make_loops(
    cells: Sequence[Cell], shared: Shared
) -> tuple[encode.Towers, list[loop_lib.Loop], list[step_lib.TrainState]]:
    """The loop and the first state of each run, the states on the host: one step, one
    encoder and one set of arrays for all, but for what traced fields and seeds decide."""
    data, first = shared.prepared.data, cells[0].config
    encoder, loop = experiment_lib.make_loop(first, data, cells[0].workdir)[:2]
    plan, size = loop.plan, loop.plan.size * loop.span
    corpora: dict[tuple[float, ...], corpus.Corpus] = {}
    makers: dict[float | None, Callable] = {}  # by where a learned temperature starts
    begun: dict[tuple, tuple[step_lib.TrainState, jax.Array]] = {}
    loops, states = [], []
    for cell in cells:
        config = cell.config
        if (alpha := _exponents(config)) not in corpora:
            corpora[alpha] = build_lib.make_corpus(config, data)
        learned = config.loss.temperature_kind == "learned"
        at = config.loss.temperature if learned else None
        if at not in makers:
            makers[at] = build_lib.first_states(config, data, batch_size=size)
        if (config.seed, at) not in begun:
            state, key = makers[at](config.seed)
            begun[config.seed, at] = jax.device_get(state), key
        state, key = begun[config.seed, at]
        folder_lib.write_description(config, data, cell.workdir)
        hypers = step_lib.make_hypers(
            config.optim, config.loss, config.negatives, num_steps=plan.num_steps
        )
        feed = build_lib.make_feed(config, data, corpora[alpha], plan=plan, key=key)
        changes = {"feed": feed, "hypers": hypers, "workdir": cell.workdir}
        loops.append(dataclasses.replace(loop, **changes))
        states.append(state)
    return encoder, loops, states


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
            cell.problem = loop_lib.Diverged(lane.problem)
            note_end(cell, outcome="diverged", reason=lane.problem)


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
        # So many runs have shared the seconds.
        results["together"] = len(cells)
        folder_lib.write_json(cell.workdir / "results.json", results)
        print(f"measured   {name(cell)}, in {cell.workdir}")


def _measured(
    cell: Cell,
    loop: loop_lib.Loop,
    lane: lanes_lib.Lane,
    trained: Trained,
    shared: Shared,
    *,
    num: int,
) -> dict[str, Any]:
    config = cell.config
    if shared.compared is None:
        shared.compared = run_results.compare(config, shared.prepared)
    fitted = lanes_lib.fitted(loop, lane, trained.like)
    seconds = collections.Counter(data=shared.seconds / num, train=0)
    seconds.update(fitted.seconds)
    return experiment_lib.results_of(
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
    return isinstance(problem, OSError) or cli.error_line(problem) is None


def note_problem(cells: Sequence[Cell], problem: Exception) -> None:
    """What ended those of these runs that go on. The next command tries them again,
    unless a rung is decided without them."""
    for cell in filter(goes_on, cells):
        cell.problem = problem
        print(f"{name(cell)}: {cell.outcome}: {problem}", file=sys.stderr)


def note_end(cell: Cell, *, outcome: str, reason: str) -> None:
    """Write how a run ended without figures, of ENDS or "stopped", so that it is not
    tried again."""
    content = json.dumps({"outcome": outcome, "told": reason}) + "\n"
    files.write_atomically(cell.workdir / "ended.json", content)


def read_end(cell: Cell) -> None:
    """How a run ended in an earlier command, onto its cell."""
    path = cell.workdir / "ended.json"
    if cell.results or not path.exists():
        return
    end = folder_lib.read_json(path)
    if end["outcome"] == "stopped":
        cell.stopped = end["told"]
    elif end["outcome"] in ENDS:
        cell.problem = ENDS[end["outcome"]](end["told"])
    else:
        raise InputError(f"{path} has an unknown outcome; remove it to try again")
