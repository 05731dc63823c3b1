"""This project's own step, as `experiments.bench.tables` has it: touched rows only."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.bench.contestants import session
from recall_jax import evaluate, features, frequency, negatives, objective, train
from recall_jax.data.arrays import Dataset
from recall_jax.models import dssm


def make(job: session.Job) -> session.Trainer:
    correction = "positive_excluded" if job.log_q is None else "log_q"
    config = negatives.NegativesConfig(correction=correction)
    loss = objective.LossConfig(temperature=job.temperature)
    optim = train.OptimConfig(learning_rate=job.learning_rate)
    optimizer = train.make_optimizer(optim)
    model, tables = make_model(job)
    graph, state = train.init_state(
        model, tables, optimizer=optimizer, key=jax.random.key(job.seed)
    )
    goal = objective.make_objective(loss, config)
    step = train.make_step(graph, objective=goal, optimizer=optimizer)
    run, source = train.scan_steps(step), make_source(job)
    hypers = train.make_hypers(optim, loss, config, num_steps=1)
    encoder = evaluate.make_encoder(graph)

    def train_on(examples):
        nonlocal state
        state, metrics = run(state, hypers, source, jnp.asarray(examples, jnp.int32))
        jax.block_until_ready(state)
        return metrics["loss"].mean()

    def vectors():
        params, data = evaluate.params_of(state), source.dataset
        users, items = (
            jnp.arange(1, num + 1, dtype=jnp.int32)
            for num in (job.num_users, job.num_items)
        )
        query = encoder.query(params, data, users, jnp.zeros_like(users))
        return np.asarray(query), np.asarray(encoder.item(params, data, items))

    return session.Trainer(train_on, vectors)


def make_model(job: session.Job):
    """Two towers over ids alone."""
    schema = features.Schema(
        query=(features.Column("user", "user", job.num_users + 2, 0),),
        item=(features.Column("item", "item", job.num_items + 2, 0),),
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


def make_source(job: session.Job) -> negatives.Source:
    """The examples as events of nobody's history."""
    count = np.bincount(job.item, minlength=job.num_items + 1)
    data = Dataset(
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
    return negatives.Source(data, exact=frequency.exact(count[1:]))


if __name__ == "__main__":
    session.serve(make, packages=("jax", "flax"))
