"""Every config of experiments/configs, found by listing the folder: it says how it is
run, and trains, is cut off, resumes and ends with finite figures on a tiny log."""

import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest
from marks import slow_but

from experiments.common import cli, study, summary
from recall_jax.data.log import Entities, Interactions
from recall_jax.data.sources import stream, synthetic
from recall_jax.devices import mesh
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.run.config import Experiment
from recall_jax.training import checkpoint, step

SEMI_HARD = "the batch's and four of ranks 50 to 300"
MOVIELENS = study.load("mf_movielens")
VARIED = {  # as a study has them: most kinds of negatives, and other losses
    f"mf_ml1m, {label}": f"{factor.base or MOVIELENS.base}:{text}"
    for factor in MOVIELENS.factors
    for label, text in factor.settings.items()
}
NAMES = [*cli.config_names(), *VARIED]
# Trained in full by a slow test: each is in most that it does one of the others, or, as
# dssm_synthetic, what many tests and the main command train.
ALIKE = {
    "airbnb_ecomm",
    "dssm_logs",
    "dssm_ml1m_new",
    "dssm_synthetic",
    "mf_synthetic_exposed",
    "youtubednn_ml1m_file_order",
    "dssm_ml100k",
    "dssm_ml1m",
    "dssm_ml1m_file_order",
    "dssm_seed_ml1m",
    "eges_ecomm",
    "eges_ml1m",
    "eges_ml1m_file_order",
    "fm_ml1m",
    "fm_ml1m_file_order",
    "item2vec_ml1m",
    "item2vec_ml1m_file_order",
    "mf_ml1m",
    "mf_ml1m_file_order",
    "sequence_ml1m",
    "youtubednn_ml1m",
    "youtubednn_seed_ml1m",
    *VARIED,
}
TINY_LOG = synthetic.Config(num_users=60, num_items=40, num_events=700, num_markets=4)
SMALL = {  # any field of that name, wherever it stands; as in test_run, so that some
    "batch_size": 16,  # programs are compiled already
    "epochs": 2,
    "scan_steps": 5,
    "num": 16,
    "hardest": 4,
    "ranks": (2, 10),
    "id_width": 32,
    "feature_width": 2,
    "hidden": (8,),
    "item_hidden": (),
    "width": 4,
    "history_length": 5,
    "indexes": (),
    "walks_per_item": 2,
    "walk_length": 4,
    "block": 4,
    "shared_negatives": 8,
}


def named(name: str) -> Experiment:
    """The experiment of NAMES."""
    return cli.read_entry(VARIED.get(name, name), shared={}).config


def shrunk(config):
    """A copy of small sizes; a synthetic log of its own is the tiny one."""
    if isinstance(config, synthetic.Config):
        kept = ("label", "examples_per_user", "context", "hidden_share", "tokens")
        changes = {name: getattr(config, name) for name in kept}
        changes["examples_per_user"] = min(config.examples_per_user, 8)
        return dataclasses.replace(TINY_LOG, **changes)
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "negatives" and hasattr(config.model, "pairs"):
            continue  # such a model must leave them at their defaults
        if dataclasses.is_dataclass(value):
            changes[field.name] = shrunk(value)
        elif field.name in SMALL and value:  # what is off stays off
            changes[field.name] = SMALL[field.name]
    return dataclasses.replace(config, **changes)


def tiny_log(config) -> Interactions:
    """The tiny log with every column that a config asks for."""
    model, log = config.model, TINY_LOG.load()
    if config.data.protocol == "given":
        part = np.arange(len(log)) % 5 == 4
        log = dataclasses.replace(log, time=None, events={"part": part.astype(int)})
    pairs = getattr(model, "pairs", config.negatives)
    markets = config.negatives.market, pairs.market
    named = *getattr(model, "item", ()), *getattr(model, "side", ())
    cold = (getattr(model, f"cold_{x}", "") for x in ("market", "type", "price"))
    return dataclasses.replace(
        log,
        users=with_columns(log.users, getattr(model, "query", ())),
        items=with_columns(log.items, (*named, *markets, *cold)),
    )


def as_shards(log: Interactions, folder: pathlib.Path) -> str:
    polars = pytest.importorskip("polars")
    columns = {"user": log.users.id[log.user], "item": log.items.id[log.item]}
    folder.mkdir()
    rows = polars.DataFrame(columns | {"time": log.time})
    rows.write_parquet(folder / "part-0.parquet")
    return str(folder)


def with_columns(entities: Entities, names) -> Entities:
    rng, columns = np.random.default_rng(0), dict(entities.columns)
    reserved_names = {"user", "item", "history", "example_age", "", *entities.text}
    for name in sorted(
        set(names) - reserved_names
    ):  # the same columns in every process
        columns.setdefault(name, rng.integers(5, size=len(entities)))
    if "genres" in columns:
        columns["genres"] = columns["tags"]
    return dataclasses.replace(entities, columns=columns)


@pytest.mark.parametrize("name", cli.config_names())
def test_its_docstring_has_its_command_and_its_name_is_its_files(name):
    text = cli.config_path(name).read_text()
    docstring = text.split('"""')[1]
    assert text.startswith('"""')
    assert f"python -m experiments.run --config={name}" in docstring
    assert "expect" in docstring.lower(), "what should it reach, in what time?"
    assert cli.load_config(name).name == name


@pytest.mark.parametrize("name", sorted(ALIKE))
def test_its_step_can_be_traced(name):
    config = shrunk(named(name))
    data, size = data_lib.lay_out(config, tiny_log(config)), config.train.batch_size
    built = build_lib.make(config, data, batch_size=size, placement=mesh.outlined)
    hypers = step.make_hypers(config.optim, config.loss, config.negatives, num_steps=1)
    state, metrics = jax.eval_shape(
        build_lib.make_step(config, built),
        built.state,
        hypers,
        build_lib.make_corpus(config, data).source,
        jax.ShapeDtypeStruct((size,), np.int32),
    )
    assert jax.tree.map(of, state) == jax.tree.map(of, built.state)
    assert metrics["loss"].shape == ()


def of(leaf) -> tuple:
    return leaf.shape, leaf.dtype


@pytest.mark.parametrize("name", slow_but(set(NAMES) - ALIKE, NAMES))
def test_it_trains_is_cut_off_resumes_and_ends_finite(name, tmp_path, monkeypatch):
    config = shrunk(named(name))
    if isinstance(config.data, stream.Config):
        path = as_shards(TINY_LOG.load(), tmp_path / "shards")
        data = dataclasses.replace(config.data, path=path, time="time")
        config = dataclasses.replace(config, data=data)
    elif not isinstance(config.data, synthetic.Config):
        log = tiny_log(config)
        monkeypatch.setattr(type(config.data), "load", lambda self: log)
    save = checkpoint.save

    def save_once(*arguments, kind, **named):
        save(*arguments, kind=kind, **named)
        if kind == "latest":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_once)
        with pytest.raises(KeyboardInterrupt):
            summary.train(config, tmp_path)
    first = checkpoint.latest_step(tmp_path / "checkpoints")
    results = summary.train(config, tmp_path)

    assert 0 < first < results["steps"] == 2 * first
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == results["steps"]
    assert None not in [value for line in lines for value in json.loads(line).values()]
    figures = jax.tree.leaves([results[row] for row in ("valid", "test", "baselines")])
    assert len(figures) > 10 and all(0 <= figure <= 1 for figure in figures)
    assert math.isfinite(results["examples_per_second"])
