"""Training from Parquet shards larger than memory: speed beside data in memory, and memory.

    python -m experiments.bench.stream --folder=/somewhere/with/4/GB
    python -m experiments.bench.stream --smoke

Generates interactions (Zipf items, users of very different activity) as Parquet shards
in --folder unless they are there, prepares them, and trains the same two towers (one
hidden layer of 128 a side, d = 64, the mean of a history of 50, in-batch softmax of 4,096)
on windows of them and on all of them in memory, each in a process of its own, in turn,
round after round. Speeds are without compilation and without what comes before the first
dispatch. `peak_resident_gb` is the highest of the streaming processes (VmHWM), the one that
prepared the arrays apart. With --grain_python, a Python that has grain, its speed on the
same arrays stands beside that of the windows without a model (`grain_records`). The last
line is JSON.
"""

import dataclasses
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.common import cli
from recall_jax.data import folders
from recall_jax.data import prepared as prepared_lib
from recall_jax.data.prepared import Data
from recall_jax.data.sources import shards, stream
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import dssm
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.run.config import Experiment
from recall_jax.training import log as log_lib
from recall_jax.training import loop, step
from recall_jax.types import InputError

SHARD = 2_000_000  # events of a file, and of one block of the generator
PARTS = ("prepare", "stream", "resident", "feed")
SMOKE = {
    "events": 20_000,
    "users": 500,
    "items": 300,
    "batch_size": 64,
    "window": 3_000,
    "chunk": 200,
    "seconds": 0.5,
    "rounds": 1,
}


# The log.


def generate(folder: pathlib.Path, *, events: int, users: int, items: int) -> None:
    """Shards of events in the order of their times, which is no order of users."""
    polars = shards.import_polars()
    folder.mkdir(parents=True, exist_ok=True)
    for shard, start in enumerate(range(0, events, SHARD)):
        path = folder / f"part-{shard}.parquet"
        if path.exists():
            continue
        number = min(SHARD, events - start)
        rng = np.random.default_rng([shard, events, users, items])
        rows = {
            "user": (users * rng.random(number) ** 2).astype(np.int64) * 7 + 3,
            "item": zipf(rng, number, num=items) * 13 + 1,
            "time": 1_700_000_000
            + np.sort(rng.integers(start, start + number, number)),
        }
        unfinished = path.with_suffix(".building")
        polars.DataFrame(rows).write_parquet(unfinished)
        unfinished.rename(path)


def zipf(rng: np.random.Generator, size: int, *, num: int) -> np.ndarray:
    """Ranks 0..num-1, P(r) about 1 / (r + 1), by the inverse of the integral."""
    return np.minimum(num ** rng.random(size) - 1, num - 1).astype(np.int64)


def experiment(options) -> Experiment:
    """The two towers on the log."""
    return Experiment(
        name="stream",
        data=stream.Config(
            path=str(place(options) / "shards"),
            time="time",
            window_examples=options.window,
            chunk_examples=options.chunk,
        ),
        model=dssm.Config(history=("mean",), history_length=50),
        negatives=NegativesConfig(kind="in_batch", correction="log_q", mask=()),
        loss=LossConfig(temperature=0.1),
        optim=step.OptimConfig(tables="rowwise_adagrad"),
        train=loop.TrainConfig(epochs=100, batch_size=options.batch_size, scan_steps=8),
    )


def place(options) -> pathlib.Path:
    """Of this size of a log, so that another one is not mistaken for it."""
    name = f"{options.events}-{options.users}-{options.items}"
    return pathlib.Path(options.folder).expanduser() / name


# One part, in a process of its own.


def run_part(part: str, options) -> dict:
    config, start = experiment(options), time.perf_counter()
    data = data_lib.read(config).data
    result = {"part": part, "open_seconds": time.perf_counter() - start}
    if part == "resident":
        data = in_memory(data)
    if part == "feed":
        result |= time_feed(config, data, seconds=options.seconds)
    elif part != "prepare":
        result |= time_training(config, data, seconds=options.seconds)
    return result | {"peak_gb": peak_gb(), "examples": data.num_examples}


def in_memory(data: Data) -> Data:
    """All events and all examples on the device."""
    log, held = data.log, prepared_lib.resident(data)
    user = np.repeat(np.arange(log.num_users + 1), np.diff(log.example_start))
    place = np.arange(log.num_examples) - log.example_start[user] + log.min_history
    examples = {
        "example_user": jnp.asarray(user, jnp.int32),
        "example_position": jnp.asarray(place + log.offsets[user], jnp.int32),
    }
    dataset = dataclasses.replace(held.dataset, **examples)
    return dataclasses.replace(held, dataset=dataset)


def time_training(config: Experiment, data: Data, *, seconds: float) -> dict:
    """Examples/s from the second dispatch on."""
    corpus = build_lib.make_corpus(config, data)
    plan = build_lib.make_plan(config, data, num_rows=corpus.num_rows)
    built = build_lib.make(config, data, batch_size=plan.size)
    feed = build_lib.make_feed(config, data, corpus, plan=plan, key=built.order_key)
    hypers = step.make_hypers(
        config.optim, config.loss, config.negatives, num_steps=plan.num_steps
    )
    run, state = step.scan_steps(build_lib.make_step(config, built)), built.state
    portions, begin, done = feed.portions(0), 0.0, 0
    for dispatch in itertools.count():
        source, rows = next(portions)
        state, metrics = run(state, hypers, source, jax.device_put(rows))
        loss = float(jax.device_get(metrics["loss"])[-1])
        if dispatch == 0:
            begin = time.perf_counter()
            continue
        done += num_counted(source, rows)
        if time.perf_counter() - begin > seconds:
            break
    took = time.perf_counter() - begin
    portions.close()
    return {"examples_per_second": done / took, "loss": loss, "dispatches": dispatch}


def time_feed(config: Experiment, data: Data, *, seconds: float) -> dict:
    """Examples/s of windows that nobody trains on: read, laid out, put on the device."""
    corpus = build_lib.make_corpus(config, data)
    plan = build_lib.make_plan(config, data, num_rows=corpus.num_rows)
    key = jax.random.key(0)
    feed = build_lib.make_feed(config, data, corpus, plan=plan, key=key)
    begin, done = time.perf_counter(), 0
    portions = feed.portions(0)
    while time.perf_counter() - begin < seconds:
        source, rows = next(portions)
        jax.block_until_ready(source.dataset.items)
        done += num_counted(source, rows)
    took = time.perf_counter() - begin
    portions.close()
    return {"examples_per_second": done / took}


def num_counted(source, rows: np.ndarray) -> int:
    """Without those that fill up a window."""
    last = source.dataset.counted
    return rows.size if last is None else int((rows < int(last)).sum())


def peak_gb() -> float:
    """The highest resident memory of this process, VmHWM."""
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = [row for row in status.splitlines() if row.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e9


# All of them.


def called(command: list[str]) -> dict:
    """The JSON of a command's last line."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(options) -> dict:
    """Every part in its own process, in turn."""
    generate(
        place(options) / "shards",
        events=options.events,
        users=options.users,
        items=options.items,
    )
    names = (*SMOKE, "folder")
    given = [f"--{name}={getattr(options, name)}" for name in names]

    def part(name: str) -> dict:
        module = [sys.executable, "-m", "experiments.bench.stream"]
        return called([*module, f"--part={name}", *given])

    prepared = part("prepare")
    turns = [[part("stream"), part("resident")] for _ in range(options.rounds)]
    feed = part("feed")
    rows = [
        {
            "part": name,
            "examples/s": row["examples_per_second"],
            "peak GB": row["peak_gb"],
        }
        for turn in turns
        for name, row in zip(("stream", "resident"), turn, strict=True)
    ]
    rows += [{"part": "feed", "examples/s": feed["examples_per_second"]}]
    speeds = [[row["examples_per_second"] for row in turn] for turn in turns]
    result = {
        "bench": "stream",
        "events": options.events,
        "examples": prepared["examples"],
        "prepare_seconds": prepared["open_seconds"],
        "prepare_peak_gb": prepared["peak_gb"],
        "peak_resident_gb": max(turn[0]["peak_gb"] for turn in turns),
        "stream_examples_per_second": statistics.median(s for s, _ in speeds),
        "resident_examples_per_second": statistics.median(s for _, s in speeds),
        "stream_over_resident": statistics.median(s / r for s, r in speeds),
        "feed_examples_per_second": feed["examples_per_second"],
        "window": options.window,
        "device": jax.devices()[0].device_kind,
    }
    if options.grain_python:
        result["grain"] = with_grain(options)
        rows += [
            {"part": f"grain, {name}", "examples/s": speed}
            for name, speed in result["grain"].items()
        ]
    print(log_lib.as_table(rows, ["part", "examples/s", "peak GB"]))
    return result


def with_grain(options) -> dict:
    """Records/s by form, of the program beside this one."""
    folder = folders.ensure(experiment(options).data, min_history=1)
    program = pathlib.Path(__file__).with_name("grain_records.py")
    sizes = [str(options.batch_size), str(options.seconds)]
    return called([options.grain_python, str(program), str(folder), *sizes])


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    if options.smoke:
        for name, value in SMOKE.items():
            setattr(options, name, value)
    if options.part:
        print(json.dumps(run_part(options.part, options)))
        return
    if options.folder:
        print(json.dumps(compare(options)))
        return
    if not options.smoke:
        raise InputError(
            f"name a folder for {options.events:,} events with --folder; they and what "
            f"is prepared of them take about {options.events * 40 / 1e9:.1f} GB"
        )
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        print(json.dumps(compare(options)))


def define_flags() -> None:
    flags.DEFINE_string("folder", "", "where the log is kept, and its arrays")
    flags.DEFINE_integer("events", 50_000_000, "interactions")
    flags.DEFINE_integer("users", 1_000_000, "about so many have events")
    flags.DEFINE_integer("items", 200_000, "in the catalogue")
    flags.DEFINE_integer("batch_size", 4096, "examples a step")
    flags.DEFINE_integer("window", 1 << 18, "examples of a window")
    flags.DEFINE_integer("chunk", 1 << 13, "examples of a chunk")
    flags.DEFINE_float("seconds", 60.0, "of each timing")
    flags.DEFINE_integer("rounds", 2, "timings of each part")
    flags.DEFINE_string("grain_python", "", "a Python that has grain and numpy")
    flags.DEFINE_bool("smoke", False, "tiny sizes that say nothing about speed")
    flags.DEFINE_enum("part", None, PARTS, "one part alone, as its process runs it")


if __name__ == "__main__":
    define_flags()
    cli.start(main, parse=cli.parse_plain)
