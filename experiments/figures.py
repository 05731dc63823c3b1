"""What a trained model and the baselines beside it reach on a run's test part: the rows,
the indexes they may be searched by, the segments, and what the lists are made of."""

import contextlib
import contextvars
import functools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments import training
from recall_jax import baselines, evaluate, item_item, metrics, retrieval, segments
from recall_jax import config as config_lib
from recall_jax.config import Experiment
from recall_jax.data.dataset import Data
from recall_jax.evaluate import Result

FEWEST = (
    30  # queries of a segment with intervals: of fewer, resampling makes too little
)
CURVE = (1, 2, 5, 10, 20, 50)  # the k of curves, up to the largest of the metrics
CURVE_KINDS = ("hr", "recall", "ndcg")


Compared = tuple[dict[str, Result], float | None]
"""Test figures of the baselines by name, and EASE's l2 where it is among them."""


def measure_rows(
    config: Experiment,
    prepared: training.Prepared,
    encoder: evaluate.Encoder,
    params: Any,
    *,
    compared: Compared | None = None,
) -> dict[str, Any]:
    """Validation and test figures of the model and of the baselines beside it, as
    results.json has them; the baselines are measured unless given."""
    data, settings = prepared.data, config.evaluate
    size = settings.batch_size
    valid = evaluate.measure_model(
        encoder, params, data=data, part=data.valid, config=settings, index="exact"
    )
    # The part before has compiled what this one needs.
    vectors, encoding = _timed(
        lambda: evaluate.encode(
            encoder, params, data=data, part=data.test, batch_size=size
        )
    )
    searched = through_indexes(vectors, data=data, config=settings)
    chosen = searched[settings.index]
    baseline_rows, ease_l2 = compared or measure_baselines(config, data)
    rows = {"test": chosen.result, **baseline_rows}
    beside = {
        name: through.result
        for name, through in searched.items()
        if name != settings.index
    }
    segmented, curves = _segments(config, data, rows), _curves(config, data, rows)
    if (other := prepared.other_ties) is not None:
        rows |= _other_bigram(config, other)
    return {
        "candidates": evaluate.ranked(settings),
        "valid": valid.means(),
        "test": chosen.result.means(),
        "index": settings.index,
        "indexes": as_indexes(searched),
        "baselines": {name: rows[name].means() for name in rows if name != "test"},
        "ease_l2": ease_l2,
        "intervals": {
            name: result.intervals() for name, result in (rows | beside).items()
        },
        "segments": segmented,
        "curves": curves,
        "lists": _lists(config, data, rows),
        "test_pass_seconds": encoding + chosen.build_seconds + chosen.pass_seconds,
    }


class Through(NamedTuple):
    """A part searched by one index, and what that took."""

    result: Result
    build_seconds: float
    pass_seconds: float  # search and ranks, the index built

    def as_dict(self) -> dict[str, Any]:
        return {
            "metrics": self.result.means(),
            "build_seconds": self.build_seconds,
            "search_seconds": self.result.seconds,
            "queries_per_second": len(self.result.found.ids) / self.result.seconds,
        }


def through_indexes(
    vectors: evaluate.Vectors, *, data: Data, config: evaluate.EvaluateConfig
) -> dict[str, Through]:
    """The test part by evaluate.index, by exact, and by each of evaluate.indexes; of the
    last ones those are left out whose package is missing."""
    searched = {}
    for name in dict.fromkeys([config.index, "exact", *config.indexes]):
        try:
            searched[name] = _through(name, vectors, data=data, config=config)
        except retrieval.MissingPackage as problem:
            print(f"no row through {name}: {problem}")
    return searched


def _through(
    name: str,
    vectors: evaluate.Vectors,
    *,
    data: Data,
    config: evaluate.EvaluateConfig,
) -> Through:
    build = functools.partial(evaluate.INDEXES[name].build, vectors.items)
    index, build_seconds = _timed(build)
    search = functools.partial(index.search, vectors.queries)
    run = functools.partial(
        evaluate.measure, search, data=data, part=data.test, config=config
    )
    run()  # the first search compiles, and is not what it costs
    result, pass_seconds = _timed(run)
    return Through(result, build_seconds, pass_seconds)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    made = call()
    return made, time.perf_counter() - start


def as_indexes(searched: dict[str, Through]) -> dict[str, dict[str, Any]]:
    """Each index's figures and times, and of all but exact what they cost against it."""
    exact = searched["exact"].result
    made = {name: through.as_dict() for name, through in searched.items()}
    for name in made.keys() - {"exact"}:
        made[name]["versus_exact"] = versus(searched[name].result, exact)
    return made


def versus(result: Result, exact: Result) -> dict[str, dict[str, Any]]:
    """By metric the difference to the exact search of the same queries: absolute, with
    its 95 % interval over users, and relative, None where exact has 0."""
    gaps = {name: value - exact.values[name] for name, value in result.values.items()}
    bounds, means = evaluate.intervals(gaps), exact.means()
    return {
        name: {
            "absolute": float(gap.mean()),
            "interval": bounds[name],
            "relative": float(gap.mean()) / means[name] if means[name] else None,
        }
        for name, gap in gaps.items()
    }


def _segments(
    config: Experiment, data: Data, rows: dict[str, Result]
) -> dict[str, dict[str, Any]]:
    """Every row's figures by grouping and segment; where items were hidden from training,
    with what a random order has for those."""
    groups = segments.of_part(data, data.test)
    made = {
        group: {
            segment.name: _segment(segment, rows, names=config.evaluate.metrics)
            for segment in members
        }
        for group, members in groups.items()
    }
    if config.data.hidden_share:
        # New items come last. Each query has one target, which `chance` asks for.
        queries = groups["popularity"][-1].targets.any(axis=1)
        by_chance = evaluate.chance(data, data.test, config=config.evaluate)
        by_chance = {name: value[queries] for name, value in by_chance.items()}
        _add(made["popularity"]["new"], "chance", by_chance)
    return made


def _segment(
    segment: segments.Segment, rows: dict[str, Result], *, names: tuple[str, ...]
) -> dict[str, Any]:
    made = {
        "told": segment.told,
        "queries": int(segment.targets.any(axis=1).sum()),
        "targets": int(segment.targets.sum()),
        "rows": {},
        "intervals": {},
    }
    for name, result in rows.items():
        _add(made, name, segments.values(segment, result.ranks, names))
    return made


def _add(made: dict[str, Any], row: str, values: dict[str, np.ndarray]) -> None:
    made["rows"][row] = {name: float(value.mean()) for name, value in values.items()}
    if made["queries"] >= FEWEST:
        made["intervals"][row] = evaluate.intervals(values)


def _curves(
    config: Experiment, data: Data, rows: dict[str, Result]
) -> dict[str, dict[str, Any]]:
    """Every row's hit rate, recall and NDCG at several k, from the lists there are."""
    last = evaluate.cutoff(config.evaluate)
    sizes = [*(k for k in CURVE if k < last), last]
    names = [f"{kind}@{k}" for kind in CURVE_KINDS for k in sizes]
    count = evaluate.targets(data, data.test, seen=False).count
    made = {}
    for row, result in rows.items():
        values = metrics.metric_table(result.ranks, count, names)
        made[row] = {
            "metrics": {name: float(value.mean()) for name, value in values.items()},
            "intervals": evaluate.intervals(values),
        }
    return made


def _lists(config: Experiment, data: Data, rows: dict[str, Result]) -> dict[str, Any]:
    """What the first k of all lists are made of, k the largest of the metrics; in row
    "targets" lists of nothing but what was to be found. Nothing of sampled metrics, whose
    lists nobody would be shown."""
    if config.evaluate.candidates != "all":
        return {}
    k, num_items = evaluate.cutoff(config.evaluate), data.dataset.num_items
    table = functools.partial(metrics.list_table, num_items=num_items)
    wanted = evaluate.targets(data, data.test, seen=False).positions
    made = {"targets": table(wanted, k=wanted.shape[1])}
    made |= {name: table(result.found.ids, k=k) for name, result in rows.items()}
    return {"k": k, "rows": made}


def _other_bigram(config: Experiment, other: Data) -> dict[str, Result]:
    """The bigram on the split with ties broken the other way."""
    ties = "file" if config.data.ties == "shuffled" else "shuffled"
    search = baselines.bigram(other, other.test)
    found = evaluate.measure(
        search, data=other, part=other.test, config=config.evaluate
    )
    return {f"bigram_ties_{ties}": found}


_KEPT: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar(
    "baselines", default=None
)


@contextlib.contextmanager
def baselines_kept() -> Iterator[None]:
    """Within it, runs on the same data that measure alike share their baselines, which
    can take longer than an epoch (EASE)."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def _once(measure: Callable) -> Callable:
    """`measure` where nothing is kept; else each answer once."""

    @functools.wraps(measure)
    def known(config: Experiment, data: Data, *, ease_l2: float | None = None):
        kept = _KEPT.get()
        if kept is None:
            return measure(config, data, ease_l2=ease_l2)
        asked = [config_lib.as_dict(x) for x in (config.data, config.evaluate)]
        key = json.dumps([data.fingerprint(), *asked, ease_l2])
        if key not in kept:
            kept[key] = measure(config, data, ease_l2=ease_l2)
        return kept[key]

    return known


@_once
def measure_baselines(
    config: Experiment, data: Data, *, ease_l2: float | None = None
) -> Compared:
    """Test figures of the baselines by name, and EASE's l2."""
    rows, ease_l2 = _baselines(config, data, ease_l2=ease_l2)
    found = {
        name: evaluate.measure(
            search, data=data, part=data.test, config=config.evaluate
        )
        for name, search in rows.items()
    }
    return found, ease_l2


def _baselines(
    config: Experiment, data: Data, *, ease_l2: float | None = None
) -> tuple[dict[str, evaluate.Search], float | None]:
    """Searches of the test part by name, and EASE's l2 where it is among them; it is
    chosen on validation unless given."""
    rows = {"popularity": baselines.popularity(data, data.test)}
    if data.ordered and data.log is None:
        rows["bigram"] = baselines.bigram(data, data.test)
    if config.data.protocol == "file_order":
        rows["constant"] = baselines.penultimate(data, data.test)
    if item_item.fits(data):
        by_pairs, ease_l2 = item_item.item_knn_and_ease(
            data, data.test, config=config.evaluate, l2=ease_l2
        )
        rows |= by_pairs
    return {**rows, **config.data.baselines(data, data.test)}, ease_l2
