"""A split log as arrays on the device: batches are gathered, never materialised."""

import dataclasses
import functools
import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from recall_jax import features
from recall_jax.data import columns as columns_lib
from recall_jax.data import interactions, positives
from recall_jax.data.interactions import ranges
from recall_jax.types import Batch, Columns, InputError, Key


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
        "train_stop",
        "example_item",
        "example_label",
        "shown_items",
        "shown_offsets",
    ],
    meta_fields=["num_items", "known_items", "known_users", "history_length", "span"],
)
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Everything a step or an evaluation gathers from, as one pytree.

    Events lie flat, sorted by user, then time: user u's are offsets[u]:offsets[u + 1],
    those that train end at train_stop[u]. An example is (user, position); its history is
    what stands before the position, its item what stands there, unless `example_item`
    says otherwise. What was shown to u and passed over, while he trained, is
    shown_items[shown_offsets[u]:shown_offsets[u + 1]].
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
    train_stop: Int[Array, "users_and_1"] | None = None
    example_item: Int[Array, "examples"] | None = None  # None: the item at its position
    example_label: Float[Array, "examples"] | None = None  # None: all 1
    shown_items: Int[Array, "shown"] | None = None  # None: the log has no exposures
    shown_offsets: Int[Array, "users_and_2"] | None = None
    span: int = 1  # examples a row of a batch holds; see `sequences`

    def query(self, user: Int[Array, "b"], position: Int[Array, "b"]) -> Columns:
        """Columns of the query tower; `history` holds the h items before position,
        the most recent last, padded with 0 on the left."""
        columns = {name: c[user] for name, c in self.user_columns.items()}
        columns["user"] = jnp.minimum(user, self.known_users + 1)
        if self.history_length:
            ids = self.past(user, position, length=self.history_length)
            columns["history"] = jnp.minimum(ids, self.known_items + 1)
        return columns

    def past(
        self, user: Int[Array, "b"], position: Int[Array, "b"], *, length: int
    ) -> Int[Array, "b length"]:
        """Catalogue ids of a user's last events before position, the most recent last,
        padded with 0 on the left."""
        index = position[:, None] + jnp.arange(-length, 0)[None, :]
        mine = index >= self.offsets[user][:, None]
        return jnp.where(mine, self.items[jnp.maximum(index, 0)], 0)

    def draw_shown(
        self, key: Key, user: Int[Array, "b"], *, num: int
    ) -> tuple[Int[Array, "b num"], Bool[Array, "b num"]]:
        """Catalogue ids of what each user was shown and passed over, drawn with
        replacement, and whether there is any."""
        first = self.shown_offsets[user]
        size = (self.shown_offsets[user + 1] - first)[:, None]
        step = jax.random.randint(key, (len(user), num), 0, jnp.maximum(size, 1))
        at = jnp.minimum(first[:, None] + step, self.shown_items.size - 1)
        return self.shown_items[at], jnp.broadcast_to(size > 0, at.shape)

    def item(self, ids: Int[Array, "n"]) -> Columns:
        """Columns of the item tower at catalogue ids."""
        columns = {name: c[ids] for name, c in self.item_columns.items()}
        columns["item"] = jnp.minimum(ids, self.known_items + 1)
        return columns

    def batch(self, example: Int[Array, "b"]) -> Batch:
        """The training examples at these positions of example_user; with a span, the
        rows that begin there."""
        if self.span > 1:
            return self.sequences(example)
        user, position = self.example_user[example], self.example_position[example]
        item, weight, label = self.items[position], self.weights, self.example_label
        if self.example_item is not None:
            item = self.example_item[example]
        ones = jnp.ones(example.shape)
        weight = ones if weight is None else weight[position]
        label = ones if label is None else label[example]
        query = self.query(user, position)
        return Batch(query, user, item, weight, label, position)

    def sequences(self, first: Int[Array, "b"]) -> Batch:
        """Rows of `span` examples, the ones at first, first + 1, ... of example_user,
        whatever users they are of: b x span examples, none of them padding.

        Query columns are [b, span]: `history` has the item before each example and
        `segment` its user, across whom nothing may look.
        """
        at = (first[:, None] + jnp.arange(self.span)[None, :]).ravel()
        user, position = self.example_user[at], self.example_position[at]
        before = jnp.minimum(self.items[position - 1], self.known_items + 1)
        query = {"history": before, "segment": user}
        ones = jnp.ones(at.shape)
        return Batch(
            query={name: x.reshape(-1, self.span) for name, x in query.items()},
            user=user,
            item=self.items[position],
            weight=ones if self.weights is None else self.weights[position],
            label=ones,
            position=position,
        )


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
    ordered: bool  # a user's events stand in an order that means something
    keeps_seen: bool  # by the protocol, lists keep what a user had

    @property
    def num_examples(self) -> int:
        return len(self.dataset.example_user)

    @property
    def num_rows(self) -> int:
        """Rows that batches are made of: examples, or spans of them, less a margin that
        lets spans begin elsewhere in each epoch."""
        span = self.dataset.span
        return self.num_examples if span == 1 else self.num_examples // span - 1

    def fingerprint(self) -> str:
        """SHA-256 of the events, their order and their split, the raw ids, and where
        there are any, weights, labels and exposures."""
        digest = hashlib.sha256(features.dump_vocabularies(self.vocabularies).encode())
        arrays = [self.items, self.offsets, self.train_stop]
        data = self.dataset
        if data.weights is not None:
            arrays.append(data.weights)
        if data.example_label is not None:
            arrays += [data.example_item, data.example_label]
        if data.shown_items is not None:
            arrays += [data.shown_items, data.shown_offsets]
        for array in arrays:
            digest.update(np.asarray(array).tobytes())
        return digest.hexdigest()


def prepare(
    split: interactions.Split,
    *,
    history_length: int,
    min_history: int,
    label: str = "",
    span: int = 1,
    text_buckets: int = interactions.Config.text_buckets,
) -> Data:
    """Number users and items by training frequency and lay everything out flat.

    `min_history` is how many events must stand before a training example's positive.
    With `label`, a column of events, examples carry it, and what was shown and passed
    over is an example too, of label 0. `span` is how many examples a model takes as one
    row, in their order (`Dataset.sequences`). Texts become trigrams in `text_buckets`
    buckets.
    """
    log = split.log
    if span > 1 and label:
        raise InputError(
            f"data.label={label} makes examples of exposures, which a model over whole "
            "sequences cannot place; set data.label to nothing, or take another model"
        )
    in_train = ranges(split.start[:-1], split.valid)
    if not len(in_train):
        raise InputError(f"{log.source}: the training part is empty")
    side = functools.partial(_side, in_train=in_train, text_buckets=text_buckets)
    users = side("user", log.users, codes=log.user)
    items = side("item", log.items, codes=log.item)
    flat = _flatten(split, users=users, items=items)
    user_id = np.arange(1, len(users.codes) + 1, dtype=np.int32)
    example_user, position = _positives(flat, user_id, min_history=min_history)
    if not len(position):
        raise InputError(
            f"{log.source}: no user has more than {min_history} training events, so "
            "there is nothing to train on"
        )
    shown = _shown(split.log, flat, users=users, items=items, min_history=min_history)
    example_user, example_position, labelled = _labelled(
        example_user, position, split.log, label=label, flat=flat, shown=shown
    )
    dataset = Dataset(
        items=jnp.asarray(flat.items),
        weights=None if log.weight is None else jnp.asarray(log.weight[flat.order]),
        offsets=jnp.asarray(flat.offsets, jnp.int32),
        example_user=jnp.asarray(example_user),
        example_position=jnp.asarray(example_position, jnp.int32),
        user_columns=jax.tree.map(jnp.asarray, users.columns),
        item_columns=jax.tree.map(jnp.asarray, items.columns),
        item_count=jnp.asarray(_count(flat.items[position], items), jnp.float32),
        num_items=len(items.codes),
        known_items=items.vocabularies["item"].known,
        known_users=users.vocabularies["user"].known,
        history_length=history_length,
        train_stop=jnp.asarray(np.append(0, flat.valid), jnp.int32),
        span=span,
        **labelled,
        **_shown_arrays(shown, num_users=len(user_id)),
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
        ordered=split.ordered,
        keeps_seen=split.keeps_seen,
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
    text_buckets: int,
) -> _Side:
    present, known = _present_by_frequency(codes, in_train)
    weight = np.bincount(codes[in_train], minlength=len(entities))
    columns, schema, vocabularies = columns_lib.feature_columns(
        entities, codes=present, weight=weight, text_buckets=text_buckets
    )
    own = {name: features.Vocabulary(entities.id[present], known)}
    return _Side(present, columns, schema, own | vocabularies)


class _Flat(NamedTuple):
    """Events by catalogue id of the user, and where each user's parts begin."""

    order: np.ndarray  # [events] positions in the split's log
    items: np.ndarray  # [events] int32 catalogue ids
    offsets: np.ndarray  # [users + 2]
    first: np.ndarray  # [users], of training examples
    valid: np.ndarray  # [users]
    test: np.ndarray  # [users]

    @property
    def start(self) -> np.ndarray:
        return self.offsets[1:-1]


def _flatten(split: interactions.Split, *, users: _Side, items: _Side) -> _Flat:
    starts, stops = split.start[users.codes], split.start[users.codes + 1]
    order = ranges(starts, stops)
    offsets = np.concatenate([[0, 0], np.cumsum(stops - starts)])
    item_id = columns_lib.inverse(items.codes, num=len(split.log.items))
    first = split.start[:-1] if split.first is None else split.first
    return _Flat(
        order,
        item_id[split.log.item[order]],
        offsets,
        first=offsets[1:-1] + first[users.codes] - starts,
        valid=offsets[1:-1] + split.valid[users.codes] - starts,
        test=offsets[1:-1] + split.test[users.codes] - starts,
    )


def _positives(flat: _Flat, user_id: np.ndarray, *, min_history: int):
    """User and position of each training event with enough of them before it, from
    where the split has examples begin."""
    first = np.maximum(flat.start + min_history, flat.first)
    first = np.minimum(first, flat.valid)
    return np.repeat(user_id, flat.valid - first), ranges(first, flat.valid)


class _Shown(NamedTuple):
    """Exposures passed over, by user and time."""

    user: np.ndarray  # [s] int32 catalogue ids
    item: np.ndarray  # [s] int32 catalogue ids
    position: np.ndarray  # [s] where the history before them ends


def _shown(
    log, flat: _Flat, *, users: _Side, items: _Side, min_history: int
) -> _Shown | None:
    """What was shown before a user's last training event, of items that train, and
    that he never took up in training; None where the log has none, or no times."""
    if log.shown is None or log.time is None:
        return None
    user = columns_lib.inverse(users.codes, num=len(log.users))[log.shown.user]
    item = columns_lib.inverse(items.codes, num=len(log.items))[log.shown.item]
    order = np.lexsort((log.shown.time, user))
    user, item, time = user[order], item[order], log.shown.time[order]
    first, span = log.time.min() - 1, log.time.max() - log.time.min() + 2
    owner = np.repeat(np.arange(len(flat.offsets) - 1), np.diff(flat.offsets))
    key = owner * span + log.time[flat.order] - first
    asked = user * span + np.clip(time - first, 0, span - 1)
    position = np.searchsorted(key, asked, side="right")
    stop = np.append(0, flat.valid)
    taken = owner * (len(items.codes) + 1) + flat.items
    taken = taken[ranges(flat.start, flat.valid)]
    pair = user * np.int64(len(items.codes) + 1) + item
    keep = (user > 0) & (item > 0) & (item <= items.vocabularies["item"].known)
    keep &= (position < stop[user]) & ~np.isin(pair, taken)
    keep &= position >= flat.offsets[user] + min_history
    return _Shown(user[keep], item[keep], position[keep])


def _shown_arrays(shown: _Shown | None, *, num_users: int) -> dict[str, jnp.ndarray]:
    if shown is None or not len(shown.item):
        return {}
    offsets = np.searchsorted(shown.user, np.arange(num_users + 2))
    return {
        "shown_items": jnp.asarray(shown.item),
        "shown_offsets": jnp.asarray(offsets, jnp.int32),
    }


def _labelled(user, position, log, *, label: str, flat: _Flat, shown: _Shown | None):
    """Examples, and where `label` names a column their labels, exposures behind the
    positives with label 0."""
    if not label:
        return user, position, {}
    labels = positives.labels(log, label)[flat.order][position]
    item = flat.items[position]
    if shown is not None:
        user = np.concatenate([user, shown.user])
        position = np.concatenate([position, shown.position])
        item = np.concatenate([item, shown.item])
        labels = np.concatenate([labels, np.zeros(len(shown.item), np.float32)])
    fields = {"example_item": jnp.asarray(item), "example_label": jnp.asarray(labels)}
    return user, position, fields


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


def _part(user: np.ndarray, start: np.ndarray, stop: np.ndarray) -> Part:
    some = stop > start
    return Part(user[some], start[some], stop[some])


def _has_repeats(log: interactions.Interactions) -> bool:
    pairs = log.user.astype(np.int64) * len(log.items) + log.item
    # With counts np.unique sorts; without, it hashes and takes ten times as long.
    return bool((np.unique(pairs, return_counts=True)[1] > 1).any())


def _schema(users: _Side, items: _Side, *, history_length: int) -> features.Schema:
    user = features.Column("user", "user", users.vocabularies["user"].rows, 0)
    item = features.Column("item", "item", items.vocabularies["item"].rows, 0)
    history = features.Column(
        "history", "item", item.rows, history_length, kind="sequence"
    )
    return features.Schema(
        query=(user, *([history] if history_length else []), *users.schema),
        item=(item, *items.schema),
    )
