"""Settings trained together against one after the other, and against separate commands.

    python -m experiments.bench.sweep
    python -m experiments.bench.sweep --smoke

8 temperatures x 2 seeds of dssm_synthetic: once by `experiments.sweep`'s program; once
one after the other in one process that has compiled once; and a few of them as commands
of their own, each of which starts, compiles, trains and measures, against the whole
sweep as a command. The last line is JSON.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
from absl import flags

from experiments.common import cells as cells_lib
from experiments.common import cli, grid, programs
from experiments.common import plan as plan_lib
from experiments.common.cells import Cell
from recall_jax.training import lanes, log, stack, step

TEMPERATURES = "loss.temperature=0.02,0.04,0.06,0.08,0.1,0.14,0.2,0.3"
SEEDS = 2  # each with an order of its own
SMOKE = {  # sizes that say nothing about speed
    "data.num_users": "60",
    "data.num_items": "40",
    "data.num_events": "700",
    "data.num_markets": "4",
    "train.batch_size": "16",
    "train.epochs": "2",
    "evaluate.indexes": "",
}


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    overrides = SMOKE if options.smoke else {}
    axis = "loss.temperature=0.1,0.2" if options.smoke else TEMPERATURES
    entry = cli.Entry("dssm_synthetic", {}, {}, cli.load_config("dssm_synthetic"))
    entry = cli.with_own(entry, overrides)._replace(own={})
    settings = grid.make_settings(entry, [axis], samples=0, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        cells = cells_lib.make_cells(
            settings, num_seeds=SEEDS, folder=pathlib.Path(folder) / "cells"
        )
        commands = cells[: options.commands]
        ms = time_training(cells, rounds=options.rounds, mode=options.mode)
        override_flags = [
            f"--config.{name}={value}" for name, value in overrides.items()
        ]
        wall = time_commands(
            [
                f"--over={axis}",
                f"--seeds={SEEDS}",
                f"--mode={options.mode}",
                *override_flags,
            ],
            commands,
            folder=pathlib.Path(folder),
        )
    alone = wall["separate"] * len(cells)
    result = {
        "bench": "sweep",
        "settings": len(cells),
        "together_over_alone": ms["together"] / ms["alone"],
        "together_over_separate_commands": wall["sweep"] / alone,
        "ms_per_setting_and_step": ms,
        "seconds": {"sweep": wall["sweep"], "separate_commands": alone},
        "separate_commands_timed": len(commands),
        "mode": options.mode,
        "devices": jax.device_count(),
        "device": jax.devices()[0].device_kind,
    }
    rows = [{"training": name, "ms per setting and step": x} for name, x in ms.items()]
    print(log.as_table(rows, list(rows[0])))
    print(json.dumps(result))


def time_training(cells: Sequence[Cell], *, rounds: int, mode: str) -> dict[str, float]:
    """Median milliseconds of a step of one setting, together and one after the other, in
    turn; what is compiled, compiled before."""
    shared = programs.share(cells[0].config)
    _, loops, states = programs.make_loops(cells, shared)
    layout = stack.make_layout(len(cells), mode=mode, devices=jax.devices())
    orders = programs.orders_of(cells)
    group = lanes.Program(loops, orders, cells[0].workdir, layout)
    run = lanes.compiled(group, lanes.begin(states), slots=states[0].slots)
    rows = lanes.portions(group, step=0)
    lone = step.scan_steps(group.first.step)
    alone = [jax.tree.map(lambda leaf: leaf.copy(), state) for state in states]
    stacked, seconds = run.states, {"together": [], "alone": []}
    for turn in range(rounds + 1):
        portion = next(rows)
        begin = time.perf_counter()
        every = range(len(cells))
        stacked, _ = lanes.dispatch(
            group, run, stacked, examples=portion, training=every
        )
        jax.block_until_ready(stacked)
        middle = time.perf_counter()
        for at, loop in enumerate(loops):
            alone[at], _ = lone(alone[at], loop.hypers, loop.feed.like, portion[at])
            jax.block_until_ready(alone[at])
        if turn:  # the first compiles
            seconds["together"].append(middle - begin)
            seconds["alone"].append(time.perf_counter() - middle)
    steps = group.first.plan.scan * len(cells)
    return {name: statistics.median(x) / steps * 1e3 for name, x in seconds.items()}


def time_commands(
    sweep_flags: list[str], cells: Sequence[Cell], *, folder: pathlib.Path
) -> dict[str, float]:
    """Seconds of the whole sweep as a command, and of one of these runs as one, the mean
    of them. No compiled program is kept between commands."""
    start = time.perf_counter()
    called = ["experiments.sweep", "--config=dssm_synthetic", *sweep_flags]
    _call([*called, f"--runs={folder / 'sweep'}"])
    whole = time.perf_counter() - start
    start = time.perf_counter()
    for number, cell in enumerate(cells):
        own = [f"--config.{k}={v}" for k, v in cell.entry.overrides.items()]
        lone = [f"--config={cell.entry.name}", *own, f"--seed={cell.seed}"]
        _call(["experiments.run", *lone, f"--workdir={folder / str(number)}"])
    return {"sweep": whole, "separate": (time.perf_counter() - start) / len(cells)}


def _call(arguments: list[str]) -> None:
    hidden = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        check=False,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr}")


def define_flags() -> None:
    flags.DEFINE_integer("rounds", 5, "timed dispatches", lower_bound=1)
    flags.DEFINE_integer("commands", 3, "at most, timed as commands", lower_bound=1)
    flags.DEFINE_string("mode", "auto", "as of experiments.sweep")
    flags.DEFINE_bool("smoke", False, "tiny sizes: only whether it runs")


if __name__ == "__main__":
    define_flags()
    plan_lib.one_device_a_core()
    cli.start(main, parse=cli.parse_plain)
