"""How a table of embeddings lies on the devices: [64, rows / 64, width], row i at
[i mod 64, i div 64], so that popular rows spread and any number of devices that divides
64 reads a checkpoint."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from recall_jax.devices import mesh
from recall_jax.devices.mesh import SHARDS, SPLIT, WHOLE
from recall_jax.types import Key

BLOCK = 1 << 14  # rows initialised at a time


def place(ids: Int[Array, "..."], *, rows: int) -> Int[Array, "..."]:
    """Row i's place in the flat form [64 * rows, d] of a table stored as [64, rows, d].

    >>> place(np.array([0, 1, 64, 65]), rows=3)
    array([0, 3, 1, 4])
    """
    return ids % SHARDS * rows + ids // SHARDS


def whole(table: Float[Array, "64 rows d"]) -> Float[Array, "n d"]:
    """The rows of a stored table in their order, and the zeros behind them."""
    return table.swapaxes(0, 1).reshape(-1, table.shape[-1])


def look_up(table: Float[Array, "..."], ids: Int[Array, "..."]) -> Array:
    """The vectors [..., d] at ids of a stored table [64, rows, d], or of [r, d] rows."""
    # Ids are checked when the data set is laid out, so the gather need not be.
    if table.ndim == 3:
        at = table.at[ids % SHARDS, ids // SHARDS]
        return at.get(mode="promise_in_bounds")

    def rows(table, ids):
        return table.at[ids].get(mode="promise_in_bounds")

    return mesh.by_device(rows)(table, ids)


def flat(leaf: Array) -> Array:
    """[64, rows, ...] as [64 * rows, ...], which `place` points into."""
    return leaf.reshape(-1, *leaf.shape[2:])


def made_by_block(
    make: Callable, key: Key, *, rows: int, width: int
) -> Float[Array, "64 rows d"]:
    """A stored table of blocks `make(key, ids)`, the rows of some ids, one after the
    other on each device: what a block needs meanwhile, the whole table need not have."""
    size = min(rows, BLOCK)
    starts = np.minimum(np.arange(-(-rows // size)) * size, rows - size)

    def parts(key, indices):
        def write(j, table):
            part, start = j // len(starts), jnp.asarray(starts)[j % len(starts)]
            first = start * SHARDS + indices[part]
            ids = first + jnp.arange(size) * SHARDS
            block = make(jax.random.fold_in(key, first), ids)
            return jax.lax.dynamic_update_slice(table, block[None], (part, start, 0))

        # Of the key: else tables of one shape begin as copies of the same zeros.
        zero = 0.0 * jax.random.key_data(key)[0].astype(jnp.result_type(float))
        table = jnp.full((len(indices), rows, width), zero)
        return jax.lax.fori_loop(0, len(indices) * len(starts), write, table)

    if mesh.num_devices() > 1:
        parts = mesh.spread(parts, in_specs=(WHOLE, SPLIT), out_specs=SPLIT)
    return parts(key, jnp.arange(SHARDS))
