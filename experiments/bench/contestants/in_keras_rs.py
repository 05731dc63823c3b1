"""Keras-RS on JAX: two towers and `compute_loss`, as its retrieval tutorial has them.

Forms: "embedding", Keras's own tables, and "distributed", Keras-RS's DistributedEmbedding,
both under `model.fit` with many steps an execution; "scan", the first under a jitted scan
over `train_step`, which is more than its guides show. Gradients and Adam's moments are of
whole tables in all of them: on a CPU there is nothing else.

Accidental hits are masked by hand: keras_rs 0.4's RemoveAccidentalHits adds 1e-40 to
them, which in float32 is nothing.
"""

import functools
import os

import session

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import keras_rs
import numpy as np
from keras import ops


def embedding(job: session.Job, name: str, num: int) -> keras.layers.Layer:
    initializer = keras.initializers.RandomNormal(stddev=job.init_scale)
    if job.form != "distributed":
        return keras.layers.Embedding(
            num + 2, job.width, embeddings_initializer=initializer
        )
    table = keras_rs.layers.TableConfig(
        name, num + 2, job.width, initializer=initializer
    )
    shapes = (job.batch_size,), (job.batch_size, job.width)
    feature = keras_rs.layers.FeatureConfig(name, table, *shapes)
    return keras_rs.layers.DistributedEmbedding(feature)


class TwoTowers(keras.Model):
    """Unit vectors of both sides, and the softmax over a batch's items."""

    def __init__(self, job: session.Job):
        super().__init__()
        self.temperature, self.log_q = job.temperature, job.log_q
        self.towers = {
            name: keras.Sequential(
                [
                    embedding(job, name, num),
                    keras.layers.Dense(job.hidden, activation="relu"),
                    keras.layers.Dense(job.width),
                    keras.layers.UnitNormalization(),
                ]
            )
            for name, num in (("user", job.num_users), ("item", job.num_items))
        }
        self.corrected = keras_rs.layers.SamplingProbabilityCorrection()
        self.softmax = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def call(self, inputs):
        return {name: tower(inputs[name]) for name, tower in self.towers.items()}

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        ids = x["item"]
        logits = y_pred["user"] @ ops.transpose(y_pred["item"]) / self.temperature
        own = ops.arange(ids.shape[0])
        if self.log_q is not None:
            chance = ops.take(ops.exp(self.log_q), ids)
            logits = self.corrected(logits, chance[None, :])
            same, other = ids[:, None] == ids, own[:, None] != own
            logits = ops.where(ops.logical_and(same, other), -1e9, logits)
        return self.softmax(own, logits)


def make(job: session.Job) -> session.Trainer:
    keras.utils.set_random_seed(job.seed)
    model = TwoTowers(job)
    model.compile(
        optimizer=keras.optimizers.Adam(job.learning_rate),
        jit_compile=True,
        steps_per_execution=8,
    )
    some = np.ones(job.batch_size, np.int32)
    model({"user": some, "item": some})  # builds it
    model.optimizer.build(model.trainable_variables)
    train = by_scan(model, job) if job.form == "scan" else by_fit(model, job)
    given = {"num": job.num_users}, {"num": job.num_items}

    def vectors():
        return tuple(
            encode(tower, job.batch_size, **named)
            for tower, named in zip(model.towers.values(), given, strict=True)
        )

    return session.Trainer(train, vectors)


def encode(tower: keras.Model, batch_size: int, *, num: int) -> np.ndarray:
    """In whole batches: DistributedEmbedding takes no others."""
    ids = np.zeros(-(-num // batch_size) * batch_size, np.int32)
    ids[:num] = np.arange(1, num + 1)
    blocks = [
        ops.convert_to_numpy(tower(block)) for block in ids.reshape(-1, batch_size)
    ]
    return np.concatenate(blocks)[:num]


def by_fit(model: keras.Model, job: session.Job):
    def train(examples):
        rows = examples.reshape(-1)
        history = model.fit(
            {"user": job.user[rows], "item": job.item[rows]},
            batch_size=job.batch_size,
            shuffle=False,  # they are already
            verbose=0,
        )
        jax.block_until_ready([v.value for v in model.variables])
        return history.history["loss"][0]

    return train


def by_scan(model: keras.Model, job: session.Job):
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state, batches):
        def step(state, batch):
            logs, state = model.train_step(state, (batch,))
            return state, logs["loss"]

        return jax.lax.scan(step, state, batches)

    def train(examples):
        model.reset_metrics()
        state = tuple([v.value for v in group] for group in groups)
        batches = {"user": job.user[examples], "item": job.item[examples]}
        state, losses = run(state, batches)
        for group, values in zip(groups, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        jax.block_until_ready([v.value for v in model.variables])
        return losses[-1]  # Keras's is the mean so far

    return train


if __name__ == "__main__":
    session.serve(make, packages=("keras-rs", "keras", "jax"))
