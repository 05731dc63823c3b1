"""The training loop: epochs of scanned steps, validation, checkpoints, early stopping."""

import contextlib
import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from recall_jax.devices import mesh, processes
from recall_jax.training import checkpoint
from recall_jax.training import log as log_lib
from recall_jax.training.step import Step, TrainState, scan_steps
from recall_jax.types import Hypers, InputError, Key, bounded, check_fields, choice


@dataclasses.dataclass
class TrainConfig:
    """How long, in what portions, and when to stop."""

    epochs: int = bounded(10, 1)
    batch_size: int = bounded(1024, 1)
    eval_every: int = bounded(1, 1)  # epochs between validations
    patience: int = bounded(3, 1)  # validations without a better one before stopping
    scan_steps: int = bounded(50, 1)  # about how many steps one dispatch runs
    # Dispatches between checkpoints within an epoch; 0: none.
    checkpoint_every: int = bounded(0, 0)
    # "all": a second model trains on validation too (given, file_order).
    refit: str = choice("none", ("none", "all"))


class Plan(NamedTuple):
    """An epoch as `dispatches` equal portions of `scan` steps of `size` rows: examples,
    or spans of them."""

    scan: int
    dispatches: int
    size: int
    epochs: int

    @property
    def steps_per_epoch(self) -> int:
        return self.scan * self.dispatches

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.epochs


def make_plan(config: TrainConfig, *, num_rows: int) -> Plan:
    """Equal dispatches, so that one compilation serves them all; the few batches that
    do not divide evenly are left out of an epoch, others each time."""
    check_fields(config, "--config.train")
    num_rows = max(num_rows, 0)
    batches = num_rows // config.batch_size
    if not batches:
        raise InputError(
            f"train.batch_size {config.batch_size} is larger than the {num_rows} "
            "training examples (of a model over sequences: rows of "
            "model.history_length examples; of one on pairs: blocks, walks); lower it"
        )
    dispatches = math.ceil(batches / config.scan_steps)
    return Plan(batches // dispatches, dispatches, config.batch_size, config.epochs)


class Feed(NamedTuple):
    """What steps train on.

    `like` is the source that a step reads, a pytree (negatives.StepData, corpus.PairData), or
    the shapes of one. `portions(step)` gives, from a step on that begins a dispatch, the
    source of each dispatch and its rows, int32 [scan, size]; closing it ends it.
    """

    like: Any
    portions: Callable[[int], Iterator[tuple[Any, np.ndarray]]]


def resident(source: Any, *, num_rows: int, span: int, plan: Plan, key: Key) -> Feed:
    """All data in one source, of `num_rows` rows, in another order each epoch."""

    def portions(step: int) -> Iterator[tuple[Any, np.ndarray]]:
        first, rest = divmod(step, plan.steps_per_epoch)
        done = rest // plan.scan
        for epoch in range(first, plan.epochs):
            order = epoch_order(
                jax.random.fold_in(key, epoch), num_rows=num_rows, span=span, plan=plan
            )
            yield from ((source, rows) for rows in order[done:])
            done = 0

    return Feed(source, portions)


def epoch_order(key: Key, *, num_rows: int, span: int, plan: Plan) -> np.ndarray:
    """Rows of an epoch, [dispatches, scan, size]: a fresh permutation, less what does
    not fill the last batches. Spans begin elsewhere in each epoch, so that no example
    stands at the beginning of its row, without a past, each time."""
    if span == 1:
        order = jax.random.permutation(key, num_rows)
    else:
        key, shift_key = jax.random.split(key)
        shift = jax.random.randint(shift_key, (), 0, span)
        order = jax.random.permutation(key, num_rows) * span + shift
    order = jax.device_get(order)[: plan.steps_per_epoch * plan.size]
    return order.reshape(plan.dispatches, plan.scan, plan.size)


class Diverged(RuntimeError):
    """The loss is no longer a number."""


class Progress(NamedTuple):
    """Where the choice of a checkpoint stands, saved with each of them."""

    best: float = -1.0  # of `select_by`; metrics are never negative
    best_step: int = 0
    since_best: int = 0  # validations without a better one

    def after(self, value: float, *, step: int) -> "Progress":
        """Progress after a validation that reached `value`."""
        if value > self.best:
            return Progress(value, step, 0)
        return self._replace(since_best=self.since_best + 1)


@dataclasses.dataclass(frozen=True)
class Loop:
    """What `fit` runs: the step, what it reads, where it writes.

    `validate` gives metrics of a state by name; `select_by` is the one that chooses.
    With None nothing is chosen: the last state counts. `refresh` renews what a state
    holds of the whole catalogue, before every `refresh_every`th dispatch. Checkpoints and metrics go to `workdir`.
    """

    step: Step
    feed: Feed
    span: int  # examples that a row holds
    hypers: Hypers
    plan: Plan
    config: TrainConfig
    validate: Callable[[TrainState], dict[str, float]] | None
    select_by: str
    workdir: Path
    refresh: Callable[[TrainState], TrainState] | None = None
    refresh_every: int = 0

    @property
    def folder(self) -> Path:
        return self.workdir / "checkpoints"


class Fitted(NamedTuple):
    """The chosen state, how far training went, and what it took."""

    state: TrainState
    progress: Progress
    steps: int
    examples_per_second: float  # of the training steps, without compilation
    seconds: dict[str, float]  # of this process and those it resumed from
    best_epoch: int  # of the chosen state
    epochs: float  # that `steps` are


def fit(loop: Loop, state: TrainState) -> Fitted:
    """Train until the epochs are over or `patience` validations brought nothing.

    Resumes from the newest checkpoint in `loop.folder`. On a CPU, whatever
    interrupted it, the result is that of an uninterrupted run bit for bit: the data
    order belongs to the epoch and the step's randomness to the step. Raises Diverged,
    naming the step, when the loss or its gradient is not finite.
    """
    state, progress, clock = _restore(loop, state)
    step = int(state.step)
    run, plan = _compile(loop, state, clock=clock), loop.plan
    size = plan.size * loop.span  # examples a step
    fed, validation = contextlib.closing(loop.feed.portions(step)), ""
    with _reports(loop, step=step) as (advance, write), fed as portions:
        while step < plan.num_steps and progress.since_best < loop.config.patience:
            with clock.of("train"):
                source, rows = next(portions)
            if loop.refresh_every and step // plan.scan % loop.refresh_every == 0:
                with clock.of("refresh"):
                    state = loop.refresh(state)
            with clock.of("train"):
                state, metrics = _dispatch(
                    loop, state, run=run, source=source, rows=rows
                )
            _check_finite(loop, metrics, step=step)
            step += plan.scan
            values = {name: float(value.mean()) for name, value in metrics.items()}
            advance(plan.scan * size, loss=values["loss"], validation=validation)
            values["epoch"] = step / plan.steps_per_epoch
            if loop.validate is None:
                progress = progress._replace(best_step=step)
                if step == plan.num_steps:
                    _save(loop, state, progress=progress, clock=clock, kind="best")
            elif validates(loop, step=step):
                with clock.of("evaluate"):
                    # One rounding apart, two processes would save different steps.
                    measured = processes.agreed(_validated(loop, state, step=step))
                progress = progress.after(measured[loop.select_by], step=step)
                validation = f"valid {loop.select_by} {measured[loop.select_by]:.4f}"
                advance(0, loss=values["loss"], validation=validation)
                values |= {f"valid_{name}": value for name, value in measured.items()}
                if progress.best_step == step:
                    _save(loop, state, progress=progress, clock=clock, kind="best")
            write(step, values)
            if saves(loop, step=step):
                _save(loop, state, progress=progress, clock=clock, kind="latest")
    best, *_ = _restore(loop, state, kind="best")
    speed = step * size / clock.seconds["train"]
    epoch = progress.best_step // plan.steps_per_epoch
    epochs = step / plan.steps_per_epoch
    return Fitted(best, progress, step, speed, dict(clock.seconds), epoch, epochs)


@contextlib.contextmanager
def _reports(loop: Loop, *, step: int) -> Iterator[tuple[Callable, Callable]]:
    """What tells how far it is, `advance`, and what keeps it, `write`; both do nothing in
    all processes but the first."""
    if not processes.is_first():
        yield _silent, _silent
        return
    size, after = loop.plan.size * loop.span, step if step else -1
    total, initial = loop.plan.num_steps * size, step * size
    bar = log_lib.progress(total, initial=initial, description="train")
    with bar as advance, log_lib.RunLog(loop.workdir, after=after) as log:
        yield advance, log.write


def _silent(*arguments: Any, loss: Any = None, validation: str = "") -> None:
    pass


class _Clock:
    """Seconds by what they were spent on."""

    def __init__(self):
        self.seconds = defaultdict(float)

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


def _compile(loop: Loop, state: TrainState, *, clock: _Clock):
    """The scanned steps, compiled before the loop: once, and timed on their own."""
    shape = mesh.on_each_shape((loop.plan.scan, loop.plan.size), np.int32)
    with clock.of("compile"):
        lowered = scan_steps(loop.step).lower(state, loop.hypers, loop.feed.like, shape)
        compiled = lowered.compile()
    processes.gathered("compiled")  # a collective on CPUs waits for 30 seconds only
    return compiled


def _dispatch(
    loop: Loop, state: TrainState, *, run, source: Any, rows: np.ndarray
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """The state after one portion of steps, and their metrics, [scan] each."""
    rows = mesh.on_each(rows)
    # An array that slipped to or from the host unseen would stall every step.
    with jax.transfer_guard("disallow"):
        state, metrics = run(state, loop.hypers, source, rows)
    return state, jax.device_get(metrics)


def _check_finite(loop: Loop, metrics: dict[str, np.ndarray], *, step: int) -> None:
    """Raise Diverged at the first step whose loss or gradient is not finite, before
    anything that it spoiled is saved."""
    finite = np.isfinite([metrics["loss"], metrics["gradient_norm"]]).all(axis=0)
    bad = np.flatnonzero(~finite)
    if len(bad):
        at = int(bad[0])
        values = ", ".join(f"{name} {value[at]}" for name, value in metrics.items())
        raise Diverged(_diverged(loop, f"at step {step + at + 1} ({values})"))


def _diverged(loop: Loop, said: str) -> str:
    kept = checkpoint.latest_step(loop.folder)
    where = (
        "there is no checkpoint yet"
        if kept is None
        else f"the last good checkpoint, of step {kept}, stays in {loop.folder}"
    )
    return (
        f"training diverged {said}; {where}. Lower "
        "--config.optim.learning_rate or raise --config.loss.temperature, with "
        "another --workdir"
    )


def _validated(loop: Loop, state: TrainState, *, step: int) -> dict[str, float]:
    """Metrics of a state; Diverged where its vectors are no numbers, which a step's loss
    tells only of the step before."""
    try:
        return loop.validate(state)
    except FloatingPointError as problem:
        said = f"in validation after step {step} ({problem})"
        raise Diverged(_diverged(loop, said)) from problem


def validates(loop: Loop, *, step: int) -> bool:
    """Whether validation is due after this many steps."""
    epoch, rest = divmod(step, loop.plan.steps_per_epoch)
    due = epoch % loop.config.eval_every == 0 or epoch == loop.plan.epochs
    return rest == 0 and due


def saves(loop: Loop, *, step: int) -> bool:
    """Whether a checkpoint to resume from is due after this many steps."""
    every = loop.config.checkpoint_every
    dispatch = step // loop.plan.scan
    return step % loop.plan.steps_per_epoch == 0 or (
        every > 0 and dispatch % every == 0
    )


def _save(
    loop: Loop, state: TrainState, *, progress: Progress, clock: _Clock, kind: str
) -> None:
    """Write a checkpoint; the slots, zero between steps, are left out."""
    checkpoint.save(
        loop.folder,
        state._replace(slots={}),
        kind=kind,
        step=int(state.step),
        progress={"seconds": dict(clock.seconds), **progress._asdict()},
    )


def _restore(
    loop: Loop, state: TrainState, *, kind: str = "latest"
) -> tuple[TrainState, Progress, _Clock]:
    """What a checkpoint holds, in place of `state`, or `state` where there is none."""
    clock = _Clock()
    if not checkpoint.exists(loop.folder, kind=kind):
        return state, Progress(), clock
    like = _emptied(state._replace(slots={}))
    saved, progress = checkpoint.restore(loop.folder, like, kind=kind)
    clock.seconds.update(progress.pop("seconds"))
    return saved._replace(slots=state.slots), Progress(**progress), clock


def _emptied(state: TrainState) -> TrainState:
    """The shapes of a state whose memory is free again: it would be held beside the one
    that is restored."""
    like = jax.tree.map(checkpoint.outline, state)
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    return like
