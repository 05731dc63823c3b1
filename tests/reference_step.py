"""One step's loss from its definition, in float64 NumPy: who stands against whom, what
comes off each logit, and the weighted mean over the batch."""

from typing import NamedTuple

import numpy as np
import reference


class Met(NamedTuple):
    """What each example of a batch is scored against: constants of a step."""

    user: np.ndarray  # [b]
    item: np.ndarray  # [b] positives
    column: np.ndarray  # [n] catalogue ids; what a queue holds has vectors of its own
    own: np.ndarray  # [b, m]
    where: np.ndarray  # [b, n + m], columns first
    off_positive: np.ndarray  # [b]
    off: np.ndarray  # [b, n + m]
    weight: np.ndarray  # [b]
    queue: np.ndarray  # [k, d] vectors of the last k columns


def met(config, *, data, example, sample, weights, queue=None, q=None) -> Met:
    """Of a batch, given what was drawn for it; `q` [V + 1] where it is an estimate."""
    position = np.asarray(data.dataset.example_position)[example]
    user = np.asarray(data.dataset.example_user)[example]
    item = data.items[position]
    column, row, owner, valid = _columns(
        config, data, sample=sample, item=item, user=user, queue=queue
    )
    own, own_valid = (np.zeros((len(item), 0), int), np.zeros((len(item), 0), bool))
    if sample.own is not None:
        own, own_valid = np.asarray(sample.own), np.asarray(sample.own_valid)
    seen = [_seen(config, data, u, p) for u, p in zip(user, position)]
    shape = len(item), len(column) + own.shape[1]
    where, off = np.zeros(shape, bool), np.zeros(shape)
    off_positive = np.zeros(len(item))
    q = _chances(config, data, q=q, b=len(item))
    for i in range(len(item)):
        where[i] = np.concatenate([valid & (row != i), own_valid[i]])
        ids = np.concatenate([column, own[i]])
        hit = ids == item[i]
        hit[: len(column)] &= "item" in config.mask
        where[i] &= ~hit & ~np.isin(ids, seen[i])
        if "user" in config.mask:
            where[i, : len(column)] &= owner != user[i]
        off_positive[i], off[i] = _off(
            config, data, i, q=q, item=item, column=column, valid=valid, own=own[i]
        )
    vectors = np.zeros((0, 1)) if queue is None else np.asarray(queue.vector)
    return Met(user, item, column, own, where, off_positive, off, weights, vectors)


def _columns(config, data, *, sample, item, user, queue):
    """Catalogue id, row of the batch, user and validity of each column."""
    b, known_items = len(item), data.dataset.known_items
    drawn = np.zeros(0, int) if sample.drawn is None else np.asarray(sample.drawn)
    column, row, owner = drawn, np.full(len(drawn), -1), np.full(len(drawn), -1)
    valid = np.ones(len(drawn), bool)
    if config.kind == "full":
        valid = np.arange(len(drawn)) < known_items
        np.testing.assert_array_equal(np.sort(drawn[valid]), 1 + np.arange(known_items))
    if config.kind in ("in_batch", "mixed", "queue"):
        kept = np.ones(b, bool) if sample.kept is None else np.asarray(sample.kept)
        column = np.concatenate([item, column])
        row, owner = (np.concatenate(x) for x in ((np.arange(b), row), (user, owner)))
        valid = np.concatenate([kept, valid])
    if config.kind == "queue":
        held = np.asarray(queue.item)
        column = np.concatenate([column, held])
        row = np.concatenate([row, np.full(len(held), -1)])
        owner = np.concatenate([owner, np.asarray(queue.user)])
        valid = np.concatenate([valid, held > 0])
    return column, row, owner, valid


def _seen(config, data, user: int, position: int) -> np.ndarray:
    """What an example may not meet; masks of these tests hold whole histories."""
    if "positives" in config.mask:
        return data.items[data.offsets[user] : data.train_stop[user]]
    if "history" in config.mask:
        return data.items[data.offsets[user] : position]
    return np.zeros(0, int)


def keep(data, threshold: float) -> np.ndarray:
    """word2vec's chance to stay, by catalogue id, among the examples."""
    share = examples_of(data) / examples_of(data).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.minimum(1.0, np.sqrt(threshold / share) + threshold / share)
    return np.where(share > 0, kept, 0.0)


def examples_of(data) -> np.ndarray:
    """[V + 1] training examples of each item."""
    position = np.asarray(data.dataset.example_position)
    size = data.dataset.num_items + 1
    return np.bincount(data.items[position], minlength=size).astype(np.float64)


class Chances(NamedTuple):
    """[V + 1] of a column, and of an own candidate among its group."""

    column: np.ndarray
    own: np.ndarray


def _chances(config, data, *, q, b: int) -> Chances:
    known_items, batch = data.dataset.known_items, examples_of(data)
    batch = batch / batch.sum() if q is None else q
    alike = np.zeros(data.dataset.num_items + 1)
    alike[1 : known_items + 1] = 1.0
    popular = np.where(alike > 0, np.maximum(data.popularity, 1e-30), 0.0)
    popular = np.where(data.popularity > 0, popular**config.alpha, 0.0)
    rank = np.maximum(np.arange(len(alike)), 1)
    size, weight = (
        b,
        {
            "uniform": alike,
            "popularity": popular,
            "log_uniform": alike * np.log((rank + 1) / rank),
        }.get(config.kind, batch),
    )
    if config.suppress_negatives:
        kept = keep(data, config.suppress_negatives)
        size, weight = b * (batch @ kept), weight * kept
    column = weight if q is not None else weight / weight.sum()
    if config.kind == "mixed":
        column = (size * column + config.num * alike / known_items) / (
            size + config.num
        )
    own = alike / known_items
    if config.own == "market":
        market = np.asarray(data.dataset.item_columns["market"])
        same = market[:, None] == market[None, :]
        own = popular / np.maximum((same * popular[None, :]).sum(1), 1e-30)
    return Chances(column, own)


def _off(config, data, i, *, q: Chances, item, column, valid, own):
    """What comes off the positive's logit and off the candidates', before strength."""
    none, shared = np.zeros(len(own)), config.kind != "none"
    ids, chance = (column, q.column) if shared else (own, q.own)
    if config.correction == "none":
        return 0.0, np.zeros(len(column) + len(own))
    with np.errstate(divide="ignore"):
        log_q, mine = np.log(chance[ids]), chance[item[i]]
    if config.correction == "log_q":
        return np.log(mine), np.concatenate([log_q, none])
    valid = valid if shared else np.ones(len(own), bool)
    if config.correction == "positive_excluded":
        others = sum(1 for j, is_valid in zip(ids, valid) if is_valid and j != item[i])
        off = log_q + np.log(max(others, 1)) - np.log(1 - mine)
    else:
        own_row = int(valid[i]) if len(column) and config.kind in BATCH else 0
        off = log_q + np.log(max(valid.sum() - own_row, 1))
    return 0.0, np.concatenate([off, none]) if shared else off


BATCH = ("in_batch", "mixed", "queue")


def mean_loss(
    met: Met, query, item, *, loss, config, known_items: int, temperature=None
):
    """Of query vectors [b, d] and item vectors [V + 1, d] by catalogue id."""
    similarity = loss.name in ("hinge", "cosine_contrastive")
    temperature = 1.0 if similarity else temperature or loss.temperature
    query, item = (np.asarray(x, np.float64) for x in (query, item))
    vectors = item[met.column]
    if len(met.queue):
        vectors[-len(met.queue) :] = met.queue
    shared = query @ vectors.T
    own = np.einsum("bd,bmd->bm", query, item[met.own])
    strength = config.strength
    positive = (query * item[met.item]).sum(1) / temperature
    positive = positive - strength * met.off_positive
    negative = np.concatenate([shared, own], 1) / temperature
    with np.errstate(invalid="ignore"):
        negative = np.where(met.where, negative - strength * met.off, 0.0)
    where = met.where
    if config.hardest:
        where = _hardest(where, negative, n=len(met.column), num=config.hardest)
    values = of_name(
        loss, positive, negative, where, known_items=known_items, hard=config.hardest
    )
    return (values * met.weight).sum() / met.weight.sum()


def _hardest(where, negative, *, n: int, num: int):
    """The columns that are left where only the largest stay."""
    left = where.copy()
    for i in range(len(where)):
        order = np.argsort(-np.where(where[i, :n], negative[i, :n], -np.inf))
        left[i, order[num:]] = False
    return left


def of_name(loss, positive, negative, where, *, known_items: int, hard: int = 0):
    """Each example's loss [b] by its name and settings."""
    listwise = {
        "softmax": {},
        "bpr": {},
        "hinge": {"margin": loss.margin},
        "cosine_contrastive": {
            "margin": loss.margin,
            "negative_weight": loss.negative_weight,
        },
        "gbce": {"num_items": known_items, "calibration": loss.calibration},
    }
    if loss.name in listwise:
        loss_fn = getattr(reference, f"{loss.name}_loss")
        return loss_fn(positive, negative, where, **listwise[loss.name])
    pointwise = getattr(reference, f"{loss.name}_loss")
    pushed = pointwise(negative, np.zeros(negative.shape))
    means = [reference.mean(row[mask]) for row, mask in zip(pushed, where)]
    pulled = pointwise(positive, np.ones(positive.shape))
    return pulled + loss.negative_weight * np.array(means)
