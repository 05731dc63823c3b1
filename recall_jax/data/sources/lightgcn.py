"""Train and test as published with LightGCN: a line a user, `user item item ...`.

Gowalla, Yelp2018 and Amazon-Book come so (He et al. 2020), without times or order.
"""

import dataclasses
import os
import pathlib

import numpy as np

from recall_jax.data import log
from recall_jax.data.log import Entities, Interactions
from recall_jax.types import InputError, MissingData

FILES = ("train.txt", "test.txt")


@dataclasses.dataclass
class Config(log.Config):
    """A folder with train.txt and test.txt. Empty `dir`: the folder `name` in
    $RECALL_DATA_DIR."""

    protocol: str = "given"
    name: str = "gowalla"
    dir: str = ""

    def load(self) -> Interactions:
        """Events of both files, `part` 0 train, 1 test."""
        if self.protocol != "given":
            raise InputError(
                f"data.protocol={self.protocol} needs the order of events, which train "
                "and test files as published do not have; use given"
            )
        folder = locate(self.dir, name=self.name)
        train, test = (read_pairs(folder / name) for name in FILES)
        rows = np.concatenate([train, test])
        (users, user), (items, item) = (
            np.unique(rows[:, j], return_inverse=True) for j in range(2)
        )
        pair = user * len(items) + item
        both = np.isin(pair[len(train) :], pair[: len(train)])
        if both.any():  # such a pair could never be found
            first, second = test[both][0]
            raise InputError(
                f"{folder}: {both.sum():,} pairs of test.txt stand in train.txt too, the "
                f"first user {first}, item {second}; take them out of one"
            )
        return Interactions(
            user=user.astype(np.int32),
            item=item.astype(np.int32),
            users=Entities(users),
            items=Entities(items),
            events={"part": np.repeat([0, 1], [len(train), len(test)])},
            source=f"{folder.name}, {folder}",
        )


def locate(given: str, *, name: str) -> pathlib.Path:
    """The folder to read."""
    root = os.environ.get("RECALL_DATA_DIR", "")
    if not given and not root:
        raise MissingData(
            f"where is {name}? Name the folder of {' and '.join(FILES)}, as LightGCN "
            "publishes them, with --config.data.dir=PATH, or a folder that holds "
            f"{name}/ with RECALL_DATA_DIR=PATH"
        )
    folder = pathlib.Path(given or pathlib.Path(root) / name).expanduser()
    for file in FILES:
        if not (folder / file).is_file():
            raise MissingData(
                f"{folder} has no {file}; name a folder with {' and '.join(FILES)} in "
                "--config.data.dir or RECALL_DATA_DIR"
            )
    return folder


def read_pairs(path: pathlib.Path) -> np.ndarray:
    """Distinct (user, item), int64 [n, 2], in file order; a user may have no item.

    Raises InputError at the first line that is not of whole numbers.
    """
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} could not be read: {error}") from error
    records = [line.split() for line in lines]
    lengths = np.array([max(len(record) - 1, 0) for record in records], np.int64)
    if not lengths.sum():
        raise InputError(f"{path} has no user with an item; get the original again")
    if problem := wrong_word(records):
        raise InputError(f"{path}, {problem}")
    users = np.array([record[0] for record in records if record], np.int64)
    items = np.array([x for record in records for x in record[1:]], np.int64)
    filled = np.array([bool(record) for record in records])
    rows = np.stack([np.repeat(users, lengths[filled]), items], axis=1)
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


def wrong_word(records: list[list[str]]) -> str:
    """What is wrong with the first word that is no whole number of up to 18 digits."""
    for number, record in enumerate(records, start=1):
        if all(word.isdigit() and len(word) <= 18 for word in record):
            continue
        word = next(word for word in record if not word.isdigit() or len(word) > 18)
        return (
            f"line {number} of {len(records)}: {word[:40]!r} is no whole number; expected "
            "`user item item ...`. Damaged?"
        )
    return ""
