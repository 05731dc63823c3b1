"""A prepared log: its catalogue on the device, its parts, its events in memory or as a
folder of arrays that are mapped."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recall_jax import files
from recall_jax import schema as schema_lib
from recall_jax.data import folders
from recall_jax.data import log as log_lib
from recall_jax.data.arrays import Events
from recall_jax.data.log import Bag, Interactions
from recall_jax.data.sources import logs, shards
from recall_jax.data.sources.stream import Config
from recall_jax.devices import mesh
from recall_jax.types import InputError


class Part(NamedTuple):
    """Held-out targets: user[j]'s are events start[j]:stop[j]; the history of all of
    them ends at start[j]. Users by catalogue id, positions in the flat events."""

    user: np.ndarray  # [q] int32
    start: np.ndarray  # [q] int64
    stop: np.ndarray  # [q] int64

    def __len__(self) -> int:
        return len(self.user)


@dataclasses.dataclass(frozen=True)
class Data:
    """A prepared data set: arrays of every device, and what the host keeps beside them."""

    dataset: Events
    schema: schema_lib.Schema
    vocabularies: dict[str, schema_lib.Vocabulary]
    items: np.ndarray  # [events] int32, the flat events
    times: np.ndarray | None  # [events] int64 seconds
    events: dict[str, np.ndarray | Bag]  # the log's event columns, [events]
    offsets: np.ndarray  # [users + 2] int64
    train_stop: np.ndarray  # [users + 1] int64, where each user's training part ends
    popularity: np.ndarray  # [V + 1] int64, training events of each item
    valid: Part
    test: Part
    protocol: str
    source: str
    repeats: int  # events of a user and an item that an earlier one has
    user_codes: np.ndarray  # [U] position in the log's users of catalogue id j + 1
    item_codes: np.ndarray  # [V] the same for items
    ordered: bool  # a user's events stand in an order that means something
    keeps_seen: bool  # by the protocol, lists keep what a user had
    log: "Log | None" = None  # the dataset then has the catalogue and no event
    nanoseconds: np.ndarray | None = None  # [events] int32, beside times; None: 0
    report: tuple[str, ...] = ()  # for people: how the log was read

    @property
    def num_examples(self) -> int:
        if self.log is not None:
            return self.log.num_examples
        return len(self.dataset.example_user)

    @property
    def num_rows(self) -> int:
        """Of which batches are made (`Events.num_rows`)."""
        return self.dataset.num_rows if self.log is None else self.log.num_examples

    def fingerprint(self) -> str:
        """SHA-256 of the events, their order and their split, the raw ids, and where
        there are any, weights, labels, exposures, searches, ages and features."""
        if self.log is not None:
            return self.log.manifest["sha256"]
        digest = hashlib.sha256(schema_lib.as_text(self.vocabularies).encode())
        arrays = [self.items, self.offsets, self.train_stop]
        data = self.dataset
        if data.weights is not None:
            arrays.append(data.weights)
        if data.example_label is not None:
            arrays += [data.example_item, data.example_label]
        if data.shown_items is not None:
            arrays += [data.shown_items, data.shown_offsets]
        if data.tokens is not None:
            arrays += [data.tokens, data.token_offsets]
        if data.age is not None:
            arrays.append(data.age)
        arrays += jax.tree.leaves((data.user_columns, data.item_columns))
        for array in arrays:
            digest.update(np.asarray(array).tobytes())
        return digest.hexdigest()


def part(start: np.ndarray, stop: np.ndarray) -> Part:
    """The users who have events start[j]:stop[j], j + 1 their catalogue ids."""
    some = stop > start
    user = np.arange(1, len(some) + 1, dtype=np.int32)
    return Part(user[some], start[some], stop[some])


def schema_of(
    vocabularies: dict[str, schema_lib.Vocabulary],
    *,
    user: Sequence[schema_lib.Column],
    item: Sequence[schema_lib.Column],
    history_length: int,
    config: log_lib.Config,
    more: Sequence[schema_lib.Column] = (),
) -> schema_lib.Schema:
    """The columns of each side: ids, the history, `more` of the query's, features.
    Raises InputError for a feature with the name of another column."""
    ids = {side: vocabularies[side].rows for side in ("user", "item")}
    own = {side: schema_lib.Column(side, side, rows, 0) for side, rows in ids.items()}
    if length := history_length:
        kept = schema_lib.Column("history", "item", ids["item"], length, "sequence")
        more = (kept, *more)
    reserved = {column.name for column in (*own.values(), *more)}
    for side, columns in (("user", user), ("item", item)):
        if taken := [column.name for column in columns if column.name in reserved]:
            file = getattr(config, f"{side}_features", "")  # a log's own
            raise InputError(
                f"{file or f'the {side} features'}: the name of the column {taken[0]!r} "
                f"is reserved, as are {', '.join(sorted(reserved - {taken[0]}))}; rename "
                f"it, or leave it out: --config.data.{side}_columns lists those to take"
            )
    return schema_lib.Schema(
        query=(own["user"], *more, *user), item=(own["item"], *item)
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
        """As `arrays.Events.past`, on the host: [q, length] int32."""
        index = position[:, None] + np.arange(-length, 0)
        mine = index >= self.offsets[user][:, None]
        return np.where(mine, self.items[np.where(mine, index, 0)], 0)


# Opening.


def open_data(config: Config, *, history_length: int, min_history: int) -> Data:
    """A streamed log as the data of an experiment, prepared first if need be.

    `Data.dataset` holds the catalogue alone, and no event: `windows` puts those in that
    a step trains on, and histories are read from `Data.log`.
    """
    log = open_log(
        folders.ensure(config, min_history=min_history), min_history=min_history
    )
    if not log.num_examples:
        raise InputError(
            f"{config.path}: no user has more than {min_history} training events, so "
            "there is nothing to train on"
        )
    vocabularies = schema_lib.load_vocabularies(log.folder / "vocabularies.json")
    held_out = {
        "validate": part(log.train_stop[1:], log.test_start),
        "test": part(log.test_start, log.offsets[2:]),
    }
    drawn = {k: _drawn(part, config.measured_users) for k, part in held_out.items()}
    user_counts = ", ".join(
        f"{len(part):,} of {len(held_out[name]):,} users {name}"
        for name, part in drawn.items()
    )
    return Data(
        dataset=_catalogue(log, history_length=history_length, context=config.context),
        schema=schema_of(
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
        protocol=f"{log.manifest['protocol']}; {user_counts}",
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
    """What `folders.ensure` has written."""
    manifest = files.read_manifest(
        folder, **folders.SEALED, again="prepare the log again", hashed=False
    )
    arrays = {path.stem: _mapped(path) for path in folder.glob("*.npy")}
    mapped = {"items": arrays.pop("items"), "weights": arrays.pop("weights", None)}
    small = {name: np.array(array) for name, array in arrays.items()}
    length = small["train_stop"] - small["offsets"][:-1]
    examples = np.maximum(length - min_history, 0)
    return Log(
        folder,
        manifest,
        **mapped,
        **small,
        example_start=np.append(0, np.cumsum(examples)),
        min_history=min_history,
    )


def _catalogue(log: Log, *, history_length: int, context: str) -> Events:
    counts = {name: log.manifest[name] for name in ("known_items", "known_users")}
    none = jnp.zeros(0, jnp.int32)
    events = Events(
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
        **counts,
    )
    return mesh.on_each(events)


def _mapped(path: pathlib.Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _columns(folder: pathlib.Path, side: str) -> dict[str, jax.Array]:
    """By name; the file has them by their place among those of schema.json."""
    names = [column.name for column in _described(folder)[side]]
    with np.load(folder / f"{side}_columns.npz", allow_pickle=False) as arrays:
        return {name: jnp.asarray(arrays[f"arr_{j}"]) for j, name in enumerate(names)}


def _described(folder: pathlib.Path) -> dict[str, list[schema_lib.Column]]:
    content = json.loads((folder / "schema.json").read_text("utf-8"))
    return {
        side: [schema_lib.Column(*column) for column in content[side]]
        for side in ("user", "item")
    }


def _drawn(part: Part, number: int) -> Part:
    """At most so many users of a part, the same each time; 0: all."""
    total = len(part)
    if not 0 < number < total:
        return part
    rows = np.random.default_rng([number, total]).permutation(total)[:number]
    return Part(*(column[np.sort(rows)] for column in part))


def resident(data: Data) -> Data:
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


def entities(config: Config, data: Data) -> Interactions:
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
