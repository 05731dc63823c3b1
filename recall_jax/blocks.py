"""Many rows encoded in blocks of one static size, over all devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recall_jax import sharding
from recall_jax.data.arrays import Dataset
from recall_jax.data.dataset import Data, Part
from recall_jax.row_split import Rows
from recall_jax.types import Columns

HISTORIES = 1 << 17  # of a streamed log, held at a time


def in_batches(encode, *arrays: np.ndarray, batch_size: int) -> Rows:
    """Blocks of one static size, in which each device has as many of its rows; padded
    with 0, which is padding too."""
    n, devices = len(arrays[0]), sharding.num_devices()
    size = min(-(-batch_size // devices), -(-n // devices))
    blocks = zip(*[_blocks(array, size=size) for array in arrays])
    return _joined([encode(*sharding.share(block)) for block in blocks], num=n)


def _blocks(rows: np.ndarray, *, size: int) -> list[np.ndarray]:
    """Blocks of `size` of each device's rows, the padding behind the last device's."""
    devices, shape = sharding.num_devices(), rows.shape[1:]
    width = -(-len(rows) // (devices * size)) * size
    fill = [(0, devices * width - len(rows)), *[(0, 0)] * len(shape)]
    padded = np.pad(rows, fill).reshape(devices, width, *shape)
    starts = range(0, width, size)
    # -1 would not be known of rows without columns, as are histories of length 0.
    shape = devices * size, *shape
    return [padded[:, at : at + size].reshape(shape) for at in starts]


def _joined(blocks: list[jax.Array], *, num: int) -> Rows:
    """What was computed of `_blocks`: nothing goes to another device."""
    if sharding.num_devices() == 1:
        return Rows(jnp.concatenate(blocks)[:num], num)
    return Rows(_interleaved(blocks), num)


@jax.jit
def _interleaved(blocks):
    devices, width = sharding.num_devices(), blocks[0].shape[1]
    parts = [block.reshape(devices, -1, width) for block in blocks]
    return sharding.split(jnp.concatenate(parts, axis=1).reshape(-1, width))


def encode_catalogue(
    encode: Callable[[Any, Dataset, jax.Array], jax.Array],
    params: Any,
    *,
    data: Data,
    batch_size: int,
) -> Rows:
    """Vectors of catalogue ids 1..V by `evaluate.Encoder.item`, each on one device."""
    ids = np.arange(1, data.dataset.num_items + 1, dtype=np.int32)
    return in_batches(
        lambda ids: encode(params, data.dataset, ids), ids, batch_size=batch_size
    )


def encode_streamed(
    encode: Callable[[Any, Dataset, Columns], jax.Array],
    params: Any,
    *,
    data: Data,
    part: Part,
    batch_size: int,
) -> jax.Array:
    """Vectors of a part's users by `evaluate.Encoder.columns`, on every device, of data
    whose events are on none: histories are read from the log."""
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
        rows = in_batches(block, user, history, batch_size=batch_size)
        vectors.append(rows.everywhere())
    return jnp.concatenate(vectors)
