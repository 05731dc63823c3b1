"""Vectors of a million items through an item tower: how many a second, and gone on with.

    python -m experiments.bench.export --to=exported/bench
    python -m experiments.bench.export --to=exported/bench    # again: none is computed
    python -m experiments.bench.export --to=exported/bench --dtype=int8

DSSM with the default sizes (item id and four features, one hidden layer of 128, d = 64),
not trained: what a tower costs does not depend on its weights. "encoded" is the tower
with its input columns gathered and its vectors on the host, "items" the writing of the
.npy file too, "whole" everything: split, verified, Parquet, checksums, read back. Killed
while it writes, the same command goes on. The last line is JSON.
"""

import json
import pathlib
import time

import numpy as np
from absl import flags
from flax import nnx

from experiments.common import cli
from recall_jax.data import log as log_lib
from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.data.log import Bag, Entities, Interactions
from recall_jax.evaluate import encode
from recall_jax.models import dssm
from recall_jax.models import graph as graph_lib
from recall_jax.serve import towers, writer
from recall_jax.types import InputError


def make_log(num_items: int, *, num_users: int) -> Interactions:
    """Each item met once, by a random user."""
    rng = np.random.default_rng(0)
    tags = Bag(rng.integers(0, 500, 3 * num_items), np.arange(0, 3 * num_items + 1, 3))
    return Interactions(
        user=rng.integers(0, num_users, num_items).astype(np.int32),
        item=np.arange(num_items, dtype=np.int32),
        users=Entities(np.arange(num_users)),
        items=Entities(
            np.arange(num_items),
            {
                "category": rng.integers(0, 300, num_items),
                "brand": rng.integers(0, 20_000, num_items),
                "tags": tags,
                "price": rng.normal(size=num_items).astype(np.float32),
            },
        ),
        time=np.arange(num_items, dtype=np.int64),
        source="a made-up catalogue",
    )


def make_run(num_items: int, *, num_users: int) -> towers.ExportSource:
    log = make_log(num_items, num_users=num_users)
    split = split_lib.by_protocol(log, config=log_lib.Config())
    data = prepare.in_memory(split, history_length=50, min_history=1)
    config = dssm.Config(history_table="shared")
    model, tables = config.make(data.schema, nnx.Rngs(0))
    graph, *params = graph_lib.make_graph(model, tables)
    encoder = encode.make_towers(graph)
    return towers.ExportSource(encoder, tuple(params), data, name="dssm, not trained")


def encoded_per_second(run: towers.ExportSource, *, batch_size: int) -> float:
    """Of the item tower as it is trained, without files."""
    data, seconds = run.data, []
    for _ in range(3):
        begin = time.perf_counter()
        vectors = encode.encode_items(
            run.encoder, run.params, data=data, batch_size=batch_size
        )
        np.asarray(vectors)
        seconds.append(time.perf_counter() - begin)
    return data.dataset.num_items / min(seconds)


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    if options.to is None:
        raise InputError("name a folder with --to")
    run = make_run(options.items, num_users=options.users)
    config = writer.Config(options.dtype, options.batch_size, users=False)
    encoded = encoded_per_second(run, batch_size=options.batch_size)
    begin = time.perf_counter()
    report = writer.write(run, pathlib.Path(options.to), config=config)
    whole = time.perf_counter() - begin
    print(writer.described(report))
    done = report.written["items"]
    row = {
        "bench": "export",
        "items": options.items,
        "dtype": options.dtype,
        "encoded_per_second": encoded,
        "items_per_second": done.computed / report.seconds["items"],
        "whole_seconds": whole,
        **{name: getattr(done, name) for name in ("computed", "reused", "resumed")},
    }
    print(json.dumps(row))


def define_flags() -> None:
    flags.DEFINE_string("to", None, "folder of the export")
    flags.DEFINE_integer("items", 1_000_000, "of the catalogue")
    flags.DEFINE_integer("users", 100_000, "who met them")
    flags.DEFINE_string("dtype", "float32", "of vectors: float32, bfloat16 or int8")
    flags.DEFINE_integer("batch_size", 4096, "items encoded at a time")


if __name__ == "__main__":
    define_flags()
    cli.start(main, parse=cli.parse_plain)
