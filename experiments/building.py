"""What a config decides about a step: the model, its objective, its optimizer, and the
state to start from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from recall_jax.data.prepared import Data
from recall_jax.devices import mesh
from recall_jax.evaluate import encode
from recall_jax.losses import negatives
from recall_jax.losses import objective as objective_lib
from recall_jax.models import graph as graph_lib
from recall_jax.pairs import step as pairs_step
from recall_jax.run.config import Experiment
from recall_jax.training import step as training_step


class Built(NamedTuple):
    """An experiment's model, objective and optimizer, and the state to start from."""

    graph: graph_lib.Graph
    objective: objective_lib.Objective
    optimizer: training_step.Optimizer
    state: training_step.TrainState
    order_key: jax.Array


def build(
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
    """seed -> the state before the first step and the key of the data order, as `build`
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
