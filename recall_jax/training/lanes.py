"""The training loop of many settings at once: each with its own validation, choice of a
checkpoint and end, as `loop.fit` has them for one."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from recall_jax.training import checkpoint, log
from recall_jax.training import loop as loop_lib
from recall_jax.training import stack as stack_lib
from recall_jax.training.loop import Loop, Progress
from recall_jax.training.step import TrainState


class TooLarge(RuntimeError):
    """The compiled program needs more memory than it may have."""


@contextlib.contextmanager
def memory_told(num: int) -> Iterator[None]:
    """Where `num` settings, more than one, run out of a device's memory, TooLarge: their
    checkpoints are whole, and fewer of them may go on from there."""
    try:
        yield
    except jax.errors.JaxRuntimeError as problem:
        if num == 1 or "RESOURCE_EXHAUSTED" not in str(problem):
            raise
        raise TooLarge(f"{num} settings ran out of a device's memory") from problem


class Lane(NamedTuple):
    """How far one setting has come."""

    seconds: dict[str, float]  # its share of what all took
    progress: Progress = Progress()
    steps: int = 0
    problem: str = ""  # that ended it: its loss is no longer a number

    def spent(self, name: str, seconds: float) -> "Lane":
        spent = self.seconds.get(name, 0.0) + seconds
        return self._replace(seconds={**self.seconds, name: spent})


class Stack(NamedTuple):
    """Where training stands: states [settings, ...] on the host, without slots, and each
    lane."""

    states: Any
    lanes: tuple[Lane, ...]
    step: int  # of those that are not over

    def select(self, kept: Sequence[int]) -> "Stack":
        """The lanes at these places alone."""
        states = jax.tree.map(lambda leaf: leaf[list(kept)], self.states)
        return Stack(states, tuple(self.lanes[at] for at in kept), self.step)


@dataclasses.dataclass(frozen=True)
class Program:
    """Settings of one program. Their loops have one step, plan and config; hypers, data
    order, leaves of the source, and folder are each one's own. Setting j reads rows in
    the order of loop `orders[j]`, its own or an equal one. Checkpoints of all go to
    `folder`, the chosen ones to each loop's. `limit`: bytes of a device."""

    loops: Sequence[Loop]
    orders: Sequence[int]
    folder: Path
    layout: stack_lib.Layout
    limit: float = float("inf")

    @property
    def first(self) -> Loop:
        return self.loops[0]

    def over(self, lane: Lane) -> bool:
        """Whether a setting has stopped before its last epoch."""
        stopped = lane.progress.since_best >= self.first.config.patience
        return bool(lane.problem) or stopped

    def going(self, lanes: Sequence[Lane]) -> list[int]:
        """Places of the settings that are not over."""
        return [at for at, lane in enumerate(lanes) if not self.over(lane)]


def begin(states: Sequence[TrainState]) -> Stack:
    """Before the first step."""
    stacked = stack_lib.stacked([state._replace(slots={}) for state in states])
    return Stack(stacked, (Lane({}),) * len(states), 0)


def outline(state: TrainState) -> TrainState:
    """The shapes of one setting's state, which hold no memory."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def restore(folder: Path, like: TrainState, *, num: int) -> Stack | None:
    """The newest checkpoint of `num` settings, each with a state like `like`, or None."""
    stacked = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num, *leaf.shape), leaf.dtype),
        like._replace(slots={}),
    )
    newest = checkpoint.restore_on_host(folder, stacked, kind="latest")
    if newest is None:
        return None
    states, saved = newest
    lanes = [
        Lane(**{**lane, "progress": Progress(**lane["progress"])})
        for lane in saved["lanes"]
    ]
    return Stack(states, tuple(lanes), saved["step"])


def fit_together(
    group: Program, stack: Stack, *, slots: Any, until: int
) -> tuple[Lane, ...]:
    """Train all lanes from where `stack` stands up to epoch `until`, or until each is
    over: stopped by its own validations, or diverged, which the others do not notice.

    A checkpoint of all lanes is kept every epoch, so that on a CPU whatever interrupts
    this ends, resumed, as it would have ended. `slots` are a fresh state's. Of `stack`
    nothing is kept once it is on the devices; its caller should keep nothing either.
    Raises TooLarge before the first step.
    """
    plan, lanes, step = group.first.plan, list(stack.lanes), stack.step
    end, total = until * plan.steps_per_epoch, _examples(group)
    if step >= end or not group.going(lanes):
        return tuple(lanes)
    run = compiled(group, stack, slots=slots)
    del stack  # it would be held beside what is placed
    lanes = [lane.spent("compile", run.seconds / len(lanes)) for lane in lanes]
    states, rows = run.states, portions(group, step=step)
    bar = log.progress(end * total, initial=step * total, description="train")
    with bar as advance, _run_logs(group, lanes, step=step) as run_logs:
        while step < end and (training := group.going(lanes)):
            start = time.perf_counter()
            examples = next(rows)
            ordered = time.perf_counter() - start
            states = _refreshed(group, states, lanes, training, step=step)
            start = time.perf_counter()
            states, metrics = dispatch(
                group, run, states, examples=examples, training=training
            )
            spent = (ordered + time.perf_counter() - start) / len(training)
            for at in training:
                mine = {name: value[at] for name, value in metrics.items()}
                lane = _checked(lanes[at].spent("train", spent), mine, step=step)
                if not lane.problem:
                    lane, values = _followed(
                        group, at, lane, states, mine, step=step + plan.scan
                    )
                    run_logs[at].write(lane.steps, values)
                lanes[at] = lane
            step += plan.scan
            advance(plan.scan * total, loss=metrics["loss"][training].mean())
            if loop_lib.saves(group.first, step=step):
                _save(group, states, lanes, step=step)
    return tuple(lanes)


def _examples(group: Program) -> int:
    """That one step of all settings trains on."""
    return len(group.loops) * group.first.plan.size * group.first.span


class CompiledProgram(NamedTuple):
    """The compiled program, and what it reads."""

    states: Any
    program: Any
    each: dict[str, Any]
    common: dict[str, Any]
    seconds: float


def compiled(group: Program, stack: Stack, *, slots: Any) -> CompiledProgram:
    """One compilation for all lanes and all dispatches."""
    layout, start = group.layout, time.perf_counter()
    sources = stack_lib.make_sources([loop.feed.like for loop in group.loops])
    together_slots = stack_lib.stacked([slots] * layout.num)
    states = stack_lib.place(stack.states._replace(slots=together_slots), layout)
    hypers = stack_lib.stacked([loop.hypers for loop in group.loops])
    each = stack_lib.place({"hypers": hypers, "own": sources.own}, layout)
    common = {"shared": stack_lib.share(sources.shared, layout)}
    plan = group.first.plan
    shape = () if len(set(group.orders)) == 1 else (layout.num,)
    examples = np.zeros((*shape, plan.scan, plan.size), np.int32)
    now, always = _with_examples(group, each, common, examples, training=())
    program = stack_lib.make_stacked_step(group.first.step, sources, layout)
    executable = program.lower(states, now, always).compile()
    needed = stack_lib.needed_bytes(executable)
    if needed and needed > group.limit and layout.num > 1:
        raise TooLarge(
            f"{layout.num} settings need {needed / 2**30:.2f} GiB of a device, and may "
            f"have {group.limit / 2**30:.2f}"
        )
    return CompiledProgram(
        states, executable, each, common, time.perf_counter() - start
    )


def _with_examples(
    group: Program, each: dict, common: dict, examples: np.ndarray, *, training
) -> tuple[dict, dict]:
    """What changes from dispatch to dispatch, added to what does not."""
    layout, mine = group.layout, {}
    mine["active"] = np.isin(np.arange(layout.num), list(training))
    if examples.ndim == 3:
        mine["examples"] = examples
    else:
        common = common | {"examples": stack_lib.share(examples, layout)}
    return each | stack_lib.place(mine, layout), common


def portions(group: Program, *, step: int) -> Iterator[np.ndarray]:
    """Rows of each dispatch from a step on, [lanes, scan, size]; [scan, size] where all
    settings, of one seed, read them in one order."""
    feeds = {at: group.loops[at].feed.portions(step) for at in set(group.orders)}
    while True:
        rows = {at: next(feed)[1] for at, feed in feeds.items()}
        yield (
            rows[group.orders[0]]
            if len(rows) == 1
            else (np.stack([rows[at] for at in group.orders]))
        )


def dispatch(
    group: Program, run: CompiledProgram, states: Any, *, examples: np.ndarray, training
) -> tuple[Any, dict[str, np.ndarray]]:
    """The states after one portion of steps, and their metrics, [lanes, scan] each."""
    each, common = _with_examples(
        group, run.each, run.common, examples, training=training
    )
    with jax.transfer_guard("disallow"):
        states, metrics = run.program(states, each, common)
    return states, jax.device_get(metrics)


def _refreshed(
    group: Program, states: Any, lanes: list[Lane], training: list[int], *, step: int
) -> Any:
    """The states with what they hold of the whole catalogue renewed, where it is due."""
    loop = group.first
    if not loop.refresh_every or step // loop.plan.scan % loop.refresh_every:
        return states
    candidates = []
    for at in range(group.layout.num):
        start = time.perf_counter()
        candidates.append(
            loop.refresh(stack_lib.lane(states, at, group.layout)).candidates
        )
        if at in training:
            spent = time.perf_counter() - start
            lanes[at] = lanes[at].spent("refresh", spent)
    renewed = stack_lib.place(stack_lib.stacked(candidates), group.layout)
    return states._replace(candidates=renewed)


def _checked(lane: Lane, metrics: dict[str, np.ndarray], *, step: int) -> Lane:
    """The lane with its problem, where its loss or gradient is not finite."""
    finite = np.isfinite([metrics["loss"], metrics["gradient_norm"]]).all(axis=0)
    bad = np.flatnonzero(~finite)
    if not len(bad):
        return lane
    details = ", ".join(f"{name} {value[bad[0]]}" for name, value in metrics.items())
    return lane._replace(
        steps=step, problem=f"training diverged at step {step + bad[0] + 1} ({details})"
    )


def _followed(
    group: Program,
    at: int,
    lane: Lane,
    states: Any,
    metrics: dict[str, np.ndarray],
    *,
    step: int,
) -> tuple[Lane, dict[str, float]]:
    """The lane after a dispatch and what its log says of it; where validation is due,
    its checkpoint chosen anew."""
    loop, lane = group.loops[at], lane._replace(steps=step)
    values = {name: float(value.mean()) for name, value in metrics.items()}
    values["epoch"] = step / loop.plan.steps_per_epoch
    if not loop_lib.validates(loop, step=step):
        return lane, values
    state = stack_lib.lane(states, at, group.layout)
    start = time.perf_counter()
    try:
        measured = loop.validate(state)
    except FloatingPointError as problem:
        message = f"training diverged by step {step}: {problem}"
        return lane._replace(problem=message), values
    lane = lane.spent("evaluate", time.perf_counter() - start)
    progress = lane.progress.after(measured[loop.select_by], step=step)
    values |= {f"valid_{name}": value for name, value in measured.items()}
    if progress.best_step == step:
        checkpoint.save(
            loop.folder,
            state._replace(slots={}),
            kind="best",
            step=step,
            progress={"seconds": lane.seconds, **progress._asdict()},
        )
    return lane._replace(progress=progress), values


def _save(group: Program, states: Any, lanes: list[Lane], *, step: int) -> None:
    """All lanes as one checkpoint, without the padding of the last device."""
    states = stack_lib.unpadded(states._replace(slots={}), group.layout)
    entries = [lane._asdict() | {"progress": lane.progress._asdict()} for lane in lanes]
    record = {"step": step, "lanes": entries}
    checkpoint.save(group.folder, states, kind="latest", step=step, progress=record)


@contextlib.contextmanager
def _run_logs(
    group: Program, lanes: list[Lane], *, step: int
) -> Iterator[dict[int, log.RunLog]]:
    """The log of each setting that is not over, in its own folder."""
    with contextlib.ExitStack() as opened:
        yield {
            at: opened.enter_context(log.RunLog(loop.workdir, after=step or -1))
            for at, (loop, lane) in enumerate(zip(group.loops, lanes, strict=True))
            if not group.over(lane)
        }


def fitted(loop: Loop, lane: Lane, like: TrainState) -> loop_lib.Fitted:
    """What `loop.fit` gives of a lone run: the chosen state and what it took."""
    like = like._replace(slots={})
    state, _ = checkpoint.restore(loop.folder, like, kind="best")
    size, per_epoch = loop.plan.size * loop.span, loop.plan.steps_per_epoch
    speed = lane.steps * size / lane.seconds["train"]
    best_epoch = lane.progress.best_step // per_epoch
    epochs = lane.steps / per_epoch
    return loop_lib.Fitted(
        state, lane.progress, lane.steps, speed, lane.seconds, best_epoch, epochs
    )
