"""Runs of a table: a config with its overrides, a seed and a folder each."""

import dataclasses
import hashlib
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from experiments.common import cli
from recall_jax.run import config as config_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run import same_data
from recall_jax.run.config import Experiment
from recall_jax.training.loop import Diverged
from recall_jax.types import InputError


@dataclasses.dataclass
class Cell:
    """One run of a table: a config with a seed, as far as it has come."""

    entry: cli.Entry
    config: Experiment
    workdir: pathlib.Path
    results: dict[str, Any] | None = None  # results.json
    data: dict[str, Any] | None = None  # data.json
    problem: Exception | None = None  # what ended it
    stopped: str = ""  # why a sweep gave it up

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def state(self) -> str:
        if self.results:
            return "finished"
        return "begun" if (self.workdir / "config.json").exists() else "missing"

    @property
    def outcome(self) -> str:
        if self.problem:
            numbers = isinstance(self.problem, (Diverged, FloatingPointError))
            return "diverged" if numbers else "failed"
        return "stopped" if self.stopped else self.state

    @property
    def command(self) -> str:
        """What makes this run alone."""
        overrides = [f"--config.{k}={v}" for k, v in self.entry.overrides.items()]
        last = [f"--seed={self.seed}", f"--workdir={self.workdir}"]
        flags = [f"--config={self.entry.name}", *overrides, *last]
        return "python -m experiments.run " + shlex.join(flags)


def by_label(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The runs of each entry, a seed each."""
    entries: dict[str, list[Cell]] = {}
    for cell in cells:
        entries.setdefault(cell.entry.label, []).append(cell)
    return entries


LONGEST = 120  # characters of a folder's name; file systems end at 255


def make_cells(
    entries: Sequence[cli.Entry], *, num_seeds: int, folder: pathlib.Path
) -> list[Cell]:
    """Every entry with every seed, and the results there are. Raises InputError for
    what would fail late: a config's values, a folder of another config, figures of data
    that are no longer what the log holds."""
    cells, taken = [], {}
    for entry in entries:
        if "seed" in entry.overrides:
            raise InputError("config.seed is not to be set; --seeds=N runs 0 to N - 1")
        name = folder_name(entry)
        if name in taken:
            raise InputError(f"--configs lists {entry.label} twice")
        taken[name] = entry
        for seed in range(num_seeds):
            config = dataclasses.replace(entry.config, seed=seed)
            cells.append(_cell(entry, config, folder / name / f"seed-{seed}"))
    finished = [cell for cell in cells if cell.results]
    same_data.check([same_data.Finished(c.config, c.workdir) for c in finished])
    return cells


def _cell(entry: cli.Entry, config, workdir: pathlib.Path) -> Cell:
    try:
        config_lib.check(config)
    except InputError as problem:
        raise InputError(f"{entry.label}: {problem}") from problem
    folder_lib.refuse_another(config, workdir)
    cell = Cell(entry, config, workdir)
    if (workdir / "results.json").exists():
        read(cell)
    return cell


def read(cell: Cell) -> None:
    cell.results = folder_lib.read_results(cell.workdir / "results.json")
    cell.data = folder_lib.read_json(cell.workdir / "data.json")


def folder_name(entry: cli.Entry) -> str:
    """The name and all overrides; what a path cannot hold, or is too long, is cut and
    told apart by a hash."""
    overrides = sorted(entry.overrides.items())
    whole = ",".join([entry.name, *(f"{field}={value}" for field, value in overrides)])
    plain = re.sub(r"[^\w.,=+-]+", "_", whole)
    if plain == whole and len(whole) <= LONGEST:
        return whole
    return f"{plain[:LONGEST]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
