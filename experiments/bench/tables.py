"""The cost of a whole training step as the tables grow: touched rows against dense Adam.

    python -m experiments.bench.tables

Two towers, an id table and one hidden layer of 128 a side, d = 64, batch 4,096,
in-batch softmax, uniform ids (the hardest case: hardly any duplicates), all steps in
one scan. Every setting is timed in turn, round after round, and its median is shown:
read the ratios, which hold on a noisy machine. Needs about 12 GB of memory.
"""

import dataclasses
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax import nnx

from recall_jax import schema as schema_lib
from recall_jax.data.arrays import Events
from recall_jax.losses import frequency, negatives, objective
from recall_jax.models import dssm
from recall_jax.models import graph as graph_lib
from recall_jax.training import log
from recall_jax.training import step as step_lib

WIDTH, EXAMPLES = 64, 1_000_000


def make_source(rows: int) -> negatives.StepData:
    """Random (user, item) pairs over `rows` users and as many items."""
    rng = np.random.default_rng(0)
    count = np.ones(rows + 1)
    data = Events(
        items=jnp.asarray(rng.integers(1, rows + 1, EXAMPLES, dtype=np.int32)),
        weights=None,
        offsets=jnp.zeros(2, jnp.int32),
        example_user=jnp.asarray(rng.integers(1, rows + 1, EXAMPLES, dtype=np.int32)),
        example_position=jnp.arange(EXAMPLES, dtype=jnp.int32),
        user_columns={},
        item_columns={},
        item_count=jnp.asarray(count, jnp.float32),
        num_items=rows,
        known_items=rows,
        known_users=rows,
        history_length=0,
    )
    return negatives.StepData(data, exact=frequency.exact(count[1:]))


def make_model(rows: int) -> tuple[nnx.Module, tuple[schema_lib.Table, ...]]:
    """Two towers over ids alone."""
    schema = schema_lib.Schema(
        query=(schema_lib.Column("user", "user", rows + 2, 0),),
        item=(schema_lib.Column("item", "item", rows + 2, 0),),
    )
    return dssm.Config(history_length=0).make(schema, nnx.Rngs(0))


@dataclasses.dataclass(frozen=True)
class Dot:
    """The in-batch objective without its softmax: what is left is the tables' cost."""

    softmax: objective.Objective

    def draw(self, *args, **named):
        return self.softmax.draw(*args, **named)

    def total(self, query, item, **named):
        return -jnp.sum(query * item), item

    def advance(self, state, **named):
        return state


def make_runner(rows: int, *, tables: str, loss: str):
    """A function that runs one dispatch of steps, and its examples."""
    config = negatives.NegativesConfig()
    goal = objective.make_objective(objective.LossConfig(), config)
    goal = Dot(goal) if loss == "none" else goal
    source = make_source(rows)
    model, specs = make_model(rows)
    optim = step_lib.OptimConfig(tables="sgd" if tables == "dense_adam" else tables)
    optimizer = step_lib.make_optimizer(optim)
    graph, state = step_lib.init_state(
        model, specs, optimizer=optimizer, key=jax.random.key(0)
    )
    hypers = step_lib.make_hypers(
        optim, objective.LossConfig(), config, num_steps=10**6
    )
    if tables == "dense_adam":
        step, state = dense_adam(graph, state, goal)
    else:
        step = step_lib.make_step(graph, objective=goal, optimizer=optimizer)
    return step_lib.scan_steps(step), state, hypers, source


def dense_adam(
    graph: graph_lib.Graph, state: step_lib.TrainState, goal: objective.Objective
):
    """The usual way: gradients of whole tables, optax.adam over all parameters."""
    adam = optax.scale_by_adam()
    params, memory = step_lib.params_of(state), negatives.Remembered()

    def step(carry, hypers, source, example):
        params, adam_state = carry
        shared_inputs = {"source": source, "state": memory}
        batch = source.dataset.batch(example)
        sample, _ = goal.draw(batch, jax.random.key(0), query=None, **shared_inputs)

        def loss_of(params):
            model = graph.model(*params)
            query, item = model.query(batch.query), source.dataset.item(sample.ids)
            total, _ = goal.total(
                query,
                model.item(item),
                sample=sample,
                batch=batch,
                hypers=hypers,
                **shared_inputs,
            )
            return total / len(example)

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, adam_state = adam.update(gradients, adam_state)
        rate = hypers["learning_rate"]
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
        return (params, adam_state), {"loss": loss}

    return step, (params, adam.init(params))


def measure(settings: list[dict], *, batch: int, steps: int, rounds: int) -> list[dict]:
    """Median examples/s of each setting, timed in turn."""
    runners = [make_runner(**setting) for setting in settings]
    rng = np.random.default_rng(1)
    seconds = [[] for _ in settings]
    for turn in range(rounds + 1):
        examples = rng.integers(0, EXAMPLES, (steps, batch), dtype=np.int32)
        for j, (run, state, hypers, source) in enumerate(runners):
            start = time.perf_counter()
            state, metrics = run(state, hypers, source, examples)
            jax.block_until_ready((state, metrics))
            if turn:  # the first compiles
                seconds[j].append(time.perf_counter() - start)
            runners[j] = (run, state, hypers, source)
    return [
        {
            **setting,
            "ms_per_step": 1e3 * statistics.median(times) / steps,
            "examples_per_second": batch * steps / statistics.median(times),
        }
        for setting, times in zip(settings, seconds, strict=True)
    ]


def main(argv):
    del argv
    given = flags.FLAGS
    largest = given.largest
    size = {"batch": given.batch_size, "steps": given.steps, "rounds": given.rounds}
    small, middle = 10_000, min(1_000_000, largest)
    rows = []
    for loss in ("softmax", "none"):
        settings = [
            {"tables": tables, "loss": loss, "rows": n}
            for tables, n in [
                ("lazy_adam", small),
                ("lazy_adam", middle),
                ("dense_adam", small),
                ("dense_adam", middle),
            ]
        ]
        rows += measure(settings, **size)
        settings = [
            {"tables": "rowwise_adagrad", "loss": loss, "rows": n}
            for n in (small, middle, largest)
        ]
        rows += measure(settings, **size)
    of = {(row["tables"], row["loss"], row["rows"]): row["ms_per_step"] for row in rows}
    print(log.as_table(rows, list(rows[0])))
    adagrad = ("rowwise_adagrad", "softmax")
    print(
        json.dumps(
            {
                "bench": "tables",
                "largest": largest,
                "ratio_10m_over_10k": of[*adagrad, largest] / of[*adagrad, small],
                "speedup_over_dense_1m": of["dense_adam", "softmax", middle]
                / of["lazy_adam", "softmax", middle],
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    flags.DEFINE_integer("batch_size", 4096, "examples a step")
    flags.DEFINE_integer("steps", 8, "steps a dispatch")
    flags.DEFINE_integer("rounds", 5, "timed dispatches of each setting")
    flags.DEFINE_integer("largest", 10_000_000, "rows of the largest tables")
    app.run(main)
