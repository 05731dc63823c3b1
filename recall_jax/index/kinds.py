"""Every index by its name, and an index from disk whichever it is."""

from pathlib import Path

from recall_jax.index import saved, scann, search
from recall_jax.types import InputError

INDEXES = {
    "exact": search.Exact,
    "approx": search.Approx,
    "scann": scann.Scann,
}


def load(folder: Path) -> search.Index:
    """What the `save` of an index wrote. Raises InputError, naming the file, for an
    index that is damaged, cut short or of another version."""
    kind = saved.kind_of(folder)
    if kind not in INDEXES:
        names = ", ".join(INDEXES)
        raise InputError(f"{folder} holds an index {kind!r}; there are: {names}")
    return INDEXES[kind].load(folder)
