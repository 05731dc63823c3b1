"""The items that a step scores against each positive: drawn, masked, corrected."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recall_jax.devices import mesh
from recall_jax.losses import scores
from recall_jax.losses.negatives import (
    BATCH_KINDS,
    DRAWN_KINDS,
    DRAWN_OWN,
    NegativesConfig,
    Queue,
    Remembered,
    StepData,
    Suppression,
)
from recall_jax.tables import layout
from recall_jax.types import Batch, Key


class Sample(NamedTuple):
    """The candidates of a step. The item tower encodes `ids`: positives, drawn columns
    and own candidates, or the whole catalogue and own candidates, joined in groups
    (`mesh.join`)."""

    ids: Int[Array, "n"]
    drawn: Int[Array, "n"] | None  # columns drawn, or all there are
    weight: Float[Array, "b"]  # of the examples
    kept: Bool[Array, "b"] | None  # of the batch's columns; None: all
    own: Int[Array, "b m"] | None
    own_valid: Bool[Array, "b m"] | None


def draw(
    config: NegativesConfig,
    batch: Batch,
    key: Key,
    *,
    source: StepData,
    state: Remembered,
    query: Callable[[], Float[Array, "b d"]] | None,
) -> tuple[Sample, Remembered]:
    """The candidates of a batch, and the state with the batch counted.

    `query` encodes the batch for the search of own=semi_hard, which alone needs it.
    """
    drawn_key, own_key, weight_key, column_key = jax.random.split(key, 4)
    if state.estimator is not None:
        updated = state.estimator.update(batch.item, rate=config.frequency_rate)
        state = state._replace(estimator=updated)
    own = own_valid = drawn = None
    if config.kind == "full":
        drawn = _catalogue(source.dataset.known_items)
    elif config.kind in DRAWN_KINDS:
        drawn = source.sampler.draw(drawn_key, shape=(config.num,))
    if config.own != "none":
        own, own_valid = _draw_own(
            config, batch, own_key, source=source, state=state, query=query
        )
    weight, kept = batch.weight, None
    if source.positives is not None:
        survives = _survives(weight_key, source.positives, batch.item)
        weight = jnp.where(survives, weight, 0.0)
    if source.negatives is not None and config.kind in BATCH_KINDS:
        kept = _survives(column_key, source.negatives, batch.item)
    parts = [] if config.kind == "full" else [batch.item]
    parts += [x.ravel() for x in (drawn, own) if x is not None]
    groups = mesh.shared_groups(*map(len, parts))
    ids = mesh.join(parts, groups=groups)
    return Sample(ids, drawn, weight, kept, own, own_valid), state


def _catalogue(known_items: int) -> Int[Array, "n"]:
    """All items, and as many of them again as fill up the shards of a table; these are
    no valid columns."""
    return (
        1 + jnp.arange(-(-known_items // layout.SHARDS) * layout.SHARDS) % known_items
    )


def _survives(key: Key, suppression: Suppression, ids: Int[Array, "b"]):
    return jax.random.uniform(key, ids.shape) < suppression.keep[ids]


def _draw_own(
    config, batch: Batch, key: Key, *, source: StepData, state: Remembered, query
):
    """Own candidates [b, m], and which are there."""
    if config.own in DRAWN_OWN:
        return source.own.draw(key, batch.item, num=config.num_own)
    if config.own == "exposed":
        return source.dataset.draw_shown(key, batch.user, num=config.num_own)
    low, high = config.ranks
    known_items = source.dataset.known_items
    index = state.index[:known_items]

    def ranked(vector):
        return jax.lax.top_k(vector @ index.T, high)[1] + 1

    def search(query):
        return jax.lax.map(ranked, query, batch_size=min(256, len(query)))

    ids = mesh.by_device(search)(query())
    at = jax.random.randint(key, (len(ids), config.num_own), low, high)
    own = jnp.take_along_axis(ids, at, axis=1)
    return own, jnp.ones(own.shape, bool)


class Parts(NamedTuple):
    """The encoded vectors of a sample by what they are for."""

    positive: Float[Array, "b d"]
    columns: Float[Array, "n d"] | None
    own: Float[Array, "b m d"] | None


class SharedCandidates(NamedTuple):
    """What all examples of a batch share."""

    vector: Float[Array, "n d"]
    mask: scores.Mask
    correction: scores.Correction


def keeps_columns_split(sample: Sample, batch: Batch, *, config) -> bool:
    """Whether the columns of kind=full stay where they were encoded and all queries go
    to them: where that moves less, and the loss can (`softmax.split_softmax_sum`)."""
    if not mesh.inside() or config.kind != "full" or config.hardest:
        return False
    return sample.drawn.size > 2 * batch.item.size


def split_columns(
    config: NegativesConfig,
    vectors: Float[Array, "n d"],
    *,
    sample: Sample,
    batch: Batch,
    source: StepData,
) -> tuple[Parts, SharedCandidates]:
    """Of kind=full inside `mesh.spread`: this device's positives and own candidates,
    and its columns with their mask against the rows of all devices."""
    sizes = [x.size for x in (sample.drawn, sample.own) if x is not None]
    first, *own = mesh.cut(vectors, sizes, groups=mesh.shared_groups(*sizes))
    at = batch.item - 1 - jax.lax.axis_index(mesh.AXIS) * len(first)
    here = (at >= 0) & (at < len(first))
    positive = jnp.where(here[:, None], first[jnp.clip(at, 0, len(first) - 1)], 0.0)
    parts = Parts(mesh.scattered(positive), first, None)
    if own:
        shape = -1, sample.own.shape[1], vectors.shape[-1]
        parts = parts._replace(own=own[0].reshape(shape))
    rows = rows_of(config, batch, source=source, part=lambda tree: tree)
    keys = _column_keys(
        config,
        sample=sample,
        batch=batch,
        state=Remembered(),
        known_items=source.dataset.known_items,
    )
    columns = mesh.mine(_with_masks(config, keys))
    return parts, SharedCandidates(
        first, scores.make_mask(rows, columns), scores.NO_CORRECTION
    )


def split_parts(
    config: NegativesConfig,
    vectors: Float[Array, "n d"],
    *,
    sample: Sample,
    batch: Batch,
    state: Remembered,
) -> Parts:
    """The positives, all columns and the own candidates of what `ids` encoded to."""
    full, own = config.kind == "full", None
    sizes = [] if full else [batch.item.size]
    sizes += [x.size for x in (sample.drawn, sample.own) if x is not None]
    parts = mesh.cut(vectors, sizes, groups=mesh.shared_groups(*sizes))
    if sample.own is not None:
        own = parts.pop().reshape(-1, sample.own.shape[1], vectors.shape[-1])
    drawn = mesh.everyone(parts.pop()) if sample.drawn is not None else None
    if full:
        return Parts(drawn[mesh.mine(batch.item) - 1], drawn, own)
    (positive,) = parts
    columns = [mesh.everyone(positive)] if config.kind in BATCH_KINDS else []
    columns += [drawn] if drawn is not None else []
    columns += [state.queue.vector] if config.kind == "queue" else []
    return Parts(positive, jnp.concatenate(columns) if columns else None, own)


def rows_of(
    config: NegativesConfig,
    batch: Batch,
    *,
    source: StepData,
    part: Callable = mesh.mine,
) -> scores.RowKeys:
    """What masks know of the examples that `part` takes: inside `mesh.spread` this
    device's."""
    # An example's own row is its positive and never a negative, whatever is masked.
    row = jnp.arange(batch.item.size)
    row, batch = part((row, batch))
    keys = [batch.item if "item" in config.mask else row]
    keys += [batch.user] if "user" in config.mask else []
    dataset, length = source.dataset, config.mask_length
    if "positives" in config.mask:
        begin, end = dataset.offsets[batch.user], dataset.train_stop[batch.user]
        centred = jnp.maximum(batch.position + (length + 1) // 2, begin + length)
        seen = dataset.past(batch.user, jnp.minimum(centred, end), length=length)
    elif "history" in config.mask:
        seen = dataset.past(batch.user, batch.position, length=length)
    else:
        seen = None
    return scores.RowKeys(tuple(keys), seen)


def columns_of(
    config: NegativesConfig,
    parts: Parts,
    *,
    rows: scores.RowKeys,
    sample: Sample,
    batch: Batch,
    source: StepData,
    state: Remembered,
) -> SharedCandidates | None:
    """The shared columns with their mask and correction; None where there are none."""
    if parts.columns is None:
        return None
    known_items = source.dataset.known_items
    keys = _column_keys(
        config, sample=sample, batch=batch, state=state, known_items=known_items
    )
    columns = _with_masks(config, keys)
    correction = _correction(config, keys, batch=batch, source=source, state=state)
    positive, row = mesh.mine((correction.positive, correction.row))
    correction = correction._replace(positive=positive, row=row)
    return SharedCandidates(parts.columns, scores.make_mask(rows, columns), correction)


class _Keys(NamedTuple):
    """Of each column: item, row of the batch (-1 none), user (-1 nobody), validity."""

    item: Int[Array, "n"]
    row: Int[Array, "n"]
    user: Int[Array, "n"]
    valid: Bool[Array, "n"] | None


def _with_masks(config: NegativesConfig, keys: _Keys) -> scores.ColumnKeys:
    """What masks know of the columns, in the order of `rows_of`."""
    item_or_row = keys.item if "item" in config.mask else keys.row
    by_user = (keys.user,) if "user" in config.mask else ()
    return scores.ColumnKeys((item_or_row, *by_user), keys.item, keys.valid)


def _column_keys(
    config, *, sample: Sample, batch: Batch, state: Remembered, known_items: int
) -> _Keys:
    b, drawn = batch.item.size, sample.drawn
    if config.kind not in BATCH_KINDS:
        nobody, valid = jnp.full(drawn.shape, -1), None
        if config.kind == "full" and drawn.size > known_items:
            valid = jnp.arange(drawn.size) < known_items
        return _Keys(drawn, nobody, nobody, valid)
    item, user, valid = [batch.item], [batch.user], [sample.kept]
    if config.kind == "queue":
        item, user = item + [state.queue.item], user + [state.queue.user]
        valid.append(state.queue.item > 0)
    elif config.kind == "mixed":
        item.append(drawn)
        user.append(jnp.full(drawn.shape, -1))
        valid.append(None)
    row = [jnp.arange(b)] + [jnp.full(x.shape, -1) for x in item[1:]]
    some = any(x is not None for x in valid)
    valid = [
        jnp.ones(x.shape, bool) if v is None else v
        for x, v in zip(item, valid, strict=True)
    ]
    item, row, user, valid = map(jnp.concatenate, (item, row, user, valid))
    return _Keys(item, row, user, valid if some else None)


def _correction(
    config, keys: _Keys, *, batch: Batch, source: StepData, state: Remembered
):
    """What comes off the logits of positives and columns."""
    if config.correction == "none":
        return scores.NO_CORRECTION
    log_q = column_log_q(config, keys.item, batch=batch, source=source, state=state)
    positive = column_log_q(config, batch.item, batch=batch, source=source, state=state)
    if config.correction == "log_q":
        return scores.log_q_correction(positive, log_q)
    count = keys.item.size if keys.valid is None else keys.valid.sum()
    if config.correction == "positive_excluded":
        hits = scores.occurrences(batch.item, keys.item, keys.valid)
        others = (count - hits).astype(log_q.dtype)
        return scores.positive_excluded_correction(positive, log_q, others=others)
    own_row = 0  # of a batch's columns, an example's own was not drawn for it
    if config.kind in BATCH_KINDS:
        own_row = 1 if keys.valid is None else keys.valid[: batch.item.size]
    drawn = jnp.broadcast_to(count - jnp.asarray(own_row), batch.item.shape)
    return scores.sampled_correction(log_q, drawn=drawn.astype(log_q.dtype))


def column_log_q(
    config: NegativesConfig,
    ids: Int[Array, "n"],
    *,
    batch: Batch,
    source: StepData,
    state: Remembered,
) -> Float[Array, "n"]:
    """log of the chance that a column, drawn as this config draws, is each of `ids`."""
    if config.kind not in BATCH_KINDS:
        return source.sampler.log_q[ids]
    b, estimator = batch.item.size, state.estimator or source.exact
    log_q = estimator.log_q(ids, batch_size=b)
    kept = 1.0
    if source.negatives is not None:
        suppression = source.negatives
        log_q += jnp.log(suppression.keep[ids]) - suppression.log_kept
        kept = jnp.exp(suppression.log_kept)
    if config.kind != "mixed":
        return log_q
    num_items = source.dataset.known_items
    return scores.mixture_log_q(
        log_q, batch=kept * b, drawn=config.num, num_items=num_items
    )


class Own(NamedTuple):
    """log q off the own candidates (None: nothing), and which of them count."""

    log_q: Float[Array, "b m"] | None
    where: Bool[Array, "b m"] | None


def own_of(
    config: NegativesConfig,
    *,
    rows: scores.RowKeys,
    sample: Sample,
    batch: Batch,
    source: StepData,
) -> Own:
    """The correction and the mask of own candidates.

    Beside columns each stands for itself; alone, drawn from a market or from all items,
    they stand for it or for them.
    """
    if sample.own is None:
        return Own(None, None)
    own, valid, item = mesh.mine((sample.own, sample.own_valid, batch.item))
    where = scores.own_allowed(rows, own, positive_id=item, valid=valid)
    if config.correction == "none" or config.kind != "none":
        return Own(None, where)
    log_q = source.own.log_q[own]
    if config.correction == "sampled":
        return Own(log_q + jnp.log(float(config.num_own)), where)
    others = (own != item[:, None]).sum(-1).astype(log_q.dtype)
    positive = source.own.log_q[item]
    row = scores.excluded_row(positive, others=others)
    return Own(log_q + row[:, None], where)


def advance(
    config: NegativesConfig,
    state: Remembered,
    *,
    sample: Sample,
    batch: Batch,
    vectors: Float[Array, "b d"] | None,
) -> Remembered:
    """The state after a step, given the vectors of its positives (of kind=queue; of
    others None): those that were columns enter the queue."""
    if config.kind != "queue":
        return state
    queue, b, item = state.queue, batch.item.size, batch.item
    item = item if sample.kept is None else jnp.where(sample.kept, item, 0)
    at = (queue.at + jnp.arange(b)) % config.num
    return state._replace(
        queue=Queue(
            queue.vector.at[at].set(vectors, unique_indices=True),
            queue.item.at[at].set(item, unique_indices=True),
            queue.user.at[at].set(batch.user, unique_indices=True),
            (queue.at + b) % config.num,
        )
    )
