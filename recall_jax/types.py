"""Words shared by every room: axis letters, columns, batches, errors.

Axis letters, as they stand in jaxtyping signatures everywhere:

    b  examples of a batch            n  negatives of an example, or candidates
    d  embedding width                h  history length (last column: most recent)
    m  values of a multi-valued field V  rows of a table, or catalogue items
    q  queries of a search            k  cut-off

Ids. Raw ids are any string or integer. Inside, an item or a user is its *catalogue
id*: 0 is padding, 1..V are those with training events by falling frequency, those
without any follow. A *look-up id* is what a table is indexed with: the catalogue id,
or V + 1, the one unknown row, for everything without training events.
"""

from typing import NamedTuple, Protocol

import jax
from jaxtyping import Array, Float, Int

Columns = dict[str, Array]
"""Named columns that share their leading axes: look-up ids [b] or [b, m], 0 padding,
or floats [b] (dense features)."""


class Batch(NamedTuple):
    """What one step trains on. `query` is what the query tower reads; the rest is raw.

    Of a model over sequences a row of `query` holds h examples, [b / h, h], and b counts
    them all, row after row."""

    query: Columns
    user: Int[Array, "b"]  # catalogue id of the user
    item: Int[Array, "b"]  # catalogue id of the positive
    weight: Float[Array, "b"]
    label: Float[Array, "b"]  # 1 where the data has no labels
    position: Int[Array, "b"]  # in the flat events; the user's history stands before it


class Model(Protocol):
    """Two functions into one space; the score is their inner product."""

    def query(self, batch: Columns) -> Float[Array, "... d"]: ...

    def item(self, items: Columns) -> Float[Array, "... d"]: ...


class InputError(ValueError):
    """A mistake in a file, a field or a flag; its text says how to mend it."""


class MissingData(InputError):
    """There are no data where they should be, or none that can be read as they are."""


Key = jax.Array
Hypers = dict[str, Array]
"""Traced floats (learning rate, temperature, ...): changing one does not recompile."""
