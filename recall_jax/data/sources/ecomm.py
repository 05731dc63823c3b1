"""A sample of a shop's log: who clicked, collected, carted or bought what on which day.

Tianchi's data set 231719, three files of fields with tabs between and no header. Times
are whole days and rows are in no order, so a session can only be a user's day.
"""

import dataclasses
import os
import pathlib
import re

import numpy as np

from recall_jax.data import log
from recall_jax.data.log import Bag, Entities, Interactions
from recall_jax.data.sources import movielens
from recall_jax.types import InputError, MissingData, bounded, check_fields

ACTIONS = ("click", "collect", "cart", "buy")  # codes 1, 2, 3, 4
TABLES = {  # file: fields
    "ecomm_edge_train.txt": "user item action day",
    "ecomm_item_feature.txt": "item top_category category brand price",
    "ecomm_user_feature.txt": ("user gender age_level education career income stages"),
}
WHOLE = r"-?\d{1,18}"
PATTERNS = {  # of fields; the others are whole numbers, -1 if unknown
    **dict.fromkeys(("user", "item"), r"\d{1,18}"),
    "action": "[1-4]",
    "day": r"\d{8}",
    "price": r"\d{1,18}(\.\d+)?",
    "income": rf"{WHOLE}(\.\d+)?",
    "stages": rf"{WHOLE}(,{WHOLE})*",
}


@dataclasses.dataclass
class Config(log.Config):
    """Where the three files are. Empty `dir`: the folder ecomm in $RECALL_DATA_DIR."""

    dir: str = ""
    drop_duplicates: bool = True  # rows that agree in user, item, action and day
    price_buckets: int = bounded(10, 1)  # quantiles of the prices of all items

    def load(self) -> Interactions:
        """Events with `action` (click, collect, cart, buy), at the first second (UTC) of
        their day. Items with top_category, category, brand ('' unknown, 0 in the file)
        and price_bucket (-1 unknown); users with gender, age_level, education, career
        ('' unknown), income (NaN unknown) and stages, of which there may be several.

        Whoever is in events alone is an entity too, of unknown features. Raises
        InputError for a missing file and, naming file and line, for a malformed row.
        """
        check_fields(self, "--config.data")
        paths = [locate(self.dir) / name for name in TABLES]
        events, items, users = (read_table(path) for path in paths)
        time = read_days(events["day"], path=paths[0])
        rows = [events[name].astype(int) for name in ("user", "item", "action")]
        rows = np.stack([*rows, time])
        if self.drop_duplicates:
            rows = rows[:, np.sort(np.unique(rows, axis=1, return_index=True)[1])]
        user_id, user = movielens.align(rows[0], listed_ids=users["user"].astype(int))
        item_id, item = movielens.align(rows[1], listed_ids=items["item"].astype(int))
        return Interactions(
            user=user,
            item=item,
            users=as_users(user_id, users),
            items=as_items(item_id, items, buckets=self.price_buckets),
            time=rows[3].copy(),
            events={"action": np.array(ACTIONS)[rows[2] - 1]},
            source=f"ecomm, {paths[0].parent}",
        )


def locate(given: str) -> pathlib.Path:
    """The folder to read."""
    root = os.environ.get("RECALL_DATA_DIR", "")
    folder = pathlib.Path(given or pathlib.Path(root) / "ecomm").expanduser()
    for file in TABLES:
        if not (folder / file).is_file():
            raise MissingData(
                f"{folder} has no {file}; name a folder with {', '.join(TABLES)} in "
                "--config.data.dir, or one that holds ecomm/ in RECALL_DATA_DIR "
                f"(now {repr(root) if root else 'not set'})"
            )
    return folder


def read_table(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Columns of strings by name, each value as it should be; entities stand once."""
    fields = TABLES[path.name].split()
    lines = path.read_text("latin-1").removesuffix("\n").split("\n")
    records = [line.split("\t") for line in lines]
    for number, record in enumerate(records, start=1):
        if len(record) != len(fields):
            refuse(path, number, f"has {len(record)} fields, not {len(fields)}")
    table = {name: np.array(column) for name, column in zip(fields, zip(*records))}
    for name in fields:
        matches = re.compile(PATTERNS.get(name, WHOLE), re.ASCII).fullmatch
        for number, value in enumerate(table[name].tolist(), start=1):
            if not matches(value):
                refuse(path, number, f"{name} is {value[:40]!r}")
    first = np.unique(table[fields[0]].astype(int), return_index=True)[1]
    if "action" not in fields and len(first) < len(lines):
        row = np.setdiff1d(np.arange(len(lines)), first)[0]
        refuse(path, row + 1, f"{fields[0]} {records[row][0]} a second time")
    return table


def refuse(path: pathlib.Path, number: int, problem: str) -> None:
    raise InputError(
        f"{path}, line {number}: {problem}; expected {TABLES[path.name]!r} with tabs "
        "between. Damaged, or cut short?"
    )


def read_days(raw: np.ndarray, *, path: pathlib.Path) -> np.ndarray:
    """Unix seconds int64 of days written yyyymmdd."""
    seconds = {}
    for day, row in zip(*np.unique(raw, return_index=True)):
        try:
            date = np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}", "s")
        except ValueError:
            refuse(path, row + 1, f"{day} is no day")
        seconds[day] = date.astype(np.int64)
    return np.array([seconds[day] for day in raw], np.int64)


def as_strings(column: np.ndarray, *, unknown: str, size: int) -> np.ndarray:
    """`size` strings, '' for what is unknown and for entities beyond the file."""
    strings = np.where(column == unknown, "", column)
    return np.append(strings, np.full(size - len(strings), ""))


def as_users(ids: np.ndarray, table: dict[str, np.ndarray]) -> Entities:
    names = ("gender", "age_level", "education", "career", "stages")
    columns = {n: as_strings(table[n], unknown="-1", size=len(ids)) for n in names}
    income = np.full(len(ids), np.nan, np.float32)
    income[: len(table["income"])] = table["income"].astype(np.float32)
    income[income < 0] = np.nan
    bags = [text.split(",") if text else [] for text in columns.pop("stages").tolist()]
    offsets = np.cumsum([0] + [len(bag) for bag in bags])
    stages = Bag(np.array([value for bag in bags for value in bag], str), offsets)
    return Entities(ids, columns | {"income": income, "stages": stages})


def as_items(
    ids: np.ndarray, table: dict[str, np.ndarray], *, buckets: int
) -> Entities:
    names = ("top_category", "category", "brand")
    columns = {n: as_strings(table[n], unknown="0", size=len(ids)) for n in names}
    price = np.full(len(ids), np.nan)
    price[: len(table["price"])] = table["price"].astype(np.float64)
    bounds = np.nanquantile(price, np.arange(1, buckets) / buckets)
    bucket = np.searchsorted(bounds, price)
    columns["price_bucket"] = np.where(np.isnan(price), -1, bucket)
    return Entities(ids, columns)
