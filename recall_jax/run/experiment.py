"""An experiment trained and measured in a run folder."""

import collections
import contextlib
import functools
import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from recall_jax import files
from recall_jax.data.prepared import Data
from recall_jax.devices import compiled, mesh, processes
from recall_jax.evaluate import encode
from recall_jax.evaluate import measure as measure_lib
from recall_jax.models import graph as graph_lib
from recall_jax.pairs import conversions, corpus
from recall_jax.run import build as build_lib
from recall_jax.run import config as config_lib
from recall_jax.run import data as data_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run import open as open_lib
from recall_jax.run import overview, same_data
from recall_jax.run import results as run_results
from recall_jax.run.config import Experiment
from recall_jax.training import log as log_lib
from recall_jax.training import loop as loop_lib
from recall_jax.training import step as step_lib
from recall_jax.types import InputError


def train_model(
    config: Experiment, data: Data, workdir: pathlib.Path, *, epochs: int | None = None
) -> tuple[encode.Towers, loop_lib.Fitted]:
    """Train, or go on training, the model of an experiment.

    With `epochs` exactly these many, by the schedule of the config's, and nothing is
    validated or chosen.
    """
    ready = make_loop(config, data, workdir, epochs=epochs)
    return ready.encoder, loop_lib.fit(ready.loop, ready.state)


class Ready(NamedTuple):
    """All that training needs."""

    encoder: encode.Towers
    loop: loop_lib.Loop
    state: step_lib.TrainState  # before the first step


def make_loop(
    config: Experiment, data: Data, workdir: pathlib.Path, *, epochs: int | None = None
) -> Ready:
    """The loop of `train_model`; writes what the run folder says of its model."""
    # Processes meet here, whoever has read its data first.
    agree_on_data(data)
    on = build_lib.make_corpus(config, data)
    if build_lib.on_pairs(config):
        print(f"pairs      {on.described}")
    if data.log is not None:
        print(f"windows    {build_lib.cut(config, data).description(data.log)}")
    plan = build_lib.make_plan(config, data, num_rows=on.num_rows)
    hypers = step_lib.make_hypers(
        config.optim, config.loss, config.negatives, num_steps=plan.num_steps
    )
    build_lib.check_devices(config, plan)
    built = build_lib.make(config, data, batch_size=plan.size * on.span)
    plan = plan if epochs is None else plan._replace(epochs=epochs)
    on = on._replace(source=mesh.on_each(on.source))
    feed = build_lib.make_feed(config, data, on, plan=plan, key=built.order_key)
    source, rows = build_lib.some_rows(on, data, feed)
    built = build_lib.with_capacity(
        config, built, source, num_rows=rows, size=plan.size
    )
    encoder = build_lib.make_encoder(config, built)
    measured = functools.partial(
        measure_lib.measure_model,
        encoder,
        data=data,
        part=data.valid,
        config=measure_lib.over_all(config.evaluate),
        index="exact",
    )

    def validate(state: step_lib.TrainState) -> dict[str, float]:
        return measured(step_lib.params_of(state)).means()

    def refresh(state: step_lib.TrainState) -> step_lib.TrainState:
        vectors = encode.encode_items(
            encoder,
            step_lib.params_of(state),
            data=data,
            batch_size=config.evaluate.batch_size,
        )
        return state._replace(candidates=state.candidates._replace(index=vectors))

    processes.of_first(lambda: folder_lib.write_description(config, data, workdir))
    loop = loop_lib.Loop(
        step=build_lib.make_step(config, built),
        feed=feed,
        span=on.span,
        hypers=mesh.on_each(hypers),
        plan=plan,
        config=config.train,
        validate=validate if epochs is None else None,
        select_by=config.evaluate.select_by,
        workdir=workdir,
        refresh=refresh,
        refresh_every=built.objective.refresh_every,
    )
    return Ready(encoder, loop, built.state)


def agree_on_data(data: Data) -> None:
    """Raise InputError, in all processes, where one has read other data than the first."""
    ours = data.fingerprint()
    first = processes.agreed(ours)
    other = "" if ours == first else f"SHA-256 {ours[:8]}, not {first[:8]}"
    processes.check_alike("data set", other)


LINKS = 1 << 16  # scored at a time


def train(
    experiment: Experiment,
    workdir: str | os.PathLike | None = None,
    *,
    devices: int | None = None,
    quiet: bool = False,
) -> open_lib.Run:
    """Train and evaluate an experiment in the folder `workdir`, "runs/NAME" by default.

    What is there is gone on with: after Ctrl-C, or a kill, the same call resumes, and a
    finished run is only read. `devices` share the work, 0 for all; by default it is one,
    or those of `mesh.use`. With `quiet` nothing is printed. Raises InputError for what
    the experiment, its data or the folder do not allow.
    """
    if not isinstance(experiment, Experiment):
        raise InputError(f"train takes an Experiment, not {experiment!r:.80}")
    compiled.keep()
    workdir = pathlib.Path(workdir or f"runs/{experiment.name}").expanduser()
    where = (
        contextlib.nullcontext() if devices is None else mesh.use(mesh.first(devices))
    )
    with log_lib.silent(quiet), where:
        results = _train(experiment, workdir)
    return open_lib.Run(workdir, config=experiment, results=results)


def _train(config: Experiment, workdir: pathlib.Path) -> dict[str, Any]:
    """results.json.

    With data.ties=both a second model is trained on the split with shuffled ties, in
    `workdir`/ties_shuffled: the split moves a quarter of the targets and puts some of
    the old ones into training, so the first model's weights say nothing about it.
    """
    config_lib.check(config)
    agree_on_config(config)
    with contextlib.ExitStack() as held:
        lock = files.lock(workdir)
        processes.of_first(lambda: held.enter_context(lock))
        processes.check_shared(workdir)
        processes.of_first(lambda: folder_lib.refuse_another(config, workdir))
        print(overview.settings(config, workdir))
        done = workdir / "results.json"
        if processes.of_first(done.exists):
            same_data.check([same_data.Finished(config, workdir)])
            results = folder_lib.read_results(done)
            print(f"{workdir} is finished; these are its results.")
        else:
            results = _train_and_evaluate(config, workdir)
            processes.of_first(lambda: folder_lib.write_json(done, results))
    return results


def agree_on_config(config: Experiment) -> None:
    """Raise InputError, in all processes, where one was given another config."""
    ours = config_lib.as_dict(config)
    differing = folder_lib.differences(processes.agreed(ours), ours)
    processes.check_alike("config", "; ".join(list(differing)[:5]))


def _train_and_evaluate(config: Experiment, workdir: pathlib.Path) -> dict[str, Any]:
    start = time.perf_counter()
    prepared = data_lib.read(config)
    data = prepared.data
    for part in filter(None, prepared):
        measure_lib.check(config.evaluate, part)
    seconds = collections.Counter(data=time.perf_counter() - start, train=0)
    overview.show(config, data)
    encoder, fitted = train_model(config, data, workdir)
    seconds.update(fitted.seconds)
    return results_of(config, prepared, workdir, encoder, fitted, seconds=seconds)


def results_of(
    config: Experiment,
    prepared: data_lib.Prepared,
    workdir: pathlib.Path,
    encoder: encode.Towers,
    fitted: loop_lib.Fitted,
    *,
    seconds: collections.Counter,
    compared: run_results.Compared | None = None,
) -> dict[str, Any]:
    """results.json of a trained model; with data.ties=both and train.refit=all the
    second model is trained too. `compared` is what stands beside it where that is known."""
    data = prepared.data
    start = time.perf_counter()
    params = step_lib.params_of(fitted.state)
    rows = run_results.measure_rows(
        config, prepared, encoder, params, compared=compared
    )
    rows |= _measure_links(config, data, encoder, params)
    converted = _measure_conversions(config, data, encoder, params)
    seconds["evaluate"] += time.perf_counter() - start
    shuffled = None
    if config.data.ties == "both":
        second = _measure_shuffled(config, prepared.other_ties, workdir)
        shuffled = second.means()
        rows["intervals"]["test_ties_shuffled"] = second.intervals()
    refitted = None
    if config.train.refit == "all":
        l2 = rows["ease_l2"]
        results = _refit(config, fitted, workdir, seconds, ease_l2=l2)
        rows["intervals"] |= {
            name: result.intervals() for name, result in results.items()
        }
        refitted = results.pop("test_refit").means()
        rows["baselines"] |= {name: result.means() for name, result in results.items()}
    return {
        "config": config.name,
        "seed": config.seed,
        "protocol": data.protocol,
        "seen": "removed"
        if measure_lib.removes_seen(config.evaluate, data)
        else "kept",
        **rows,
        "test_ties_shuffled": shuffled,
        "test_refit": refitted,
        "conversions": converted,
        "best_step": fitted.progress.best_step,
        "steps": fitted.steps,
        "examples_per_second": fitted.examples_per_second,
        "seconds": dict(seconds),
        "epoch_seconds": fitted.seconds["train"] / fitted.epochs,
        "num_params": _num_params(encoder.graph, params),
        "device": mesh.described(),
    }


def _num_params(graph: graph_lib.Graph, params: Any) -> int:
    """Numbers that a model is made of, without what fills up its stored tables."""
    in_tables = sum(table.rows * table.width for table in graph.tables)
    return in_tables + sum(leaf.size for leaf in jax.tree.leaves(params[1:]))


def _measure_shuffled(
    config: Experiment, data: Data, workdir: pathlib.Path
) -> measure_lib.Result:
    """Test figures of a second model, trained and tested with ties shuffled."""
    print("second run, ties shuffled")
    config = data_lib.with_ties(config, "shuffled")
    encoder, fitted = train_model(config, data, workdir / "ties_shuffled")
    return _measure_test(config, data, encoder, fitted)


def _refit(
    config: Experiment,
    first: loop_lib.Fitted,
    workdir: pathlib.Path,
    seconds: collections.Counter,
    *,
    ease_l2: float | None,
) -> dict[str, measure_lib.Result]:
    """Test figures of the model trained anew on all of train, validation part included,
    for the epochs that validation chose, in `workdir`/refit; and of the baselines, which
    then count the validation part too."""
    config = data_lib.without_validation(config)
    data = data_lib.read(config).data
    seen = measure_lib.removes_seen(config.evaluate, data)
    measure_lib.check_leak(data, data.test, seen=seen)
    epochs = first.best_epoch
    print(f"refit on all of train, {epochs} epochs")
    encoder, fitted = train_model(config, data, workdir / "refit", epochs=epochs)
    seconds.update({f"refit_{name}": s for name, s in fitted.seconds.items()})
    compared, _ = run_results.measure_baselines(config, data, ease_l2=ease_l2)
    return {
        "test_refit": _measure_test(config, data, encoder, fitted),
        **{f"{name}_refit": result for name, result in compared.items()},
    }


def _measure_test(
    config: Experiment, data: Data, encoder: encode.Towers, fitted: loop_lib.Fitted
) -> measure_lib.Result:
    return measure_lib.measure_model(
        encoder,
        step_lib.params_of(fitted.state),
        data=data,
        part=data.test,
        config=config.evaluate,
        index=config.evaluate.index,
    )


def _measure_conversions(
    config: Experiment, data: Data, encoder: encode.Towers, params: Any
) -> dict[str, Any] | None:
    """Of models on sessions of which some convert."""
    if not build_lib.on_pairs(config):
        return None
    made_by = config.model.pairs
    if made_by.corpus == "file" or not made_by.sequences.conversions:
        return None
    vectors = encode.encode_items(
        encoder, params, data=data, batch_size=config.evaluate.batch_size
    )
    return conversions.measure_conversions(vectors, data, made_by)


def _measure_links(
    config: Experiment, data: Data, encoder: encode.Towers, params: Any
) -> dict[str, dict[str, float]]:
    """AUC of removed edges against pairs without one; nothing where none was removed.

    A pair's score is the inner product of the vectors that are served, of length 1
    unless model.normalize is none. By popularity it is the product of both items'
    numbers of training events, those behind removed edges among them.
    """
    if not (build_lib.on_pairs(config) and config.model.pairs.removed_share):
        return {}
    links = corpus.make_links(data, config.model.pairs)
    vectors = encode.encode_items(
        encoder, params, data=data, batch_size=config.evaluate.batch_size
    )
    vectors = np.asarray(vectors, np.float64)
    popularity = np.log(np.maximum(data.popularity, 1))

    def product(ends: np.ndarray) -> np.ndarray:
        blocks = np.array_split(ends - 1, 1 + len(ends) // LINKS)
        return np.concatenate(
            [np.sum(vectors[ab[:, 0]] * vectors[ab[:, 1]], axis=1) for ab in blocks]
        )

    by_popularity = corpus.link_auc(links, lambda ends: popularity[ends].sum(axis=1))
    return {
        "link_auc": corpus.link_auc(links, product),
        "link_auc_popularity": by_popularity,
    }
