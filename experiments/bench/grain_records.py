"""Grain on the mapped arrays of a streamed log: records/s, for `bench.stream`.

    PYTHON experiments/bench/grain_records.py FOLDER BATCH SECONDS

PYTHON has grain and numpy and needs nothing of this project. A record is a training
example: user, item and the history of 50 before it, what a batch of `arrays.Events` has.
`per_record` shuffles all examples, makes each by a map and batches them, with 16 reading
threads or in this one; `per_batch` shuffles whole batches of neighbours, each made at once.
The last line is JSON.
"""

import json
import pathlib
import sys
import time

import grain
import numpy as np

LENGTH = 50


class Examples:
    """Training examples by number, `size` neighbours at a time."""

    def __init__(self, folder: pathlib.Path, *, size: int):
        load = lambda name: np.load(folder / f"{name}.npy", mmap_mode="r")
        self.items, self.offsets = load("items"), np.array(load("offsets"))
        count = np.maximum(load("train_stop") - self.offsets[:-1] - 1, 0)
        self.start, self.size = np.append(0, np.cumsum(count)), size

    def __len__(self) -> int:
        return int(self.start[-1]) // self.size

    def __getitem__(self, number):
        number = self.size * number + np.arange(self.size)
        user = np.searchsorted(self.start, number, side="right") - 1
        position = self.offsets[user] + 1 + number - self.start[user]
        index = position[:, None] + np.arange(-LENGTH, 0)
        mine = index >= self.offsets[user][:, None]
        history = np.where(mine, self.items[np.maximum(index, 0)], 0)
        return {"user": user, "item": self.items[position], "history": history}


def per_record(folder: pathlib.Path, batch: int) -> grain.MapDataset:
    one = Examples(folder, size=1)
    numbers = grain.MapDataset.range(len(one)).shuffle(seed=0)
    first = lambda record: {name: values[0] for name, values in record.items()}
    return numbers.map(lambda j: first(one[j])).batch(batch, drop_remainder=True)


def per_batch(folder: pathlib.Path, batch: int) -> grain.MapDataset:
    many = Examples(folder, size=batch)
    return grain.MapDataset.range(len(many)).shuffle(seed=0).map(many.__getitem__)


def speed(dataset: grain.MapDataset, *, threads: int, seconds: float) -> float:
    """Records/s from the second batch on."""
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=500 if threads else 0
    )
    batches, done = iter(dataset.repeat().to_iter_dataset(options)), 0
    next(batches)
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        done += len(next(batches)["item"])
    return done / (time.perf_counter() - begin)


def main(folder: str, batch: str, seconds: str) -> None:
    place, size, long = pathlib.Path(folder), int(batch), float(seconds)
    speeds = {
        "per_record": speed(per_record(place, size), threads=0, seconds=long),
        "per_record_16_threads": speed(
            per_record(place, size), threads=16, seconds=long
        ),
        "per_batch": speed(per_batch(place, size), threads=0, seconds=long),
    }
    print(json.dumps(speeds))


if __name__ == "__main__":
    main(*sys.argv[1:])
