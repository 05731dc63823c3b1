"""Train, evaluate, report: the main command.

    python -m experiments.run --config=dssm_ml1m
    python -m experiments.run --config=dssm_ml1m --config.loss.temperature=0.1
        --workdir=runs/dssm_ml1m_t01 --seed=1

A run folder with the same config resumes, on any number of devices (--devices=8; 0 for
all there are); one with another config is refused. With --distributed several processes
train as one, on all that they have (experiments/common/distributed.py).
"""

import collections
import contextlib
import pathlib
import textwrap
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import building, figures, run_files, same_data, training
from experiments.common import cli, distributed, summary
from experiments.common import results as results_lib
from recall_jax import files
from recall_jax.data.prepared import Data
from recall_jax.devices import mesh, processes
from recall_jax.evaluate import baselines, encode
from recall_jax.evaluate import measure as measure_lib
from recall_jax.losses import negatives
from recall_jax.models import graph as graph_lib
from recall_jax.pairs import conversions, corpus
from recall_jax.run import config as config_lib
from recall_jax.run.config import Experiment
from recall_jax.training import loop, step
from recall_jax.types import InputError

LINKS = 1 << 16  # scored at a time
FEW = 0.01  # of all events; where no more repeat an item of their user, it is said


def main(argv: list[str]) -> None:
    del argv
    config = flags.FLAGS.config
    if flags.FLAGS.seed is not None:
        config.seed = flags.FLAGS.seed
    workdir = pathlib.Path(flags.FLAGS.workdir or f"runs/{config.name}")
    with distributed.joined(), mesh.use(mesh_of(flags.FLAGS.devices)):
        run(config, workdir)


def mesh_of(num: int | None) -> jax.sharding.Mesh | None:
    """The first `num` devices, all for 0; None for one, which is what is not asked. Of
    several processes always all of theirs. Raises InputError where there are not so
    many, or they cannot share the tables."""
    devices = jax.devices()
    if flags.FLAGS.distributed:
        if num:
            raise InputError(
                f"--devices={num} with --distributed, which takes all devices of all "
                "processes; leave --devices out"
            )
        return mesh.make_mesh(devices) if len(devices) > 1 else None
    num = 1 if num is None else num or len(devices)
    if not 1 <= num <= len(devices):
        raise InputError(
            f"--devices={num}, but there are {len(devices)} x {devices[0].device_kind}; "
            f"give 1 to {len(devices)}, or 0 for all"
        )
    return mesh.make_mesh(devices[:num]) if num > 1 else None


def run(config: Experiment, workdir: pathlib.Path) -> dict[str, Any]:
    """Train and evaluate in `workdir`, resuming what is there; returns results.json.

    With data.ties=both a second model is trained on the split with shuffled ties, in
    `workdir`/ties_shuffled: the split moves a quarter of the targets and puts some of
    the old ones into training, so the first model's weights say nothing about it.
    """
    config_lib.check(config)
    check_same_everywhere(config)
    with contextlib.ExitStack() as held:
        lock = files.lock(workdir)
        processes.of_first(lambda: held.enter_context(lock))
        processes.check_shared(workdir)
        processes.of_first(lambda: refuse_another(config, workdir))
        print(settings(config, workdir))
        done = workdir / "results.json"
        if processes.of_first(done.exists):
            same_data.check([same_data.Finished(config, workdir)])
            results = results_lib.read(done)
            print(f"{workdir} is finished; these are its results.")
        else:
            results = _train_and_evaluate(config, workdir)
            processes.of_first(lambda: run_files.write_json(done, results))
    summary.show(results, workdir)
    return results


def settings(config: Experiment, workdir: pathlib.Path) -> str:
    """The fields that differ from their defaults: FIELD=VALUE of --config.FIELD=VALUE."""
    fields = [
        flag.replace("--config.", "", 1).replace(" ", "\0")  # no line ends in a value
        for flag in config_lib.changed_flags(config)
    ]
    indent = " " * 11
    lines = textwrap.wrap(
        " ".join(fields),
        width=100,
        initial_indent="config     ",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    rest = f"{indent}the rest as by default; all go to {workdir}/config.json"
    return "\n".join([*lines, rest]).replace("\0", " ")


def check_same_everywhere(config: Experiment) -> None:
    """Raise InputError, in all processes, where one was given another config."""
    ours = config_lib.as_dict(config)
    differing = _differences(processes.agreed(ours), ours)
    processes.check_alike("config", "; ".join(list(differing)[:5]))


def refuse_another(config: Experiment, workdir: pathlib.Path) -> None:
    """Raise InputError if the folder holds a run of another config."""
    path = workdir / "config.json"
    if not path.exists():
        return
    differing = list(
        _differences(run_files.read_json(path), config_lib.as_dict(config))
    )
    if differing:
        raise InputError(
            f"{workdir} holds a run of another config ({'; '.join(differing[:5])}); "
            "name another folder with --workdir (of a table: --runs)"
        )


def _differences(other: Any, here: Any, *, path: str = ""):
    if isinstance(other, dict) and isinstance(here, dict):
        for name in sorted(other.keys() | here.keys()):
            yield from _differences(
                other.get(name), here.get(name), path=f"{path}.{name}".strip(".")
            )
    elif other != here:
        yield f"{path}: {other!r} there, {here!r} asked"


def _train_and_evaluate(config: Experiment, workdir: pathlib.Path) -> dict[str, Any]:
    start = time.perf_counter()
    prepared = training.prepare(config)
    data = prepared.data
    for part in filter(None, prepared):
        measure_lib.check(config.evaluate, part)
    seconds = collections.Counter(data=time.perf_counter() - start, train=0)
    describe(config, data)
    encoder, fitted = training.train_model(config, data, workdir)
    seconds.update(fitted.seconds)
    return measure(config, prepared, workdir, encoder, fitted, seconds=seconds)


def measure(
    config: Experiment,
    prepared: training.Prepared,
    workdir: pathlib.Path,
    encoder: encode.Towers,
    fitted: loop.Fitted,
    *,
    seconds: collections.Counter,
    compared: figures.Compared | None = None,
) -> dict[str, Any]:
    """results.json of a trained model; with data.ties=both and train.refit=all the
    second model is trained too. `compared` is what stands beside it where that is known."""
    data = prepared.data
    start = time.perf_counter()
    params = step.params_of(fitted.state)
    rows = figures.measure_rows(config, prepared, encoder, params, compared=compared)
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
    config = training.with_ties(config, "shuffled")
    encoder, fitted = training.train_model(config, data, workdir / "ties_shuffled")
    return _measure_test(config, data, encoder, fitted)


def _refit(
    config: Experiment,
    first: loop.Fitted,
    workdir: pathlib.Path,
    seconds: collections.Counter,
    *,
    ease_l2: float | None,
) -> dict[str, measure_lib.Result]:
    """Test figures of the model trained anew on all of train, validation part included,
    for the epochs that validation chose, in `workdir`/refit; and of the baselines, which
    then count the validation part too."""
    config = training.without_validation(config)
    data = training.prepare(config).data
    seen = measure_lib.removes_seen(config.evaluate, data)
    measure_lib.check_leak(data, data.test, seen=seen)
    epochs = first.best_epoch
    print(f"refit on all of train, {epochs} epochs")
    encoder, fitted = training.train_model(
        config, data, workdir / "refit", epochs=epochs
    )
    seconds.update({f"refit_{name}": s for name, s in fitted.seconds.items()})
    compared, _ = figures.measure_baselines(config, data, ease_l2=ease_l2)
    return {
        "test_refit": _measure_test(config, data, encoder, fitted),
        **{f"{name}_refit": result for name, result in compared.items()},
    }


def _measure_test(
    config: Experiment, data: Data, encoder: encode.Towers, fitted: loop.Fitted
) -> measure_lib.Result:
    return measure_lib.measure_model(
        encoder,
        step.params_of(fitted.state),
        data=data,
        part=data.test,
        config=config.evaluate,
        index=config.evaluate.index,
    )


def _measure_conversions(
    config: Experiment, data: Data, encoder: encode.Towers, params: Any
) -> dict[str, Any] | None:
    """Of models on sessions of which some convert."""
    if not building.on_pairs(config):
        return None
    made_by = config.model.pairs
    if made_by.corpus == "file" or not made_by.sequences.conversions:
        return None
    vectors = encode.encode_items(
        encoder, params, data=data, batch_size=config.evaluate.batch_size
    )
    return conversions.measure_conversions(vectors, data, made_by)


def describe(config: Experiment, data: Data) -> None:
    """Tell what a run trains on and how it is measured."""
    users, items = (data.vocabularies[name] for name in ("user", "item"))
    seen, why = measure_lib.seen_items(config.evaluate, data)
    print(f"devices    {mesh.described()}")
    print(f"data       {data.source}")
    for line in data.report:
        print(line)
    print(
        f"counts     {len(users.ids):,} users, {len(items.ids):,} items, "
        f"{len(data.items):,} events; {data.num_examples:,} training examples, "
        f"{len(data.valid):,} users validate, {len(data.test):,} test"
    )
    if len(items.ids) > items.known:
        print(
            f"           {len(items.ids) - items.known:,} items have no training event"
        )
    ranked = measure_lib.ranked(config.evaluate)
    print(f"protocol   {data.protocol}; {ranked}")
    print(f"seen items {seen}: {why}")
    few = 0 < data.repeats <= FEW * len(data.items)
    if few and getattr(config.data, "duplicates", "") == "auto":
        print(
            "note       so few may be a mistake; --config.data.duplicates=repeats drops "
            "all but the first event of a user and an item, and seen items are removed"
        )
    if data.log is not None:
        print(
            "           no rows bigram, item knn, ease: they take the whole log into "
            "memory, and this one is streamed"
        )
    elif not baselines.fits(data):
        print(
            "           no rows item knn, ease: they weigh all pairs of items, and "
            f"{len(items.ids):,} are more than {baselines.MAX_ITEMS:,}"
        )
    if line := negatives.advice(config.negatives):
        print(f"note       {line}")


def _measure_links(
    config: Experiment, data: Data, encoder: encode.Towers, params: Any
) -> dict[str, dict[str, float]]:
    """AUC of removed edges against pairs without one; nothing where none was removed.

    A pair's score is the inner product of the vectors that are served, of length 1
    unless model.normalize is none. By popularity it is the product of both items'
    numbers of training events, those behind removed edges among them.
    """
    if not (building.on_pairs(config) and config.model.pairs.removed_share):
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


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "run folder; default runs/NAME")
    flags.DEFINE_integer("seed", None, "overrides the config's seed")
    flags.DEFINE_integer("devices", None, "that share the work; 0: all; default 1")
    distributed.define_flags()


if __name__ == "__main__":
    define_flags()
    cli.start(main)
