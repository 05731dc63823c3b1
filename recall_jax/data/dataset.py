"""A split log as arrays on the device: batches are gathered, never materialised."""

import dataclasses
import functools
import hashlib
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from recall_jax import features
from recall_jax.data import interactions
from recall_jax.data.interactions import Bag, ranges
from recall_jax.types import Batch, Columns, InputError

MAX_BAG = 16  # values of a multi-valued feature that are kept; more are warned of


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "items",
        "weights",
        "offsets",
        "example_user",
        "example_position",
        "user_columns",
        "item_columns",
        "item_count",
    ],
    meta_fields=["num_items", "known_items", "known_users", "history_length"],
)
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Everything a step or an evaluation gathers from, as one pytree.

    Events lie flat, sorted by user, then time: user u's are offsets[u]:offsets[u + 1].
    An example is (user, position); its history is what stands before the position.
    """

    items: Int[Array, "events"]  # catalogue ids
    weights: Float[Array, "events"] | None
    offsets: Int[Array, "users_and_2"]
    example_user: Int[Array, "examples"]  # training examples
    example_position: Int[Array, "examples"]
    user_columns: Columns  # by catalogue id of the user
    item_columns: Columns  # by catalogue id of the item
    item_count: Float[Array, "V_and_1"]  # training examples of each item
    num_items: int  # V, the catalogue
    known_items: int  # those with training events: ids 1..known_items
    known_users: int
    history_length: int  # h

    def query(self, user: Int[Array, "b"], position: Int[Array, "b"]) -> Columns:
        """Columns of the query tower; `history` holds the h items before position,
        the most recent last, padded with 0 on the left."""
        columns = {name: c[user] for name, c in self.user_columns.items()}
        columns["user"] = jnp.minimum(user, self.known_users + 1)
        if self.history_length:
            steps = jnp.arange(-self.history_length, 0)
            index = position[:, None] + steps[None, :]
            ids = self.items[jnp.maximum(index, 0)]
            ids = jnp.minimum(ids, self.known_items + 1)
            mine = index >= self.offsets[user][:, None]
            columns["history"] = jnp.where(mine, ids, 0)
        return columns

    def item(self, ids: Int[Array, "n"]) -> Columns:
        """Columns of the item tower at catalogue ids."""
        columns = {name: c[ids] for name, c in self.item_columns.items()}
        columns["item"] = jnp.minimum(ids, self.known_items + 1)
        return columns

    def batch(self, example: Int[Array, "b"]) -> Batch:
        """The training examples at these positions of example_user."""
        user, position = self.example_user[example], self.example_position[example]
        weight = (
            jnp.ones(example.shape) if self.weights is None else self.weights[position]
        )
        return Batch(self.query(user, position), user, self.items[position], weight)


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
    """A prepared data set: the device's arrays, and what the host keeps beside them."""

    dataset: Dataset
    schema: features.Schema
    vocabularies: dict[str, features.Vocabulary]
    items: np.ndarray  # [events] int32, the flat events
    times: np.ndarray | None  # [events] int64 seconds
    offsets: np.ndarray  # [users + 2] int64
    train_stop: np.ndarray  # [users + 1] int64, where each user's training part ends
    popularity: np.ndarray  # [V + 1] int64, training events of each item
    valid: Part
    test: Part
    protocol: str
    source: str
    repeats: bool  # some user met some item twice
    user_codes: np.ndarray  # [U] position in the log's users of catalogue id j + 1
    item_codes: np.ndarray  # [V] the same for items

    @property
    def num_examples(self) -> int:
        return len(self.dataset.example_user)

    def fingerprint(self) -> str:
        """SHA-256 of the events, their order and their split, and the raw ids."""
        digest = hashlib.sha256(features.dump_vocabularies(self.vocabularies).encode())
        for array in (self.items, self.offsets, self.train_stop):
            digest.update(array.tobytes())
        return digest.hexdigest()


def prepare(
    split: interactions.Split, *, history_length: int, min_history: int
) -> Data:
    """Number users and items by training frequency and lay everything out flat.

    `min_history` is how many events must stand before a training example's positive.
    """
    log = split.log
    in_train = ranges(split.start[:-1], split.valid)
    if not len(in_train):
        raise InputError(f"{log.source}: the training part is empty")
    users = _side("user", log.users, codes=log.user, in_train=in_train)
    items = _side("item", log.items, codes=log.item, in_train=in_train)
    flat = _flatten(split, users=users, items=items)
    first = np.minimum(flat.start + min_history, flat.valid)
    position = ranges(first, flat.valid)
    if not len(position):
        raise InputError(
            f"{log.source}: no user has more than {min_history} training events, so "
            "there is nothing to train on"
        )
    user_id = np.arange(1, len(users.codes) + 1, dtype=np.int32)
    dataset = Dataset(
        items=jnp.asarray(flat.items),
        weights=None if log.weight is None else jnp.asarray(log.weight[flat.order]),
        offsets=jnp.asarray(flat.offsets, jnp.int32),
        example_user=jnp.asarray(np.repeat(user_id, flat.valid - first)),
        example_position=jnp.asarray(position, jnp.int32),
        user_columns=jax.tree.map(jnp.asarray, users.columns),
        item_columns=jax.tree.map(jnp.asarray, items.columns),
        item_count=jnp.asarray(_count(flat.items[position], items), jnp.float32),
        num_items=len(items.codes),
        known_items=items.vocabularies["item"].known,
        known_users=users.vocabularies["user"].known,
        history_length=history_length,
    )
    return Data(
        dataset=dataset,
        schema=_schema(users, items, history_length=history_length),
        vocabularies={**users.vocabularies, **items.vocabularies},
        items=flat.items,
        times=None if log.time is None else log.time[flat.order],
        offsets=flat.offsets,
        train_stop=np.concatenate([[0], flat.valid]),
        popularity=_count(flat.items[ranges(flat.start, flat.valid)], items),
        valid=_part(user_id, flat.valid, flat.test),
        test=_part(user_id, flat.test, flat.offsets[2:]),
        protocol=split.protocol,
        source=log.source,
        repeats=_has_repeats(log),
        user_codes=users.codes,
        item_codes=items.codes,
    )


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
) -> _Side:
    present, known = _present_by_frequency(codes, in_train)
    weight = np.bincount(codes[in_train], minlength=len(entities))
    columns, schema, vocabularies = _feature_columns(
        entities, codes=present, weight=weight
    )
    own = {name: features.Vocabulary(entities.id[present], known)}
    return _Side(present, columns, schema, own | vocabularies)


class _Flat(NamedTuple):
    """Events by catalogue id of the user, and where each user's parts begin."""

    order: np.ndarray  # [events] positions in the split's log
    items: np.ndarray  # [events] int32 catalogue ids
    offsets: np.ndarray  # [users + 2]
    valid: np.ndarray  # [users]
    test: np.ndarray  # [users]

    @property
    def start(self) -> np.ndarray:
        return self.offsets[1:-1]


def _flatten(split: interactions.Split, *, users: _Side, items: _Side) -> _Flat:
    starts, stops = split.start[users.codes], split.start[users.codes + 1]
    order = ranges(starts, stops)
    offsets = np.concatenate([[0, 0], np.cumsum(stops - starts)])
    item_id = _inverse(items.codes, num=len(split.log.items))
    return _Flat(
        order,
        item_id[split.log.item[order]],
        offsets,
        valid=offsets[1:-1] + split.valid[users.codes] - starts,
        test=offsets[1:-1] + split.test[users.codes] - starts,
    )


def _count(items: np.ndarray, side: _Side) -> np.ndarray:
    return np.bincount(items, minlength=len(side.codes) + 1)


def _present_by_frequency(
    codes: np.ndarray, in_train: np.ndarray
) -> tuple[np.ndarray, int]:
    """Codes that occur in the log, by falling frequency in training."""
    num = int(codes.max()) + 1
    order, known = features.frequency_order(codes[in_train], num=num)
    present = np.bincount(codes, minlength=num) > 0
    return order[present[order]], known


def _inverse(codes: np.ndarray, *, num: int) -> np.ndarray:
    """Catalogue id (from 1) of each code; 0 where it has none."""
    ids = np.zeros(num, np.int32)
    ids[codes] = np.arange(1, len(codes) + 1, dtype=np.int32)
    return ids


def _part(user: np.ndarray, start: np.ndarray, stop: np.ndarray) -> Part:
    some = stop > start
    return Part(user[some], start[some], stop[some])


def _has_repeats(log: interactions.Interactions) -> bool:
    pairs = log.user.astype(np.int64) * len(log.items) + log.item
    # With counts np.unique sorts; without, it hashes and takes ten times as long.
    return bool((np.unique(pairs, return_counts=True)[1] > 1).any())


def _feature_columns(
    entities: interactions.Entities, *, codes: np.ndarray, weight: np.ndarray
) -> tuple[dict, tuple[features.Column, ...], dict[str, features.Vocabulary]]:
    """Arrays by catalogue id (row 0 padding), their schema and vocabularies.

    `weight` [m] counts each entity's training events: it orders the vocabularies and
    normalises dense features.
    """
    arrays, columns, vocabularies = {}, [], {}
    for name, values in entities.columns.items():
        if isinstance(values, Bag) or values.dtype.kind != "f":
            rows, vocabulary = _id_column(values, name=name, codes=codes, weight=weight)
            vocabularies[name] = vocabulary
            width = 0 if rows.ndim == 1 else rows.shape[1]
            columns.append(features.Column(name, name, vocabulary.rows, width))
        else:
            rows = _dense_column(values, codes=codes, weight=weight)
            columns.append(features.Column(name, "", 0, 0))
        arrays[name] = rows
    return arrays, tuple(columns), vocabularies


def _id_column(
    values: np.ndarray | Bag, *, name: str, codes: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, features.Vocabulary]:
    """Look-up ids [V + 1] or [V + 1, m] and the vocabulary of a categorical column."""
    bag = values
    if not isinstance(values, Bag):
        bag = Bag(values, np.arange(len(values) + 1))
    lengths = np.diff(bag.offsets)
    value_codes, distinct = interactions.factorize(bag.values)
    seen = np.repeat(weight, lengths)
    count = np.bincount(value_codes, weights=seen, minlength=len(distinct))
    order = np.argsort(-count, kind="stable")
    vocabulary = features.Vocabulary(distinct[order], int(np.count_nonzero(count)))
    inner = vocabulary.lookup(_inverse(order, num=len(distinct))[value_codes])
    most = int(lengths.max(initial=1))
    if most > MAX_BAG:
        warnings.warn(
            f"column {name!r} has up to {most} values; the first {MAX_BAG} are kept",
            stacklevel=2,
        )
    width = min(most, MAX_BAG)
    table = np.zeros((len(lengths), width), np.int32)
    column = np.arange(width)
    filled = column < np.minimum(lengths, width)[:, None]
    index = bag.offsets[:-1, None] + column
    table[filled] = inner[index[filled]]
    rows = np.concatenate([np.zeros((1, width), np.int32), table[codes]])
    return (rows if isinstance(values, Bag) else rows[:, 0]), vocabulary


def _dense_column(
    values: np.ndarray, *, codes: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """A dense feature by catalogue id, standardised by its training events; what is
    missing (NaN) takes no part in that and stands at the mean, 0."""
    weight = np.where(np.isfinite(values), weight, 0).astype(np.float64)
    total = max(weight.sum(), 1.0)
    filled = np.nan_to_num(values.astype(np.float64))
    mean = (filled * weight).sum() / total
    spread = np.sqrt(((filled - mean) ** 2 * weight).sum() / total)
    scaled = (values[codes] - mean) / (spread if spread > 0 else 1.0)
    return np.nan_to_num(np.concatenate([[0.0], scaled])).astype(np.float32)


def _schema(users: _Side, items: _Side, *, history_length: int) -> features.Schema:
    user = features.Column("user", "user", users.vocabularies["user"].rows, 0)
    item = features.Column("item", "item", items.vocabularies["item"].rows, 0)
    history = features.Column("history", "item", item.rows, history_length)
    return features.Schema(
        query=(user, *([history] if history_length else []), *users.schema),
        item=(item, *items.schema),
    )
