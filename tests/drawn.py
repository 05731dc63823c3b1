"""Random configs on tiny logs: any field of any model, loss, source ..., mostly with
values that fit, now and then with one at an edge. `combinations` runs them."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import drawn_values as values
import numpy as np

from recall_jax.data.sources import logs, stream, synthetic
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.losses import negatives, objective
from recall_jax.models import itemwise, markov
from recall_jax.run.config import Experiment
from recall_jax.training import loop
from recall_jax.training import step as step_lib


@dataclasses.dataclass
class Drawing:
    """Draws fields; `drawn` notes which, path -> value."""

    rng: np.random.Generator
    share: float  # of fields that are drawn at all
    edge: float  # chance of an edge value among these
    drawn: dict[str, Any] = dataclasses.field(default_factory=dict)

    def one(self, choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def into(self, config: Any, table: dict, *, path: str) -> None:
        """Some fields of the config drawn, by a table of what fits and what may not."""
        for name, (fitting, edges) in table.items():
            if not self.chance(self.share):
                continue
            choices = edges if self.chance(self.edge) else fitting
            if choices:
                self.set(config, name, self.one(choices), path=path)

    def set(self, config: Any, name: str, value: Any, *, path: str) -> None:
        setattr(config, name, value)
        self.drawn[f"{path}.{name}"] = value


def draw(rng: np.random.Generator, *, folder: pathlib.Path) -> tuple[Experiment, dict]:
    """A config on a log of `folder` (`tiny_logs.write`) or a synthetic one, and what was
    drawn of it. About half of them are made to fit together."""
    edges = rng.choice([0.0, 0.02, 0.1], p=[0.5, 0.3, 0.2])
    drawing = Drawing(rng, share=rng.choice([0.15, 0.3, 0.6]), edge=edges)
    source = drawing.one(("synthetic", "synthetic", "logs", "logs", "stream"))
    streams = source == "stream" and not drawing.chance(0.1)
    module = drawing.one(values.STREAMED if streams else values.MODELS)
    drawing.drawn |= {"model": module.__name__.split(".")[-1], "source": source}
    config = Experiment(
        name="drawn",
        data=_source(drawing, source, folder=folder),
        model=_model(drawing, module),
        optim=step_lib.OptimConfig(),
        train=loop.TrainConfig(epochs=1, batch_size=16, scan_steps=5),
        evaluate=EvaluateConfig(
            metrics=("hr@5", "ndcg@5"), select_by="ndcg@5", indexes=(), batch_size=64
        ),
    )
    if not hasattr(config.model, "pairs") or drawing.chance(0.05):
        _objective(drawing, config)
    drawing.into(config.optim, values.OPTIM, path="optim")
    drawing.into(config.train, values.TRAIN, path="train")
    drawing.into(config.evaluate, values.EVALUATE, path="evaluate")
    if drawing.chance(0.02):
        drawing.set(config, "seed", drawing.one((-1, values.HUGE)), path="")
    if drawing.chance(0.8):
        reconcile(drawing, config)
    return config, drawing.drawn


def _source(drawing: Drawing, kind: str, *, folder: pathlib.Path):
    if kind == "synthetic":
        sizes = {"num_users": 60, "num_items": 40, "num_events": 700}
        config = synthetic.Config(**sizes, num_markets=4)
        drawing.into(config, values.SYNTHETIC, path="data")
        tables: tuple = ()
    else:
        config_class: Callable = logs.Config if kind == "logs" else stream.Config
        ending = "csv" if kind == "logs" else "parquet"
        config = config_class(path=str(folder / f"events.{ending}"), time="time")
        if drawing.chance(0.6):
            config.user_features = str(folder / f"users.{ending}")
            config.item_features = str(folder / f"items.{ending}")
            config.bags, config.text = ("tags",), ("title",)
            drawing.drawn["features"] = True
        config.text_buckets = 64
        tables = (values.LOGS,) if kind == "logs" else (values.LOGS, values.STREAM)
    for table in (values.DATA, *tables):
        drawing.into(config, table, path="data")
    return config


def _model(drawing: Drawing, module):
    config = module.Config(width=4)
    small = {"history_length": 5, "hidden": (8,), "item_hidden": (), "id_width": 4}
    if module is markov:
        small = {}
    for name, value in small.items():
        if hasattr(config, name) and getattr(config, name):
            setattr(config, name, value)
    drawing.into(config, values.MODEL_FIELDS[module], path="model")
    if hasattr(config, "pairs"):
        config.pairs = _pairs(drawing, config.pairs)
    return config


def _pairs(drawing: Drawing, given: itemwise.PairsConfig) -> itemwise.PairsConfig:
    config = dataclasses.replace(
        given,
        block=4,
        walk_length=4,
        walks_per_item=2,
        shared_negatives=8,
        sequences=dataclasses.replace(given.sequences),
    )
    drawing.into(config, values.PAIRS, path="model.pairs")
    table: dict = values.SEQUENCES
    drawing.into(config.sequences, table, path="model.pairs.sequences")
    assert isinstance(config.sequences, itemwise.SequencesConfig)
    return config


def _objective(drawing: Drawing, config: Experiment) -> None:
    config.negatives = negatives.NegativesConfig(
        num=16, hash_width=1 << 8, mask_length=5
    )
    config.loss = objective.LossConfig(temperature=0.1)
    drawing.into(config.negatives, values.NEGATIVES, path="negatives")
    drawing.into(config.loss, values.LOSS, path="loss")


def reconcile(drawing: Drawing, config: Experiment) -> None:
    """Most contradictions between drawn fields taken back, the objective's first."""
    sampling = config.negatives
    on_examples = not hasattr(config.model, "pairs")

    def put(group: str, name: str, value: Any) -> None:
        part = config
        for step in group.split("."):
            part = getattr(part, step)
        if getattr(part, name, value) != value:
            drawing.set(part, name, value, path=group)

    data, source = config.data, drawing.drawn["source"]
    if on_examples:
        _reconcile_objective(drawing, config, put, source=source)
    _reconcile_data(config, put, source=source)
    _reconcile_columns(config, put, source=source)
    if on_examples and not (sampling.kind == sampling.own == "none"):
        put("data", "label", "")
    if data.protocol not in ("given", "file_order"):
        put("train", "refit", "none")
    settings = config.evaluate
    if settings.select_by not in settings.metrics:
        put("evaluate", "select_by", settings.metrics[0] if settings.metrics else "")
    if settings.candidates != "all":
        put("evaluate", "index", "exact")
        put("evaluate", "indexes", ())
    if config.model.every_position:
        put("data", "examples_per_user", 0)
        put("data", "context", "past")
    if not on_examples:
        _reconcile_pairs(config, put, source=source)


def _reconcile_objective(
    drawing: Drawing, config: Experiment, put: Callable, *, source: str
) -> None:
    sampling, goal = config.negatives, config.loss
    if sampling.own == "exposed" and source != "synthetic":
        put("negatives", "own", "uniform")
    labelled = sampling.kind == sampling.own == "none"
    if labelled and (source != "synthetic" or config.model.every_position):
        put("negatives", "kind", "in_batch")
    elif labelled:
        put("data", "label", "conversion")
        put("loss", "name", drawing.one(("logistic", "squared")))
        put("negatives", "correction", "none")
    allowed = objective.CORRECTIONS.get(goal.name, ("none",))
    if sampling.correction not in allowed:
        put("negatives", "correction", allowed[0])
    if (
        sampling.hardest
        or sampling.kind in ("full", "none")
        or sampling.own == "exposed"
    ):
        put("negatives", "correction", "none")
    if sampling.kind == "none":
        put("negatives", "hardest", 0)
    if sampling.own != "none" and sampling.correction == "log_q":
        put("negatives", "own", "none")
    if sampling.kind in ("full", "none"):
        put("negatives", "suppress_negatives", 0.0)
    if sampling.own == "market" and source == "synthetic":
        put("negatives", "market", "market")
    elif sampling.own == "market":
        put(
            "negatives",
            "own",
            "uniform" if sampling.kind != "none" else "semi_hard",
        )
    if sampling.own == "semi_hard":
        put("negatives", "ranks", (2, 10))
        put("negatives", "correction", "none")
    if sampling.kind not in negatives.BATCH_KINDS:
        put("negatives", "frequency", "exact")
    if goal.name in objective.SIMILARITY:
        put("loss", "temperature_kind", "fixed")
    if goal.name == "gbce":
        put("negatives", "hardest", 0)
    if "item" not in sampling.mask and "positives" not in sampling.mask:
        put("negatives", "mask", ("item",))
    if sampling.kind == "full":
        put("negatives", "mask", ("item",))


def _reconcile_data(config: Experiment, put: Callable, *, source: str) -> None:
    data = config.data
    if source == "synthetic" and data.protocol == "given":
        put("data", "protocol", "temporal")
    if source == "stream":
        for name in stream.REFUSED:
            default = getattr(stream.Config(), name)
            put("data", name, default)
        if data.protocol not in stream.PROTOCOLS:
            put("data", "protocol", "temporal")
    if source == "logs" and data.protocol == "given":
        put("data", "events", ("part",))
    if data.protocol != "leave_one_out":
        put("data", "hidden_share", 0.0)
    if data.protocol in ("given", "file_order"):
        put("data", "ties", "file")
        put("data", "min_user_events", 0)
        put("data", "min_item_events", 0)
    if source == "synthetic":
        return
    if not data.time:
        put("data", "ties", "file")
        put("data", "exposures", ())
        if data.protocol == "temporal":
            put("data", "protocol", "leave_one_out")
    if not data.action:
        put("data", "exposures", ())
        put("data", "actions", ())
    for name in ("rating", "weight", "dwell"):
        if not getattr(data, name):
            put("data", f"min_{name}", 0.0)
    if data.tokens and "query" not in data.events:
        put("data", "tokens", "")
    if not data.user_features:
        put("data", "user_columns", ())
    if not data.item_features:
        put("data", "item_columns", ())
        put("data", "bags", ())
        put("data", "text", ())


def _reconcile_columns(config: Experiment, put: Callable, *, source: str) -> None:
    """Models that read what their log has."""
    featured = source == "synthetic" or bool(config.data.item_features)
    item = getattr(config.model, "item", ())
    if source == "synthetic" and "price" in item:
        put("model", "item", tuple("noise" if x == "price" else x for x in item))
    elif not featured or getattr(config.data, "item_columns", ()):
        put("model", "item", ())
    query = getattr(config.model, "query", ())
    if not featured or getattr(config.data, "user_columns", ()):
        put("model", "query", tuple(x for x in query if x not in ("age", "gender")))
    if not featured:
        for name in ("side", "cold_market"):
            put("model", name, type(getattr(config.model, name, ()))())
    texts = source == "synthetic" or bool(getattr(config.data, "text", ()))
    if "title" in item and not (config.data.text_buckets and texts):
        put("model", "item", ("item",))


def _reconcile_pairs(config: Experiment, put: Callable, *, source: str) -> None:
    pairs, cut = config.model.pairs, config.model.pairs.sequences
    if pairs.corpus != "walks":
        put("model.pairs", "removed_share", 0.0)
    if pairs.corpus != "sequences" or pairs.objective == "cbow":
        put("model.pairs", "global_context", 0.0)
    if pairs.objective == "cbow" or source != "synthetic":
        put("model.pairs", "market", "")
    if source != "synthetic":
        put("model.pairs.sequences", "conversions", ())
        if cut.cut in ("conversion", "session"):
            put("model.pairs.sequences", "cut", "user")
        put("model.pairs.sequences", "min_stay", 0.0)
    if not cut.conversions:
        put("model.pairs.sequences", "oversample", 1)
        if cut.cut == "conversion":
            put("model.pairs.sequences", "cut", "gap")
    if config.data.protocol in ("given", "file_order"):
        put("model.pairs.sequences", "repeat_seconds", 0)
        put("model.pairs.sequences", "cut", "user")
    if config.data.protocol == "given":
        put("model.pairs", "order", "set")
        put("model.pairs", "graph", "co_occurrence")
