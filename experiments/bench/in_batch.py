"""In-batch softmax, value and gradient: the plain b x b form against blocks of rows.

    python -m experiments.bench.in_batch

Timed alone (one call a dispatch, with its fresh memory) and inside a scan, where
training runs it; forms in turn, medians of the rounds. "products" is what its three
matrix products need by themselves in the scan, a floor that no form can go below on this
layout. Peak memory is what the compiled program allocates beside its arguments. With
torch installed its cross-entropy is timed as well. The plain form is left out where its
matrix would not fit `--plain_limit`. The last line is JSON.
"""

import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from recall_jax.losses import candidates, losses, scores, softmax
from recall_jax.training import log

HYPERS = {"temperature": jnp.float32(0.07), "strength": jnp.float32(1.0)}


def by_blocks(query, item, ids, log_q):
    """In-batch softmax with hits masked and log q off both sides, mean over the batch."""
    mask = scores.make_mask(scores.RowKeys((ids,)), scores.ColumnKeys((ids,), ids))
    correction = scores.log_q_correction(log_q, log_q)
    positive = scores.positive_logits(query, item, correction=correction, **HYPERS)
    none = scores.Logits(positive, query[:, :0], jnp.zeros((len(query), 0), bool))
    columns = candidates.SharedCandidates(item, mask, correction)
    weight = jnp.full(len(query), 1 / len(query))
    return softmax.softmax_sum(query, columns, none, weight=weight, **HYPERS)


def plain(query, item, ids, log_q):
    """The same from the whole matrix, differentiated by JAX."""
    logits = scores.in_batch_scores(query, item, item_id=ids, log_q=log_q, **HYPERS)
    return losses.softmax_loss(
        logits.positive, logits.negative, where=logits.where
    ).mean()


def products(query, item, ids, log_q):
    """The matrix products alone, a block of rows at a time: scores, query gradient,
    item gradient; what stands between them is left out."""
    rows = softmax.block_rows(len(query), len(item))

    def block(total, query):
        score = query @ item.T
        return total + query.T @ score, score @ item

    blocks = query.reshape(-1, rows, query.shape[-1])
    item_gradient, query_gradient = jax.lax.scan(block, jnp.zeros_like(item.T), blocks)
    scale = 1e-6 / len(query)
    return item_gradient[0, 0], (
        query_gradient.reshape(query.shape) * scale,
        item_gradient.T * scale,
    )


FORMS = {
    "blocks": jax.value_and_grad(by_blocks, argnums=(0, 1)),
    "plain": jax.value_and_grad(plain, argnums=(0, 1)),
    "products": products,
}


def make_batch(b: int, d: int):
    """Unit vectors, Zipf-like ids with repeats, and their log q."""
    rng = np.random.default_rng(0)
    query, item = rng.normal(size=(2, b, d))
    ids = (rng.zipf(1.2, b) % (4 * b)).astype(np.int32)
    log_q = -np.log1p(ids)
    unit = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, item))
    return (*map(jnp.float32, unit), jnp.asarray(ids), jnp.float32(log_q))


def alone(form):
    return jax.jit(form), 1


def in_scan(form, *, steps: int):
    """`steps` steps of gradient descent in one dispatch."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def run(query, item, ids, log_q):
        def step(carry, _):
            value, gradients = form(*carry, ids, log_q)
            return jax.tree.map(lambda x, g: x - 1e-3 * g, carry, gradients), value

        return jax.lax.scan(step, (query, item), None, length=steps)

    return run, steps


def time_in_turn(runs: dict, batch, *, rounds: int) -> dict[str, float]:
    """Median milliseconds a step of each (function, steps a call)."""
    seconds = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, (run, steps) in runs.items():
            fresh = jax.tree.map(jnp.copy, batch)
            jax.block_until_ready(fresh)
            begin = time.perf_counter()
            jax.block_until_ready(run(*fresh))
            if turn:  # the first compiles
                seconds[name].append((time.perf_counter() - begin) / steps)
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def peak_gb(form, batch) -> float:
    """What one call allocates: temporaries and results."""
    memory = jax.jit(form).lower(*batch).compile().memory_analysis()
    return (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**30


def torch_alone(batch):
    """The same loss as PyTorch users write it; None where torch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    query, item, ids, log_q = (torch.tensor(np.asarray(x)) for x in batch)
    same = (ids[:, None] == ids[None, :]).fill_diagonal_(False)
    target = torch.arange(len(ids))

    def run(*_):
        leaves = [x.detach().requires_grad_() for x in (query, item)]
        logits = leaves[0] @ leaves[1].T / 0.07 - log_q[None, :]
        logits = logits.masked_fill(same, float("-inf"))
        loss = torch.nn.functional.cross_entropy(logits, target)
        return [x.numpy() for x in torch.autograd.grad(loss, leaves)]

    return run, 1


def measure(b: int, d: int, *, rounds: int, steps: int, plain_limit: float) -> dict:
    """A row of the table."""
    batch = make_batch(b, d)
    fits = 4 * b * b / 2**30 <= plain_limit
    names = ["blocks", *(["plain"] if fits else [])]
    runs = {f"{name} alone": alone(FORMS[name]) for name in names}
    for name in (*names, "products"):
        runs[f"{name} in scan"] = in_scan(FORMS[name], steps=steps)
    if fits and (by_torch := torch_alone(batch)):
        runs["torch alone"] = by_torch
    row = {"b": b, "d": d} | time_in_turn(runs, batch, rounds=rounds)
    row["blocks GB"] = peak_gb(FORMS["blocks"], batch)
    if fits:
        row["plain GB"] = peak_gb(FORMS["plain"], batch)
    return row


def main(argv):
    del argv
    given = flags.FLAGS
    softmax.BLOCK_ROWS = given.block_rows
    sizes = [int(b) for b in given.batch_sizes]
    if odd := [b for b in sizes if b % softmax.block_rows(b, b)]:
        raise app.UsageError(f"--batch_sizes: {odd[0]} is no multiple of its blocks")
    rows = []
    for d in map(int, given.widths):
        for b in sizes:
            # A step at the largest size takes seconds, and need not be repeated much.
            steps = max(1, min(given.steps, 4096 * given.steps // b))
            rounds = given.rounds if b <= 16_384 else max(1, given.rounds // 3)
            row = measure(
                b, d, rounds=rounds, steps=steps, plain_limit=given.plain_limit
            )
            print(json.dumps(row), flush=True)
            rows.append(row)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print(log.as_table(rows, columns))
    print(json.dumps({"bench": "in_batch", **headline(rows), "rows": rows}))


def headline(rows: list[dict]) -> dict[str, float]:
    """Ratios at the first width, of sizes that were measured."""
    of = {row["b"]: row for row in rows if row["d"] == rows[0]["d"]}
    comparisons = {
        "speedup_in_scan_4096": (4096, "plain in scan", "blocks in scan"),
        "speedup_in_scan_16384": (16_384, "plain in scan", "blocks in scan"),
        "speedup_alone_4096": (4096, "plain alone", "blocks alone"),
        "speedup_over_torch_4096": (4096, "torch alone", "blocks alone"),
        "over_products_4096": (4096, "blocks in scan", "products in scan"),
    }
    figures = {
        name: of[b][slow] / of[b][fast]
        for name, (b, slow, fast) in comparisons.items()
        if slow in of.get(b, {})
    }
    if 65_536 in of:
        figures["peak_gb_65536"] = of[65_536]["blocks GB"]
    return figures


if __name__ == "__main__":
    flags.DEFINE_list("batch_sizes", ["1024", "4096", "16384", "65536"], "b")
    flags.DEFINE_list("widths", ["64", "128"], "d")
    flags.DEFINE_integer("steps", 8, "steps a scan at b = 4,096; fewer above")
    flags.DEFINE_integer("rounds", 6, "timed rounds; fewer above b = 16,384")
    flags.DEFINE_integer("block_rows", softmax.BLOCK_ROWS, "rows a block, at most")
    flags.DEFINE_float("plain_limit", 2.0, "GB that the plain form's matrix may take")
    app.run(main)
