"""Run folders that nothing trained: config.json, data.json, metrics.jsonl, results.json."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.common import cells, cli
from recall_jax.run import config as config_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run.config import Experiment

METRICS = ("hr@10", "ndcg@10", "recall@20")
BASELINES = {"popularity": 0.05, "bigram": 0.2, "oracle": 0.6}
EPOCHS = 4


def experiment(name: str = "dssm_synthetic", **overrides: Any) -> Experiment:
    """A config; an override is named with _of_ for the dot: temperature_of_loss=0.1."""
    config = dataclasses.replace(cli.load_config("dssm_synthetic"), name=name)
    config.evaluate = dataclasses.replace(config.evaluate, metrics=METRICS)
    for field, value in overrides.items():
        field, _, group = field.partition("_of_")
        setattr(getattr(config, group) if group else config, field, value)
    return config


def write(
    folder: pathlib.Path,
    config: Experiment,
    *,
    level: float = 0.3,
    protocol: str = "leave_one_out, ties in file order",
    source: str = "a log",
    results: dict[str, Any] | None = None,
    epochs: int = EPOCHS,
    measured: Sequence[str] = METRICS,
) -> pathlib.Path:
    """A finished run whose figures are `level` and a little more; `results` replaces some
    of results.json, and `measured` are those of METRICS that its rows have."""
    begin(folder, config, level=level, protocol=protocol, source=source, epochs=epochs)
    content = results_of(config, level=level, protocol=protocol) | (results or {})
    content = _only(measured, content) | {"curves": content["curves"]}
    folder_lib.write_json(folder / "results.json", content)
    return folder


def begin(
    folder: pathlib.Path,
    config: Experiment,
    *,
    level: float = 0.3,
    protocol: str = "leave_one_out, ties in file order",
    source: str = "a log",
    epochs: int = 2,
) -> pathlib.Path:
    """A run that is not finished."""
    folder.mkdir(parents=True)
    folder_lib.write_json(folder / "config.json", config_lib.as_dict(config))
    data = {"source": source, "protocol": protocol, "events": 7000, "sha256": "5a"}
    folder_lib.write_json(folder / "data.json", data)
    lines = []
    for epoch in range(1, epochs + 1):
        valid = {f"valid_{m}": level * (1 - 0.5**epoch) for m in METRICS}
        line = {"step": 10 * epoch, "epoch": float(epoch), "loss": 5 / epoch}
        lines.append(json.dumps(line | valid) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def cell(
    folder: pathlib.Path,
    own: dict[str, str],
    figures: tuple[float, float] | Exception | None,
    *,
    seed: int = 0,
    candidates: str = "whole catalogue ranked",
) -> cells.Cell:
    """A run whose ndcg@10 are (validation, test), or what ended it, or None: unfinished.
    Its hr@10 falls as ndcg@10 rises."""
    config = experiment(seed=seed)
    entry = cli.Entry("dssm_synthetic", own, own, config)
    name = ",".join(f"{field}={value}" for field, value in own.items())
    run = cells.Cell(entry, config, folder / name / f"seed-{seed}")
    if isinstance(figures, Exception):
        run.problem = figures
    elif figures is not None:
        valid, test = figures
        results = results_of(config, level=0.5, protocol="a protocol")
        results["valid"] = {"hr@10": 0.9 - valid, "ndcg@10": valid, "recall@20": 0.7}
        results["test"] = {"hr@10": 0.8 - test, "ndcg@10": test, "recall@20": 0.6}
        run.results = results | {"candidates": candidates}
        run.data = {"source": "a log", "events": 7000}
    return run


def end(folder: pathlib.Path, *, outcome: str, message: str) -> None:
    """As a sweep ends a run without figures."""
    folder_lib.write_json(folder / "ended.json", {"outcome": outcome, "told": message})


def _only(measured: Sequence[str], content: Any) -> Any:
    """Without the other METRICS, wherever they stand."""
    if not isinstance(content, dict):
        return content
    left = set(METRICS) - set(measured)
    return {k: _only(measured, v) for k, v in content.items() if k not in left}


def results_of(config: Experiment, *, level: float, protocol: str) -> dict[str, Any]:
    seen = "kept" if config.evaluate.seen == "kept" else "removed"
    means = {"test": level, **BASELINES}
    rows = {row: _figures(mean) for row, mean in means.items()}
    names = [f"{kind}@{k}" for kind in ("hr", "recall", "ndcg") for k in (1, 5, 20)]
    curves = {row: _curve(mean, names) for row, mean in means.items()}
    return {
        "config": config.name,
        "seed": config.seed,
        "protocol": protocol,
        "seen": seen,
        "candidates": "whole catalogue ranked",
        "valid": _figures(level - 0.05),
        "test": rows["test"],
        "index": "exact",
        "indexes": {"exact": {"metrics": rows["test"], "queries_per_second": 9.0}},
        "baselines": {row: rows[row] for row in BASELINES},
        "intervals": {row: _bounds(values) for row, values in rows.items()},
        "segments": {
            group: {name: _segment(rows) for name in names}
            for group, names in {
                "activity": ("light", "heavy"),
                "popularity": ("head", "torso", "tail"),
            }.items()
        },
        "curves": curves,
        "lists": {},
        "test_ties_shuffled": None,
        "test_refit": None,
        "seconds": {"data": 1.0, "train": 100 * level + config.seed, "compile": 2.0},
        "num_params": 12345,
        "steps": 10 * EPOCHS,
        "best_step": 10 * (EPOCHS - 1),
        "examples_per_second": 1000.0,
        "device": "a machine",
    }


def _figures(level: float) -> dict[str, float]:
    return {name: level + 0.1 * j for j, name in enumerate(METRICS)}


def _bounds(figures: dict[str, float]) -> dict[str, list[float]]:
    return {name: [value - 0.02, value + 0.02] for name, value in figures.items()}


def _curve(level: float, names: list[str]) -> dict[str, Any]:
    metrics = {name: level * int(name.partition("@")[2]) / 20 for name in names}
    return {"metrics": metrics, "intervals": _bounds(metrics)}


def _segment(rows: dict[str, dict[str, float]]) -> dict[str, Any]:
    return {
        "told": "history of 2 events",
        "queries": 40,
        "rows": rows,
        "intervals": {row: _bounds(values) for row, values in rows.items()},
    }
