"""Where a config's training time goes.

    python -m experiments.bench.train --config=dssm_ml1m

Times the step cut off after each of its stages, all in scans of the same length and in
turn, so that the differences hold on a noisy machine; then one evaluation of all test
users, compiled before. The last line is JSON.
"""

import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.common import cli
from recall_jax.evaluate import encode, measure
from recall_jax.losses import negatives, objective
from recall_jax.models import graph as graph_lib
from recall_jax.run import build as build_lib
from recall_jax.run import config as config_lib
from recall_jax.run import data as data_lib
from recall_jax.training import log, loop
from recall_jax.training import step as step_lib

STAGES = ("batch and rows", "forward", "backward", "update")


def total(tree) -> jax.Array:
    """One number that needs every array, so that no stage is optimised away."""
    return sum(jnp.sum(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree))


def stages(graph: graph_lib.Graph, goal: objective.Objective, optimizer) -> dict:
    """The step cut off after each stage, as functions like `step.Step`."""

    def loss_of(params, drawn, columns, hypers, source, statistics):
        loss, _ = step_lib.mean_loss(
            params,
            drawn=drawn,
            columns=columns,
            statistics=statistics,
            graph=graph,
            objective=goal,
            source=source,
            hypers=hypers,
        )
        return loss

    def cut(state, hypers, source, example, *, stage):
        drawn = step_lib.draw(state, source, example, graph=graph, objective=goal)
        looked = step_lib.look_up(state, drawn.columns, graph=graph)
        params = (looked.rows, state.dense, state.loss)
        loss_inputs = drawn, looked.columns, hypers, source, state.statistics
        if stage == "batch and rows":
            out = total((looked.columns, looked.rows, drawn.batch))
        elif stage == "forward":
            out = loss_of(params, *loss_inputs)
        else:
            out = total(jax.grad(loss_of)(params, *loss_inputs))
        state = state._replace(step=state.step + 1, slots=looked.slots)
        return state, {"loss": out}

    cuts = {stage: functools.partial(cut, stage=stage) for stage in STAGES[:-1]}
    return cuts | {
        "update": step_lib.make_step(graph, objective=goal, optimizer=optimizer)
    }


def main(argv: list[str]) -> None:
    del argv
    config = flags.FLAGS.config
    config_lib.check(config)
    data = data_lib.read(config).data
    measure.check(config.evaluate, data)
    plan = loop.make_plan(config.train, num_rows=data.num_rows)
    built = build_lib.make(config, data, batch_size=plan.size)
    medians, state = time_stages(
        stages(built.graph, built.objective, built.optimizer),
        built.state,
        hypers=step_lib.make_hypers(
            config.optim, config.loss, config.negatives, num_steps=plan.num_steps
        ),
        source=negatives.make_source(data, config.negatives),
        shape=(plan.scan, plan.size),
        rounds=flags.FLAGS.rounds,
    )
    ms = dict(zip(STAGES, np.diff([0.0, *medians]) * 1e3 / plan.scan, strict=True))
    rows = [
        {"stage": name, "ms per step": part, "share": f"{part / sum(ms.values()):.0%}"}
        for name, part in ms.items()
    ]
    rate = plan.scan * plan.size / medians[-1]
    result = {
        "bench": "train",
        "config": config.name,
        "examples_per_second": rate,
        "epoch_seconds": plan.steps_per_epoch * plan.size / rate,
        "evaluation_seconds": time_evaluation(config, data, built.graph, state),
        "evaluated_users": len(data.test),
        "ms_per_step": ms,
        "device": jax.devices()[0].device_kind,
    }
    print(log.as_table(rows, list(rows[0])))
    print(
        f"{rate:,.0f} examples/s; an epoch {result['epoch_seconds']:.1f} s; evaluation "
        f"of {len(data.test):,} users {result['evaluation_seconds']:.2f} s"
    )
    print(json.dumps(result))


def time_stages(
    steps: dict, state: step_lib.TrainState, *, hypers, source, shape, rounds: int
) -> tuple[list[float], step_lib.TrainState]:
    """Median seconds of a dispatch of each step, timed in turn, and a trained state."""
    runners = {name: step_lib.scan_steps(step) for name, step in steps.items()}
    states = {name: jax.tree.map(jnp.copy, state) for name in runners}
    seconds = {name: [] for name in runners}
    rng = np.random.default_rng(0)
    last = len(source.dataset.example_user) - source.dataset.span
    for turn in range(rounds + 1):
        examples = rng.integers(0, last + 1, shape)
        for name, runner in runners.items():
            begin = time.perf_counter()
            states[name], metrics = runner(states[name], hypers, source, examples)
            jax.block_until_ready((states[name], metrics))
            if turn:  # the first compiles
                seconds[name].append(time.perf_counter() - begin)
    return [statistics.median(seconds[name]) for name in STAGES], states["update"]


def time_evaluation(
    config, data, graph: graph_lib.Graph, state: step_lib.TrainState
) -> float:
    """Seconds to encode all items and test users, search and rank, after compilation."""
    evaluated = functools.partial(
        measure.measure_model,
        encode.make_towers(graph),
        step_lib.params_of(state),
        data=data,
        part=data.test,
        config=config.evaluate,
        index="exact",
    )
    evaluated()
    begin = time.perf_counter()
    evaluated()
    return time.perf_counter() - begin


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 5, "timed dispatches of each stage")
    cli.start(main)
