"""The rungs of --halving: epochs after which all but the best settings are stopped.

A rung is decided once, in a file, and every command after follows that. A run that fails
before a rung is decided was not compared there, so it stays failed: trained later, it
would go on where better ones were stopped.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common import programs
from experiments.common.cells import Cell
from recall_jax.types import InputError

FIXED = ("train.epochs", "train.eval_every")  # which all settings must share


def check(settings: Sequence[Any], halving: int) -> None:
    """Raise InputError where rungs would mean nothing to these entries."""
    if halving == 1:
        raise InputError("--halving=N keeps one of N settings at a rung, N at least 2")
    for field in FIXED:
        if halving and any(field in each.own for each in settings):
            raise InputError(
                "the rungs of --halving are epochs after which all settings are "
                f"validated; do not sweep over {field}"
            )


def rungs(halving: int, *, num: int, epochs: int, every: int = 1) -> list[int]:
    """Epochs at which only every `halving`-th setting goes on, and the last one: as many
    rungs as `num` settings and `epochs` allow (Jamieson and Talwalkar 2016). With a
    validation `every` so many epochs, the next that has one.

    >>> rungs(3, num=9, epochs=9), rungs(3, num=4, epochs=8), rungs(0, num=9, epochs=9)
    ([1, 3, 9], [1, 3, 8], [9])
    >>> rungs(3, num=9, epochs=8, every=2), rungs(3, num=9, epochs=9, every=5)
    ([2, 4, 8], [5, 9])
    """
    marks, left = [epochs], num
    while halving and left > 1 and marks[0] > 1:
        marks.insert(0, -(-marks[0] // halving))
        left = -(-left // halving)
    return list(dict.fromkeys(min(-(-mark // every) * every, epochs) for mark in marks))


def marks(cells: Sequence[Cell], halving: int) -> list[int | None]:
    """Epochs up to which each rung trains; None: all that a config has."""
    num = len({cell.entry.label for cell in cells})
    train = cells[0].config.train
    every = max(train.eval_every, 1)  # loop.make_plan refuses less
    epochs = rungs(halving, num=num, epochs=train.epochs, every=every)
    return [*epochs[:-1], None]


def decide(
    cells: Sequence[Cell],
    reached: Mapping[str, Sequence[float]],
    *,
    halving: int,
    epoch: int,
) -> dict[str, Any]:
    """How the runs end that do not go on after a rung: {"epoch": e, "ended": {name:
    {"outcome": ..., "told": ...}}}.

    `reached` has by setting the best on validation of each of its runs that came here.
    One of `halving` settings goes on: those with the most runs left come first, a mean
    over fewer says less, then those with the highest mean.
    """
    means = {label: float(np.mean(values)) for label, values in reached.items()}
    order = sorted(reached, key=lambda label: (-len(reached[label]), -means[label]))
    kept, most = math.ceil(len(order) / halving), max(map(len, reached.values()))
    places = {label: place for place, label in enumerate(order, start=1)}
    metric, ended = cells[0].config.evaluate.select_by, {}
    for cell in filter(programs.left, cells):
        label = cell.entry.label
        if cell.outcome == "failed":
            reason = (
                f"{cell.problem}; so the rung of epoch {epoch} was decided without it"
            )
            ended[programs.name(cell)] = {"outcome": "failed", "told": reason}
        elif places.get(label, 0) > kept:
            seeds = len(reached[label])
            fewer = f" of {seeds} seeds, not {most}" if seeds < most else ""
            reason = (
                f"stopped by --halving={halving} at epoch {epoch}: validation {metric} "
                f"{means[label]:.4f}{fewer}, place {places[label]} of {len(order)}; "
                f"{kept} went on"
            )
            ended[programs.name(cell)] = {"outcome": "stopped", "told": reason}
    return {"epoch": epoch, "ended": ended}


def follow(cells: Sequence[Cell], decided: Mapping[str, Any]) -> None:
    """End the runs that a rung has ended, in their folders and on the cells."""
    for cell in filter(programs.left, cells):
        if how := decided["ended"].get(programs.name(cell)):
            programs.note_end(cell, outcome=how["outcome"], reason=how["told"])
            programs.read_end(cell)
