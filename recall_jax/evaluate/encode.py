"""Vectors of items and users by a trained model's towers, a block at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recall_jax.data.arrays import Events
from recall_jax.data.prepared import Data, Part
from recall_jax.devices import mesh
from recall_jax.devices.rows import Rows
from recall_jax.models.graph import Graph
from recall_jax.types import Columns

Complete = Callable[[jax.Array, Data], jax.Array]


class Towers(NamedTuple):
    """Jitted towers of a graph; `params` is (tables, dense, statistics). `complete`
    takes the vectors of the whole catalogue to those that are served, for what an item
    has from other items. `columns` is the query tower on columns as `Events.query` has
    them, of anybody, but `history` in catalogue ids. `graph` is what the towers are made
    of."""

    query: Callable[[Any, Events, jax.Array, jax.Array], jax.Array]
    item: Callable[[Any, Events, jax.Array], jax.Array]
    complete: Complete | None = None
    columns: Callable[[Any, Events, Columns], jax.Array] | None = None
    graph: Graph | None = None


def make_towers(graph: Graph, *, complete: Complete | None = None) -> Towers:
    """Both towers as they are used, compiled once for a batch size, at full precision:
    what a GPU rounds away in training would differ from run to run here."""

    @jax.jit
    @jax.default_matmul_precision("highest")
    def query(params, dataset: Events, user, position):
        columns = dataset.query(user, position)
        if length := dataset.history_length:
            columns["history"] = dataset.past(user, position, length=length)
        return _query_vectors(graph.model(*params), dataset, columns)

    @jax.jit
    @jax.default_matmul_precision("highest")
    def item(params, dataset: Events, ids):
        model = graph.model(*params)
        columns = dataset.item(ids)
        served = hasattr(model, "item_vector")
        tower = model.item_vector if served else model.item
        return mesh.by_device_rows(tower(columns))

    @jax.jit
    @jax.default_matmul_precision("highest")
    def columns(params, dataset: Events, given: Columns):
        return _query_vectors(graph.model(*params), dataset, given)

    return Towers(query, item, complete, columns, graph)


def _query_vectors(model, dataset: Events, columns: Columns) -> jax.Array:
    if hasattr(model, "user_vector"):
        ids = columns["history"]
        items = model.item_vector(dataset.item(ids))
        return mesh.by_device_rows(model.user_vector(items, ids != 0))
    if "history" in columns:
        history = jnp.minimum(columns["history"], dataset.known_items + 1)
        columns = columns | {"history": history}
    vectors = model.query(columns)
    if vectors.ndim == 3:
        vectors = vectors[:, -1]  # the last position's
    return mesh.by_device_rows(vectors)


def encode_items(encoder: Towers, params, *, data: Data, batch_size: int):
    """Vectors float32 [V, d] of catalogue ids 1..V, on every device."""
    rows = encode_catalogue(encoder.item, params, data=data, batch_size=batch_size)
    vectors = rows.everywhere()
    return vectors if encoder.complete is None else encoder.complete(vectors, data)


def encode_queries(encoder: Towers, params, *, data: Data, part: Part, batch_size: int):
    """Vectors float32 [q, d] of a part's users where their histories end, the same."""
    if data.log is not None:
        return encode_streamed(
            encoder.columns, params, data=data, part=part, batch_size=batch_size
        )
    rows = in_batches(
        lambda user, position: encoder.query(params, data.dataset, user, position),
        part.user,
        part.start.astype(np.int32),
        batch_size=batch_size,
    )
    return rows.everywhere()


class Vectors(NamedTuple):
    """What an index holds, and what it is asked: [V, d] and [q, d] float32."""

    items: Rows | jax.Array
    queries: jax.Array


def encode_both(
    encoder: Towers, params, *, data: Data, part: Part, batch_size: int
) -> Vectors:
    """The vectors of the catalogue, to each device its own, and of a part's users,
    computed when it returns."""
    arguments = {"data": data, "batch_size": batch_size}
    if encoder.complete is None:
        items = encode_catalogue(encoder.item, params, **arguments)
    else:
        items = encode_items(encoder, params, **arguments)
    queries = encode_queries(encoder, params, part=part, **arguments)
    return jax.block_until_ready(Vectors(items, queries))


HISTORIES = 1 << 17  # of a streamed log, held at a time


def in_batches(encode, *arrays: np.ndarray, batch_size: int) -> Rows:
    """Blocks of one static size, in which each device has as many of its rows; padded
    with 0, which is padding too."""
    n, devices = len(arrays[0]), mesh.num_devices()
    size = min(-(-batch_size // devices), -(-n // devices))
    blocks = zip(*[_blocks(array, size=size) for array in arrays])
    return _joined([encode(*mesh.share(block)) for block in blocks], num=n)


def _blocks(rows: np.ndarray, *, size: int) -> list[np.ndarray]:
    """Blocks of `size` of each device's rows, the padding behind the last device's."""
    devices, shape = mesh.num_devices(), rows.shape[1:]
    width = -(-len(rows) // (devices * size)) * size
    fill = [(0, devices * width - len(rows)), *[(0, 0)] * len(shape)]
    padded = np.pad(rows, fill).reshape(devices, width, *shape)
    starts = range(0, width, size)
    # -1 would not be known of rows without columns, as are histories of length 0.
    shape = devices * size, *shape
    return [padded[:, at : at + size].reshape(shape) for at in starts]


def _joined(blocks: list[jax.Array], *, num: int) -> Rows:
    """What was computed of `_blocks`: nothing goes to another device."""
    if mesh.num_devices() == 1:
        return Rows(jnp.concatenate(blocks)[:num], num)
    return Rows(_interleaved(blocks), num)


@jax.jit
def _interleaved(blocks):
    devices, width = mesh.num_devices(), blocks[0].shape[1]
    parts = [block.reshape(devices, -1, width) for block in blocks]
    return mesh.by_device_rows(jnp.concatenate(parts, axis=1).reshape(-1, width))


def encode_catalogue(
    encode: Callable[[Any, Events, jax.Array], jax.Array],
    params: Any,
    *,
    data: Data,
    batch_size: int,
) -> Rows:
    """Vectors of catalogue ids 1..V by `Towers.item`, each on one device."""
    ids = np.arange(1, data.dataset.num_items + 1, dtype=np.int32)
    return in_batches(
        lambda ids: encode(params, data.dataset, ids), ids, batch_size=batch_size
    )


def encode_streamed(
    encode: Callable[[Any, Events, Columns], jax.Array],
    params: Any,
    *,
    data: Data,
    part: Part,
    batch_size: int,
) -> jax.Array:
    """Vectors of a part's users by `encode.Towers.columns`, on every device, of data
    whose events are on none: histories are read from the log."""
    length, vectors = data.dataset.history_length, []
    columns_of = jax.jit(Events.query)

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
