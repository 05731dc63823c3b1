"""An objective: which items a step encodes, how they are scored, what it costs."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from recall_jax import losses, sampling, scores
from recall_jax.data.dataset import Data, Dataset
from recall_jax.types import Batch, Hypers, InputError, Key


@dataclasses.dataclass
class NegativesConfig:
    """Where negatives come from, and the correction for how they were drawn."""

    kind: str = "in_batch"  # in_batch, uniform, popularity or full (the catalogue)
    num: int = 1024  # drawn a step and shared by its examples (uniform, popularity)
    alpha: float = 0.75  # popularity^alpha
    correction: str = "log_q"  # or "none"
    strength: float = 1.0  # of the correction


@dataclasses.dataclass
class LossConfig:
    """The loss on finished logits, and the temperature in them."""

    name: str = "softmax"  # or "logistic"
    temperature: float = 0.07


class Source(NamedTuple):
    """What a step reads and never writes: arguments of the program, not constants."""

    dataset: Dataset
    sampler: sampling.Sampler


class Objective(NamedTuple):
    """`ids` lists the catalogue ids a step encodes; `score` turns the vectors into
    logits; `loss` turns logits into one value per example."""

    ids: Callable[[Batch, Key, Source], Int[Array, "n"]]
    score: Callable[..., scores.Logits]
    loss: Callable[[scores.Logits], Float[Array, "b"]]


def make_objective(loss: LossConfig, negatives: NegativesConfig) -> Objective:
    """The cell of the grid loss x negatives x correction that a config names."""
    kinds = {
        "in_batch": _in_batch,
        "uniform": _sampled,
        "popularity": _sampled,
        "full": _full,
    }
    if negatives.kind not in kinds:
        raise InputError(
            f"unknown negatives.kind {negatives.kind!r}; there are: " + ", ".join(kinds)
        )
    if negatives.correction not in ("log_q", "none"):
        raise InputError(
            'negatives.correction must be "log_q" or "none", not '
            f"{negatives.correction!r}"
        )
    if loss.name not in LOSSES:
        raise InputError(
            f"unknown loss.name {loss.name!r}; there are: " + ", ".join(LOSSES)
        )
    return kinds[negatives.kind](negatives, LOSSES[loss.name])


def make_source(data: Data, negatives: NegativesConfig) -> Source:
    """The data set and the sampler of a config's negatives: items with training events.

    The others all read one unknown row; as negatives they would teach it, and so every
    new item, to be low, whatever its features say.
    """
    count = np.asarray(data.dataset.item_count)[1:]
    if negatives.kind == "uniform":
        return Source(data.dataset, sampling.uniform(data.dataset.known_items))
    # What is in a batch is drawn by the number of examples: alpha 1.
    alpha = negatives.alpha if negatives.kind == "popularity" else 1.0
    return Source(data.dataset, sampling.popularity(count, alpha=alpha))


def _softmax(logits: scores.Logits) -> Float[Array, "b"]:
    return losses.softmax_loss(logits.positive, logits.negative, where=logits.where)


def _logistic(logits: scores.Logits) -> Float[Array, "b"]:
    """The positive with label 1 and the mean of the negatives with label 0."""
    positive = losses.logistic_loss(logits.positive, jnp.ones_like(logits.positive))
    negative = losses.logistic_loss(logits.negative, jnp.zeros_like(logits.negative))
    count = jnp.maximum(logits.where.sum(-1), 1)
    return positive + jnp.where(logits.where, negative, 0).sum(-1) / count


LOSSES = {"softmax": _softmax, "logistic": _logistic}


def _log_q(negatives: NegativesConfig, source: Source, ids: Array) -> Array | None:
    return source.sampler.log_q[ids] if negatives.correction == "log_q" else None


def _hypers(hypers: Hypers) -> dict[str, Array]:
    return {name: hypers[name] for name in ("temperature", "strength")}


def _in_batch(negatives: NegativesConfig, loss) -> Objective:
    def score(query, item, *, ids, batch: Batch, source: Source, hypers: Hypers):
        return scores.in_batch_scores(
            query,
            item,
            item_id=batch.item,
            log_q=_log_q(negatives, source, batch.item),
            **_hypers(hypers),
        )

    return Objective(lambda batch, key, source: batch.item, score, loss)


def _sampled(negatives: NegativesConfig, loss) -> Objective:
    def ids(batch: Batch, key: Key, source: Source):
        drawn = source.sampler.draw(key, shape=(negatives.num,))
        return jnp.concatenate([batch.item, drawn])

    def score(query, item, *, ids, batch: Batch, source: Source, hypers: Hypers):
        b, drawn = batch.item.size, ids[batch.item.size :]
        return scores.sampled_scores(
            query,
            item[:b],
            item[b:],
            positive_id=batch.item,
            negative_id=drawn,
            positive_log_q=_log_q(negatives, source, batch.item),
            negative_log_q=_log_q(negatives, source, drawn),
            **_hypers(hypers),
        )

    return Objective(ids, score, loss)


def _full(negatives: NegativesConfig, loss) -> Objective:
    if negatives.correction != "none":
        raise InputError(
            "negatives.kind=full draws nothing, so there is nothing to correct; set "
            "negatives.correction=none"
        )

    def ids(batch: Batch, key: Key, source: Source):
        return jnp.arange(1, source.dataset.known_items + 1)

    def score(query, item, *, ids, batch: Batch, source: Source, hypers: Hypers):
        return scores.sampled_scores(
            query,
            item[batch.item - 1],
            item,
            positive_id=batch.item,
            negative_id=ids,
            positive_log_q=None,
            negative_log_q=None,
            **_hypers(hypers),
        )

    return Objective(ids, score, loss)
