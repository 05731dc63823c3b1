"""Many rows encoded in blocks of one static size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recall_jax.data.arrays import Dataset
from recall_jax.data.dataset import Data, Part
from recall_jax.types import Columns

HISTORIES = 1 << 17  # of a streamed log, held at a time


def in_batches(encode, *arrays: np.ndarray, batch_size: int) -> jax.Array:
    """Blocks of one static size; the last is padded with 0, which is padding too."""
    n = len(arrays[0])
    size = min(batch_size, n)
    blocks = []
    for start in range(0, n, size):
        block = [array[start : start + size] for array in arrays]
        padded = [_padded(array, size=size) for array in block]
        blocks.append(encode(*jax.device_put(padded)))
    return jnp.concatenate(blocks)[:n]


def _padded(rows: np.ndarray, *, size: int) -> np.ndarray:
    return np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)])


def encode_streamed(
    encode: Callable[[Any, Dataset, Columns], jax.Array],
    params: Any,
    *,
    data: Data,
    part: Part,
    batch_size: int,
) -> jax.Array:
    """Vectors of a part's users by `evaluate.Encoder.columns`, of data whose events are
    not on the device: histories are read from the log."""
    length, vectors = data.dataset.history_length, []
    columns_of = jax.jit(Dataset.query)

    def block(user, history):
        columns = columns_of(data.dataset, user, user)
        if length:
            columns["history"] = history
        return encode(params, data.dataset, columns)

    for start in range(0, len(part), HISTORIES):
        user, position = part.user[start:][:HISTORIES], part.start[start:][:HISTORIES]
        history = data.log.past(user, position, length=length)
        vectors.append(in_batches(block, user, history, batch_size=batch_size))
    return jnp.concatenate(vectors)
