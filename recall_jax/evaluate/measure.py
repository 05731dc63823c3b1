"""Ranks of what users met next, and what they say of a model."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from recall_jax.data.log import ranges
from recall_jax.data.prepared import Data, Part
from recall_jax.evaluate import encode, sampled
from recall_jax.evaluate import metrics as metrics_lib
from recall_jax.evaluate.encode import Towers
from recall_jax.index import kinds
from recall_jax.index import search as search_lib
from recall_jax.types import InputError, bounded, check_fields, choice

SEEN = ("auto", "removed", "kept")
USUAL = ("hr@10", "ndcg@10", "recall@20", "ndcg@20", "mrr@20")


@dataclasses.dataclass
class EvaluateConfig:
    """What is measured, and how seen items are treated."""

    metrics: tuple[str, ...] = choice(USUAL, filled=True)
    select_by: str = "ndcg@10"  # the validation metric that chooses the checkpoint
    seen: str = choice("auto", SEEN)  # auto: kept by protocol or if users repeat
    index: str = choice("exact", kinds.INDEXES)  # what the test row is searched by
    # Rows beside it; exact is always among them.
    indexes: tuple[str, ...] = choice(("scann",), kinds.INDEXES)
    batch_size: int = bounded(1024, 1)  # users and items encoded at a time
    # Others than all, to read the figures of others; they mislead.
    candidates: str = choice("all", ("all", *sampled.KINDS))
    num_candidates: int = bounded(100, 1)  # drawn beside a query's targets
    candidates_seed: int = bounded(0, 0)


def cutoff(config: EvaluateConfig) -> int:
    """The largest k of the metrics."""
    try:
        return max(metrics_lib.parse(name)[1] for name in config.metrics)
    except InputError as problem:
        raise InputError(f"evaluate.metrics: {problem}") from problem


def ranked(config: EvaluateConfig) -> str:
    """What a target is ranked among, for people; it belongs beside every figure."""
    drawn = config.num_candidates, config.candidates_seed
    return sampled.described(config.candidates, *drawn)


def over_all(config: EvaluateConfig) -> EvaluateConfig:
    """The same with the whole catalogue ranked, as whatever is chosen is chosen."""
    return dataclasses.replace(config, candidates="all")


def check(config: EvaluateConfig, data: Data) -> None:
    """Raise on what would fail after training: k, names, an empty part, a leak."""
    check_fields(config, "--config.evaluate")
    if (k := cutoff(config)) > data.dataset.num_items:
        raise InputError(
            f"evaluate.metrics asks for k={k}, but the catalogue has only "
            f"{data.dataset.num_items} items; lower k, as in "
            "--config.evaluate.metrics=hr@1,ndcg@1 --config.evaluate.select_by=ndcg@1"
        )
    if config.select_by not in config.metrics:
        raise InputError(
            f"evaluate.select_by {config.select_by!r} is not among evaluate.metrics: "
            + ", ".join(config.metrics)
        )
    _check_indexes(config)
    _check_candidates(config, data)
    _check_training(data)
    for name, share, part in (
        ("validation", "valid_share", data.valid),
        ("test", "test_share", data.test),
    ):
        if not len(part):
            raise InputError(
                f"{data.source}: the {name} part is empty; raise data.{share}, "
                "or bring a longer log"
            )
        check_leak(data, part, seen=removes_seen(config, data))


def _check_indexes(config: EvaluateConfig) -> None:
    try:  # of the rows beside it, one that cannot be is left out
        INDEXES[config.index].build(np.ones((2, 2), np.float32))
    except search_lib.MissingPackage as problem:
        raise InputError(
            f"evaluate.index={config.index}: {problem}; or set evaluate.index=exact"
        ) from problem


def _check_candidates(config: EvaluateConfig, data: Data) -> None:
    sampled.check(
        config.candidates,
        k=cutoff(config),
        num=config.num_candidates,
        num_queries=max(len(data.valid), len(data.test)),
        num_items=data.dataset.num_items,
        indexes=(config.index, *config.indexes),
    )


def _check_training(data: Data) -> None:
    """No held-out event may train: not as an example, not as a count."""
    dataset, begin = data.dataset, data.offsets[1:-1]
    user, position = (
        np.asarray(dataset.example_user),
        np.asarray(dataset.example_position),
    )
    inside = (position >= data.offsets[user]) & (position < data.train_stop[user])
    trained = int((data.train_stop[1:] - begin).sum())
    if not inside.all() or data.popularity.sum() != trained:
        raise InputError(
            f"{data.source}: {int((~inside).sum())} training examples are held out, and "
            f"popularity counts {data.popularity.sum()} events of {trained} that train"
        )
    for part in (data.valid, data.test):
        if (part.start < data.train_stop[part.user]).any():
            raise InputError(f"{data.source}: a target stands in the training part")


def removes_seen(config: EvaluateConfig, data: Data) -> bool:
    """Whether items of a user's history are removed from his list."""
    if config.seen == "auto":
        return not (data.repeats or data.keeps_seen)
    return config.seen == "removed"


def seen_items(config: EvaluateConfig, data: Data) -> tuple[str, str]:
    """What happens to items of a user's history, and why, for people."""
    done = "removed" if removes_seen(config, data) else "kept"
    if config.seen != "auto":
        return done, f"evaluate.seen={config.seen}"
    if data.keeps_seen:
        return done, "so has the protocol"
    if not data.repeats:
        return done, "no user meets an item again"
    share = f"{data.repeats:,} of {len(data.items):,} events"
    share += f" ({data.repeats / len(data.items):.2%})"
    return done, f"{share} are of an item that their user has met before"


class Targets(NamedTuple):
    """What each query of a part should find, and what it must not return."""

    positions: np.ndarray  # [q, t] int32 row positions (catalogue id - 1), -1 padding
    count: np.ndarray  # [q] distinct targets
    exclude: search_lib.Exclude | None


def targets(data: Data, part: Part, *, seen: bool) -> Targets:
    """The distinct targets of each query; with `seen`, its history to be removed."""
    lengths = part.stop - part.start
    column = np.arange(lengths.max())
    filled = column < lengths[:, None]
    index = np.where(filled, part.start[:, None] + column, 0)
    rows = np.where(filled, data.items[index] - 1, -1).astype(np.int32)
    if rows.shape[1] > 1:
        rows = -np.sort(-rows, axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
    exclude = None
    if seen:
        begin = data.offsets[part.user]
        offsets = np.concatenate([[0], np.cumsum(part.start - begin)])
        past = data.items[ranges(begin, part.start)]
        exclude = search_lib.Exclude(offsets, past - 1)
    return Targets(rows, (rows >= 0).sum(1), exclude)


def ranked_targets(data: Data, part: Part, *, config: EvaluateConfig) -> Targets:
    """As `targets`, with all removed that a config does not rank."""
    wanted = targets(data, part, seen=removes_seen(config, data))
    if config.candidates == "all":
        return wanted
    only = sampled.only_drawn(
        wanted.positions,
        popularity=data.popularity[1:],
        seen=wanted.exclude,
        kind=config.candidates,
        num=config.num_candidates,
        seed=config.candidates_seed,
    )
    return wanted._replace(exclude=only)


def check_leak(data: Data, part: Part, *, seen: bool) -> None:
    """A target's leak into its own history is an error, never a better figure.

    No event of a history may be later than the targets; and where seen items are
    removed, a target among them could not be found, so the log must not hold one.
    """
    if data.times is not None:
        some = part.start > data.offsets[part.user]
        before = data.times[np.maximum(part.start - 1, 0)]
        late = some & (before > data.times[part.start])
        if late.any():
            user = data.vocabularies["user"].ids[part.user[late][0] - 1]
            raise InputError(f"user {user!r}: history holds an event after the target")
    if not seen:
        return
    wanted = targets(data, part, seen=True)
    query = np.repeat(np.arange(len(part)), np.diff(wanted.exclude.offsets))
    pairs = query * data.dataset.num_items + wanted.exclude.ids
    rows = np.arange(len(part))[:, None] * data.dataset.num_items + wanted.positions
    leaked = np.isin(rows[wanted.positions >= 0], pairs)
    if leaked.any():
        raise InputError(
            f"{int(leaked.sum())} targets stand in their own user's history, which "
            "evaluate.seen=removed takes out of the list; the log repeats items: set "
            "evaluate.seen=kept"
        )


class Result(NamedTuple):
    """Per-query values of each metric, and what they are made of."""

    values: dict[str, np.ndarray]
    lists: search_lib.Found
    seconds: float  # of the search alone
    ranks: np.ndarray  # [q, t] int32, as `metrics.target_ranks`

    def means(self) -> dict[str, float]:
        return {name: float(value.mean()) for name, value in self.values.items()}

    def intervals(self) -> dict[str, list[float]]:
        return intervals(self.values)


def intervals(values: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """95 % bootstrap intervals over users of each metric's mean."""
    columns = np.stack(list(values.values()), axis=1)
    bounds = np.stack(metrics_lib.bootstrap_interval(columns), axis=1)
    return dict(zip(values, bounds.tolist(), strict=True))


Search = Callable[[int, search_lib.Exclude | None], search_lib.Found]


def measure_search(
    search: Search, *, data: Data, part: Part, config: EvaluateConfig
) -> Result:
    """Search with k + 1, so that a tie across the cut-off shows, and rank."""
    wanted = ranked_targets(data, part, config=config)
    k = min(cutoff(config) + 1, data.dataset.num_items)
    start = time.perf_counter()
    answer = search(k, wanted.exclude)
    seconds = time.perf_counter() - start
    if k <= cutoff(config):  # a list of the whole catalogue: nothing comes after it
        ids, scores = answer
        answer = search_lib.Found(
            np.pad(ids, ((0, 0), (0, 1)), constant_values=-1),
            np.pad(scores, ((0, 0), (0, 1)), constant_values=-np.inf),
        )
    ranks = metrics_lib.target_ranks(
        answer.ids, answer.scores, targets=wanted.positions
    )
    values = metrics_lib.metric_table(ranks, wanted.count, config.metrics)
    return Result(values, answer, seconds, ranks)


def chance(data: Data, part: Part, *, config: EvaluateConfig) -> dict[str, np.ndarray]:
    """Per-query values of each metric that a random order has on average, for queries
    with one target each."""
    places = np.arange(cutoff(config), dtype=np.int32)[:, None]
    one = np.ones(len(places), np.int64)
    value = metrics_lib.metric_table(places, one, config.metrics)
    exclude = ranked_targets(data, part, config=config).exclude
    gone = 0 if exclude is None else np.diff(exclude.offsets)
    left = np.broadcast_to(data.dataset.num_items - gone, (len(part),))
    last = np.minimum(left, len(places)) - 1  # a list may end before the cut-off
    return {name: np.cumsum(x)[last] / left for name, x in value.items()}


INDEXES = kinds.INDEXES


def measure_model(
    encoder: Towers,
    params,
    *,
    data: Data,
    part: Part,
    config: EvaluateConfig,
    index: str,
) -> Result:
    """A model's metrics on a part through one index over all items."""
    vectors = encode.encode_both(
        encoder, params, data=data, part=part, batch_size=config.batch_size
    )
    search = functools.partial(
        INDEXES[index].build(vectors.items).search, vectors.queries
    )
    return measure_search(search, data=data, part=part, config=config)
