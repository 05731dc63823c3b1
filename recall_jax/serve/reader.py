"""A trained run as files that serve without it: `load` and what it gives.

    folder/
        manifest.json       "export", format version; size and SHA-256 of every other file
        specification.json  the towers' arguments in order, and how vectors are stored
        vocabularies.json   raw ids and values in the order of their inner ids
        query.jax item.jax  programs of jax.export: (weights, columns) -> float32 [b, d]
        weights/*.npy       their weights; specification.json names each one's file
        columns/*.npy       the features of users and items, by catalogue id; the same
        items.npy users.npy vectors in the order of the vocabularies (`vectors`)
        items.parquet ...   the same with raw ids
        histories.npy ...   each user's items, and where each user's begin
        popularity.npy      training events of each item; titles.json where there are any

`writer.write` makes it. Loading needs jax (with flatbuffers), NumPy and no model; no
file is ever unpickled.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from recall_jax import files, schema
from recall_jax.data import columns as columns_lib
from recall_jax.serve import vectors
from recall_jax.types import InputError

SEALED = {"what": "export", "form": 3}
"""The folder's kind and the version of its format; others are refused."""
AGAIN = "export the run again: python -m experiments.export --run=RUN --to=FOLDER"

Features = Mapping[str, Any]
"""Of one user or item, by column: a raw value, a list of them where the column takes
several, a number, a text."""

Columns = dict[str, np.ndarray]

Tower = Callable[[Columns], np.ndarray]
"""Columns that share their first axis -> vectors float32 [b, d]; others are ignored."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export holds. Rows of `item_vectors` are catalogue ids 1..V in their order,
    those of `*_columns` and of `popularity` begin with row 0, padding."""

    specification: dict[str, Any]
    vocabularies: dict[str, schema.Vocabulary]
    query: Tower
    item: Tower
    item_ids: np.ndarray  # [V] raw ids
    item_vectors: np.ndarray  # [V, d] float32, as they are served
    titles: np.ndarray | None  # [V] of str
    popularity: np.ndarray  # [V + 1] int64, training events
    user_ids: np.ndarray  # [U] raw ids
    user_vectors: np.ndarray | None  # [U, d] float32, at the end of their histories
    user_columns: Columns  # [U + 1, ...], what the query tower reads of a user
    item_columns: Columns  # [V + 1, ...], what the towers read of an item
    histories: np.ndarray  # catalogue ids of items, user after user, the oldest first
    history_offsets: np.ndarray  # [U + 2]; user u's are [offsets[u]:offsets[u + 1]]

    def history(self, user: int) -> np.ndarray:
        """Catalogue ids of all that a user met, by his catalogue id; the last is last."""
        return self.histories[
            self.history_offsets[user] : self.history_offsets[user + 1]
        ]

    def known_user_columns(self, users: np.ndarray) -> Columns:
        """What the query tower reads of users of the export, by catalogue id [b]: their
        features, and their histories to their ends."""
        columns = {name: rows[users] for name, rows in self.user_columns.items()}
        histories = [self.history(user) for user in users]
        return self.with_history(columns, histories)

    def new_columns(self, side: str, rows: Sequence[Features]) -> Columns:
        """Columns of new users or items (side "query" or "item") from features alone.

        Their ids are unknown to the model, and what a row does not say is missing: a
        query tower still wants `with_history`. Raises InputError for a feature that the
        tower does not read.
        """
        specified = self.specification["towers"][side]["columns"]
        own = {c["name"]: c for c in specified if c["of"] == side}
        for row in rows:
            if unknown := [name for name in row if name not in own]:
                raise InputError(
                    f"the {side} tower reads no feature {unknown[0]!r}; it reads: "
                    + (", ".join(own) or "none")
                )
        return {
            name: _encode(
                [row.get(name) for row in rows],
                column=column,
                vocabulary=self.vocabularies.get(column["vocabulary"]),
            )
            for name, column in own.items()
        }

    def with_history(
        self, columns: Columns, histories: Sequence[np.ndarray]
    ) -> Columns:
        """The columns with what the query tower reads of each row's history (catalogue
        ids, the oldest first, of any length, 0 ignored) and of the time, which is now."""
        columns = dict(columns)
        for column in self.specification["towers"]["query"]["columns"]:
            shape = (len(histories), *column["shape"][1:])
            if column["of"] == "now":
                columns[column["name"]] = np.zeros(shape, column["dtype"])
            if column["of"] == "history":
                ids = _last(histories, length=shape[1])
                rows = self.item_columns[column["column"]]
                columns[column["name"]] = rows[ids]
        return columns


def load(folder: pathlib.Path | str) -> Exported:
    """What `writer.write` wrote.

    Raises InputError where there is no export, where it is of another format version,
    where a file is not as it was written, or where the vocabularies are not those that
    the towers were trained with.
    """
    folder = files.settled(pathlib.Path(folder))
    manifest = read_manifest(folder)
    specification = read_json(folder / "specification.json")
    vocabularies = schema.load_vocabularies(folder / "vocabularies.json")
    _check_rows(specification, vocabularies, folder)
    weights: dict[str, jax.Array] = {}
    towers = {
        side: read_tower(folder, specification, side=side, weights=weights)
        for side in ("query", "item")
    }
    titles = "titles.json" in manifest["files"]
    arrays = {
        name: read_array(folder / f"{name}.npy")
        for name in ("popularity", "histories", "history_offsets")
    }
    stored = {
        name: vectors.read(folder, name, form=form)
        for name, form in specification["vectors"].items()
    }
    return Exported(
        specification=specification,
        vocabularies=vocabularies,
        query=towers["query"],
        item=towers["item"],
        item_ids=vocabularies["item"].ids,
        item_vectors=stored["items"],
        titles=_texts(folder / "titles.json") if titles else None,
        popularity=arrays["popularity"],
        user_ids=vocabularies["user"].ids,
        user_vectors=stored.get("users"),
        user_columns=_columns(folder, specification, side="query"),
        item_columns=_columns(folder, specification, side="item"),
        histories=arrays["histories"],
        history_offsets=arrays["history_offsets"],
    )


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of an export whose files are all as they were written."""
    manifest = files.read_manifest(folder, **SEALED, again=AGAIN)
    other_ids = "so that ids name other things than those the towers were made for"
    meaning = {"vocabularies.json": other_ids}
    files.check_files(folder, manifest, again=AGAIN, meaning=meaning)
    return manifest


def _check_rows(
    specification: dict[str, Any],
    vocabularies: dict[str, schema.Vocabulary],
    folder: pathlib.Path,
) -> None:
    """Raise InputError where a tower counts on other ids than the vocabularies have."""
    for side, tower in specification["towers"].items():
        for column in tower["columns"]:
            vocabulary = vocabularies.get(column["vocabulary"])
            if vocabulary is not None and column["unknown"] != vocabulary.known + 1:
                raise InputError(
                    f"{folder}: the {side} tower was made for another vocabulary of "
                    f"{column['vocabulary']!r}: its unknown id is {column['unknown']}, "
                    f"and there it is {vocabulary.known + 1}; export again"
                )


def read_tower(
    folder: pathlib.Path,
    specification: dict[str, Any],
    *,
    side: str,
    weights: dict[str, jax.Array] | None = None,
) -> Tower:
    """The tower "query" or "item" with its weights; `weights` keeps what was read."""
    weights = {} if weights is None else weights
    tower = specification["towers"][side]
    for weight in tower["weights"]:
        if weight["name"] not in weights:
            array = read_array(folder / weight["file"])
            weights[weight["name"]] = jax.device_put(array)
    own = {weight["name"]: weights[weight["name"]] for weight in tower["weights"]}
    run = jax.jit(read_program(folder / tower["program"]).call)

    def call(columns: Columns) -> np.ndarray:
        given = checked(columns, tower["columns"], side=side)
        size = len(next(iter(given.values())))
        fill = (1 << (size - 1).bit_length()) - size  # few sizes, so few compilations
        padded = {name: _padded(column, fill) for name, column in given.items()}
        return np.asarray(run(own, padded))[:size]

    return call


def read_program(path: pathlib.Path) -> Any:
    """A program of jax.export. Raises InputError without flatbuffers."""
    try:
        return jax_export.deserialize(bytearray(path.read_bytes()))
    except ImportError as problem:
        raise InputError(
            "jax reads its exported programs with flatbuffers; install it: pip install "
            "flatbuffers"
        ) from problem


def checked(columns: Columns, specified: list[dict[str, Any]], *, side: str) -> Columns:
    """The columns that a tower reads, of its types. Raises InputError where one is
    missing, has another shape, or where the rows are not equally many."""
    given, size = {}, None
    for column in specified:
        name, shape = column["name"], tuple(column["shape"][1:])
        if name not in columns:
            names = ", ".join(c["name"] for c in specified)
            raise InputError(
                f"the {side} tower needs a column {name!r}; it has: {names}"
            )
        given[name] = np.asarray(columns[name], column["dtype"])
        size = given[name].shape[0] if size is None and given[name].ndim else size
        if given[name].shape != (size, *shape) or not size:
            raise InputError(
                f"the {side} tower's column {name!r} is {list(given[name].shape)}; it "
                f"must be {['b', *shape]}, the same b of at least 1 for all columns"
            )
    return given


def _padded(column: np.ndarray, fill: int) -> np.ndarray:
    return np.pad(column, [(0, fill)] + [(0, 0)] * (column.ndim - 1))


def _last(histories: Sequence[np.ndarray], *, length: int) -> np.ndarray:
    """The last ids of each, [b, length], padded with 0 on the left."""
    filled = np.zeros((len(histories), length), np.int32)
    for row, history in zip(filled, histories):
        kept = np.asarray(history, np.int32)
        kept = kept[kept != 0][-length:]
        row[length - len(kept) :] = kept
    return filled


def _encode(
    values: list[Any], *, column: dict[str, Any], vocabulary: schema.Vocabulary | None
) -> np.ndarray:
    """Raw values of a column (None where one is missing) as a tower reads them."""
    name, shape = column["name"], column["shape"][1:]
    if column["kind"] == "dense":
        raw = np.array([np.nan if x is None else x for x in values], np.float64)
        scaled = (raw - column["mean"]) / column["scale"]
        return np.nan_to_num(scaled).astype(np.float32)
    if name in ("user", "item"):  # a new one
        return np.full(len(values), column["unknown"], np.int32)
    if column["kind"] == "text":
        texts = ["" if x is None else str(x) for x in values]
        bag = columns_lib.trigram_ids(texts, buckets=column["unknown"] - 1)
        rows = np.split(bag.values, bag.offsets[1:-1])
    else:
        lists = [_as_list(x) for x in values]
        rows = [vocabulary.lookup(vocabulary.encode(row)) for row in lists]
    ids = np.zeros((len(values), *(shape or [1])), np.int32)
    most = ids.shape[1]
    for filled, row in zip(ids, rows):
        if column["padding_side"] == "left":
            filled[max(most - len(row), 0) :] = row[-most:]
        else:
            filled[: len(row)] = row[:most]
    return ids if shape else ids[:, 0]


def _as_list(value: Any) -> list:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]


def _columns(
    folder: pathlib.Path, specification: dict[str, Any], *, side: str
) -> Columns:
    stored = specification["columns"][side]
    return {name: read_array(folder / file) for name, file in stored.items()}


def read_array(path: pathlib.Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _texts(path: pathlib.Path) -> np.ndarray:
    """Each of its own length; NumPy's strings all take the memory of the longest."""
    return np.array(read_json(path), object)


def read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as problem:
        raise InputError(f"{path} is damaged ({problem}); export again") from problem
