"""A log larger than memory: Parquet shards, laid out once as memory-mapped arrays.

    PATH.prepared/0f3c.../     one folder for each way of laying out (protocol, filters,
        items.npy              features ...): the flat events as `arrays.Dataset` has
        offsets.npy ...        them, counts, vocabularies
        manifest.json          what they were made of, written last

In memory are the vocabularies, the features and a few numbers a user and an item; the
events are read where they are needed, a window of them for training (`windows`).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recall_jax import checkpoint, features, processes, sharding
from recall_jax.data import dataset, duplicates, logs, partition, shards
from recall_jax.data.arrays import CONTEXTS, Dataset
from recall_jax.data.interactions import Interactions
from recall_jax.types import InputError, MissingData

FORMAT = 2
PROTOCOLS = ("leave_one_out", "temporal")
UNHEEDED = (
    "prepared",
    "window_examples",
    "chunk_examples",
    "measured_users",
    "context",
)
"""Fields that do not change what is laid out."""


@dataclasses.dataclass
class Config(logs.Config):
    """As `logs.Config`, of Parquet alone, and how it is read in training.

    Windows are laid out in advance: about three are held at a time, at some 12 bytes an
    example and 8 a user. Chunks are read from front to back. While the arrays are made,
    they take up to 40 bytes an event of disk, later 4 (8 with weights).
    """

    prepared: str = ""  # folder of the mapped arrays; '': PATH.prepared
    window_examples: int = 1 << 21  # shuffled together
    chunk_examples: int = 1 << 13  # neighbours in a window
    measured_users: int = 10_000  # of each part, drawn once; 0: all


REFUSED = {
    "ties": "the order of ties is that of the files",
    "min_user_events": "dropping what is rare takes the whole log again and again; filter "
    "it before it is written to shards",
    "min_item_events": "dropping what is rare takes the whole log again and again; filter "
    "it before it is written to shards",
    "label": "labelled events and exposures are not streamed",
    "exposures": "labelled events and exposures are not streamed; leave them out with "
    "data.actions",
    "hidden_share": "items are hidden from training in memory alone",
    "examples_per_user": "every training event is an example",
    "tokens": "searched words are not streamed",
    "session": "sessions are not streamed",
    "events": "further columns of events are not streamed",
}
"""Fields that a streamed log must leave at their defaults, and why."""


def check(config: Config) -> None:
    """Raise InputError for what cannot be streamed, before anything is read."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in REFUSED and value != field.default:
            raise InputError(
                f"data.{field.name}={value} is not for a streamed log: "
                f"{REFUSED[field.name]}. Set it to its default, or read the log into "
                "memory, with --config=dssm_logs"
            )
    if config.protocol not in PROTOCOLS:
        raise InputError(
            f"data.protocol={config.protocol} is not for a streamed log; there are: "
            f"{', '.join(PROTOCOLS)}. Others read the log into memory: --config=dssm_logs"
        )
    needs = {
        "actions": "action",
        "min_rating": "rating",
        "min_dwell": "dwell",
        "min_weight": "weight",
    }
    for field, column in needs.items():
        if getattr(config, field) and not getattr(config, column):
            raise InputError(
                f"data.{field} needs a column; name it with --config.data.{column}"
            )
    duplicates.check(config.duplicates)
    if config.user == config.item:
        raise InputError(f"data.user and data.item are one column, {config.user!r}")
    if config.context not in CONTEXTS:
        raise InputError(
            f"unknown data.context {config.context!r}; there are: {', '.join(CONTEXTS)}"
        )
    if config.protocol == "temporal":
        _check_temporal(config)
    for name in ("window_examples", "chunk_examples"):
        if getattr(config, name) < 1:
            raise InputError(f"data.{name} must be at least 1")
    if config.measured_users < 0:
        raise InputError("data.measured_users must be at least 0; 0 measures all")


def _check_temporal(config: Config) -> None:
    if not config.time:
        raise InputError(
            "protocol temporal needs a time column; name it with --config.data.time"
        )
    valid, test = config.valid_share, config.test_share
    if not (0 < valid and 0 < test and valid + test < 1):
        raise InputError(
            f"data.valid_share {valid} and data.test_share {test} must be positive and leave "
            "something to train on"
        )


class Log(NamedTuple):
    """A prepared log. Events are mapped; all else is in memory.

    User u's events are items[offsets[u]:offsets[u + 1]], his training ends at
    train_stop[u]; his examples are numbers example_start[u]:example_start[u + 1] of
    all, in the order of the events.
    """

    folder: pathlib.Path
    manifest: dict[str, Any]
    items: np.ndarray  # [events] int32, mapped
    weights: np.ndarray | None  # [events] float32, mapped
    offsets: np.ndarray  # [U + 2] int64
    train_stop: np.ndarray  # [U + 1] int64
    test_start: np.ndarray  # [U] int64, of ids from 1
    popularity: np.ndarray  # [V + 1] int64, training events of each item
    item_count: np.ndarray  # [V + 1] int64, its training examples
    example_start: np.ndarray  # [U + 2] int64
    min_history: int

    @property
    def num_examples(self) -> int:
        return int(self.example_start[-1])

    @property
    def num_users(self) -> int:
        return len(self.train_stop) - 1

    def past(self, user: np.ndarray, position: np.ndarray, *, length: int):
        """As `arrays.Dataset.past`, on the host: [q, length] int32."""
        index = position[:, None] + np.arange(-length, 0)
        mine = index >= self.offsets[user][:, None]
        return np.where(mine, self.items[np.where(mine, index, 0)], 0)


# Preparation: once, whole or not at all.


def prepared(config: Config, *, min_history: int) -> pathlib.Path:
    """The folder of a config's arrays, written unless it is there already.

    It is made anew where the shards have changed: another name, size or time of writing
    of any file, as a build tool has it. Their content is not read to find out, which
    would take as long as the preparation; a copy that keeps the times keeps the folder.
    Of several processes the first writes it.
    """
    check(config)
    made = processes.of_first(lambda: str(_prepared(config, min_history=min_history)))
    folder = pathlib.Path(made)
    there = processes.appears(folder / "manifest.json")
    processes.check_alike("file system", "" if there else f"{folder} is not on it")
    return folder


def _prepared(config: Config, *, min_history: int) -> pathlib.Path:
    place, made_of = _place(config), _files(config)
    wanted = _wanted(config, min_history=min_history)
    folder = place / _key(wanted)
    if _manifest(folder).get("files") == made_of:
        return folder
    with checkpoint.lock(place, what="folder of prepared arrays"):
        if _manifest(folder).get("files") == made_of:  # by who had the lock before
            return folder
        if (folder / "manifest.json").exists():
            print(f"prepare    {config.path} has changed since {folder} was made")
        print(f"prepare    {config.path} as mapped arrays in {folder}", flush=True)
        for left in place.glob(".building-*"):
            shutil.rmtree(left)
        building = place / f".building-{folder.name}"
        building.mkdir()
        told = partition.write(config, building, min_history=min_history)
        if _files(config) != made_of:
            raise InputError(
                f"{config.path} changed while it was read; start again when it is whole"
            )
        text = json.dumps({**wanted, "files": made_of, **told}, indent=1)
        checkpoint.write_atomically(building / "manifest.json", text)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(building, folder)
    return folder


def prepared_sha256(config: Config, *, min_history: int) -> str:
    """`dataset.Data.fingerprint` of the log. Raises MissingData where there is no log or
    it was never prepared, InputError where its files have changed since, if only in the
    time of writing."""
    check(config)
    made_of = _files(config)
    folder = _place(config) / _key(_wanted(config, min_history=min_history))
    manifest = _manifest(folder)
    if not manifest:
        raise MissingData(f"{config.path} is not prepared, in {folder}")
    if manifest["files"] != made_of:
        raise InputError(
            f"{config.path}: its files have changed since it was prepared, in size or in "
            "the time of writing; a new run, with another --workdir, prepares it again"
        )
    return manifest["sha256"]


def _wanted(config: Config, *, min_history: int) -> dict[str, Any]:
    settings = _settings(config, min_history=min_history)
    return {"format": FORMAT, "settings": settings}


def _key(wanted: dict[str, Any]) -> str:
    text = json.dumps(wanted, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _place(config: Config) -> pathlib.Path:
    if config.prepared:
        return pathlib.Path(config.prepared).expanduser()
    if not (place := pathlib.Path(config.path).expanduser().resolve()).exists():
        shards.find_shards(config.path)  # says so if there is nothing at all
        raise InputError(
            f"data.path {config.path} is a pattern; name the folder of the prepared "
            "arrays with --config.data.prepared"
        )
    return place.with_name(place.name + ".prepared")


def _settings(config: Config, *, min_history: int) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    heeded = {name: x for name, x in fields.items() if name not in UNHEEDED}
    path = os.path.abspath(os.path.expanduser(config.path))
    return heeded | {"path": path, "min_history": min_history}


def _files(config: Config) -> list[list]:
    """Name, size and time of writing of every file that is read."""
    found = shards.find_shards(config.path)
    if shards.is_text(found[0]):
        raise InputError(
            f"{found[0]} is text, and a streamed log is read by parts, which takes "
            "Parquet: polars.scan_csv(...).sink_parquet(...) writes it"
        )
    for side in ("user_features", "item_features"):
        if path := getattr(config, side):
            found += shards.find_shards(path)
    stats = [(str(path), path.stat()) for path in found]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _manifest(folder: pathlib.Path) -> dict[str, Any]:
    """{} where there is none, or none of this version."""
    try:
        found = json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if found.get("format") == FORMAT else {}


# Opening.


def open_data(config: Config, *, history_length: int, min_history: int) -> dataset.Data:
    """A streamed log as the data of an experiment, prepared first if need be.

    `Data.dataset` holds the catalogue alone, and no event: `windows` puts those in that
    a step trains on, and histories are read from `Data.log`.
    """
    log = open_log(prepared(config, min_history=min_history), min_history=min_history)
    if not log.num_examples:
        raise InputError(
            f"{config.path}: no user has more than {min_history} training events, so "
            "there is nothing to train on"
        )
    vocabularies = features.load_vocabularies(log.folder / "vocabularies.json")
    held_out = {
        "validate": dataset.part(log.train_stop[1:], log.test_start),
        "test": dataset.part(log.test_start, log.offsets[2:]),
    }
    drawn = {k: _drawn(part, config.measured_users) for k, part in held_out.items()}
    told = ", ".join(
        f"{len(part):,} of {len(held_out[name]):,} users {name}"
        for name, part in drawn.items()
    )
    return dataset.Data(
        dataset=_catalogue(log, history_length=history_length, context=config.context),
        schema=dataset.schema_of(
            vocabularies,
            **_described(log.folder),
            history_length=history_length,
            config=config,
        ),
        vocabularies=vocabularies,
        items=log.items,
        times=None,
        events={},
        offsets=log.offsets,
        train_stop=log.train_stop,
        popularity=log.popularity,
        valid=drawn["validate"],
        test=drawn["test"],
        protocol=f"{log.manifest['protocol']}; {told}",
        source=config.path,
        repeats=log.manifest["repeats"],
        user_codes=np.arange(log.num_users),
        item_codes=np.arange(len(vocabularies["item"].ids)),
        ordered=True,
        keeps_seen=False,
        log=log,
        report=tuple(log.manifest["report"]),
    )


def open_log(folder: pathlib.Path, *, min_history: int) -> Log:
    """What `prepared` has written."""
    arrays = {path.stem: _mapped(path) for path in folder.glob("*.npy")}
    mapped = {"items": arrays.pop("items"), "weights": arrays.pop("weights", None)}
    small = {name: np.array(array) for name, array in arrays.items()}
    length = small["train_stop"] - small["offsets"][:-1]
    examples = np.maximum(length - min_history, 0)
    return Log(
        folder,
        _manifest(folder),
        **mapped,
        **small,
        example_start=np.append(0, np.cumsum(examples)),
        min_history=min_history,
    )


def _catalogue(log: Log, *, history_length: int, context: str) -> Dataset:
    known = {name: log.manifest[name] for name in ("known_items", "known_users")}
    none = jnp.zeros(0, jnp.int32)
    made = Dataset(
        items=jnp.zeros(1, jnp.int32),
        weights=None,
        offsets=jnp.zeros(2, jnp.int32),
        example_user=none,
        example_position=none,
        user_columns=_columns(log.folder, "user"),
        item_columns=_columns(log.folder, "item"),
        item_count=jnp.asarray(log.item_count, jnp.float32),
        num_items=len(log.popularity) - 1,
        history_length=history_length,
        context=context,
        **known,
    )
    return sharding.on_each(made)


def _mapped(path: pathlib.Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _columns(folder: pathlib.Path, side: str) -> dict[str, jax.Array]:
    """By name; the file has them by their place among those of schema.json."""
    names = [column.name for column in _described(folder)[side]]
    with np.load(folder / f"{side}_columns.npz", allow_pickle=False) as found:
        return {name: jnp.asarray(found[f"arr_{j}"]) for j, name in enumerate(names)}


def _described(folder: pathlib.Path) -> dict[str, list[features.Column]]:
    content = json.loads((folder / "schema.json").read_text("utf-8"))
    return {
        side: [features.Column(*column) for column in content[side]]
        for side in ("user", "item")
    }


def _drawn(part: dataset.Part, number: int) -> dataset.Part:
    """At most so many users of a part, the same each time; 0: all."""
    total = len(part)
    if not 0 < number < total:
        return part
    rows = np.random.default_rng([number, total]).permutation(total)[:number]
    return dataset.Part(*(column[np.sort(rows)] for column in part))


def resident(data: dataset.Data) -> dataset.Data:
    """The same with all events on the device, 4 bytes each: for what reads the histories
    of all users there."""
    if len(data.items) > np.iinfo(np.int32).max:
        raise InputError(
            f"{data.source} has {len(data.items):,} events, and positions on the device "
            "count to 2**31; this needs a log with fewer"
        )
    held = dataclasses.replace(
        data.dataset,
        items=jnp.asarray(data.items),
        offsets=jnp.asarray(data.offsets, jnp.int32),
        train_stop=jnp.asarray(data.train_stop, jnp.int32),
    )
    return dataclasses.replace(data, dataset=held, log=None)


def entities(config: Config, data: dataset.Data) -> Interactions:
    """Users and items in catalogue order with their raw features and texts, and no
    event: what a command that opens a run needs of its log."""
    polars = shards.import_polars()
    users, items = (
        logs.read_entities(
            polars.Series(data.vocabularies[side].ids), side=side, config=config
        ).entities
        for side in ("user", "item")
    )
    none = np.zeros(0, np.int32)
    return Interactions(none, none, users, items, source=config.path)
