"""The same two towers trained by Keras-RS, PyTorch and Torch-RecHub, and by us.

    python -m experiments.bench.peers --install            # environments, then the bench
    python -m experiments.bench.peers --peers=torch --rows=1000000
    python -m experiments.bench.peers --rows= --recall=0.11   # time to a recall alone
    python -m experiments.bench.peers --smoke

An id table and one hidden layer of 128 a side, d = 64, batch 4,096, in-batch softmax of
unit vectors, Adam everywhere: `experiments.bench.tables`' step, and the best that each
library offers for it (experiments/bench/contestants, a program a library, run in an
environment of its own under --envs). Where a library can train in several ways (forms),
all are timed and all race, and the headlines are over the best of them: the fastest, and
the one that is first at the recall, which need not be the same, since compilation counts
there alone.

Speed: uniform ids in tables of --rows rows; a peer and we train in turn, round after round,
each after a first turn that compiles; ratios are of medians, with the least and largest
of the rounds. There the peers' loss is the plain softmax, and ours masks accidental hits
and corrects for the chance of being drawn besides.

Time to a recall: MovieLens 1M, 5-core, leave-one-out, users and items by their ids alone,
everybody's loss corrected by log q and hits masked (Torch-RecHub cannot mask); seconds of
training, compilation among them, until the validation recall@20 of exported vectors,
which our code measures for all, is at least --recall. It is looked at every
--check_every steps; who does not reach it in --cap seconds says what he reached at his
best look, of which the test figure is too.

Everything runs on the same --threads cores. The last line is JSON.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from experiments.bench.contestants import programs, session, timing
from experiments.bench.contestants import races as races_lib
from experiments.common import cli
from recall_jax.data.sources import movielens, synthetic
from recall_jax.training import log
from recall_jax.types import InputError

EXAMPLES = 1_000_000
MILLION = 1_000_000
DATA = {
    "ml1m": movielens.Config(name="1m", min_user_events=5, min_item_events=5),
    "synthetic": synthetic.Config(),
}
SMOKE = {
    "rows": ["100", "300"],
    "batch_size": 64,
    "steps": 2,
    "rounds": 1,
    "data": "synthetic",
    "recall": 0.012,
    "races": 1,
    "check_every": 20,
    "cap": 10.0,
}
SPEED = ("peer", "form", "rows", "examples/s", "ours", "ours over it", "loss", "note")
FIRST = "*"
RACES = ("peer", "form", "seconds", "slowest", "steps", "valid", "test", "loss", "note")


def draw_job(rows: int, **sizes) -> session.Job:
    """Random (user, item) pairs over `rows` users and as many items: hardly any
    duplicates, the hardest case."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(1, rows + 1, (2, EXAMPLES), dtype=np.int32)
    return session.Job("", user, item, rows, rows, None, **sizes)


def headline(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Our speed over each peer's in its fastest form; null where it was not timed. Over
    Torch-RecHub it is the least of all sizes."""

    def least(peer: str, sizes: set[int]) -> float | None:
        ratios = [
            row["ratio"]
            for row in rows
            if row["peer"] == peer and row["rows"] in sizes and "ratio" in row
        ]
        return min(ratios, default=None)

    return {
        "over_keras_rs_1m": least("keras_rs", {MILLION}),
        "over_torch_sparse_1m": least("torch", {MILLION}),
        "over_torch_rechub": least("torch_rechub", {row["rows"] for row in rows}),
    }


def first_forms(races: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By library the row of its form with the fewest median seconds, of those that came
    to the recall in every race."""
    came = [row for row in races if "note" not in row]
    first: dict[str, dict[str, Any]] = {}
    for row in sorted(came, key=lambda row: row["seconds"]):
        first.setdefault(row["peer"], row)
    return first


def make_ready(given, envs: pathlib.Path) -> None:
    """Install what is missing if asked; else a line says how."""
    for name in given.peers:
        if programs.is_installed(envs, name):
            continue
        if given.install:
            print(f"installing {name} in {envs / name}", flush=True)
            programs.install(envs, name)
            continue
        commands = (" ".join(c) for c in programs.install_commands(envs, name))
        print(f"{name} is not installed; --install, or {' && '.join(commands)}")


@contextlib.contextmanager
def on_cores(num: int) -> Iterator[None]:
    """This process, and all that it starts, on so many of its cores."""
    if not hasattr(os, "sched_setaffinity"):  # not Linux
        yield
        return
    allowed = os.sched_getaffinity(0)
    if not 1 <= num <= len(allowed):
        raise InputError(f"--threads={num}: this machine offers 1 to {len(allowed)}")
    os.sched_setaffinity(0, sorted(allowed)[:num])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def compare_speed(given, envs: pathlib.Path, sizes: dict) -> list[dict[str, Any]]:
    """A row for each form of each peer at each number of rows."""
    rows = []
    for num in map(int, given.rows):
        job = draw_job(num, **sizes)
        for peer in given.peers:
            if programs.is_installed(envs, peer):
                rows += timing.time_in_turn(
                    timing.entrants(envs, peer),
                    job,
                    steps=given.steps,
                    rounds=given.rounds,
                )
                print(json.dumps(rows[-1]), flush=True)
            else:
                rows.append({"peer": peer, "rows": num, "note": "not installed"})
    return rows


def compare_races(given, envs: pathlib.Path, sizes: dict, *, data):
    """A row for us, and for each form of each peer."""
    goal = races_lib.Goal(data, given.recall, given.check_every, given.cap)
    racing, rows = timing.entrants(envs, given.peers[0])[:1], []
    for peer in given.peers:
        if not programs.is_installed(envs, peer):
            rows.append({"peer": peer, "note": "not installed"})
            continue
        racing += timing.entrants(envs, peer)[1:]
    job = races_lib.data_job(data, **sizes)
    return races_lib.race_in_turn(racing, job, goal, rounds=given.races) + rows


def main(argv: list[str]) -> None:
    del argv
    given = flags.FLAGS
    for name, value in SMOKE.items() if given.smoke else ():
        if given[name].using_default_value:
            setattr(given, name, value)
    check(given)
    envs = pathlib.Path(given.envs)
    sizes = {
        "batch_size": given.batch_size,
        "threads": given.threads,
        "learning_rate": given.learning_rate,
    }
    with on_cores(given.threads):
        make_ready(given, envs)
        data = races_lib.prepare(DATA[given.data]) if given.races else None
        timed = compare_speed(given, envs, sizes)
        raced = []
        if data is not None:
            raced = compare_races(given, envs, sizes, data=data)
    show(timed, raced, given)
    print(
        json.dumps(
            {
                "bench": "peers",
                **headline(timed),
                "seconds_to_recall": {
                    peer: row["seconds"] for peer, row in first_forms(raced).items()
                },
                "recall": {races_lib.METRIC: given.recall, "data": given.data},
                "rows": timed,
                "races": raced,
            }
        )
    )


def check(given) -> None:
    """Raise InputError for flags that mean nothing, before any long work."""
    for name in given.peers:
        if name not in programs.PEERS:
            names = ", ".join(programs.PEERS)
            raise InputError(f"--peers: there is no {name!r}; there are: {names}")
    problems = {
        "--peers is empty; name one": not given.peers,
        f"--rows={','.join(given.rows)}: these are numbers of rows": not all(
            row.isdigit() and int(row) for row in given.rows
        ),
        f"--batch_size={given.batch_size} is more than the {EXAMPLES:,} examples": (
            given.batch_size > EXAMPLES
        ),
        f"--data={given.data}: there are: {', '.join(DATA)}": given.data not in DATA,
        f"--recall={given.recall} is no share of users; try 0.1": (
            not 0 < given.recall < 1
        ),
        "--cap is the seconds that a race may take; give some": given.cap <= 0,
    }
    for text, wrong in problems.items():
        if wrong:
            raise InputError(text)


def show(timed: list[dict], raced: list[dict], given) -> None:
    """Both tables."""
    if timed:
        print(log.as_table([_speed_cells(row) for row in timed], SPEED))
    if raced:
        print(
            f"seconds to validation {races_lib.METRIC} {given.recall} on {given.data}"
        )
        first = first_forms(raced).values()
        cells = [_race_cells(row, first=row in first) for row in raced]
        print(log.as_table(cells, RACES))
        print(f"{FIRST} the form of its library that was there first")


def _speed_cells(row: dict[str, Any]) -> dict[str, Any]:
    cells = {name: row[name] for name in SPEED if name in row}
    if "ratio" in row:
        cells["examples/s"] = row["examples_per_second"]
        cells["ours"] = row["ours_per_second"]
        low, high = row["ratio_low"], row["ratio_high"]
        cells["ours over it"] = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
    return cells


def _race_cells(row: dict[str, Any], *, first: bool) -> dict[str, Any]:
    cells = {name: row[name] for name in RACES if name in row}
    cells["form"] = f"{row.get('form', '')} {FIRST * first}".strip()
    if "seconds" in row:
        cells["slowest"] = row["seconds_high"]
        for part in ("valid", "test"):
            cells[part] = row[f"{part} {races_lib.METRIC}"]
    return cells


def define_flags() -> None:
    peers = list(programs.PEERS)
    flags.DEFINE_string("envs", "peers-envs", "folder of the peers' environments")
    flags.DEFINE_bool("install", False, "first make the environments that are missing")
    flags.DEFINE_list("peers", peers, "which of " + ", ".join(peers))
    flags.DEFINE_list("rows", ["10000", "1000000"], "of each table; empty: no timing")
    flags.DEFINE_integer("batch_size", 4096, "examples a step", lower_bound=2)
    flags.DEFINE_integer("steps", 16, "steps a timed turn", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "timed turns", lower_bound=1)
    flags.DEFINE_integer("threads", 2, "cores for everybody")
    flags.DEFINE_float("learning_rate", 2e-3, "of Adam, for everybody")
    flags.DEFINE_string("data", "ml1m", "of the races: " + ", ".join(DATA))
    flags.DEFINE_float(
        "recall", 0.11, f"validation {races_lib.METRIC} that ends a race"
    )
    flags.DEFINE_integer("races", 2, "a seed each; 0: none", lower_bound=0)
    flags.DEFINE_integer("check_every", 60, "steps between two looks", lower_bound=1)
    flags.DEFINE_float("cap", 900.0, "seconds of training that end a race")
    flags.DEFINE_bool("smoke", False, "tiny sizes, to see that everything runs")


if __name__ == "__main__":
    define_flags()
    cli.start(main, parse=cli.parse_plain)
