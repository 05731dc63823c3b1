"""The choice of negatives: config, its checks, and what a step reads to draw them.

Negatives are *columns* that a whole batch shares (`kind`), candidates of each example's
own (`own`), or both, in one denominator. `negatives.md` beside this file says which to
choose and what each assumes.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from recall_jax.data.arrays import Events
from recall_jax.data.prepared import Data
from recall_jax.losses import frequency as frequency_lib
from recall_jax.losses import sampling
from recall_jax.types import InputError, bounded, check_fields, choice

BATCH_KINDS = ("in_batch", "mixed", "queue")
DRAWN_KINDS = ("uniform", "popularity", "log_uniform", "mixed")
WIDEST = 1 << 24  # hash arrays: more would take more memory than counting items
DRAWN_OWN = ("uniform", "market")  # with known chances
KINDS = (*BATCH_KINDS, "uniform", "popularity", "log_uniform", "full", "none")
OWN = ("none", *DRAWN_OWN, "exposed", "semi_hard")
CORRECTIONS = ("log_q", "sampled", "positive_excluded", "none")
MASKS = ("item", "user", "history", "positives")
FREQUENCIES = ("exact", "gaps", "sketch")


@dataclasses.dataclass
class NegativesConfig:
    """Where negatives come from, which are masked, and the correction for how they
    were drawn."""

    kind: str = choice("in_batch", KINDS)  # columns; "none": no column is shared
    num: int = bounded(1024, 1)  # columns drawn a step, or kept in the queue
    # popularity^alpha, within a market too; beyond 10, more than a float64 holds.
    alpha: float = bounded(0.75, 0, 10)
    correction: str = choice("positive_excluded", CORRECTIONS)
    strength: float = bounded(1.0, 0)  # of the correction
    mask: tuple[str, ...] = choice(("item",), MASKS)  # what an example does not meet
    mask_length: int = bounded(64, 1)  # items that the masks history and positives hold
    hardest: int = bounded(0, 0)  # columns of each example kept, by score; 0: all
    own: str = choice("none", OWN)  # candidates of each example's own
    num_own: int = bounded(4, 1)  # of them
    market: str = ""  # the item column of own=market
    ranks: tuple[int, ...] = (20, 120)  # of own=semi_hard: from, and up to
    refresh_every: int = bounded(1, 1)  # dispatches between refreshes of its index
    suppress_positives: float = bounded(0.0, 0)  # word2vec's threshold, as 1e-3; 0: off
    suppress_negatives: float = bounded(0.0, 0)
    frequency: str = choice("exact", FREQUENCIES)  # how q of a batch's items is known
    # How fast gaps and sketch follow a drift.
    frequency_rate: float = bounded(0.01, 0, 1)
    num_hashes: int = bounded(4, 1)  # of gaps and sketch
    hash_width: int = bounded(1 << 16, 2, WIDEST)  # a power of two


def check(config: NegativesConfig) -> None:
    """Raise InputError for names and combinations that mean nothing."""
    check_fields(config, "--config.negatives")
    shared, corrected = config.kind != "none", config.correction != "none"
    low, high = (*config.ranks, -1, -1)[:2]
    width = config.hash_width
    problems = {
        "negatives.kind=full draws nothing, so there is nothing to correct; set "
        "negatives.correction=none": config.kind == "full" and corrected,
        'negatives.kind=full without "item" in negatives.mask would count the positive '
        "twice": config.kind == "full" and "item" not in config.mask,
        f"negatives.correction={config.correction} without hits masked would count the "
        'positive twice; put "item" into negatives.mask': config.correction
        in ("sampled", "positive_excluded")
        and shared
        and not {"item", "positives"} & set(config.mask),
        f"negatives.own={config.own} was not drawn from the columns' q, which "
        "negatives.correction=log_q takes off every item; set "
        "negatives.correction=positive_excluded": config.own != "none"
        and config.correction == "log_q",
        "negatives.hardest picks columns by their score, not by chance, so no correction "
        "is right; set negatives.correction=none": config.hardest > 0 and corrected,
        f"negatives.hardest {config.hardest} is more than the negatives.num "
        f"{config.num} that are drawn; lower it": config.kind
        in ("uniform", "popularity", "log_uniform")
        and config.hardest > config.num,
        "negatives.hardest picks among columns, and negatives.kind=none has none; set it "
        "to 0": config.hardest > 0 and not shared,
        "negatives.kind=none and negatives.own=none draw nothing, so there is nothing to "
        "correct; set negatives.correction=none": corrected
        and config.kind == config.own == "none",
        f"negatives.own={config.own} is not drawn with known chances; beside "
        "negatives.kind=none set negatives.correction=none": (
            not shared and config.own not in DRAWN_OWN and corrected
        ),
        "negatives.own=market needs the item column of the markets; name it in "
        "negatives.market": config.own == "market" and not config.market,
        f"negatives.ranks is {config.ranks}; it must be two ranks, the first below the "
        "second": config.own == "semi_hard"
        and not (len(config.ranks) == 2 and 0 <= low < high),
        "negatives.suppress_negatives drops columns that are drawn, and "
        f"negatives.kind={config.kind} draws none; set it to 0": config.suppress_negatives
        > 0
        and config.kind in ("full", "none"),
        f"negatives.hash_width is {width}; it must be a power of two": width
        & (width - 1)
        > 0,
        "negatives.frequency estimates q of a batch's items, of which negatives.kind="
        f"{config.kind} makes no use; set negatives.frequency=exact": (
            config.frequency != "exact" and config.kind not in BATCH_KINDS
        ),
    }
    for text, wrong in problems.items():
        if wrong:
            raise InputError(text)


def advice(config: NegativesConfig) -> str:
    """What somebody who chose this should know; "" mostly."""
    masked = {"item", "positives"} & set(config.mask)
    if config.correction == "log_q" and masked:
        return (
            "negatives.correction=log_q is right on average only with hits left in, and "
            f"{min(masked)} masks them; see recall_jax/losses/negatives.md"
        )
    return ""


class Suppression(NamedTuple):
    """word2vec's keep probability by catalogue id, and log sum_i q(i) keep(i)."""

    keep: Float[Array, "V_and_1"]
    log_kept: Float[Array, ""]


class StepData(NamedTuple):
    """What a step reads and never writes: arguments of the program, not constants."""

    dataset: Events
    sampler: sampling.Sampler | None = None  # of the drawn columns
    exact: frequency_lib.ExactFrequency | None = None  # of an example's item
    positives: Suppression | None = None
    negatives: Suppression | None = None  # of a batch's columns
    own: sampling.Grouped | None = None  # of own candidates that are drawn


def make_source(data: Data, config: NegativesConfig) -> StepData:
    """The data set and the samplers of a config's negatives: items with training events.

    The others all read one unknown row; as negatives they would teach it, and so every
    new item, to be low, whatever its features say. A batch's items follow the examples;
    what is drawn goes by all training events, some of which may be no examples.
    """
    dataset = data.dataset
    count = np.asarray(dataset.item_count)[1:]
    _check_fits(config, data)
    negatives = _suppression(count, threshold=config.suppress_negatives)
    keep = (np.arange(len(count)) < dataset.known_items).astype(np.float64)
    if negatives is not None and config.kind != "mixed":  # there, only its batch
        keep *= np.asarray(negatives.keep[1:])
    return StepData(
        dataset,
        _sampler(config, data.popularity[1:], keep=keep),
        frequency_lib.exact(count),
        positives=_suppression(count, threshold=config.suppress_positives),
        negatives=negatives,
        own=_groups(config, data),
    )


def _sampler(
    config: NegativesConfig, count: np.ndarray, *, keep: np.ndarray
) -> sampling.Sampler | None:
    """Of the drawn columns; None where there are none."""
    if config.kind not in DRAWN_KINDS:
        return None
    if config.kind == "popularity":
        return sampling.popularity(count, alpha=config.alpha, keep=keep)
    if config.kind == "log_uniform":
        return sampling.log_uniform(len(count), keep=keep)
    return sampling.uniform(len(count), keep=keep)


def _check_fits(config: NegativesConfig, data: Data) -> None:
    known_items = data.dataset.known_items
    if config.own == "semi_hard" and config.ranks[1] > known_items:
        raise InputError(
            f"negatives.ranks reach to {config.ranks[1]}, but only {known_items} items have "
            "training events; lower them"
        )
    if config.own == "exposed" and data.dataset.shown_items is None:
        raise InputError(
            f"negatives.own=exposed needs exposures with times, and {data.source} has "
            "none that were passed over in training: name the columns and the actions, "
            "--config.data.time=COLUMN --config.data.action=COLUMN "
            "--config.data.exposures=shown,..."
        )


def _suppression(count: np.ndarray, *, threshold: float) -> Suppression | None:
    if threshold <= 0:
        return None
    keep = sampling.keep_probability(count, threshold=threshold)
    kept = np.sum(count * keep) / np.sum(count)
    keep = jnp.asarray(np.append(0.0, keep), jnp.float32)
    return Suppression(keep, jnp.asarray(np.log(kept), jnp.float32))


def _groups(config: NegativesConfig, data: Data) -> sampling.Grouped | None:
    """Of the own candidates: the markets, or one group of all known items."""
    if config.own == "uniform":
        everywhere = np.zeros(data.dataset.num_items, np.int64)
        is_known = np.arange(data.dataset.num_items) < data.dataset.known_items
        return sampling.grouped(is_known.astype(np.float64), everywhere)
    if config.own != "market":
        return None
    weight = sampling.popularity_weight(data.popularity[1:], alpha=config.alpha)
    return by_market(data, config.market, weight=weight, field="negatives.market")


def by_market(
    data: Data, name: str, *, weight: np.ndarray, field: str
) -> sampling.Grouped:
    """Items by `weight` [V] within each value of the item column `name`; InputError,
    which names the config's `field`, where it is no column of markets."""
    column = data.schema.pick((name,), side="item")[0]
    if column.width or not column.has_ids or column.name == "item":
        raise InputError(
            f"{field} {name!r} must be a categorical item column with one value an item"
        )
    group = np.asarray(data.dataset.item_columns[name])[1:]
    return sampling.grouped(weight, group)


class Queue(NamedTuple):
    """Cross-batch memory (Wang et al. 2020): recent item vectors, oldest overwritten."""

    vector: Float[Array, "n d"]
    item: Int[Array, "n"]  # catalogue ids; 0: not filled yet
    user: Int[Array, "n"]
    at: Int[Array, ""]  # where the next goes


class Remembered(NamedTuple):
    """What the negatives remember between steps, in the training state."""

    estimator: frequency_lib.Gaps | frequency_lib.Sketch | None = None
    queue: Queue | None = None
    index: Float[Array, "V d"] | None = None  # item vectors as of the last refresh


def init_remembered(
    config: NegativesConfig, *, batch_size: int, num_items: int, width: int
) -> Remembered:
    """The state before the first step; `width` is that of the vectors."""
    estimator = queue = index = None
    if config.frequency != "exact":
        make = {"gaps": frequency_lib.init_gaps, "sketch": frequency_lib.init_sketch}
        estimator = make[config.frequency](
            num_hashes=config.num_hashes, width=config.hash_width
        )
    if config.kind == "queue":
        if config.num < batch_size:
            raise InputError(
                f"negatives.num {config.num}, the length of the queue, must be at least "
                f"the {batch_size} examples of a batch; raise it, or lower "
                "train.batch_size"
            )
        zeros = jnp.zeros(config.num, jnp.int32)
        vectors = jnp.zeros((config.num, width))
        queue = Queue(vectors, zeros, zeros + 0, jnp.zeros((), jnp.int32))
    if config.own == "semi_hard":
        index = jnp.zeros((num_items, width))
    return Remembered(estimator, queue, index)
