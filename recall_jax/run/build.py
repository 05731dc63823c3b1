"""What a config decides about a step: the model, its objective and optimizer, the state
to start from, the examples or pairs that it trains on, and how they are fed."""

import contextlib
import dataclasses
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from recall_jax.data.prepared import Data
from recall_jax.devices import mesh, processes
from recall_jax.evaluate import encode
from recall_jax.losses import negatives
from recall_jax.losses import objective as objective_lib
from recall_jax.models import graph as graph_lib
from recall_jax.pairs import corpus
from recall_jax.pairs import step as pairs_step
from recall_jax.run.config import Experiment
from recall_jax.tables import exchange, lookup
from recall_jax.training import loop as loop_lib
from recall_jax.training import step as training_step
from recall_jax.training import windows
from recall_jax.types import InputError


class Built(NamedTuple):
    """An experiment's model, objective and optimizer, and the state to start from."""

    graph: graph_lib.Graph
    objective: objective_lib.Objective
    optimizer: training_step.Optimizer
    state: training_step.TrainState
    order_key: jax.Array


def make(
    config: Experiment,
    data: Data,
    *,
    batch_size: int,
    placement: Callable = mesh.placed_state,
) -> Built:
    """Everything that a config decides about a step, the state by `placement`."""
    plan = _planned(config, data, batch_size=batch_size)
    model_key, state_key, order_key = _keys(config.seed)
    state, random = placement(plan.make, model_key, state_key)
    graph = plan.graphs[-1]._replace(random=random)
    return Built(graph, plan.objective, plan.optimizer, state, order_key)


def first_states(
    config: Experiment, data: Data, *, batch_size: int
) -> Callable[[int], tuple[training_step.TrainState, jax.Array]]:
    """seed -> the state before the first step and the key of the data order, as `make`
    makes them; one compilation for all seeds."""
    make = jax.jit(_planned(config, data, batch_size=batch_size).make)

    def first(seed: int) -> tuple[training_step.TrainState, jax.Array]:
        model_key, state_key, order_key = _keys(seed)
        return make(model_key, state_key)[0], order_key

    return first


def _keys(seed: int) -> jax.Array:
    """Of the model, the training state and the data order."""
    return jax.random.split(jax.random.key(seed), 3)


class _Plan(NamedTuple):
    """What a config decides before any key is drawn from."""

    objective: objective_lib.Objective
    optimizer: training_step.Optimizer
    make: Callable[[jax.Array, jax.Array], tuple[training_step.TrainState, Any]]
    """(model key, state key) -> the first state and the graph's random state."""
    graphs: list[graph_lib.Graph]  # one is added whenever `make` is traced


def _planned(config: Experiment, data: Data, *, batch_size: int) -> _Plan:
    goal = objective_lib.make_objective(config.loss, config.negatives)
    objective_lib.check_labels(config.loss, data.dataset.example_label)
    optimizer = training_step.make_optimizer(config.optim)
    graphs = []

    def make(model_key, state_key):
        model, tables = config.model.make(data.schema, nnx.Rngs(model_key))
        memory = negatives.init_remembered(
            config.negatives,
            batch_size=batch_size,
            num_items=data.dataset.num_items,
            width=model_width(model, data),
        )
        graph, state = training_step.init_state(
            model,
            tables,
            optimizer=optimizer,
            key=state_key,
            loss=goal.init_loss(),
            memory=memory,
        )
        graphs.append(graph)  # but for its random state it is no array
        return state, graph.random

    return _Plan(goal, optimizer, make, graphs)


def on_pairs(config: Experiment) -> bool:
    """Whether the model trains on pairs of items."""
    return hasattr(config.model, "pairs")


def make_step(config: Experiment, built: Built) -> training_step.Step:
    """The step of a model on examples, or on pairs of items."""
    if on_pairs(config):
        return pairs_step.make_step(
            built.graph, config=config.model.pairs, optimizer=built.optimizer
        )
    return training_step.make_step(
        built.graph, objective=built.objective, optimizer=built.optimizer
    )


def make_reader(config: Experiment, built: Built) -> training_step.Reader:
    """What the step of a model looks up."""
    if on_pairs(config):
        return pairs_step.make_reader(built.graph, config=config.model.pairs)
    return training_step.make_reader(built.graph, objective=built.objective)


def make_encoder(config: Experiment, built: Built) -> encode.Towers:
    """The towers as they are used, with what the model's config adds to a catalogue."""
    complete = getattr(config.model, "complete", None)
    return encode.make_towers(built.graph, complete=complete)


def model_width(model: nnx.Module, data: Data) -> int:
    """Of a model's vectors."""
    model.eval()  # dropout would count its draws inside the trace
    ids = jax.ShapeDtypeStruct((1,), np.int32)
    return jax.eval_shape(lambda ids: model.item(data.dataset.item(ids)), ids).shape[-1]


def make_corpus(config: Experiment, data: Data) -> corpus.Corpus:
    """What a model's epochs are made of: examples, or pairs of items."""
    if on_pairs(config):
        return corpus.make_corpus(data, config.model.pairs)
    source = negatives.make_source(data, config.negatives)
    description = f"{data.num_examples:,} training examples"
    return corpus.Corpus(source, data.num_rows, data.dataset.span, description)


def check_pairs(config: Experiment) -> None:
    """Raise InputError for pairs that mean nothing, and for fields that a model on pairs
    of items would not heed."""
    if not on_pairs(config):
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
    if not on_pairs(config) and negatives_.kind in negatives.DRAWN_KINDS:
        sizes["negatives.num"] = negatives_.num
    for field, size in sizes.items():
        if size % devices:
            near = max(size // devices, 1) * devices
            raise InputError(
                f"{field} {size} is not a multiple of the {devices} devices; try {near} "
                f"or {near + devices}"
            )
    if on_pairs(config):
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
    config: Experiment, built: Built, source: Any, *, num_rows: int, size: int
) -> Built:
    """The same with room for what devices ask of each other, as a few batches tell."""
    if mesh.num_devices() == 1:
        return built
    read, tables = make_reader(config, built), built.graph.tables

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


def cut(config: Experiment, data: Data) -> windows.Cut:
    """How the epochs of a streamed log are cut into windows."""
    settings = config.data
    return windows.make_cut(
        config.train,
        data.log,
        window=settings.window_examples,
        chunk=settings.chunk_examples,
    )


def make_plan(config: Experiment, data: Data, *, num_rows: int) -> loop_lib.Plan:
    """Of epochs of rows in memory, or of windows."""
    if data.log is None:
        return loop_lib.make_plan(config.train, num_rows=num_rows)
    return cut(config, data).plan


def make_feed(
    config: Experiment,
    data: Data,
    on: corpus.Corpus,
    *,
    plan: loop_lib.Plan,
    key: jax.Array,
) -> loop_lib.Feed:
    """What the steps of `plan` train on."""
    if data.log is None:
        return loop_lib.resident(
            on.source, num_rows=on.num_rows, span=on.span, plan=plan, key=key
        )
    window_cut = cut(config, data)._replace(plan=plan)
    return windows.feed(on.source, data.log, window_cut, key=key, share=_share())


def _share() -> windows.Share:
    """Of the processes of a run, which exchange what they have read."""
    if processes.count() == 1:
        return windows.ALONE

    def gather(part: windows.Read) -> list[windows.Read]:
        processes.gathered("window")  # a collective on CPUs waits for 30 seconds only
        stacked = multihost_utils.process_allgather(part)
        return [
            jax.tree.map(operator.itemgetter(process), stacked)
            for process in range(processes.count())
        ]

    return windows.Share(processes.process_index(), processes.count(), gather)


def some_rows(on: corpus.Corpus, data: Data, feed: loop_lib.Feed) -> tuple[Any, int]:
    """A source with rows to measure batches by, and how many it has: the first window,
    where several devices want to know, or all data in memory."""
    if data.log is None or mesh.num_devices() == 1:
        return on.source, on.num_rows
    with contextlib.closing(feed.portions(0)) as portions:
        source, _ = next(portions)
    return source, source.dataset.num_rows
