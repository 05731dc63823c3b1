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

from recall_jax.data.prepared import Data
from recall_jax.evaluate import baselines, encode, measure, metrics
from recall_jax.evaluate import segments as segments_lib
from recall_jax.evaluate.measure import Result
from recall_jax.index import search as search_lib
from recall_jax.run import config as config_lib
from recall_jax.run import data as data_lib
from recall_jax.run.config import Experiment

FEWEST = (
    30  # queries of a segment with intervals: of fewer, resampling makes too little
)


CURVE = (1, 2, 5, 10, 20, 50)  # the k of curves, up to the largest of the metrics


CURVE_KINDS = ("hr", "recall", "ndcg")


class Figures(NamedTuple):
    """Of some queries."""

    means: dict[str, float]
    intervals: dict[str, list[float]] | None  # none of queries too few


class Row(NamedTuple):
    """What results.json says of one ranking of the test part."""

    result: Result
    intervals: dict[str, list[float]]
    segments: dict[str, dict[str, Figures]]  # by grouping and segment
    curve: Figures  # at several k
    lists: dict[str, float]  # what they are made of; {} of sampled candidates


class Compared(NamedTuple):
    """What stands beside a model, the same for all on one data set."""

    rows: dict[str, Row]  # of baselines
    other_ties: dict[str, Row]  # the bigram's with ties broken the other way
    ease_l2: float | None  # where EASE is among them


def measure_rows(
    config: Experiment,
    prepared: data_lib.Prepared,
    encoder: encode.Towers,
    params: Any,
    *,
    compared: Compared | None = None,
) -> dict[str, Any]:
    """Validation and test figures of the model and of the baselines beside it, as
    results.json has them; the baselines are measured unless given."""
    data, settings = prepared.data, config.evaluate
    size = settings.batch_size
    valid = measure.measure_model(
        encoder, params, data=data, part=data.valid, config=settings, index="exact"
    )
    # The part before has compiled what this one needs.
    vectors, encoding = _timed(
        lambda: encode.encode_both(
            encoder, params, data=data, part=data.test, batch_size=size
        )
    )
    searched = through_indexes(vectors, data=data, config=settings)
    chosen = searched[settings.index]
    comparison = compared or compare(config, prepared)
    rows = {"test": as_row(chosen.result, config=config, data=data), **comparison.rows}
    intervals = {
        name: row.intervals for name, row in (rows | comparison.other_ties).items()
    }
    intervals |= {
        name: through.result.intervals()
        for name, through in searched.items()
        if name != settings.index
    }
    baselines_beside = comparison.rows | comparison.other_ties
    return {
        "candidates": measure.ranked(settings),
        "valid": valid.means(),
        "test": chosen.result.means(),
        "index": settings.index,
        "indexes": as_indexes(searched),
        "baselines": {n: row.result.means() for n, row in baselines_beside.items()},
        "ease_l2": comparison.ease_l2,
        "intervals": intervals,
        "segments": _segments(config, data, rows),
        "curves": {
            name: {"metrics": row.curve.means, "intervals": row.curve.intervals}
            for name, row in rows.items()
        },
        "lists": _lists(config, data, rows | comparison.other_ties),
        "test_pass_seconds": encoding + chosen.build_seconds + chosen.pass_seconds,
    }


def as_row(result: Result, *, config: Experiment, data: Data) -> Row:
    """Everything that is told of a result on the test part."""
    names = config.evaluate.metrics
    segmented = {
        group: {
            segment.name: _figures(
                segments_lib.segment_values(segment, result.ranks, names), fewest=FEWEST
            )
            for segment in members
        }
        for group, members in segments_lib.of_part(data, data.test).items()
    }
    last = measure.cutoff(config.evaluate)
    sizes = [*(k for k in CURVE if k < last), last]
    curve = metrics.metric_table(
        result.ranks,
        measure.targets(data, data.test, seen=False).count,
        [f"{kind}@{k}" for kind in CURVE_KINDS for k in sizes],
    )
    at_each_k, shown = _figures(curve, fewest=1), _shown(result, config, data)
    return Row(result, result.intervals(), segmented, at_each_k, shown)


def _shown(result: Result, config: Experiment, data: Data) -> dict[str, float]:
    """What lists are made of; nobody would be shown those of sampled candidates."""
    if config.evaluate.candidates != "all":
        return {}
    k, num_items = measure.cutoff(config.evaluate), data.dataset.num_items
    return metrics.list_table(result.lists.ids, k=k, num_items=num_items)


def _figures(values: dict[str, np.ndarray], *, fewest: int) -> Figures:
    (num,) = {len(value) for value in values.values()}
    means = {name: float(value.mean()) for name, value in values.items()}
    return Figures(means, measure.intervals(values) if num >= fewest else None)


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
            "queries_per_second": len(self.result.lists.ids) / self.result.seconds,
        }


def through_indexes(
    vectors: encode.Vectors, *, data: Data, config: measure.EvaluateConfig
) -> dict[str, Through]:
    """The test part by evaluate.index, by exact, and by each of evaluate.indexes; of the
    last ones those are left out whose package is missing."""
    searched = {}
    for name in dict.fromkeys([config.index, "exact", *config.indexes]):
        try:
            searched[name] = _through(name, vectors, data=data, config=config)
        except search_lib.MissingPackage as problem:
            print(f"no row through {name}: {problem}")
    return searched


def _through(
    name: str,
    vectors: encode.Vectors,
    *,
    data: Data,
    config: measure.EvaluateConfig,
) -> Through:
    build = functools.partial(measure.INDEXES[name].build, vectors.items)
    index, build_seconds = _timed(build)
    search = functools.partial(index.search, vectors.queries)
    run = functools.partial(
        measure.measure_search, search, data=data, part=data.test, config=config
    )
    run()  # the first search compiles, and is not what it costs
    result, pass_seconds = _timed(run)
    return Through(result, build_seconds, pass_seconds)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def as_indexes(searched: dict[str, Through]) -> dict[str, dict[str, Any]]:
    """Each index's figures and times, and of all but exact what they cost against it."""
    exact = searched["exact"].result
    indexes = {name: through.as_dict() for name, through in searched.items()}
    for name in indexes.keys() - {"exact"}:
        indexes[name]["versus_exact"] = versus(searched[name].result, exact)
    return indexes


def versus(result: Result, exact: Result) -> dict[str, dict[str, Any]]:
    """By metric the difference to the exact search of the same queries: absolute, with
    its 95 % interval over users, and relative, None where exact has 0."""
    gaps = {name: value - exact.values[name] for name, value in result.values.items()}
    bounds, means = measure.intervals(gaps), exact.means()
    return {
        name: {
            "absolute": float(gap.mean()),
            "interval": bounds[name],
            "relative": float(gap.mean()) / means[name] if means[name] else None,
        }
        for name, gap in gaps.items()
    }


def _segments(
    config: Experiment, data: Data, rows: dict[str, Row]
) -> dict[str, dict[str, Any]]:
    """Every row's figures by grouping and segment; where items were hidden from training,
    with what a random order has for those."""
    groups = segments_lib.of_part(data, data.test)
    segments = {
        group: {
            segment.name: _segment(
                segment,
                {n: row.segments[group][segment.name] for n, row in rows.items()},
            )
            for segment in members
        }
        for group, members in groups.items()
    }
    if config.data.hidden_share:
        # New items come last. Each query has one target, which `chance` asks for.
        queries = groups["popularity"][-1].targets.any(axis=1)
        by_chance = measure.chance(data, data.test, config=config.evaluate)
        by_chance = {name: value[queries] for name, value in by_chance.items()}
        _add(
            segments["popularity"]["new"], "chance", _figures(by_chance, fewest=FEWEST)
        )
    return segments


def _segment(segment: segments_lib.Segment, rows: dict[str, Figures]) -> dict[str, Any]:
    content = {
        "told": segment.description,
        "queries": int(segment.targets.any(axis=1).sum()),
        "targets": int(segment.targets.sum()),
        "rows": {},
        "intervals": {},
    }
    for name, figures in rows.items():
        _add(content, name, figures)
    return content


def _add(content: dict[str, Any], row: str, figures: Figures) -> None:
    content["rows"][row] = figures.means
    if figures.intervals is not None:
        content["intervals"][row] = figures.intervals


def _lists(config: Experiment, data: Data, rows: dict[str, Row]) -> dict[str, Any]:
    """What the first k of all lists are made of, k the largest of the metrics; in row
    "targets" lists of nothing but what was to be found. Nothing of sampled metrics."""
    if config.evaluate.candidates != "all":
        return {}
    wanted = measure.targets(data, data.test, seen=False).positions
    k, num_items = wanted.shape[1], data.dataset.num_items
    lists = {"targets": metrics.list_table(wanted, k=k, num_items=num_items)}
    lists |= {name: row.lists for name, row in rows.items()}
    return {"k": measure.cutoff(config.evaluate), "rows": lists}


_KEPT: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar(
    "baselines", default=None
)


@contextlib.contextmanager
def baselines_kept() -> Iterator[None]:
    """Within it, runs on the same data that measure alike share what stands beside them:
    it can take longer than an epoch (EASE)."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def _once(make: Callable[[], Any], *, config: Experiment, data: Data, of: Any) -> Any:
    """What `make` gives; while such things are kept, made once for the same `of`."""
    if (kept := _KEPT.get()) is None:
        return make()
    configs = [config_lib.as_dict(x) for x in (config.data, config.evaluate)]
    key = json.dumps([data.fingerprint(), *configs, of])
    if key not in kept:
        kept[key] = make()
    return kept[key]


def compare(config: Experiment, prepared: data_lib.Prepared) -> Compared:
    """The rows beside a model's."""
    make = functools.partial(_compare, config, prepared)
    return _once(make, config=config, data=prepared.data, of="rows")


def _compare(config: Experiment, prepared: data_lib.Prepared) -> Compared:
    data, other = prepared
    results, ease_l2 = measure_baselines(config, data)
    rows = {name: as_row(x, config=config, data=data) for name, x in results.items()}
    turned = {} if other is None else _other_bigram(config, other)
    return Compared(rows, turned, ease_l2)


def _other_bigram(config: Experiment, other: Data) -> dict[str, Row]:
    """The bigram on the split with ties broken the other way."""
    ties = "file" if config.data.ties == "shuffled" else "shuffled"
    search = baselines.bigram(other, other.test)
    result = measure.measure_search(
        search, data=other, part=other.test, config=config.evaluate
    )
    # Its segments are of other targets, and stand beside nobody's.
    shown, no_curve = _shown(result, config, other), Figures({}, None)
    return {f"bigram_ties_{ties}": Row(result, result.intervals(), {}, no_curve, shown)}


def measure_baselines(
    config: Experiment, data: Data, *, ease_l2: float | None = None
) -> tuple[dict[str, Result], float | None]:
    """Test figures of the baselines by name, and EASE's l2."""
    make = functools.partial(_measure_baselines, config, data, ease_l2=ease_l2)
    return _once(make, config=config, data=data, of=["baselines", ease_l2])


def _measure_baselines(
    config: Experiment, data: Data, *, ease_l2: float | None
) -> tuple[dict[str, Result], float | None]:
    rows, ease_l2 = _baselines(config, data, ease_l2=ease_l2)
    results = {
        name: measure.measure_search(
            search, data=data, part=data.test, config=config.evaluate
        )
        for name, search in rows.items()
    }
    return results, ease_l2


def _baselines(
    config: Experiment, data: Data, *, ease_l2: float | None = None
) -> tuple[dict[str, measure.Search], float | None]:
    """Searches of the test part by name, and EASE's l2 where it is among them; it is
    chosen on validation unless given."""
    rows = {"popularity": baselines.popularity(data, data.test)}
    if data.ordered and data.log is None:
        rows["bigram"] = baselines.bigram(data, data.test)
    if config.data.protocol == "file_order":
        rows["constant"] = baselines.penultimate(data, data.test)
    if baselines.fits(data):
        by_pairs, ease_l2 = baselines.item_knn_and_ease(
            data, data.test, config=config.evaluate, l2=ease_l2
        )
        rows |= by_pairs
    if oracle := baselines.oracle(config.data, data, data.test):
        rows["oracle"] = oracle
    return rows, ease_l2
