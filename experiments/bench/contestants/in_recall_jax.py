"""This project's own step, as `experiments.bench.tables` has it: touched rows only."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.bench.contestants import session
from recall_jax import schema as schema_lib
from recall_jax.data.arrays import Events
from recall_jax.evaluate import encode
from recall_jax.losses import frequency, negatives, objective
from recall_jax.models import dssm
from recall_jax.training import step as step_lib


def make(job: session.Job) -> session.Trainer:
    correction = "positive_excluded" if job.log_q is None else "log_q"
    config = negatives.NegativesConfig(correction=correction)
    loss = objective.LossConfig(temperature=job.temperature)
    optim = step_lib.OptimConfig(learning_rate=job.learning_rate)
    optimizer = step_lib.make_optimizer(optim)
    model, tables = make_model(job)
    graph, state = step_lib.init_state(
        model, tables, optimizer=optimizer, key=jax.random.key(job.seed)
    )
    goal = objective.make_objective(loss, config)
    step = step_lib.make_step(graph, objective=goal, optimizer=optimizer)
    run, source = step_lib.scan_steps(step), make_source(job)
    hypers = step_lib.make_hypers(optim, loss, config, num_steps=1)
    encoder = encode.make_towers(graph)

    def train_on(examples):
        nonlocal state
        state, metrics = run(state, hypers, source, jnp.asarray(examples, jnp.int32))
        jax.block_until_ready(state)
        return metrics["loss"].mean()

    def vectors():
        params, data = step_lib.params_of(state), source.dataset
        users, items = (
            jnp.arange(1, num + 1, dtype=jnp.int32)
            for num in (job.num_users, job.num_items)
        )
        query = encoder.query(params, data, users, jnp.zeros_like(users))
        return np.asarray(query), np.asarray(encoder.item(params, data, items))

    return session.Trainer(train_on, vectors)


def make_model(job: session.Job):
    """Two towers over ids alone."""
    schema = schema_lib.Schema(
        query=(schema_lib.Column("user", "user", job.num_users + 2, 0),),
        item=(schema_lib.Column("item", "item", job.num_items + 2, 0),),
    )
    config = dssm.Config(
        history_length=0,
        id_width=job.width,
        width=job.width,
        hidden=(job.hidden,),
        item_hidden=(job.hidden,),
        init_scale=job.init_scale,
    )
    return config.make(schema, nnx.Rngs(job.seed))


def make_source(job: session.Job) -> negatives.StepData:
    """The examples as events of nobody's history."""
    count = np.bincount(job.item, minlength=job.num_items + 1)
    data = Events(
        items=jnp.asarray(job.item),
        weights=None,
        offsets=jnp.zeros(job.num_users + 2, jnp.int32),
        example_user=jnp.asarray(job.user),
        example_position=jnp.arange(len(job.item), dtype=jnp.int32),
        user_columns={},
        item_columns={},
        item_count=jnp.asarray(count, jnp.float32),
        num_items=job.num_items,
        known_items=job.num_items,
        known_users=job.num_users,
        history_length=0,
    )
    return negatives.StepData(data, exact=frequency.exact(count[1:]))


if __name__ == "__main__":
    session.serve(make, packages=("jax", "flax"))
