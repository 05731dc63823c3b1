"""Random walks on weighted graphs with a skewed degree distribution: steps a second.

    python -m experiments.bench.walks            # 200,000 nodes, 2 million edges
    python -m experiments.bench.walks --large    # and 5 million nodes, 50 million edges

`build s` is the graph from unsorted edges, its alias tables with it. A step is a node
after the first of a walk; compilation is left out. `speedup_over_pecanpy` compares walks
by weight on the first graph with PecanPy's (Liu and Krishnan 2021) precomputed ones,
where that package is installed, here or in --pecanpy_python's environment. The last line
is JSON.
"""

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from absl import app, flags

from recall_jax.pairs import graph, walks
from recall_jax.training import log

KINDS = {"first_order": {}, "node2vec": {"p": 0.25, "q": 4.0}}


def make_edges(nodes: int, edges: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source, target and weight [edges]; both ends fall off as id^-1/2, the weight as a
    Pareto variable."""
    rng = np.random.default_rng(0)
    ends = [
        1 + (nodes * rng.random(edges, np.float32) ** 2).astype(np.int32) % nodes
        for _ in range(2)
    ]
    return *ends, 1 + rng.pareto(2.0, edges).astype(np.float32)


def timed(run, *, rounds: int) -> tuple[float, np.ndarray]:
    """Median seconds of run(turn), the first turn left out, and the last result."""
    seconds = []
    for turn in range(rounds + 1):
        begin = time.perf_counter()
        result = jax.block_until_ready(run(turn))
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:]), result


def measure(built: graph.ItemGraph, kind: str, *, num: int, length: int, rounds: int):
    """Steps a second of `num` walks at a time, from nodes drawn uniformly."""
    built = jax.device_put(built)
    start = jax.random.randint(jax.random.key(1), (num,), 1, built.num_nodes)
    walk = functools.partial(walks.walk, length=length, **KINDS[kind])
    seconds, nodes = timed(
        lambda turn: walk(built, jax.random.key(turn), start), rounds=rounds
    )
    return int((nodes[:, 1:] > 0).sum()) / seconds


PECANPY = """
import json, sys, time
from pecanpy import pecanpy
file, length, rounds, workers = sys.argv[1:]
walker = pecanpy.PreCompFirstOrder(p=1, q=1, workers=int(workers))
walker.read_npz(file, weighted=True)
walker.preprocess_transition_probs()
speeds = []
for _ in range(int(rounds) + 1):
    start = time.perf_counter()
    walks = walker.simulate_walks(num_walks=1, walk_length=int(length) - 1)
    steps = sum(map(len, walks)) - len(walks)
    speeds.append(steps / (time.perf_counter() - start))
print(json.dumps(speeds[1:]))
"""


def pecanpy_steps_per_second(
    built: graph.ItemGraph, *, length: int, rounds: int, python: str = ""
) -> float | None:
    """One walk from every node, on all cores; None where PecanPy is not installed. It
    has a process of its own: it needs a numpy that JAX no longer takes."""
    python = python or sys.executable
    probe = [python, "-c", "import pecanpy"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "graph.npz"
        np.savez(
            file,
            IDs=np.arange(built.num_nodes).astype(str),
            data=built.weight,
            indptr=built.offsets.astype(np.uint32),
            indices=built.target.astype(np.uint32),
        )
        given = [str(file), str(length), str(rounds), str(os.cpu_count())]
        command = [python, "-c", PECANPY, *given]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"PecanPy failed: {done.stderr[-500:]}")
    return statistics.median(json.loads(done.stdout.splitlines()[-1]))


def run(
    sizes: list[tuple[int, int]],
    *,
    num: int,
    length: int,
    rounds: int,
    python: str = "",
) -> dict:
    """What the bench reports: a row for each graph and kind of walk."""
    rows, pecanpy = [], None
    size = {"length": length, "rounds": rounds}
    for nodes, edges in sizes:
        ends = make_edges(nodes, edges)
        begin = time.perf_counter()
        built = graph.from_edges(*ends, num_nodes=nodes + 1)
        seconds = time.perf_counter() - begin
        if not rows:
            pecanpy = pecanpy_steps_per_second(built, python=python, **size)
        graph_figures = {
            "nodes": nodes,
            "edges": len(built.target),
            "largest_degree": int(np.diff(built.offsets).max()),
            "build_seconds": seconds,
        }
        for kind in KINDS:
            speed = measure(built, kind, num=num, **size)
            rows.append({**graph_figures, "walk": kind, "steps_per_second": speed})
    ours = rows[0]["steps_per_second"]
    return {
        "bench": "walks",
        "device": jax.devices()[0].device_kind,
        "walks": num,
        "length": length,
        "steps_per_second": ours,
        "speedup_over_pecanpy": pecanpy and ours / pecanpy,
        "rows": rows,
    }


def main(argv):
    del argv
    given = flags.FLAGS
    sizes = [(given.nodes, given.edges)]
    if given.large:
        sizes.append((5_000_000, 50_000_000))
    result = run(
        sizes,
        num=given.walks,
        length=given.length,
        rounds=given.rounds,
        python=given.pecanpy_python,
    )
    print(log.as_table(result["rows"], list(result["rows"][0])))
    print(json.dumps(result))


if __name__ == "__main__":
    flags.DEFINE_integer("nodes", 200_000, "nodes of the first graph")
    flags.DEFINE_integer("edges", 2_000_000, "its edges, before duplicates are summed")
    flags.DEFINE_bool("large", False, "5 million nodes and 50 million edges as well")
    flags.DEFINE_integer("walks", 16_384, "walks at a time")
    flags.DEFINE_integer("length", 80, "nodes of a walk")
    flags.DEFINE_integer("rounds", 5, "timed repeats")
    flags.DEFINE_string("pecanpy_python", "", "where PecanPy is; default: here")
    app.run(main)
