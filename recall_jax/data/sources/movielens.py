"""MovieLens 1M and 100K, from a folder, the original zip, or the verified download.

Reads with numpy alone; tensorflow-datasets is imported for a download only. File order
is kept: the clock is coarse, and ties in time are broken by it. Harper and Konstan
(2015); for research only, not to be passed on.
"""

import dataclasses
import os
import pathlib
import re
import socket
import tempfile
import urllib.parse
import urllib.request
import zipfile
from typing import NamedTuple

import numpy as np

from recall_jax.data import log as log_lib
from recall_jax.data.log import Bag, Entities, Interactions
from recall_jax.types import InputError, MissingData, check_fields, choice

URL = "https://files.grouplens.org/datasets/movielens/{}.zip"
MAX_UNKNOWN = 0.1  # share of ratings of unlisted movies above which files misfit
AGE_GROUPS = (1, 18, 25, 35, 45, 50, 56)  # their lower ends, as 1M has them
USER_COLUMNS = ("gender", "age", "occupation", "zip")
RATING_FIELDS = ("user", "movie", "rating", "unix time")
_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama "
    "Fantasy Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
)
GENRES_100K = tuple(_GENRES.split())
ITEM_FIELDS_100K = ("title", "released", "on video", "url")
BOUNDS = {  # of the fields that are whole numbers
    "user": (1, 10**18 - 1),
    "movie": (1, 10**18 - 1),
    "rating": (1, 5),
    "unix time": (788_918_400, 1_893_456_000),  # 1995 to 2030
    "age": (0, 150),
    **dict.fromkeys(GENRES_100K, (0, 1)),
}


class TextTable(NamedTuple):
    """A text file of one record a line; its first field is the id."""

    file: str
    separator: str
    fields: tuple[str, ...]


class Release(NamedTuple):
    folder: str
    num_ratings: int
    tables: tuple[TextTable, TextTable, TextTable]  # ratings, users, items


RATINGS_1M = TextTable("ratings.dat", "::", RATING_FIELDS)
USERS_1M = TextTable("users.dat", "::", ("user", *USER_COLUMNS))
ITEMS_1M = TextTable("movies.dat", "::", ("movie", "title", "genres"))

RATINGS_100K = TextTable("u.data", "\t", RATING_FIELDS)
USERS_100K = TextTable("u.user", "|", ("user", "age", "gender", "occupation", "zip"))
ITEMS_100K = TextTable("u.item", "|", ("movie", *ITEM_FIELDS_100K, *GENRES_100K))

LAYOUTS = {
    "1m": Release("ml-1m", 1_000_209, (RATINGS_1M, USERS_1M, ITEMS_1M)),
    "100k": Release("ml-100k", 100_000, (RATINGS_100K, USERS_100K, ITEMS_100K)),
}


@dataclasses.dataclass
class Config(log_lib.Config):
    """Which MovieLens, and where it lies.

    `dir` is a folder or a zip. Empty: ml-1m (ml-100k) or ml-1m.zip in
    $RECALL_DATA_DIR, else the download, kept in $RECALL_CACHE_DIR or
    ~/.cache/recall_jax. `num_ratings` rows must be there: -1 stands for the whole
    data set, 0 for any number (a subsample).
    """

    name: str = choice("1m", lambda: LAYOUTS)
    dir: str = ""
    num_ratings: int = -1

    def load(self) -> Interactions:
        """Events with `rating`; users with gender, age, occupation and zip (strings,
        '' unknown); items with genres, first_genre ('' unknown), year (0 unknown) and
        the text `title`.

        `age` is the lower end of 1M's age group, in 100k too. Whoever is in ratings
        alone is an entity too, of unknown features.
        """
        check_fields(self, "--config.data")
        layout = LAYOUTS[self.name]
        place = locate(self.dir, layout=layout)
        texts = read_files(place, layout=layout)
        paths = [f"{place}/{table.file}" for table in layout.tables]
        rows = parse_ratings(texts[0], table=layout.tables[0], path=paths[0])
        expected = layout.num_ratings if self.num_ratings < 0 else self.num_ratings
        if expected and len(rows) != expected:
            raise InputError(
                f"{paths[0]} has {len(rows):,} rating rows, expected {expected:,}: cut "
                "short, or another data set; for a subsample give "
                f"--config.data.num_ratings={len(rows)}, or 0 for any number"
            )
        users = parse_entities(texts[1], table=layout.tables[1], path=paths[1])
        items = parse_entities(texts[2], table=layout.tables[2], path=paths[2])
        log = assemble(rows, users=users, items=items)
        return dataclasses.replace(log, source=f"MovieLens {self.name}, {place}")


# Where the files are.


def is_here(config: Config) -> bool:
    """Whether `Config.load` would read it without a download."""
    layout = LAYOUTS[config.name]
    return bool(config.dir) or _set_up(layout) is not None or kept_zip(layout).exists()


def locate(given: str, *, layout: Release) -> pathlib.Path:
    """The folder or zip to read; downloads it when there is neither."""
    if given:
        place = pathlib.Path(given).expanduser()
        if not place.exists():
            raise MissingData(f"data.dir {given!r} does not exist; {ways(layout)}")
        return place
    return _set_up(layout) or fetch(layout)


def _set_up(layout: Release) -> pathlib.Path | None:
    """What $RECALL_DATA_DIR holds of it."""
    root = os.environ.get("RECALL_DATA_DIR", "")
    for name in (layout.folder, f"{layout.folder}.zip") if root else ():
        if (place := pathlib.Path(root).expanduser() / name).exists():
            return place
    return None


def ways(layout: Release) -> str:
    names = ", ".join(table.file for table in layout.tables)
    root = os.environ.get("RECALL_DATA_DIR")
    return (
        "give the data in one of three ways:\n"
        f"  --config.data.dir=PATH, a folder with {names}, or the original zip;\n"
        f"  RECALL_DATA_DIR=PATH, a folder that holds {layout.folder}/ or "
        f"{layout.folder}.zip (now {repr(root) if root else 'not set'});\n"
        "  data.dir empty, a network and `pip install tensorflow-datasets "
        "importlib_resources`, which downloads the zip."
    )


def kept_zip(layout: Release) -> pathlib.Path:
    """Where the cache has the original zip, if it has it."""
    cache = os.environ.get("RECALL_CACHE_DIR") or "~/.cache/recall_jax"
    return pathlib.Path(cache).expanduser() / f"{layout.folder}.zip"


def fetch(layout: Release) -> pathlib.Path:
    """The original zip, from the cache or downloaded with its SHA-256 checked."""
    kept = kept_zip(layout)
    if kept.exists():
        return kept
    url = URL.format(layout.folder)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            os.replace(download(url, folder=folder), kept)
    # tfds, requests and urllib3 each raise their own kind, with no common base.
    except Exception as error:
        reason = f"{url} could not be downloaded ({brief(error)})"
        raise InputError(f"{reason}; {ways(layout)}") from error
    return kept


def download(url: str, *, folder: str) -> pathlib.Path:
    from tensorflow_datasets.core.download import DownloadManager

    # Without a network tfds retries for minutes. A proxy connects in our stead.
    if not urllib.request.getproxies():
        host = urllib.parse.urlsplit(url).hostname
        socket.create_connection((host, 443), timeout=10).close()
    manager = DownloadManager(download_dir=folder, force_checksums_validation=True)
    return pathlib.Path(manager.download(url))


def read_files(place: pathlib.Path, *, layout: Release) -> list[bytes]:
    """The ratings, users and items files, their lines ended by a plain newline."""
    names = [table.file for table in layout.tables]
    try:
        files = read_members(place, names)
    except Exception as error:  # a damaged zip raises all sorts
        reason = f"{place} could not be read as a folder or zip ({brief(error)})"
        raise InputError(f"{reason}; {ways(layout)}") from error
    for name in names:
        if name not in files:
            raise InputError(f"{place} has no {name}; {ways(layout)}")
        if not files[name].strip():
            raise InputError(f"{place}/{name} is empty; get the original again")
    texts = (files[name].replace(b"\r\n", b"\n") for name in names)
    return [text.rstrip(b"\n") + b"\n" for text in texts]


def read_members(place: pathlib.Path, names: list[str]) -> dict[str, bytes]:
    if place.is_dir():
        present = [name for name in names if (place / name).exists()]
        return {name: (place / name).read_bytes() for name in present}
    with zipfile.ZipFile(place) as archive:
        members = {member.split("/")[-1]: member for member in archive.namelist()}
        return {name: archive.read(members[name]) for name in names if name in members}


def brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:200]}"


# What is in them.


def parse_ratings(text: bytes, *, table: TextTable, path: str) -> np.ndarray:
    """User, movie, rating and time, int64 [n, 4]. Raises at the first wrong line."""
    rows = parse_digits(text, separator=table.separator.encode())
    low, high = np.array([BOUNDS[field] for field in table.fields]).T
    if rows is not None and ((rows >= low) & (rows <= high)).all():
        return rows
    return np.array(parse_lines(text, table=table, path=path), np.int64)


def parse_digits(text: bytes, *, separator: bytes) -> np.ndarray | None:
    """Four whole numbers a line in a few array operations; None for anything else."""
    if separator != b"\t" and b"\t" in text:
        return None
    text = text.replace(separator, b"\t")
    characters = np.frombuffer(text, np.uint8)
    marks = np.flatnonzero((characters < ord("0")) | (characters > ord("9")))
    lengths = np.diff(marks, prepend=-1) - 1  # of the numbers; 18 digits fit int64
    if len(marks) % 4 or lengths.min() < 1 or lengths.max() > 18:
        return None
    if (characters[marks].reshape(-1, 4) != tuple(b"\t\t\t\n")).any():
        return None
    return np.fromstring(text, np.int64, sep=" ").reshape(-1, 4)


def parse_lines(text: bytes, *, table: TextTable, path: str) -> list[list[str]]:
    """Records, their fields checked one by one: tells which line is wrong, and why."""
    lines = text.decode("latin-1").removesuffix("\n").split("\n")
    records = [line.split(table.separator) for line in lines]
    for number, record in enumerate(records, start=1):
        if problem := problem_of(record, table=table):
            raise InputError(
                f"{path}, line {number} of {len(lines)}: {problem}; expected "
                f"{table.separator.join(table.fields)}. Damaged, or cut short?"
            )
    return records


def problem_of(record: list[str], *, table: TextTable) -> str:
    if len(record) != len(table.fields):
        line = table.separator.join(record)
        return f"{len(record)} fields instead of {len(table.fields)} in {line[:80]!r}"
    for field, value in zip(table.fields, record):
        whole = value.isascii() and value.isdigit() and len(value) <= 18
        low, high = BOUNDS.get(field, (None, None))
        if low is not None and not (whole and low <= int(value) <= high):
            return f"{field} should be in {low}..{high}, is {value[:40]!r}"
    return ""


def parse_entities(text: bytes, *, table: TextTable, path: str) -> dict[int, dict]:
    """Records, field by field, by id in file order."""
    records: dict[int, dict[str, str]] = {}
    for line, record in enumerate(parse_lines(text, table=table, path=path), start=1):
        if int(record[0]) in records:
            twice = f"{table.fields[0]} {record[0]} a second time; keep one of them"
            raise InputError(f"{path}, line {line}: {twice}")
        records[int(record[0])] = dict(zip(table.fields, record))
    return records


# What is made of it.


def assemble(rows: np.ndarray, *, users: dict, items: dict) -> Interactions:
    user_id, user = align(rows[:, 0], listed_ids=list(users))
    item_id, item = align(rows[:, 1], listed_ids=list(items))
    for side, codes, listed in (("movie", item, items), ("user", user, users)):
        unlisted = int((codes >= len(listed)).sum())
        if unlisted > max(10, MAX_UNKNOWN * len(rows)):
            raise InputError(
                f"{unlisted:,} of {len(rows):,} ratings are of {side}s that the {side} "
                "file does not list; check that the three files belong together, and "
                "that user stands before movie in the ratings"
            )
    return Interactions(
        user=user,
        item=item,
        users=as_users(user_id, list(users.values())),
        items=as_items(item_id, list(items.values())),
        time=rows[:, 3].copy(),  # a view would keep all four columns alive
        events={"rating": rows[:, 2].astype(np.float32)},
    )


def align(raw: np.ndarray, *, listed_ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ids, the known ones first, and the place in them of each raw id."""
    ids = np.concatenate([listed_ids, np.setdiff1d(raw, listed_ids)]).astype(np.int64)
    order = np.argsort(ids)
    return ids, order[np.searchsorted(ids, raw, sorter=order)].astype(np.int32)


def as_users(ids: np.ndarray, records: list[dict[str, str]]) -> Entities:
    records = [record | {"age": age_group(record["age"])} for record in records]
    records += [dict.fromkeys(USER_COLUMNS, "")] * (len(ids) - len(records))
    return Entities(ids, {n: np.array([r[n] for r in records]) for n in USER_COLUMNS})


def as_items(ids: np.ndarray, records: list[dict[str, str]]) -> Entities:
    records = records + [{"title": "", "genres": ""}] * (len(ids) - len(records))
    genres = [genres_of(record) for record in records]
    values = np.array([genre for bag in genres for genre in bag], str)
    offsets = np.cumsum([0] + [len(bag) for bag in genres])
    years = np.array([year_of(record) for record in records], np.int64)
    columns = {"genres": Bag(values, offsets), "year": years}
    columns["first_genre"] = np.array([bag[0] if bag else "" for bag in genres], str)
    return Entities(ids, columns, {"title": np.array([r["title"] for r in records])})


def age_group(age: str) -> str:
    return str(max(group for group in AGE_GROUPS if group <= max(int(age), 1)))


def genres_of(record: dict[str, str]) -> list[str]:
    if "genres" in record:
        return [genre for genre in record["genres"].split("|") if genre]
    return [genre for genre in GENRES_100K if record[genre] == "1"]


def year_of(record: dict[str, str]) -> int:
    """From '01-Jan-1995', else from 'Toy Story (1995)', else 0."""
    texts = record.get("released", ""), record["title"]
    matches = (re.search(r"[-(](\d{4})\)?\s*$", text) for text in texts)
    return next((int(match[1]) for match in matches if match), 0)
