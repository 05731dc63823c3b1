"""Which columns exist, their vocabularies, and which table each id column reads."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from recall_jax.types import InputError


class Vocabulary(NamedTuple):
    """Raw ids in the order of their inner ids: ids[j] has inner id j + 1.

    The first `known` were seen in training, by falling frequency there, ties in the
    order in which the source lists them; a table for them has a padding row, `known` rows and one
    unknown row that all others share.
    """

    ids: np.ndarray  # [V] raw ids, strings or integers
    known: int

    @property
    def rows(self) -> int:
        """Rows of a table read by these ids: padding, the known, the unknown."""
        return self.known + 2

    def encode(self, raw: Iterable) -> np.ndarray:
        """Inner ids int32 of raw ids; len(ids) + 1, an unknown id, for strangers."""
        inner = {value: j + 1 for j, value in enumerate(self.ids.tolist())}
        stranger = len(self.ids) + 1
        return np.array([inner.get(value, stranger) for value in raw], np.int32)

    def lookup(self, inner: np.ndarray) -> np.ndarray:
        """Look-up ids int32: whatever has no training events reads the unknown row."""
        return np.minimum(inner, self.known + 1).astype(np.int32)


def frequency_order(codes: np.ndarray, *, num: int) -> tuple[np.ndarray, int]:
    """Codes 0..num-1 by falling frequency in `codes`, and how many occur at all.

    Ties, the ones that never occur among them, keep the order of their codes.
    """
    count = np.bincount(codes, minlength=num)
    return np.argsort(-count, kind="stable"), int(np.count_nonzero(count))


def dump_vocabularies(vocabularies: dict[str, Vocabulary]) -> str:
    """The JSON text that `load_vocabularies` reads: of each, how many are known, the
    type of its ids ("str" of strings of any length) and the ids."""
    content = _described(vocabularies)
    for name, entry in content.items():
        ids = vocabularies[name].ids
        entry["dtype"] = "str" if ids.dtype.kind in "OU" else ids.dtype.name
    return json.dumps(content, ensure_ascii=False)


def as_text(vocabularies: dict[str, Vocabulary]) -> str:
    """What vocabularies hold, whatever the type of their ids; for checksums, which older
    runs have of this very text."""
    return json.dumps(_described(vocabularies), ensure_ascii=False)


def _described(vocabularies: dict[str, Vocabulary]) -> dict[str, dict]:
    return {
        name: {"known": vocabulary.known, "ids": vocabulary.ids.tolist()}
        for name, vocabulary in vocabularies.items()
    }


def load_vocabularies(path: pathlib.Path) -> dict[str, Vocabulary]:
    """Vocabularies by name, as a run folder holds them."""
    content = json.loads(pathlib.Path(path).read_text("utf-8"))
    # Without their type, ids on both sides of 2**63 would come back as rounded floats.
    return {
        name: Vocabulary(np.array(entry["ids"], entry["dtype"]), entry["known"])
        for name, entry in content.items()
    }


REMEDIES = {
    "history": " without a model.history_length",
    "searched": " without data.tokens, the event column of searched words",
    "example_age": " without times (data.time), and a streamed log has none",
    "title": " without titles and data.text_buckets for their trigrams",
}
"""Why a column that is not a feature may be missing."""


class Column(NamedTuple):
    """A column that a tower may read."""

    name: str
    vocabulary: str  # of its ids; "" for a dense feature
    rows: int  # of a table that it reads; 0 for a dense feature
    width: int  # values of a multi-valued field (the history too); 0 if single
    kind: str = "feature"  # KINDS
    mean: float = 0.0  # of a dense feature's raw values, and their deviation: the
    scale: float = 1.0  # tower reads (raw - mean) / scale

    @property
    def has_ids(self) -> bool:
        """Whether its values are ids that read a table; else they are numbers. The name
        of the vocabulary does not tell: that of a column without a name is "" too."""
        return self.rows > 0


KINDS = ("feature", "sequence", "text", "age")
"""Of columns: values without order; ids met one after the other, the most recent last;
the letter trigrams of a text in their order; the age of an example. A tower that is told
to take all columns takes features and the history; it reads others if it names them."""


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of each side, as the data set offers them to a model."""

    query: tuple[Column, ...]
    item: tuple[Column, ...]

    def __post_init__(self):
        names = [column.name for column in self.query + self.item]
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f'the column "{name}" stands on both sides; rename one, so that '
                    "it is plain which tower reads which"
                )

    def pick(self, names: Sequence[str], *, side: str) -> tuple[Column, ...]:
        """Columns of a side ("query" or "item") by name, in the order of `names`."""
        columns = {column.name: column for column in getattr(self, side)}
        for name in names:
            if name not in columns:
                raise InputError(
                    f'the data has no {side} column "{name}"{REMEDIES.get(name, "")}; '
                    "there are: " + ", ".join(columns)
                )
        return tuple(columns[name] for name in names)


class Table(NamedTuple):
    """An embedding table and the columns that read it."""

    name: str
    rows: int
    width: int
    reads: tuple[str, ...]  # column names


def tables_of(columns: Iterable[tuple[Column, str, int]]) -> tuple[Table, ...]:
    """Tables from (column, table name, width); columns may share a table."""
    tables: dict[str, Table] = {}
    for column, name, width in columns:
        table = tables.setdefault(name, Table(name, column.rows, width, ()))
        if (table.rows, table.width) != (column.rows, width):
            raise InputError(
                f'column "{column.name}" ({column.rows} rows of {width}) cannot share '
                f'the table "{name}" ({table.rows} rows of {table.width})'
            )
        tables[name] = table._replace(reads=table.reads + (column.name,))
    return tuple(tables.values())
