"""What a sweep will do: which settings train in one program, and what that takes."""

import itertools
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import cli
from experiments.common.cells import Cell
from recall_jax.run import build as build_lib
from recall_jax.run import config as config_lib
from recall_jax.run import data as data_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run.config import Experiment
from recall_jax.training import log, loop
from recall_jax.types import InputError

TRACED = (
    "seed",
    "optim.learning_rate",
    "optim.tables_lr_scale",
    "optim.weight_decay",
    "loss.temperature",
    "loss.margin",
    "loss.negative_weight",
    "loss.calibration",
    "negatives.strength",
    "negatives.alpha",
    "model.pairs.alpha",
)
"""Fields that change neither shapes nor code: settings that differ in nothing else train
in one program."""
TRAINED_ON = (
    "data.context",
    "data.examples_per_user",
    "data.examples_seed",
    "data.item_columns",
    "data.item_features",
    "data.text_buckets",
    "data.tokens",
    "data.tokens_length",
    "data.user_columns",
    "data.user_features",
)
"""Fields of data that change what a model is trained on and no target; all others make
figures that are not to be compared."""
COPIES = 3  # of a state: itself, its gradients and what a step makes of it, about


def check(settings: Sequence[cli.Entry], *, memory_gb: float) -> None:
    """Raise InputError for settings that one figure does not rank: those whose targets or
    metrics differ, and those whose figures are of drawn candidates."""
    for field in dict.fromkeys(field for each in settings for field in each.own):
        group = field.partition(".")[0]
        if group == "evaluate" or (group == "data" and field not in TRAINED_ON):
            raise InputError(
                f"--over={field}: it changes what is measured, so no figure ranks its "
                "values; compare them with experiments.table, or in a study with "
                "experiments.ablate"
            )
    candidates = settings[0].config.evaluate.candidates
    if candidates != "all":
        raise InputError(
            f"evaluate.candidates={candidates}: a sweep chooses on validation, which says "
            "little among drawn items; set evaluate.candidates=all, or compare single "
            "settings with experiments.table"
        )
    if not 0 <= memory_gb < math.inf:
        raise InputError(
            f"--memory_gb={memory_gb} is no size; give GiB above 0, or 0 for what there is"
        )


def make_groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Runs that one program can train, in the order of their first."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_code(cell.config), []).append(cell)
    return list(groups.values())


def _code(config: Experiment) -> str:
    """All of a config but what is traced."""
    content = config_lib.as_dict(config)
    for path in TRACED:
        *parents, name = path.split(".")
        holder = content
        for parent in parents:
            holder = holder.get(parent, {})
        holder.pop(name, None)
    return json.dumps(content)


def data_of(config: Experiment) -> str:
    """What decides how the data are laid out and what baselines reach."""
    content, model = config_lib.as_dict(config), config.model
    laid = [model.history_length, model.min_history, data_lib.span_of(model)]
    return json.dumps([content["data"], content["evaluate"], *laid])


class Size(NamedTuple):
    """Of one run of a group."""

    state_bytes: int  # what it keeps on the device
    plan: loop.Plan
    num_rows: int


def measure(config: Experiment, data: Any) -> Size:
    """By shapes alone: nothing is trained."""
    on = build_lib.make_corpus(config, data)
    plan = loop.make_plan(config.train, num_rows=on.num_rows)

    def state():
        return build_lib.make(config, data, batch_size=plan.size * on.span).state

    leaves = jax.tree.leaves(jax.eval_shape(state))
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return Size(kept, plan, on.num_rows)


def device_bytes(memory_gb: float, devices: Sequence[jax.Device]) -> float:
    """What the programs of a sweep may use of each device: `memory_gb`, or unless given
    nine tenths of an accelerator's memory, half of the host's shared by its devices."""
    if memory_gb:
        return memory_gb * 2**30
    if devices[0].platform != "cpu":
        limit = (devices[0].memory_stats() or {}).get("bytes_limit")
        return 0.9 * limit if limit else float("inf")
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole / 2 / len(devices)


def portions(
    group: list[Cell], *, state_bytes: int, limit: float, num_devices: int
) -> list[list[Cell]]:
    """A group as few equal parts that fit `limit` bytes of each device."""
    on_each = min(limit / (COPIES * state_bytes), len(group))
    fitting = int(on_each) * num_devices
    if not fitting:
        raise InputError(
            f"one run keeps {state_bytes / 2**30:.2f} GiB, which {limit / 2**30:.2f} GiB "
            "do not hold three times, as training may; raise --memory_gb, or lower "
            "model.id_width"
        )
    parts = -(-len(group) // fitting)
    return [list(part) for part in _split(group, parts)]


def _split(cells: list[Cell], parts: int) -> list[list[Cell]]:
    bounds = np.linspace(0, len(cells), parts + 1).astype(int)
    return [cells[a:b] for a, b in itertools.pairwise(bounds)]


def as_text(
    parts: Sequence[tuple[list[Cell], Size]],
    *,
    marks: Sequence[int],
    mode: str,
    seconds: float | None,
    left: int,
) -> str:
    """The plan as a table: portions of groups, and what they take. `seconds` a run, by
    those that are finished; `left` are not."""
    rows = [
        {
            "program": number,
            "runs": len(part),
            "settings": len({cell.entry.label for cell in part}),
            "state GiB": f"{len(part) * size.state_bytes / 2**30:.3f}",
            "GiB, about": f"{COPIES * len(part) * size.state_bytes / 2**30:.3f}",
            "steps a run": size.plan.num_steps,
            "fixed": _fixed(part[0], [cell for other, _ in parts for cell in other]),
        }
        for number, (part, size) in enumerate(parts, start=1)
    ]
    compilations = len(parts) * len(marks)
    lines = [
        log.as_table(rows, list(rows[0])) if rows else "",
        f"{compilations} compilations of a step at most"
        + (f": of each program one a rung, epochs {marks}" if len(marks) > 1 else ""),
        f"on {jax.device_count()} {jax.devices()[0].device_kind} devices, mode {mode}",
    ]
    if seconds is None:
        lines.append(
            f"{left} runs to go, of unknown length: none is finished, here or in runs/"
        )
    else:
        lines.append(
            f"{left} runs to go, about {left * seconds / 60:,.1f} minutes by those that "
            "are finished" + (", less what halving saves" if len(marks) > 1 else "")
        )
    return "\n".join(lines)


def _fixed(cell: Cell, cells: Sequence[Cell]) -> str:
    """What of its own overrides a group holds fixed and others have otherwise."""
    fields = [name for name in cell.entry.own if name not in TRACED]
    varied = [f for f in fields if len({c.entry.own.get(f) for c in cells}) > 1]
    return ":".join(f"{name}={cell.entry.own[name]}" for name in varied)


def known_seconds(cells: Sequence[Cell], lone: pathlib.Path) -> float | None:
    """Seconds of a run: the mean of the finished ones, or of a lone one elsewhere."""
    spent = [sum(c.results["seconds"].values()) for c in cells if c.results]
    path = lone / "results.json"
    if not spent and path.exists():
        spent = [sum(folder_lib.read_json(path)["seconds"].values())]
    return float(np.mean(spent)) if spent else None


def refuse_another(folder: pathlib.Path, request: dict[str, Any]) -> None:
    """Raise InputError where the folder holds another sweep, of which a run has begun."""
    path, begun = folder / "plan.json", any(folder.glob("*/seed-*/config.json"))
    stored_request = folder_lib.read_json(path) if begun and path.exists() else request
    differing = [
        f"{name}: {stored_request.get(name)!r} there, {request.get(name)!r} asked"
        for name in {**stored_request, **request}
        if stored_request.get(name) != request.get(name)
    ]
    if differing:
        raise InputError(
            f"{folder} holds another sweep ({'; '.join(differing)}); name another folder "
            "with --runs"
        )


def note(folder: pathlib.Path, request: dict[str, Any]) -> None:
    """What the sweep of a folder was asked."""
    folder_lib.write_json(folder / "plan.json", request)


def one_device_a_core() -> None:
    """Show a CPU to JAX as a device a core, before it is first asked: settings side by
    side use the cores better than the pieces of one step do."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
