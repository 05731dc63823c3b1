"""A split log laid out: users and items numbered, events flat, examples chosen."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recall_jax import features, sharding
from recall_jax.data import columns as columns_lib
from recall_jax.data import (
    duplicates,
    examples,
    interactions,
    positives,
    tokens,
)
from recall_jax.data.arrays import CONTEXTS, Dataset
from recall_jax.data.interactions import Bag, ranges, take
from recall_jax.types import InputError

if TYPE_CHECKING:
    from recall_jax.data import stream


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

    dataset: Dataset
    schema: features.Schema
    vocabularies: dict[str, features.Vocabulary]
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
    log: "stream.Log | None" = None  # the dataset then has the catalogue and no event
    nanoseconds: np.ndarray | None = None  # [events] int32, beside times; None: 0
    report: tuple[str, ...] = ()  # for people: how the log was read

    @property
    def num_examples(self) -> int:
        if self.log is not None:
            return self.log.num_examples
        return len(self.dataset.example_user)

    @property
    def num_rows(self) -> int:
        """Of which batches are made (`Dataset.num_rows`)."""
        return self.dataset.num_rows if self.log is None else self.log.num_examples

    def fingerprint(self) -> str:
        """SHA-256 of the events, their order and their split, the raw ids, and where
        there are any, weights, labels, exposures, searches, ages and features."""
        if self.log is not None:
            return self.log.manifest["sha256"]
        digest = hashlib.sha256(features.as_text(self.vocabularies).encode())
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


def prepare(
    split: interactions.Split,
    *,
    history_length: int,
    min_history: int,
    span: int = 1,
    config: interactions.Config | None = None,
) -> Data:
    """Number users and items by training frequency and lay everything out flat.

    `min_history` is how many events must stand before a training example's positive,
    `span` how many examples a model takes as one row (`Dataset.sequences`). The config
    says which examples there are, their labels, searched tokens and texts.
    """
    log, config = split.log, config or interactions.Config()
    _check(config, span=span, min_history=min_history)
    laid = _lay_out(split, min_history=min_history, config=config)
    flat, users, items = laid.flat, laid.users, laid.items
    dataset = _on_device(
        laid, log, history_length=history_length, span=span, config=config
    )
    vocabularies = {**users.vocabularies, **items.vocabularies}
    if laid.searched:
        vocabularies["searched"] = laid.searched.vocabulary
    return Data(
        dataset=dataset,
        schema=_schema(laid, dataset, config),
        vocabularies=vocabularies,
        items=flat.items,
        times=None if log.time is None else log.time[flat.order],
        events={name: take(column, flat.order) for name, column in log.events.items()},
        offsets=flat.offsets,
        train_stop=np.concatenate([[0], flat.valid]),
        popularity=_count(flat.items[ranges(flat.start, flat.valid)], items),
        valid=part(flat.valid, flat.test),
        test=part(flat.test, flat.offsets[2:]),
        protocol=split.protocol,
        source=log.source,
        repeats=duplicates.repeats(log.user, log.item, num_items=len(log.items)),
        user_codes=users.codes,
        item_codes=items.codes,
        ordered=split.ordered,
        keeps_seen=split.keeps_seen,
        nanoseconds=None if log.nanoseconds is None else log.nanoseconds[flat.order],
        report=log.report,
    )


class _Laid(NamedTuple):
    """A log numbered and flat, and what trains of it."""

    users: "_Side"
    items: "_Side"
    flat: examples.Flat
    found: examples.Examples
    shown: examples.Shown | None
    searched: tokens.Tokens | None
    age: np.ndarray | None  # [events] float32


def _lay_out(
    split: interactions.Split, *, min_history: int, config: interactions.Config
) -> _Laid:
    log, in_train = split.log, ranges(split.start[:-1], split.valid)
    if not len(in_train):
        raise InputError(f"{log.source}: the training part is empty")
    buckets = config.text_buckets
    side = functools.partial(_side, in_train=in_train, text_buckets=buckets)
    users = side("user", log.users, codes=log.user)
    items = side("item", log.items, codes=log.item, more=split.hidden)
    flat = _flatten(split, users=users, items=items)
    shown = examples.passed_over(
        log, flat, users=users, items=items, min_history=min_history
    )
    found = examples.make(
        flat, log, min_history=min_history, config=config, shown=shown
    )
    if not found.num_positive:
        raise InputError(
            f"{log.source}: no user has more than {min_history} training events, so "
            "there is nothing to train on; lower model.min_history or bring a longer log"
        )
    if log.weight is not None:
        trained = log.weight[flat.order][found.position[: found.num_positive]]
        positives.check_weights(
            trained.min(),
            trained.max(),
            column=getattr(config, "weight", ""),  # a log's own columns have names
            source=log.source,
        )
    trains = np.zeros(len(log), bool)
    trains[ranges(flat.start, flat.valid)] = True
    searched = None
    if config.tokens:
        searched = tokens.make(log, config.tokens, order=flat.order, in_train=trains)
    age = _ages(log, flat, trains)
    return _Laid(users, items, flat, found, shown, searched, age)


def _on_device(
    laid: _Laid,
    log: interactions.Interactions,
    *,
    history_length: int,
    span: int,
    config: interactions.Config,
) -> Dataset:
    """What steps gather from, of a log that was laid out; on every device."""
    users, items, flat, found = laid.users, laid.items, laid.flat, laid.found
    positive = found.position[: found.num_positive]
    fields: dict[str, Any] = {}
    if found.label is not None:
        fields |= {"example_item": found.item, "example_label": found.label}
    if (shown := laid.shown) is not None and len(shown.item):
        fields["shown_items"] = shown.item
        fields["shown_offsets"] = _offsets(shown.user, num=len(users.codes) + 2)
    if (searched := laid.searched) is not None:
        fields["tokens"] = searched.ids
        fields["token_offsets"] = searched.offsets.astype(np.int32)
    fields |= {
        "weights": None if log.weight is None else log.weight[flat.order],
        "user_columns": users.columns,
        "item_columns": items.columns,
        "age": laid.age,
    }
    made = Dataset(
        items=jnp.asarray(flat.items),
        offsets=jnp.asarray(flat.offsets, jnp.int32),
        example_user=jnp.asarray(found.user),
        example_position=jnp.asarray(found.position, jnp.int32),
        item_count=jnp.asarray(_count(flat.items[positive], items), jnp.float32),
        num_items=len(items.codes),
        known_items=items.vocabularies["item"].known,
        known_users=users.vocabularies["user"].known,
        history_length=history_length,
        train_stop=jnp.asarray(np.append(0, flat.valid), jnp.int32),
        span=span,
        context=config.context,
        tokens_length=config.tokens_length,
        **jax.tree.map(jnp.asarray, fields),
    )
    return sharding.on_each(made)


def _offsets(sorted_ids: np.ndarray, *, num: int) -> np.ndarray:
    """Where each of 0..num-1 begins."""
    return np.searchsorted(sorted_ids, np.arange(num)).astype(np.int32)


class _Side(NamedTuple):
    """Users or items in catalogue order."""

    codes: np.ndarray  # [V] the log's codes
    columns: dict[str, np.ndarray]  # features, [V + 1, ...], row 0 padding
    schema: tuple[features.Column, ...]  # of the features
    vocabularies: dict[str, features.Vocabulary]


def _side(
    name: str,
    entities: interactions.Entities,
    *,
    codes: np.ndarray,
    in_train: np.ndarray,
    text_buckets: int,
    more: np.ndarray | None = None,
) -> _Side:
    """`more` is a mask of entities that are there although no event has them."""
    there = np.bincount(codes, minlength=len(entities)) > 0
    there = there if more is None else there | more
    order, known = features.frequency_order(codes[in_train], num=len(entities))
    present = order[there[order]]
    weight = np.bincount(codes[in_train], minlength=len(entities))
    columns, schema, vocabularies = columns_lib.feature_columns(
        entities, codes=present, weight=weight, text_buckets=text_buckets
    )
    own = {name: features.Vocabulary(entities.id[present], known)}
    return _Side(present, columns, schema, own | vocabularies)


def _flatten(split: interactions.Split, *, users: _Side, items: _Side) -> examples.Flat:
    starts, stops = split.start[users.codes], split.start[users.codes + 1]
    order = ranges(starts, stops)
    offsets = np.concatenate([[0, 0], np.cumsum(stops - starts)])
    item_id = columns_lib.inverse(items.codes, num=len(split.log.items))
    first = split.start[:-1] if split.first is None else split.first
    return examples.Flat(
        order,
        item_id[split.log.item[order]],
        offsets,
        first=offsets[1:-1] + first[users.codes] - starts,
        valid=offsets[1:-1] + split.valid[users.codes] - starts,
        test=offsets[1:-1] + split.test[users.codes] - starts,
    )


def _count(items: np.ndarray, side: _Side) -> np.ndarray:
    return np.bincount(items, minlength=len(side.codes) + 1)


def part(start: np.ndarray, stop: np.ndarray) -> Part:
    """The users who have events start[j]:stop[j], j + 1 their catalogue ids."""
    some = stop > start
    user = np.arange(1, len(some) + 1, dtype=np.int32)
    return Part(user[some], start[some], stop[some])


def schema_of(
    vocabularies: dict[str, features.Vocabulary],
    *,
    user: Sequence[features.Column],
    item: Sequence[features.Column],
    history_length: int,
    config: interactions.Config,
    more: Sequence[features.Column] = (),
) -> features.Schema:
    """The columns of each side: ids, the history, `more` of the query's, features.
    Raises InputError for a feature with the name of another column."""
    ids = {side: vocabularies[side].rows for side in ("user", "item")}
    own = {side: features.Column(side, side, rows, 0) for side, rows in ids.items()}
    if length := history_length:
        kept = features.Column("history", "item", ids["item"], length, "sequence")
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
    return features.Schema(query=(own["user"], *more, *user), item=(own["item"], *item))


def _schema(
    laid: _Laid, dataset: Dataset, config: interactions.Config
) -> features.Schema:
    users, items, searched = laid.users, laid.items, laid.searched
    more = []
    if searched is not None:
        rows, length = searched.vocabulary.rows, dataset.tokens_length
        more.append(features.Column("searched", "searched", rows, length, "sequence"))
    if dataset.age is not None:
        more.append(features.Column("example_age", "", 0, 0, "age"))
    return schema_of(
        {**users.vocabularies, **items.vocabularies},
        user=users.schema,
        item=items.schema,
        history_length=dataset.history_length,
        config=config,
        more=more,
    )


def _ages(
    log: interactions.Interactions, flat: examples.Flat, trains: np.ndarray
) -> np.ndarray | None:
    """How long before the last training event each event was, float32, in standard
    deviations of the training events; None without times."""
    if log.time is None:
        return None
    time = log.time[flat.order]
    age = (time[trains].max() - time).astype(np.float64)
    return (age / max(age[trains].std(), 1.0)).astype(np.float32)


def _check(config: interactions.Config, *, span: int, min_history: int) -> None:
    """Raise InputError for examples that a model over sequences cannot take."""
    problems = {
        f"data.label={config.label} makes examples of exposures": bool(config.label),
        f"data.examples_per_user={config.examples_per_user} leaves gaps between them": (
            config.examples_per_user > 0
        ),
        f"data.context={config.context} shows each what comes after it": (
            config.context != "past"
        ),
        f"model.min_history={min_history} leaves out what stands first": (
            min_history > 1
        ),
    }
    for text, wrong in problems.items():
        if wrong and span > 1:
            raise InputError(
                f"{text}, and a model over whole sequences takes all positives in their "
                "order; set that to its default, or take another model"
            )
    if config.context not in CONTEXTS:
        raise InputError(
            f"unknown data.context {config.context!r}; there are: "
            + ", ".join(CONTEXTS)
        )
