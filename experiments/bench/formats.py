"""What a number format of exported vectors costs in recall, on a trained run.

    python -m experiments.bench.formats --run=runs/dssm_synthetic

The metrics of the run's test part, by exact search, with the vectors of users and items
as `experiments.export` stores them in each format; "kept" is the share of the best 20 of
float32 that is found again. The last line is JSON.
"""

import functools
import json
import pathlib

import numpy as np
from absl import flags

from experiments.common import cli
from recall_jax.evaluate import encode
from recall_jax.evaluate import measure as measure_lib
from recall_jax.index import search as search_lib
from recall_jax.run import open as open_lib
from recall_jax.serve import vectors
from recall_jax.training import log
from recall_jax.types import InputError

KEPT = 20


def as_stored(values: np.ndarray, *, dtype: str) -> np.ndarray:
    stored, scale = vectors.as_stored(values, dtype=dtype)
    return vectors.decode(stored, dtype=dtype, scale=scale)


def measure(workdir: pathlib.Path) -> list[dict]:
    """A row for each format."""
    run = open_lib.open_run(workdir)
    encoder, params, data, *_ = run.export_source
    config = run.config.evaluate
    size = config.batch_size
    items = encode.encode_items(encoder, params, data=data, batch_size=size)
    users = encode.encode_queries(
        encoder, params, data=data, part=data.test, batch_size=size
    )
    rows, best = [], None
    for dtype in vectors.DTYPES:
        queries = as_stored(np.asarray(users), dtype=dtype)
        index = search_lib.Exact.build(as_stored(np.asarray(items), dtype=dtype))
        search = functools.partial(index.search, queries)
        result = measure_lib.measure_search(
            search, data=data, part=data.test, config=config
        )
        ids = result.lists.ids[:, :KEPT]
        best = ids if best is None else best
        kept = np.mean([len(np.intersect1d(*pair)) for pair in zip(ids, best)]) / KEPT
        rows.append({"dtype": dtype, **result.means(), "kept": float(kept)})
    return rows


def main(argv: list[str]) -> None:
    del argv
    if flags.FLAGS.run is None:
        raise InputError("name a run's folder with --run")
    rows = measure(pathlib.Path(flags.FLAGS.run))
    cells = [
        {k: v if isinstance(v, str) else f"{v:.5f}" for k, v in row.items()}
        for row in rows
    ]
    print(log.as_table(cells, list(rows[0])))
    print(json.dumps({"bench": "formats", "run": flags.FLAGS.run, "rows": rows}))


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "folder of a trained run")
    cli.start(main, parse=cli.parse_plain)
