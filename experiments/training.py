"""From an experiment's config to its data, its step and a trained model."""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import building, run_files, streaming
from experiments.common import cli
from recall_jax.data import describe, prepared
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import split as split_lib
from recall_jax.data.log import Interactions
from recall_jax.data.prepared import Data
from recall_jax.devices import mesh, processes
from recall_jax.evaluate import encode, measure
from recall_jax.losses import negatives
from recall_jax.pairs import corpus
from recall_jax.run.config import Experiment
from recall_jax.tables import exchange, lookup
from recall_jax.training import checkpoint
from recall_jax.training import loop as loop_lib
from recall_jax.training import step as step_lib
from recall_jax.types import InputError


class Prepared(NamedTuple):
    """A data set, and the same with ties broken the other way where there are times."""

    data: Data
    other_ties: Data | None


def prepare(config: Experiment) -> Prepared:
    """Load, filter, split and lay out the data of an experiment."""
    check_pairs(config)
    if streaming.is_streamed(config):
        return Prepared(streaming.open_data(config), None)
    log, ties = config.data.load(), config.data.ties
    other = "file" if ties == "shuffled" else "shuffled"
    compared = config.data.protocol == "leave_one_out" and log.time is not None
    split = split_of(config, log)
    first = laid_out(config, split)
    # Once: of other ties, and of a run that is only compared, nobody reads it.
    report = (*first.report, *describe.events(split.log))
    first = dataclasses.replace(first, report=report)
    if not (compared or ties == "both"):
        return Prepared(first, None)
    return Prepared(first, lay_out(with_ties(config, other), log))


def lay_out(config: Experiment, log: Interactions) -> Data:
    """A log split and laid out; of data.ties=both the first, ties in file order."""
    return laid_out(config, split_of(config, log))


def split_of(config: Experiment, log: Interactions) -> split_lib.Split:
    if config.data.ties == "both":
        config = with_ties(config, "file")
    # An unknown name goes to the split as it is, which names the known ones.
    return split_lib.by_protocol(log, config=config.data)


def laid_out(config: Experiment, split: split_lib.Split) -> Data:
    return prepare_lib.in_memory(
        split,
        history_length=config.model.history_length,
        min_history=config.model.min_history,
        span=span_of(config.model),
        config=config.data,
    )


class Opened(NamedTuple):
    """A run's config, its log, and the log split and laid out."""

    config: Experiment
    log: Interactions
    data: Data


def open_run(workdir: pathlib.Path) -> Opened:
    """A run by its folder, its data read anew. Raises InputError if there is none."""
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{workdir} holds no run: it has no config.json")
    config = cli.load_config(str(path))
    if streaming.is_streamed(config):
        data = streaming.open_data(config)
        return Opened(config, prepared.entities(config.data, data), data)
    log = config.data.load()
    return Opened(config, log, lay_out(config, log))


def span_of(model: Any) -> int:
    """Examples that a model takes as one row of a batch."""
    return model.history_length if model.every_position else 1


def with_ties(config: Experiment, ties: str) -> Experiment:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, ties=ties))


def without_validation(config: Experiment) -> Experiment:
    """What refits it: on all of train, for epochs that are known."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, valid_share=0.0),
        train=dataclasses.replace(config.train, refit="none"),
    )


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
    check_same_everywhere(data)
    on = make_corpus(config, data)
    if building.on_pairs(config):
        print(f"pairs      {on.described}")
    if data.log is not None:
        print(f"windows    {streaming.cut(config, data).description(data.log)}")
    plan = streaming.make_plan(config, data, num_rows=on.num_rows)
    hypers = step_lib.make_hypers(
        config.optim, config.loss, config.negatives, num_steps=plan.num_steps
    )
    check_devices(config, plan)
    built = building.build(config, data, batch_size=plan.size * on.span)
    plan = plan if epochs is None else plan._replace(epochs=epochs)
    on = on._replace(source=mesh.on_each(on.source))
    feed = streaming.make_feed(config, data, on, plan=plan, key=built.order_key)
    source, rows = streaming.some_rows(on, data, feed)
    built = with_capacity(config, built, source, num_rows=rows, size=plan.size)
    encoder = building.make_encoder(config, built)
    measured = functools.partial(
        measure.measure_model,
        encoder,
        data=data,
        part=data.valid,
        config=measure.over_all(config.evaluate),
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

    processes.of_first(lambda: run_files.write_description(config, data, workdir))
    loop = loop_lib.Loop(
        step=building.make_step(config, built),
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


def check_same_everywhere(data: Data) -> None:
    """Raise InputError, in all processes, where one has read other data than the first."""
    ours = data.fingerprint()
    first = processes.agreed(ours)
    other = "" if ours == first else f"SHA-256 {ours[:8]}, not {first[:8]}"
    processes.check_alike("data set", other)


class Restored(NamedTuple):
    """A run's model as it was chosen."""

    encoder: encode.Towers
    params: Any
    step: int  # of the checkpoint


def restore(
    config: Experiment, data: Data, workdir: pathlib.Path
) -> tuple[encode.Towers, Any]:
    """The encoder and the chosen parameters of a run, nothing trained or written.

    Raises InputError where nothing is chosen yet, or where the data are not the run's.
    """
    return restore_chosen(config, data, workdir)[:2]


def restore_chosen(config: Experiment, data: Data, workdir: pathlib.Path) -> Restored:
    """As `restore`, and which checkpoint that is."""
    if not (workdir / "data.json").exists():
        raise InputError(f"{workdir} holds no run: it has no data.json")
    run_files.check_same_data(data, workdir)
    size = config.train.batch_size * data.dataset.span
    built = building.build(config, data, batch_size=size, placement=mesh.outlined)
    like = built.state._replace(slots={})
    snapshot = checkpoint.restore(workdir / "checkpoints", like, kind="best")
    if snapshot is None:
        raise InputError(
            f"{workdir} has no model yet; one is there after the first validation"
        )
    encoder, state = building.make_encoder(config, built), snapshot[0]
    return Restored(encoder, step_lib.params_of(state), int(state.step))


def make_corpus(config: Experiment, data: Data) -> corpus.Corpus:
    """What a model's epochs are made of: examples, or pairs of items."""
    if building.on_pairs(config):
        return corpus.make_corpus(data, config.model.pairs)
    source = negatives.make_source(data, config.negatives)
    description = f"{data.num_examples:,} training examples"
    return corpus.Corpus(source, data.num_rows, data.dataset.span, description)


def check_pairs(config: Experiment) -> None:
    """Raise InputError for pairs that mean nothing, and for fields that a model on pairs
    of items would not heed."""
    if not building.on_pairs(config):
        return
    corpus.check(config.model.pairs)
    for group in ("negatives", "loss"):
        values = getattr(config, group)
        for field in dataclasses.fields(values):
            default = getattr(type(values)(), field.name)
            if getattr(values, field.name) != default:
                raise InputError(
                    f"--config.{group}.{field.name} says nothing to a model that trains "
                    "on pairs of items; its negatives are in config.model.pairs, and its "
                    f"loss is that of skip-gram. Set it to {default!r}, its default"
                )


def check_devices(config: Experiment, plan: loop_lib.Plan) -> None:
    """Raise InputError for a batch that the devices cannot share alike."""
    devices, negatives_ = mesh.num_devices(), config.negatives
    sizes = {"train.batch_size": plan.size}
    if not building.on_pairs(config) and negatives_.kind in negatives.DRAWN_KINDS:
        sizes["negatives.num"] = negatives_.num
    for field, size in sizes.items():
        if size % devices:
            near = max(size // devices, 1) * devices
            raise InputError(
                f"{field} {size} is not a multiple of the {devices} devices; try {near} "
                f"or {near + devices}"
            )
    if building.on_pairs(config):
        made_by = config.model.pairs
        groups = corpus.num_groups(plan.size, made_by.sharing)
        if groups % devices:
            raise InputError(
                f"model.pairs.sharing {made_by.sharing} makes {groups} groups of the "
                f"{plan.size} blocks of a step, which {devices} devices cannot share "
                f"alike; set it to {max(plan.size // devices, 1)} or a divisor of that"
            )


MEASURED = 8  # batches from which capacities are told


def with_capacity(
    config: Experiment, built: building.Built, source: Any, *, num_rows: int, size: int
) -> building.Built:
    """The same with room for what devices ask of each other, as a few batches tell."""
    if mesh.num_devices() == 1:
        return built
    read, tables = building.make_reader(config, built), built.graph.tables

    @jax.jit
    def most(state, source, examples, step):
        columns = read(state._replace(step=step), source, examples)
        return {
            table.name: exchange.needed_capacity(lookup.ids_of(columns, table=table))
            for table in tables
        }

    processes.gathered("measures")
    rng, measurements = np.random.default_rng(0), []
    for step in range(MEASURED):
        rows = rng.permutation(num_rows)[:size] * source.dataset.span
        args = mesh.on_each((rows.astype(np.int32), np.int32(step)))
        measurements.append(jax.device_get(most(built.state, source, *args)))
    capacity = {
        table.name: exchange.capacity_of(max(int(x[table.name]) for x in measurements))
        for table in tables
    }
    return built._replace(graph=built.graph._replace(capacity=capacity))
