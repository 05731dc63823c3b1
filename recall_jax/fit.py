"""The training loop: epochs of scanned steps, validation, checkpoints, early stopping."""

import contextlib
import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from recall_jax import checkpoint, logs
from recall_jax.objective import Source
from recall_jax.train import Step, TrainState, scan_steps
from recall_jax.types import Hypers, InputError, Key


@dataclasses.dataclass
class TrainConfig:
    """How long, in what portions, and when to stop."""

    epochs: int = 10
    batch_size: int = 1024
    eval_every: int = 1  # epochs between validations
    patience: int = 3  # validations without a better one before stopping
    scan_steps: int = 50  # about how many steps one dispatch runs
    checkpoint_every: int = 0  # dispatches between checkpoints within an epoch; 0: none


class Plan(NamedTuple):
    """An epoch as `dispatches` equal portions of `scan` steps of `size` examples."""

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


def make_plan(config: TrainConfig, *, num_examples: int) -> Plan:
    """Equal dispatches, so that one compilation serves them all; the few batches that
    do not divide evenly are left out of an epoch, others each time."""
    for name in ("epochs", "batch_size", "eval_every", "patience", "scan_steps"):
        if getattr(config, name) < 1:
            raise InputError(
                f"train.{name} is {getattr(config, name)}; it must be at least 1"
            )
    batches = num_examples // config.batch_size
    if not batches:
        raise InputError(
            f"train.batch_size {config.batch_size} is larger than the {num_examples} "
            "training examples; lower it"
        )
    dispatches = math.ceil(batches / config.scan_steps)
    return Plan(batches // dispatches, dispatches, config.batch_size, config.epochs)


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
    """

    step: Step
    source: Source
    hypers: Hypers
    plan: Plan
    config: TrainConfig
    order_key: Key
    validate: Callable[[TrainState], dict[str, float]]
    select_by: str
    folder: Path  # of the checkpoints
    log: logs.RunLog


class Fitted(NamedTuple):
    """The chosen state, how far training went, and what it took."""

    state: TrainState
    progress: Progress
    steps: int
    examples_per_second: float | None  # of this process's steps, without compilation
    seconds: dict[str, float]  # of this process


def fit(loop: Loop, state: TrainState) -> Fitted:
    """Train until the epochs are over or `patience` validations brought nothing.

    Resumes from the newest checkpoint in `loop.folder`. On a CPU, whatever
    interrupted it, the result is that of an uninterrupted run bit for bit: the data
    order belongs to the epoch and the step's randomness to the step. Raises Diverged,
    naming the step, when the loss is not finite.
    """
    progress, plan, clock = Progress(), loop.plan, _Clock()
    restored = checkpoint.restore(loop.folder, state, kind="latest")
    if restored is not None:
        state, progress = restored[0], Progress(**restored[1])
    run = _compile(loop, state, clock=clock)
    first = step = int(state.step)
    bar = logs.progress(
        plan.num_steps * plan.size, initial=step * plan.size, description="train"
    )
    with bar as advance:
        while step < plan.num_steps and progress.since_best < loop.config.patience:
            if step == first or step % plan.steps_per_epoch == 0:
                order = _epoch_order(loop, epoch=step // plan.steps_per_epoch)
            examples = order[step % plan.steps_per_epoch // plan.scan]
            state, loss = _dispatch(
                loop, state, run=run, examples=examples, clock=clock
            )
            step += plan.scan
            advance(examples.size, loss=loss)
            values = {"epoch": step / plan.steps_per_epoch, "loss": loss}
            if _validates(loop, step=step):
                measured, progress = _validate(
                    loop, state, step=step, progress=progress, clock=clock
                )
                values |= measured
            loop.log.write(step, values)
            if _saves(loop, step=step):
                _save(loop, state, step=step, progress=progress, kind="latest")
    best, _ = checkpoint.restore(loop.folder, state, kind="best")
    examples = (step - first) * plan.size
    speed = examples / clock.seconds["train"] if examples else None
    return Fitted(best, progress, step, speed, dict(clock.seconds))


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
    shape = jax.ShapeDtypeStruct((loop.plan.scan, loop.plan.size), np.int32)
    with clock.of("compile"):
        lowered = scan_steps(loop.step).lower(state, loop.hypers, loop.source, shape)
        return lowered.compile()


def _epoch_order(loop: Loop, *, epoch: int) -> np.ndarray:
    """Examples of an epoch, [dispatches, scan, size]: a fresh permutation, less what
    does not fill the last batches."""
    plan = loop.plan
    key = jax.random.fold_in(loop.order_key, epoch)
    order = jax.random.permutation(key, len(loop.source.dataset.example_user))
    order = jax.device_get(order)[: plan.steps_per_epoch * plan.size]
    return order.reshape(plan.dispatches, plan.scan, plan.size)


def _dispatch(
    loop: Loop, state: TrainState, *, run, examples: np.ndarray, clock: _Clock
) -> tuple[TrainState, float]:
    """Run one portion of steps; the state after it and its mean loss."""
    step = int(jax.device_get(state.step))
    examples = jax.device_put(examples)
    with clock.of("train"):
        # An array that slipped to or from the host unseen would stall every step.
        with jax.transfer_guard("disallow"):
            state, metrics = run(state, loop.hypers, loop.source, examples)
        losses = jax.device_get(metrics["loss"])
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise Diverged(_diverged(loop, losses[bad[0]], step=step + int(bad[0]) + 1))
    return state, float(losses.mean())


def _diverged(loop: Loop, loss: float, *, step: int) -> str:
    kept = checkpoint.latest_step(loop.folder)
    where = (
        "there is no checkpoint yet"
        if kept is None
        else f"the last good checkpoint, of step {kept}, stays in {loop.folder}"
    )
    return (
        f"the loss became {loss} at step {step}; {where}. Lower "
        "--config.optim.learning_rate or raise --config.loss.temperature, with "
        "another --workdir"
    )


def _validates(loop: Loop, *, step: int) -> bool:
    epoch, rest = divmod(step, loop.plan.steps_per_epoch)
    due = epoch % loop.config.eval_every == 0 or epoch == loop.plan.epochs
    return rest == 0 and due


def _saves(loop: Loop, *, step: int) -> bool:
    every = loop.config.checkpoint_every
    dispatch = step // loop.plan.scan
    return step % loop.plan.steps_per_epoch == 0 or (
        every > 0 and dispatch % every == 0
    )


def _validate(
    loop: Loop, state: TrainState, *, step: int, progress: Progress, clock: _Clock
) -> tuple[dict[str, float], Progress]:
    """Metrics under "valid_..." and the progress; a better state is saved as best."""
    with clock.of("evaluate"):
        measured = loop.validate(state)
    progress = progress.after(measured[loop.select_by], step=step)
    if progress.best_step == step:
        _save(loop, state, step=step, progress=progress, kind="best")
    return {f"valid_{name}": value for name, value in measured.items()}, progress


def _save(
    loop: Loop, state: TrainState, *, step: int, progress: Progress, kind: str
) -> None:
    checkpoint.save(
        loop.folder, state, kind=kind, step=step, progress=progress._asdict()
    )
