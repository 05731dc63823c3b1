"""Every index by its name, and an index from disk whichever it is."""

from pathlib import Path

from recall_jax import index_files, retrieval, scann_index
from recall_jax.types import InputError

INDEXES = {
    "exact": retrieval.Exact,
    "approx": retrieval.Approx,
    "scann": scann_index.Scann,
}


def load(folder: Path) -> retrieval.Index:
    """What the `save` of an index wrote. Raises InputError, naming the file, for an
    index that is damaged, cut short or of another version."""
    kind = index_files.read_record(folder)["kind"]
    if kind not in INDEXES:
        known = ", ".join(INDEXES)
        raise InputError(f"{folder} holds an index {kind!r}; there are: {known}")
    return INDEXES[kind].load(folder)
