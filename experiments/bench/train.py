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
from flax import nnx
from ml_collections import config_flags

from experiments import cli, run
from recall_jax import evaluate, fit, logs, objective, train

STAGES = ("batch and rows", "forward", "backward", "update")


def total(tree) -> jax.Array:
    """One number that needs every array, so that no stage is optimised away."""
    return sum(jnp.sum(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree))


def stages(graph: train.Graph, goal: objective.Objective, optimizer) -> dict:
    """The step cut off after each stage, as functions like `train.Step`."""

    def loss_of(params, drawn, hypers, source):
        return train.mean_loss(
            params,
            drawn=drawn,
            graph=graph,
            objective=goal,
            source=source,
            hypers=hypers,
        )

    def cut(state, hypers, source, example, *, stage):
        drawn = train.draw(state, source, example, graph=graph, objective=goal)
        params = (drawn.rows, state.dense)
        if stage == "batch and rows":
            out = total((drawn.query, drawn.item, drawn.rows, drawn.batch))
        elif stage == "forward":
            out = loss_of(params, drawn, hypers, source)
        else:
            out = total(jax.grad(loss_of)(params, drawn, hypers, source))
        return state._replace(step=state.step + 1, slots=drawn.slots), {"loss": out}

    cuts = {stage: functools.partial(cut, stage=stage) for stage in STAGES[:-1]}
    return cuts | {
        "update": train.make_step(graph, objective=goal, optimizer=optimizer)
    }


def main(argv: list[str]) -> None:
    del argv
    config, rounds = flags.FLAGS.config, flags.FLAGS.rounds
    data = run.prepare(config).data
    evaluate.check(config.evaluate, data)
    plan = fit.make_plan(config.train, num_examples=data.num_examples)
    goal = objective.make_objective(config.loss, config.negatives)
    optimizer = train.make_optimizer(config.optim)
    source = objective.make_source(data, config.negatives)
    hypers = train.make_hypers(
        config.optim, config.loss, config.negatives, num_steps=plan.num_steps
    )
    model, tables = config.model.make(data.schema, nnx.Rngs(0))
    start = functools.partial(
        train.init_state, optimizer=optimizer, key=jax.random.key(0)
    )
    graph, state = start(model, tables)
    runners = {
        name: train.scan_steps(step)
        for name, step in stages(graph, goal, optimizer).items()
    }
    states = {name: jax.tree.map(jnp.copy, state) for name in runners}
    seconds = {name: [] for name in runners}
    rng = np.random.default_rng(0)
    for turn in range(rounds + 1):
        examples = rng.integers(0, data.num_examples, (plan.scan, plan.size))
        for name, runner in runners.items():
            begin = time.perf_counter()
            states[name], metrics = runner(states[name], hypers, source, examples)
            jax.block_until_ready((states[name], metrics))
            if turn:  # the first compiles
                seconds[name].append(time.perf_counter() - begin)
    medians = [statistics.median(seconds[name]) for name in STAGES]
    parts = np.diff([0.0, *medians])
    rows = [
        {
            "stage": name,
            "ms per step": 1e3 * part / plan.scan,
            "share": f"{part / medians[-1]:.0%}",
        }
        for name, part in zip(STAGES, parts, strict=True)
    ]
    print(logs.table(rows, list(rows[0])))
    rate = plan.scan * plan.size / medians[-1]
    epoch = plan.steps_per_epoch * plan.size / rate
    evaluation = time_evaluation(config, data, graph, states["update"])
    print(
        f"{rate:,.0f} examples/s; an epoch {epoch:.1f} s; evaluation of "
        f"{len(data.test):,} users {evaluation:.2f} s"
    )
    print(
        json.dumps(
            {
                "bench": "train",
                "config": config.name,
                "examples_per_second": rate,
                "epoch_seconds": epoch,
                "evaluation_seconds": evaluation,
                "ms_per_step": {row["stage"]: row["ms per step"] for row in rows},
                "device": jax.devices()[0].device_kind,
            }
        )
    )


def time_evaluation(config, data, graph: train.Graph, state: train.TrainState) -> float:
    """Seconds to encode all items and test users, search and rank, after compilation."""
    evaluated = functools.partial(
        evaluate.measure_model,
        evaluate.make_encoder(graph),
        evaluate.params_of(state),
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
    config_flags.DEFINE_config_file(
        "config", str(cli.config_path(cli.DEFAULT)), "a config's name, or a path"
    )
    flags.DEFINE_integer("rounds", 5, "timed dispatches of each stage")
    cli.start(main)
