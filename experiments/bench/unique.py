"""Finding the distinct rows of a batch: the slot trick against a sort.

    python -m experiments.bench.unique

`rows.compact` finds duplicates by writing positions into a scratch slot a row; the
plain way is a sort (`jnp.unique`). Look-ups are uniform (hardly any duplicates: a batch
of 8,192 ids) and Zipf (histories: 1,024 x 50). "update" is what follows either: lazy
Adam on one row for each look-up, as trained, or on the distinct rows alone, which is what
squeezing duplicates out could save at most. The last line is JSON.
"""

import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from recall_jax.tables import rows as rows_lib
from recall_jax.training import log

CALLS = 10  # a dispatch
HYPERS = {"learning_rate": jnp.float32(0.01), "weight_decay": jnp.float32(0.0)}


def draw_ids(kind: str, *, rows: int, num: int) -> np.ndarray:
    """Look-up ids [CALLS, num] over `rows` rows, ordered by frequency where Zipf."""
    rng = np.random.default_rng(0)
    if kind == "uniform":
        return rng.integers(1, rows, (CALLS, num), dtype=np.int32)
    share = 1 / np.arange(1, rows)
    cumulative = np.cumsum(share / share.sum())
    return 1 + np.searchsorted(cumulative, rng.random((CALLS, num))).astype(np.int32)


def by_slot(carry, ids):
    table, slot = carry
    small, rewritten, _, slot = rows_lib.compact(table, ids, slot=slot)
    return (table, slot), small.sum() + rewritten.sum()


def by_sort(carry, ids):
    table, slot = carry
    rows, rewritten = jnp.unique(ids, size=ids.size, fill_value=0, return_inverse=True)
    return (table, slot), table[rows].sum() + rewritten.sum()


def update(carry, ids):
    """Lazy Adam on one row a look-up; an id is dropped where it is beyond the table."""
    table, state = carry
    gradient = jnp.ones((ids.size + 1, table.shape[1]))
    table, state = rows_lib.update(
        table,
        gradient,
        state=state,
        touched=rows_lib.Touched(ids, None),
        rule=rows_lib.lazy_adam(),
        hypers=HYPERS,
    )
    return (table, state), 0.0


def timed(step, make_carry, ids: np.ndarray, *, rounds: int) -> float:
    """Median milliseconds a call, in a scan, the carry donated."""
    run = jax.jit(functools.partial(jax.lax.scan, step), donate_argnums=0)
    carry, seconds = make_carry(), []
    for turn in range(rounds + 1):
        begin = time.perf_counter()
        carry, out = run(carry, ids)
        jax.block_until_ready((carry, out))
        if turn:  # the first compiles
            seconds.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(seconds) / len(ids)


def measure(kind: str, *, rows: int, num: int, rounds: int) -> dict:
    ids = draw_ids(kind, rows=rows, num=num)
    distinct = max(len(np.unique(row)) for row in ids)
    # One representative a row, and what is beyond the table for the other look-ups.
    owned = np.stack([_first_only(row, rows=rows) for row in ids])
    squeezed = np.sort(owned, axis=1)[:, :distinct]

    def scratch():
        return jnp.zeros((rows, 64)), jnp.zeros(rows, jnp.int32)

    def trained():
        table = jnp.zeros((rows, 64))
        return table, rows_lib.lazy_adam().init(table)

    clock = functools.partial(timed, rounds=rounds)
    return {
        "ids": f"{kind}, {num:,} of {rows:,}",
        "distinct": distinct,
        "slot ms": clock(by_slot, scratch, ids),
        "sort ms": clock(by_sort, scratch, ids),
        "update ms": clock(update, trained, owned),
        "squeezed ms": clock(update, trained, squeezed),
    }


def _first_only(ids: np.ndarray, *, rows: int) -> np.ndarray:
    owned = rows + 1 + np.arange(len(ids), dtype=np.int32)
    _, first = np.unique(ids, return_index=True)
    owned[first] = ids[first]
    return owned


def main(argv):
    del argv
    rounds = flags.FLAGS.rounds
    results = [
        measure("uniform", rows=1_000_000, num=8_192, rounds=rounds),
        measure("zipf", rows=100_000, num=51_200, rounds=rounds),
        measure("zipf", rows=1_000_000, num=51_200, rounds=rounds),
    ]
    print(log.as_table(results, list(results[0])))
    print(json.dumps({"bench": "unique", "rows": results}))


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 9, "timed dispatches of each setting")
    app.run(main)
