"""One training step as a pure function, and many of them in one dispatch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from recall_jax.devices import mesh
from recall_jax.losses import candidates as candidates_lib
from recall_jax.losses import negatives as negatives_lib
from recall_jax.losses import objective as objective_lib
from recall_jax.losses.negatives import StepData
from recall_jax.losses.objective import Objective
from recall_jax.models import graph as graph_lib
from recall_jax.models.graph import Graph
from recall_jax.schema import Table
from recall_jax.tables import lookup
from recall_jax.tables import rows as rows_lib
from recall_jax.tables.lookup import LookedUp
from recall_jax.tables.rows import RowState
from recall_jax.types import Batch, Columns, Hypers, Key, bounded, check_fields, choice

LEAST_WEIGHT = 1e-30
"""That a batch is taken to have in sum: without any it trains nothing, and a mean by so
little is a number still."""


SCHEDULES = {
    "constant": jnp.ones_like,
    "cosine": lambda done: 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(done, 1.0))),
    "linear": lambda done: jnp.maximum(1 - done, 0.0),
}


@dataclasses.dataclass
class OptimConfig:
    """Adam for the dense parameters, a row rule for the tables."""

    learning_rate: float = bounded(2e-3, 0)
    tables: str = choice("lazy_adam", rows_lib.RULES)
    # The tables' learning rate over the dense one's.
    tables_lr_scale: float = bounded(1.0, 0)
    # Decoupled; on touched rows and dense parameters.
    weight_decay: float = bounded(0.0, 0)
    # All but "constant" fall to zero over train.epochs.
    schedule: str = choice("constant", SCHEDULES)


class TrainState(NamedTuple):
    """All that a step changes, and all that a checkpoint holds."""

    step: Int[Array, ""]
    key: Array  # raw key data; the step's randomness is fold_in(key, step)
    tables: dict[str, Float[Array, "64 rows d"]]  # as `tables.layout` has them
    table_states: dict[str, RowState]
    slots: dict[
        str, Int[Array, "64 rows"]
    ]  # scratch of `rows.compact`, zero between steps
    dense: Any  # the model's other parameters
    statistics: Any  # of batch norm: running means and variances
    loss: dict[str, Array]  # the loss's own: a learned log temperature
    dense_state: optax.OptState  # of both
    candidates: negatives_lib.Remembered  # frequency estimator, queue, hard index


class Optimizer(NamedTuple):
    rule: rows_lib.RowRule
    dense: optax.GradientTransformation
    schedule: Callable[[Array], Array]  # share of training done -> factor


def make_optimizer(config: OptimConfig) -> Optimizer:
    """The optimizer a config names; learning rate and decay stay traced."""
    check_fields(config, "--config.optim")
    return Optimizer(
        rows_lib.row_rule(config.tables),
        optax.scale_by_adam(),
        SCHEDULES[config.schedule],
    )


def init_state(
    model: nnx.Module,
    tables: tuple[Table, ...],
    *,
    optimizer: Optimizer,
    key: Key,
    loss: dict[str, Array] | None = None,
    memory: negatives_lib.Remembered | None = None,
) -> tuple[Graph, TrainState]:
    """The graph and the state before the first step; `loss` and `memory` are what the
    objective trains and remembers (`Objective.init_loss`, `negatives.init_remembered`)."""
    graph, rows, dense, statistics = graph_lib.make_graph(model, tables)
    loss = loss or {}
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        tables=rows,
        table_states={name: optimizer.rule.init(table) for name, table in rows.items()},
        slots={
            name: jnp.zeros(table.shape[:-1], jnp.int32) for name, table in rows.items()
        },
        dense=dense,
        statistics=statistics,
        loss=loss,
        dense_state=optimizer.dense.init((dense, loss)),
        candidates=memory or negatives_lib.Remembered(),
    )
    return graph, state


Step = Callable[
    [TrainState, Hypers, StepData, Int[Array, "b"]], tuple[TrainState, Columns]
]
Reader = Callable[[TrainState, StepData, Int[Array, "b"]], Columns]
"""What a step of that state would look up in the tables."""


def make_step(graph: Graph, *, objective: Objective, optimizer: Optimizer) -> Step:
    """A pure (state, hypers, source, examples) -> (state, metrics)."""

    def step(state: TrainState, hypers: Hypers, source: StepData, example):
        drawn = draw(state, source, example, graph=graph, objective=objective)
        looked = look_up(state, drawn.columns, graph=graph)
        loss_of = functools.partial(
            mean_loss,
            drawn=drawn,
            columns=looked.columns,
            statistics=state.statistics,
            graph=graph,
            objective=objective,
            source=source,
            hypers=hypers,
        )
        params = (looked.rows, state.dense, state.loss)
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (vectors, statistics)), gradients = value_and_grad(params)
        metrics = {"loss": loss} | objective_lib.with_learned({}, state.loss)
        metrics |= lookup.rounds(looked)
        state, metrics["gradient_norm"] = apply_gradients(
            state,
            gradients,
            looked=looked,
            hypers=hypers,
            optimizer=optimizer,
            graph=graph,
        )
        memory = objective.advance(
            drawn.memory, sample=drawn.sample, batch=drawn.batch, vectors=vectors
        )
        return state._replace(candidates=memory, statistics=statistics), metrics

    return step


def make_reader(graph: Graph, *, objective: Objective) -> Reader:
    """The columns that `make_step`'s step reads tables by."""

    def columns(state: TrainState, source: StepData, example):
        drawn = draw(state, source, example, graph=graph, objective=objective)
        return drawn.columns

    return columns


class Drawn(NamedTuple):
    """What a step computes on: a batch, its candidates, and the columns of both."""

    batch: Batch
    sample: candidates_lib.Sample
    memory: negatives_lib.Remembered
    item: Columns
    key: Key  # for dropout

    @property
    def columns(self) -> Columns:
        return {**self.batch.query, **self.item}


def draw(
    state: TrainState, source: StepData, example, *, graph: Graph, objective: Objective
) -> Drawn:
    """Gather the batch and draw its negatives."""
    batch = source.dataset.batch(example)
    batch = batch._replace(query=mesh.by_device_rows(batch.query))
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    draw_key, model_key = jax.random.split(key)

    def query():
        model = graph.model(state.tables, state.dense, state.statistics)
        return by_example(model.query(batch.query))

    sample, memory = objective.draw(
        batch, draw_key, source=source, state=state.candidates, query=query
    )
    item = mesh.by_device_rows(source.dataset.item(sample.ids))
    return Drawn(batch, sample, memory, item, model_key)


def look_up(state: TrainState, columns: Columns, *, graph: Graph) -> LookedUp:
    """The rows of every table that these columns touch, and the columns rewritten."""
    return lookup.look_up(
        state.tables,
        columns,
        slots=state.slots,
        specs=graph.tables,
        capacity=graph.capacity,
    )


def by_example(query: Float[Array, "... d"]) -> Float[Array, "b d"]:
    """Query vectors one below the other, whatever their leading axes."""
    return query.reshape(-1, query.shape[-1])


def mean_loss(
    params: tuple[dict[str, Array], Any, dict[str, Array]],
    *,
    drawn: Drawn,
    columns: Columns,
    statistics: Any,
    graph: Graph,
    objective: Objective,
    source: StepData,
    hypers: Hypers,
) -> tuple[Float[Array, ""], tuple[Float[Array, "b d"] | None, Any]]:
    """The weighted mean of the objective over a batch, and what it keeps for the next:
    the positives' vectors and the running statistics. `params` is (rows, dense, the
    loss's own)."""
    rows, dense, loss = params
    model = graph.training_model(rows, dense, statistics, key=drawn.key)
    total, vectors = objective.total(
        by_example(model.query({name: columns[name] for name in drawn.batch.query})),
        model.item({name: columns[name] for name in drawn.item}),
        sample=drawn.sample,
        batch=drawn.batch,
        source=source,
        state=drawn.memory,
        hypers=objective_lib.with_learned(hypers, loss),
    )
    mean = total / jnp.maximum(jnp.sum(drawn.sample.weight), LEAST_WEIGHT)
    return mean, (vectors, graph_lib.statistics_of(model))


def apply_gradients(
    state: TrainState,
    gradients: tuple[dict[str, Array], Any, dict[str, Array]],
    *,
    looked: LookedUp,
    hypers: Hypers,
    optimizer: Optimizer,
    graph: Graph,
) -> tuple[TrainState, Float[Array, ""]]:
    """The state after a step, touched rows by the row rule, the rest by Adam; and the
    norm of the gradient."""
    table_gradients, *dense_gradients = gradients
    done = state.step / hypers["num_steps"]
    rate = hypers["learning_rate"] * optimizer.schedule(done)
    table_hypers = {**hypers, "learning_rate": rate * hypers["tables_lr_scale"]}
    moved = {
        name: lookup.move(
            state.tables[name],
            gradient,
            state=state.table_states[name],
            slot=looked.slots[name],
            touched=looked.touched[name],
            rule=optimizer.rule,
            hypers=table_hypers,
            capacity=(graph.capacity or {}).get(name, 0),
        )
        for name, gradient in table_gradients.items()
    }
    (updates, loss_updates), dense_state = optimizer.dense.update(
        tuple(dense_gradients), state.dense_state, (state.dense, state.loss)
    )
    decay = hypers["weight_decay"]
    loss = jax.tree.map(lambda value, u: value - rate * u, state.loss, loss_updates)
    dense = jax.tree.map(
        lambda value, update: value - rate * (update + decay * value),
        state.dense,
        updates,
    )
    square = optax.tree.norm(dense_gradients, squared=True)
    square += sum(result.square for result in moved.values())
    state = state._replace(
        step=state.step + 1,
        tables={name: result.table for name, result in moved.items()},
        table_states={name: result.state for name, result in moved.items()},
        slots={name: result.slot for name, result in moved.items()},
        dense=dense,
        loss=objective_lib.clamped(loss),
        dense_state=dense_state,
    )
    return state, jnp.sqrt(square)


def make_hypers(optim: OptimConfig, loss, negatives, *, num_steps: int) -> Hypers:
    """The traced floats of a run."""
    values = {
        "learning_rate": optim.learning_rate,
        "tables_lr_scale": optim.tables_lr_scale,
        "weight_decay": optim.weight_decay,
        "temperature": loss.temperature,
        "margin": loss.margin,
        "negative_weight": loss.negative_weight,
        "calibration": loss.calibration,
        "strength": negatives.strength,
        "num_steps": num_steps,
    }
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


def scan_steps(step: Step):
    """Many steps in one dispatch: (state, hypers, source, examples [steps, b]) ->
    (state, metrics [steps]), the state donated."""

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state, hypers, source, examples):
        def one(state, example):
            state, metrics = step(state, hypers, source, example)
            return mesh.keep(state), metrics

        return jax.lax.scan(one, state, examples)

    return run


def params_of(state: TrainState) -> tuple[Any, Any, Any]:
    """What an encoder reads of a training state."""
    return state.tables, state.dense, state.statistics
