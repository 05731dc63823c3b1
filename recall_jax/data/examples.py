"""Which events of a split log a model trains on: positives, exposures, labels."""

from typing import NamedTuple

import numpy as np

from recall_jax.data import columns
from recall_jax.data import log as log_lib
from recall_jax.data.log import Interactions, ranges
from recall_jax.types import InputError


class Flat(NamedTuple):
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


class Examples(NamedTuple):
    """What trains, by user and position; with labels, exposures behind the positives.
    Without them item and label are None: what stands at the position, and 1."""

    user: np.ndarray  # [n] int32 catalogue ids
    position: np.ndarray  # [n] in the flat events
    num_positive: int  # the first of them
    item: np.ndarray | None  # [n] int32 catalogue ids
    label: np.ndarray | None  # [n] float32


def make(
    flat: Flat,
    log: Interactions,
    *,
    min_history: int,
    config: log_lib.Config,
    shown: "Shown | None",
) -> Examples:
    """The positives with enough events before them, as many a user as the config says,
    and with `config.label` their labels and what was shown and passed over."""
    user, position = _positives(flat, min_history=min_history)
    if config.examples_per_user and config.label:
        raise InputError(
            "data.examples_per_user counts positives, and data.label makes exposures "
            "examples too; set one of them to nothing"
        )
    if config.examples_per_user:
        kept = _some_of_each(user, config.examples_per_user, seed=config.examples_seed)
        user, position = user[kept], position[kept]
    num = len(position)
    if not config.label:
        return Examples(user, position, num, None, None)
    label = log_lib.labels(log, config.label)[flat.order][position]
    item = flat.items[position]
    if shown is not None:
        user = np.concatenate([user, shown.user])
        position = np.concatenate([position, shown.position])
        item = np.concatenate([item, shown.item])
        label = np.concatenate([label, np.zeros(len(shown.item), np.float32)])
    return Examples(user, position, num, item, label)


def _positives(flat: Flat, *, min_history: int):
    """User and position of each training event with enough of them before it, from
    where the split has examples begin."""
    first = np.maximum(flat.start + min_history, flat.first)
    first = np.minimum(first, flat.valid)
    user = np.arange(1, len(first) + 1, dtype=np.int32)
    return np.repeat(user, flat.valid - first), ranges(first, flat.valid)


def _some_of_each(user: np.ndarray, most: int, *, seed: int) -> np.ndarray:
    """Indices of at most `most` examples of each user, drawn once, in their order."""
    shuffled = np.random.default_rng([seed, len(user)]).permutation(len(user))
    order = shuffled[np.argsort(user[shuffled], kind="stable")]
    start = np.searchsorted(user, user)  # sorted by user, and so is user[order]
    return np.sort(order[np.arange(len(user)) - start < most])


class Shown(NamedTuple):
    """Exposures passed over, by user and time."""

    user: np.ndarray  # [s] int32 catalogue ids
    item: np.ndarray  # [s] int32 catalogue ids
    position: np.ndarray  # [s] where the history before them ends


def passed_over(log: Interactions, flat: Flat, *, users, items, min_history: int):
    """What was shown before a user's last training event, of items that train, and
    that he never took up in training; None where the log has none, or no times. `users`
    and `items` are the sides as `prepare` numbers them."""
    if log.shown is None or log.time is None:
        return None
    user = columns.inverse(users.codes, num=len(log.users))[log.shown.user]
    item = columns.inverse(items.codes, num=len(log.items))[log.shown.item]
    moment, time = log.time, log.shown.time
    if log.nanoseconds is not None:  # ranks, for nanoseconds of all users do not fit
        moment = moment * 10**9 + log.nanoseconds
        instants, moment = np.unique(moment, return_inverse=True)
        time = time * 10**9 + log.shown.nanoseconds
        time = np.searchsorted(instants, time, side="right") - 1
    order = log_lib.order_by(user, time)
    user, item, time = user[order], item[order], time[order]
    first, span = moment.min() - 1, moment.max() - moment.min() + 2
    owner = np.repeat(np.arange(len(flat.offsets) - 1), np.diff(flat.offsets))
    key = owner * span + moment[flat.order] - first
    shown_key = user * span + np.clip(time - first, 0, span - 1)
    position = np.searchsorted(key, shown_key, side="right")
    stop = np.append(0, flat.valid)
    taken = owner * (len(items.codes) + 1) + flat.items
    taken = taken[ranges(flat.start, flat.valid)]
    pair = user * np.int64(len(items.codes) + 1) + item
    keep = (user > 0) & (item > 0) & (item <= items.vocabularies["item"].known)
    keep &= (position < stop[user]) & ~np.isin(pair, taken)
    keep &= position >= flat.offsets[user] + min_history
    return Shown(user[keep], item[keep], position[keep])
