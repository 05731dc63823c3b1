"""How a contestant of `experiments.bench.peers` is talked to: a line of JSON asks, one
answers.

Standard library and numpy alone: contestants run in environments of their own, where
nothing of this project is installed, and import this file as their neighbour. A
contestant is `make`, a function of a `Job` that gives a `Trainer`.
"""

import dataclasses
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Job:
    """Two towers over ids: a table and one hidden layer each, unit vectors, in-batch
    softmax. Ids are 1..num_users and 1..num_items; a table has two rows more, for
    padding and for the unknown. `log_q` is of item ids 0..num_items + 1; None: the softmax
    without a correction, accidental hits left in."""

    form: str  # which of a contestant's ways to train
    user: np.ndarray  # [examples] int32
    item: np.ndarray  # [examples] int32
    num_users: int
    num_items: int
    log_q: np.ndarray | None  # float32
    batch_size: int = 4096
    width: int = 64  # of rows and of vectors
    hidden: int = 128
    init_scale: float = 0.05  # standard deviation of the rows at the start
    temperature: float = 0.07
    learning_rate: float = 2e-3  # of Adam, of rows and of layers
    threads: int = 2
    seed: int = 0


class Trainer(NamedTuple):
    """`train` takes rows of the job's examples, [steps, batch_size], returns their mean
    loss, and all is done when it returns. `vectors` gives those of users 1..num_users and
    of items 1..num_items, [n, width] float32."""

    train: Callable[[np.ndarray], float]
    vectors: Callable[[], tuple[np.ndarray, np.ndarray]]


def batches(job: Job) -> Iterator[np.ndarray]:
    """Rows of one batch after another: a fresh permutation an epoch, its rest left out."""
    rng = np.random.default_rng(job.seed)
    full = len(job.user) // job.batch_size
    while full:
        order = rng.permutation(len(job.user))[: full * job.batch_size]
        yield from order.reshape(full, job.batch_size)


def serve(make: Callable[[Job], Trainer], *, packages: tuple[str, ...]) -> None:
    """Answer until nothing more is asked. The argument is a folder with job.json and
    arrays.npz; requests are {"train": steps} and {"vectors": path}."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    job = _read_job(sys.argv[1])
    trainer, coming = make(job), batches(job)
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({"threads": _threads(job), "versions": versions}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        if "train" in request:
            answer = _train(trainer, coming, steps=request["train"])
        else:
            answer = {}
            user, item = trainer.vectors()
            np.savez(request["vectors"], user=user, item=item)
        print(json.dumps(answer), file=answers)


def _read_job(folder: str) -> Job:
    with open(f"{folder}/job.json") as file:
        values = json.load(file)
    with np.load(f"{folder}/arrays.npz") as file:
        arrays = {"log_q": None, **file}
    return Job(**values, **arrays)


def write_job(job: Job, folder: str) -> None:
    """What `serve` reads."""
    values = {name: getattr(job, name) for name in job.__dataclass_fields__}
    values = {name: value for name, value in values.items() if value is not None}
    values.setdefault("log_q", np.zeros(0))  # an array, and so not in the JSON
    arrays = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
    with open(f"{folder}/job.json", "w") as file:
        json.dump({k: v for k, v in values.items() if k not in arrays}, file)
    np.savez(f"{folder}/arrays.npz", **{k: v for k, v in arrays.items() if len(v)})


def _train(trainer: Trainer, coming: Iterator[np.ndarray], *, steps: int) -> dict:
    rows = np.stack([next(coming) for _ in range(steps)])
    begin = time.perf_counter()
    loss = trainer.train(rows)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "examples": rows.size, "loss": float(loss)}


def _threads(job: Job) -> int:
    """Cores that this process may use, at most those that it was told to."""
    try:
        return min(job.threads, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on Linux
        return job.threads
