"""The settings of a sweep, from what --over says.

    loss.temperature=0.02,0.05,0.1      these values; a list in brackets: [64,32]
    optim.learning_rate=log(1e-4,1e-2,5)    five, each the same factor above the last
    model.dropout=linear(0,0.4,5)           five, evenly apart
    optim.learning_rate=loguniform(1e-4,1e-2)   drawn; uniform(0,0.5) evenly

Without --samples a sweep is every combination; with it, so many drawn combinations.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.common import cli
from recall_jax.run import build as build_lib
from recall_jax.run import config
from recall_jax.types import InputError

SPACED = {"linear": np.linspace, "log": np.geomspace}
DRAWN: dict[str, Callable[[np.random.Generator, float, float], float]] = {
    "uniform": lambda rng, low, high: rng.uniform(low, high),
    "loguniform": lambda rng, low, high: math.exp(
        rng.uniform(math.log(low), math.log(high))
    ),
}
FORM = (
    "FIELD=A,B,C or FIELD=log(LOW,HIGH,N), linear(LOW,HIGH,N), and with --samples=N "
    "uniform(LOW,HIGH), loguniform(LOW,HIGH)"
)


MOST = 10_000  # values of an axis


class Axis(NamedTuple):
    """One field and what it takes: values as flags have them, or how they are drawn."""

    field: str
    values: tuple[str, ...]
    draw: str = ""  # of DRAWN
    low: float = 0.0
    high: float = 0.0

    def sample(self, rng: np.random.Generator, as_value: Callable) -> str:
        if self.values:
            return self.values[int(rng.integers(len(self.values)))]
        return as_value(self.field, DRAWN[self.draw](rng, self.low, self.high))


def make_settings(
    entry: cli.Entry, overs: Sequence[str], *, samples: int, seed: int
) -> list[cli.Entry]:
    """Every combination, or `samples` different ones drawn from `seed`; each checked.
    Raises InputError that names the axis or the combination."""
    if not overs:
        raise InputError(f"nothing to sweep over; give --over, each {FORM}")
    axes = [parse(entry, text) for text in overs]
    fields = [axis.field for axis in axes]
    for field in fields:
        if fields.count(field) > 1:
            raise InputError(f"--over names {field} twice; list all of its values once")
    if samples:
        combinations = _drawn(entry, axes, samples=samples, seed=seed)
    else:
        combinations = _grid(axes)
    return [_setting(entry, dict(zip(fields, values))) for values in combinations]


def parse(entry: cli.Entry, text: str) -> Axis:
    """An axis; its field is one of the entry's config, by its whole path."""
    field, equals, rest = (part.strip() for part in text.partition("="))
    if not (equals and field and rest):
        raise InputError(f"--over={text}: it is {FORM}")
    try:
        kind = config.find_field(entry.config, field).type
    except InputError as problem:
        raise InputError(f"--over={text}: {problem}") from problem
    if field == "seed":
        raise InputError("--over does not take seed; --seeds=N runs 0 to N - 1")
    call = re.fullmatch(r"(\w+)\((.*)\)", rest)
    if call and call[1] in (*SPACED, *DRAWN):
        return _called(text, field, kind, name=call[1], given=call[2])
    # A comma inside of brackets belongs to a list.
    values = [value.strip() for value in re.split(r",(?![^\[]*\])", rest)]
    values = [re.sub(r"^\[(.*)\]$", r"\1", value) for value in values]
    return Axis(field, tuple(dict.fromkeys(values)))


def _called(text: str, field: str, kind: type, *, name: str, given: str) -> Axis:
    """An axis by a function of its bounds."""
    size = 3 if name in SPACED else 2
    try:
        numbers = [float(part) for part in given.split(",")]
    except ValueError as problem:
        raise InputError(f"--over={text}: {name} takes numbers; it is {FORM}") from (
            problem
        )
    if kind not in (int, float):
        raise InputError(f"--over={text}: {field} is no number; list its values")
    if len(numbers) != size or not numbers[0] < numbers[1]:
        raise InputError(f"--over={text}: {name} takes LOW below HIGH; it is {FORM}")
    low, high, *rest = numbers
    if not all(map(math.isfinite, [*numbers, high - low])):
        raise InputError(f"--over={text}: {name} takes finite numbers; it is {FORM}")
    if "log" in name and low <= 0:
        raise InputError(f"--over={text}: {name} takes bounds above 0")
    if name in DRAWN:
        return Axis(field, (), name, low, high)
    num = int(rest[0])
    if not 2 <= num <= MOST or num != rest[0]:
        raise InputError(f"--over={text}: {name} takes from 2 to {MOST} values")
    values = [as_text(kind, value) for value in SPACED[name](low, high, num)]
    return Axis(field, tuple(dict.fromkeys(values)))


def as_text(kind: type, value: float) -> str:
    """A number as a flag has it: six digits, or a whole one."""
    return str(round(value)) if kind is int else f"{value:.6g}"


def _grid(axes: Sequence[Axis]) -> list[tuple[str, ...]]:
    for axis in axes:
        if not axis.values:
            raise InputError(
                f"--over={axis.field}={axis.draw}(...) draws its values; say how many "
                "settings with --samples=N"
            )
    return list(itertools.product(*(axis.values for axis in axes)))


def _drawn(
    entry: cli.Entry, axes: Sequence[Axis], *, samples: int, seed: int
) -> list[tuple[str, ...]]:
    """Different combinations; fewer than asked where there are no more."""
    rng, combinations = np.random.default_rng(seed), {}

    def as_value(field: str, value: float) -> str:
        return as_text(config.find_field(entry.config, field).type, value)

    for _ in range(100 * samples):
        if len(combinations) == samples:
            break
        combinations[tuple(axis.sample(rng, as_value) for axis in axes)] = None
    return list(combinations)


def _setting(entry: cli.Entry, own: dict[str, str]) -> cli.Entry:
    setting = cli.with_own(entry, own)
    try:
        config.check(setting.config)
        build_lib.check_pairs(setting.config)
    except InputError as problem:
        text = ", ".join(f"{field}={value}" for field, value in own.items())
        raise InputError(f"--over: of the setting {text}: {problem}") from problem
    return setting
