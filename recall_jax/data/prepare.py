"""A split log laid out: users and items numbered, events flat, examples chosen."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recall_jax import schema as schema_lib
from recall_jax.data import columns as columns_lib
from recall_jax.data import duplicates, examples, prepared
from recall_jax.data import log as log_lib
from recall_jax.data import split as split_lib
from recall_jax.data.arrays import Events
from recall_jax.data.log import Bag, Interactions, ranges, take
from recall_jax.data.prepared import Data
from recall_jax.devices import mesh
from recall_jax.types import InputError, check_fields


class Tokens(NamedTuple):
    """Look-up ids; event e's are ids[offsets[e]:offsets[e + 1]]."""

    ids: np.ndarray  # [total] int32
    offsets: np.ndarray  # [events + 1]
    vocabulary: schema_lib.Vocabulary


def make_tokens(
    log: Interactions, name: str, *, order: np.ndarray, in_train: np.ndarray
) -> Tokens:
    """The event column `name` of the log in flat order, numbered by how often its tokens
    stand in training events; the others share the unknown row.

    `order` [events] are positions in the log, `in_train` [events] a mask of the flat
    events. A column of strings is split into words, lower case; one of integers has a
    token an event. Raises InputError where there is no such column, or nothing in it.
    """
    if name not in log.events:
        raise InputError(
            f"data.tokens: {log.source} has no event column {name!r}; there are: "
            + (", ".join(log.events) or "none")
        )
    bag = log_lib.take(_as_bag(log.events[name], name=name), order)
    if not len(bag.values):
        raise InputError(
            f"data.tokens: the event column {name!r} of {log.source} is empty; set "
            "data.tokens to nothing, or to another column"
        )
    codes, distinct = log_lib.factorize(bag.values)
    trains = np.repeat(in_train, np.diff(bag.offsets))
    by_frequency, num_known = schema_lib.frequency_order(
        codes[trains], num=len(distinct)
    )
    vocabulary = schema_lib.Vocabulary(distinct[by_frequency], num_known)
    inner = np.empty(len(distinct), np.int32)
    inner[by_frequency] = np.arange(1, len(distinct) + 1)
    return Tokens(vocabulary.lookup(inner[codes]), bag.offsets, vocabulary)


def _as_bag(column: np.ndarray | Bag, *, name: str) -> Bag:
    if isinstance(column, Bag):
        return column
    if column.dtype.kind not in "USiu":
        raise InputError(
            f"data.tokens: the event column {name!r} holds numbers with fractions; words "
            "or whole numbers are wanted"
        )
    if column.dtype.kind in "iu":
        return Bag(column, np.arange(len(column) + 1))
    distinct, codes = np.unique(column, return_inverse=True)
    words = columns_lib.split_words(distinct.tolist())
    starts = np.cumsum([0] + [len(each) for each in words])
    flat = Bag(np.array([word for each in words for word in each], str), starts)
    return log_lib.take(flat, codes)


def in_memory(
    split: split_lib.Split,
    *,
    history_length: int,
    min_history: int,
    span: int = 1,
    config: log_lib.Config | None = None,
) -> Data:
    """Number users and items by training frequency and lay everything out flat.

    `min_history` is how many events must stand before a training example's positive,
    `span` how many examples a model takes as one row (`Events.sequences`). The config
    says which examples there are, their labels, searched tokens and texts.
    """
    log, config = split.log, config or log_lib.Config()
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
        valid=prepared.part(flat.valid, flat.test),
        test=prepared.part(flat.test, flat.offsets[2:]),
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
    chosen: examples.Examples
    shown: examples.Shown | None
    searched: Tokens | None
    age: np.ndarray | None  # [events] float32


def _lay_out(
    split: split_lib.Split, *, min_history: int, config: log_lib.Config
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
    train_examples = examples.make(
        flat, log, min_history=min_history, config=config, shown=shown
    )
    if not train_examples.num_positive:
        raise InputError(
            f"{log.source}: no user has more than {min_history} training events, so "
            "there is nothing to train on; lower model.min_history or bring a longer log"
        )
    if log.weight is not None:
        trained = log.weight[flat.order][
            train_examples.position[: train_examples.num_positive]
        ]
        log_lib.check_weights(
            trained.min(),
            trained.max(),
            column=getattr(config, "weight", ""),  # a log's own columns have names
            source=log.source,
        )
    trains = np.zeros(len(log), bool)
    trains[ranges(flat.start, flat.valid)] = True
    searched = None
    if config.tokens:
        searched = make_tokens(log, config.tokens, order=flat.order, in_train=trains)
    age = _ages(log, flat, trains)
    return _Laid(users, items, flat, train_examples, shown, searched, age)


def _on_device(
    laid: _Laid,
    log: log_lib.Interactions,
    *,
    history_length: int,
    span: int,
    config: log_lib.Config,
) -> Events:
    """What steps gather from, of a log that was laid out; on every device."""
    users, items, flat, train_examples = (
        laid.users,
        laid.items,
        laid.flat,
        laid.chosen,
    )
    positive = train_examples.position[: train_examples.num_positive]
    fields: dict[str, Any] = {}
    if train_examples.label is not None:
        fields |= {
            "example_item": train_examples.item,
            "example_label": train_examples.label,
        }
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
    events = Events(
        items=jnp.asarray(flat.items),
        offsets=jnp.asarray(flat.offsets, jnp.int32),
        example_user=jnp.asarray(train_examples.user),
        example_position=jnp.asarray(train_examples.position, jnp.int32),
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
    return mesh.on_each(events)


def _schema(laid: _Laid, dataset: Events, config: log_lib.Config) -> schema_lib.Schema:
    users, items, searched = laid.users, laid.items, laid.searched
    more = []
    if searched is not None:
        rows, length = searched.vocabulary.rows, dataset.tokens_length
        more.append(schema_lib.Column("searched", "searched", rows, length, "sequence"))
    if dataset.age is not None:
        more.append(schema_lib.Column("example_age", "", 0, 0, "age"))
    return prepared.schema_of(
        {**users.vocabularies, **items.vocabularies},
        user=users.schema,
        item=items.schema,
        history_length=dataset.history_length,
        config=config,
        more=more,
    )


def _ages(
    log: log_lib.Interactions, flat: examples.Flat, trains: np.ndarray
) -> np.ndarray | None:
    """How long before the last training event each event was, float32, in standard
    deviations of the training events; None without times."""
    if log.time is None:
        return None
    time = log.time[flat.order]
    age = (time[trains].max() - time).astype(np.float64)
    return (age / max(age[trains].std(), 1.0)).astype(np.float32)


def _offsets(sorted_ids: np.ndarray, *, num: int) -> np.ndarray:
    """Where each of 0..num-1 begins."""
    return np.searchsorted(sorted_ids, np.arange(num)).astype(np.int32)


class _Side(NamedTuple):
    """Users or items in catalogue order."""

    codes: np.ndarray  # [V] the log's codes
    columns: dict[str, np.ndarray]  # features, [V + 1, ...], row 0 padding
    schema: tuple[schema_lib.Column, ...]  # of the features
    vocabularies: dict[str, schema_lib.Vocabulary]


def _side(
    name: str,
    entities: log_lib.Entities,
    *,
    codes: np.ndarray,
    in_train: np.ndarray,
    text_buckets: int,
    more: np.ndarray | None = None,
) -> _Side:
    """`more` is a mask of entities that are there although no event has them."""
    mask = np.bincount(codes, minlength=len(entities)) > 0
    mask = mask if more is None else mask | more
    order, num_known = schema_lib.frequency_order(codes[in_train], num=len(entities))
    present = order[mask[order]]
    weight = np.bincount(codes[in_train], minlength=len(entities))
    columns, schema, vocabularies = columns_lib.feature_columns(
        entities, codes=present, weight=weight, text_buckets=text_buckets
    )
    own = {name: schema_lib.Vocabulary(entities.id[present], num_known)}
    return _Side(present, columns, schema, own | vocabularies)


def _flatten(split: split_lib.Split, *, users: _Side, items: _Side) -> examples.Flat:
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


def _check(config: log_lib.Config, *, span: int, min_history: int) -> None:
    """Raise InputError for examples that a model over sequences cannot take."""
    check_fields(config, "--config.data")
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
