"""Approximate search against exact: the share found, queries a second and latency.

    python -m experiments.bench.search                     # 100 thousand and 1 million
    python -m experiments.bench.search --sizes=100000 --decay=0
    python -m experiments.bench.search --sizes= --run=runs/dssm_ml1m
    python -m experiments.bench.search --sizes= --evaluation

The vectors are drawn: 10,000 clusters whose sizes follow Zipf's law and that overlap, as
wide as the centres lie apart. Dimension j varies as j^-decay, as the spectrum of trained
vectors falls off; with --decay=0 a cluster is noise without structure, the hardest case
there is. Queries come from the same clusters and are not among the vectors; of a run,
they are its test users.

A row is an index with its settings; `auto` marks what `Scann.build` chooses. recall@10
is of exact search; `batch q/s` is of all queries at once, `single ms` of one at a time.
auto_speedup_over_exact is the ratio of queries a second at the largest size, on the same
cores, the two in turn, the median over rounds. --evaluation times exact search with seen
items excluded at the sizes of two data sets, after compilation, with its peak memory
above the data. The last line is JSON.
"""

import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from recall_jax.evaluate import encode
from recall_jax.index import scann as scann_lib
from recall_jax.index import search
from recall_jax.run import open as open_lib
from recall_jax.training import log
from recall_jax.types import InputError

WIDTH = 64
K = 10
LEAVES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of those that auto searches
REORDER = (0.5, 1.0, 2.0)
EVALUATIONS = {  # users, items, items excluded a user
    "ml1m": (6_040, 3_416, 165),
    "gowalla": (30_000, 40_000, 27),
}


def draw(
    num: int, *, queries: int, clusters: int = 10_000, decay: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [num, 64], and queries of the same clusters."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, WIDTH + 1) ** -decay
    scale = np.float32(scale * math.sqrt(WIDTH / (scale**2).sum()))
    centers = rng.standard_normal((clusters, WIDTH), np.float32) * scale
    share = 1 / np.arange(1, clusters + 1)
    own = rng.choice(clusters, num + queries, p=share / share.sum())
    vectors = rng.standard_normal((num + queries, WIDTH), np.float32)
    vectors *= scale
    vectors += centers[own]
    return vectors[:num], vectors[num:]


def of_run(workdir: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Item vectors of a run's best checkpoint and the vectors of its test users."""
    run = open_lib.open_run(workdir)
    encoder, params, _ = run.restored
    data, config = run.data, run.config
    given = {"data": data, "batch_size": config.evaluate.batch_size}
    items = encode.encode_items(encoder, params, **given)
    queries = encode.encode_queries(encoder, params, part=data.test, **given)
    return np.asarray(items), np.asarray(queries)


def seconds(run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure(
    index: search.Index, queries: np.ndarray, *, best: np.ndarray, rounds: int
) -> dict[str, float]:
    """recall@10, queries a second of a batch, and the median latency of one alone."""
    ids = index.search(queries, K).ids  # compiles, too
    recall = np.mean([np.isin(*pair).mean() for pair in zip(ids, best, strict=True)])
    batch = [seconds(lambda: index.search(queries, K)) for _ in range(rounds)]
    ones = [queries[i : i + 1] for i in range(min(len(queries), 10 * rounds))]
    index.search(ones[0], K)
    single = [seconds(lambda one=one: index.search(one, K)) for one in ones]
    return {
        "recall@10": float(recall),
        "batch q/s": len(queries) / statistics.median(batch),
        "single ms": 1e3 * statistics.median(single),
    }


def settings_around(auto: scann_lib.ScannSettings) -> list[scann_lib.ScannSettings]:
    """Those that the tree of `auto` can be searched with, from fast to thorough."""
    grid = [
        auto._replace(
            leaves_to_search=min(
                auto.leaves, math.ceil(auto.leaves_to_search * leaves)
            ),
            reorder=math.ceil(auto.reorder * reorder),
        )
        for leaves in LEAVES
        for reorder in REORDER
    ]
    return [auto] if not auto.leaves else sorted({auto, *grid})


def speedup(
    index: search.Index, exact: search.Index, queries: np.ndarray, *, rounds: int
) -> float:
    """Median ratio of queries a second, the two in turn."""
    ratios = []
    for turn in range(rounds + 1):
        slow, fast = (
            seconds(lambda kind=kind: kind.search(queries, K))
            for kind in (exact, index)
        )
        if turn:
            ratios.append(slow / fast)
    return statistics.median(ratios)


def compare(
    vectors: np.ndarray, queries: np.ndarray, *, rounds: int, recall_target: float
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A row for each index and setting, and the figures of what auto chooses."""
    exact = search.Exact.build(vectors)
    best = exact.search(queries, K).ids
    given = {"best": best, "rounds": rounds}
    begin = time.perf_counter()
    scann = scann_lib.Scann.build(vectors, recall_target=recall_target)
    build = time.perf_counter() - begin
    approx = search.Approx.build(vectors, recall_target=recall_target)
    rows = [
        {"index": name, **measure(index, queries, **given)}
        for name, index in (("exact", exact), ("approx", approx))
    ]
    for settings in settings_around(scann.settings):
        index = dataclasses.replace(scann, settings=settings)
        row = {"index": "scann", **measure(index, queries, **given)}
        row |= {"leaves": settings.leaves, "searched": settings.leaves_to_search}
        chosen = settings == scann.settings
        row |= {"reorder": settings.reorder, "auto": "auto" if chosen else ""}
        rows.append(row)
    (auto,) = [row for row in rows if row.get("auto")]
    return [{"vectors": len(vectors), **row} for row in rows], {
        "auto_recall@10": auto["recall@10"],
        "auto_speedup_over_exact": speedup(scann, exact, queries, rounds=rounds),
        "auto_build_seconds": build,
    }


def draw_plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Recall against queries a second, batch and single, a panel for each catalogue."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ImportError as problem:
        raise InputError("no plot without: pip install matplotlib") from problem
    sizes = sorted({row["vectors"] for row in rows})
    figure, panels = pyplot.subplots(
        2, len(sizes), figsize=(5 * len(sizes), 7), squeeze=False
    )
    for column, size in zip(panels.T, sizes, strict=True):
        own = [row for row in rows if row["vectors"] == size]
        for panel, name in zip(column, ("batch q/s", "single ms"), strict=True):
            for kind in ("exact", "approx", "scann"):
                points = [row for row in own if row["index"] == kind]
                x, y = ([row[key] for row in points] for key in ("recall@10", name))
                panel.scatter(x, y, label=kind)
            for row in own:
                if row.get("auto"):
                    place = row["recall@10"], row[name]
                    panel.scatter(
                        *place, s=160, c="none", marker="*", edgecolors="black"
                    )
                    panel.annotate("auto", place, (5, 5), textcoords="offset points")
            panel.set(xlabel="recall@10 of exact", ylabel=name, yscale="log")
            panel.set_title(f"{size:,} vectors")
        column[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def memory(field: str) -> float:
    """VmRSS (now) or VmHWM (the most so far) of this process, in MB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise InputError(f"no {field} in /proc/self/status; measure on Linux")


def evaluation(users: int, items: int, seen: int, rounds: int) -> tuple[float, float]:
    """Seconds of exact search for 21 with seen items excluded, and MB above the data."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((items, WIDTH), np.float32)
    queries = rng.standard_normal((users, WIDTH), np.float32)
    counts = rng.poisson(seen, users)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ids = rng.integers(0, items, offsets[-1]).astype(np.int32)
    exclude = search.Exclude(offsets, ids)
    index = search.Exact.build(vectors)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    taken = [seconds(lambda: index.search(queries, 21, exclude)) for _ in range(rounds)]
    return statistics.median(taken[1:]), memory("VmHWM") - before


def evaluations(*, rounds: int) -> dict[str, float]:
    """Each in a process of its own, for its peak of memory."""
    spawn = multiprocessing.get_context("spawn")
    figures = {}
    for name, sizes in EVALUATIONS.items():
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            taken, peak = pool.submit(evaluation, *sizes, rounds + 1).result()
        figures |= {f"exact_seconds_{name}": taken, f"exact_peak_mb_{name}": peak}
    return figures


def run(
    cases: list[tuple[np.ndarray, np.ndarray]],
    *,
    rounds: int,
    recall_target: float,
) -> dict[str, Any]:
    """What the bench reports: rows of all cases, the headline of the largest."""
    result = {"bench": "search", "device": jax.devices()[0].device_kind, "rows": []}
    for vectors, queries in cases:
        rows, figures = compare(
            vectors, queries, rounds=rounds, recall_target=recall_target
        )
        result["rows"] += rows
        result |= {f"{name}_{len(vectors)}": x for name, x in figures.items()}
        if len(vectors) == max(len(case[0]) for case in cases):
            result |= figures
    return result


def main(argv):
    del argv
    given = flags.FLAGS
    cases = [
        draw(int(size), queries=given.queries, decay=given.decay, seed=given.seed)
        for size in given.sizes
    ]
    if given.run:
        items, queries = of_run(pathlib.Path(given.run))
        cases.append((items, queries[: given.queries]))
    options = {"rounds": given.rounds, "recall_target": given.recall_target}
    result = run(cases, **options)
    if given.evaluation:
        result |= evaluations(rounds=given.rounds)
    if cases:
        columns = max(result["rows"], key=len)
        print(log.as_table(result["rows"], list(columns)))
        draw_plot(result["rows"], pathlib.Path(given.plot))
        print(f"plot       {given.plot}")
    print(json.dumps(result))


if __name__ == "__main__":
    flags.DEFINE_list("sizes", ["100000", "1000000"], "vectors to draw")
    flags.DEFINE_float("decay", 0.5, "how fast the spectrum of the vectors falls off")
    flags.DEFINE_string("run", None, "folder of a trained run, as one more catalogue")
    flags.DEFINE_integer("queries", 1_000, "queries at a time")
    flags.DEFINE_integer("rounds", 5, "timed repeats")
    flags.DEFINE_integer("seed", 0, "of the vectors")
    flags.DEFINE_float("recall_target", 0.95, "what auto aims at")
    flags.DEFINE_bool("evaluation", False, "exact search at the sizes of two data sets")
    flags.DEFINE_string("plot", "runs/bench/search.png", "where the plot goes")
    app.run(main)
