"""Steps of a small model on a weighed log, and their check against the definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import reference_step
from test_loop import pieces
from test_objective import TINY

from recall_jax.data import split
from recall_jax.losses import candidates
from recall_jax.losses.objective import LossConfig
from recall_jax.models import graph as graph_lib
from recall_jax.models import mf
from recall_jax.tables import layout
from recall_jax.training import step as step_lib

FIXED = {"correction": "none"}
MODEL = mf.Config(width=4, normalize="none", init_scale=0.6)
RATE, EXAMPLES = 0.5, np.arange(3, 51, 3)
WEIGHTS = np.array([0.0, 2.0, 1.0, 0.5] * 4)


def split_of_log():
    return split.by_protocol(TINY.load(), config=TINY)


def weighed(data):
    """With weights that `WEIGHTS` says for `EXAMPLES`."""
    weights = np.random.default_rng(5).choice([0.5, 3.0], len(data.items))
    weights[np.asarray(data.dataset.example_position)[EXAMPLES]] = WEIGHTS
    weights = jnp.asarray(weights, jnp.float32)
    return dataclasses.replace(
        data, dataset=dataclasses.replace(data.dataset, weights=weights)
    )


def rows_of(state, name: str) -> np.ndarray:
    """A table's rows by catalogue id, in float64."""
    return np.asarray(layout.whole(state.tables[name]), np.float64)


@dataclasses.dataclass
class Taken:
    """A step, and what it was drawn."""

    sample: candidates.Sample
    graph: graph_lib.Graph
    before: step_lib.TrainState
    after: step_lib.TrainState
    metrics: dict

    def met(self, data, config, *, example=EXAMPLES, q=None) -> reference_step.Met:
        return reference_step.met(
            config,
            data=data,
            example=example,
            sample=self.sample,
            weights=WEIGHTS,
            queue=self.before.candidates.queue,
            q=q,
        )


def take(
    data, config, loss, *, steps: int = 1, model=MODEL, rows=EXAMPLES, decay=0.0
) -> list[Taken]:
    """Steps of SGD on one batch."""
    optim = step_lib.OptimConfig(tables="sgd", learning_rate=RATE, weight_decay=decay)
    calls, make_step = [], step_lib.make_step

    def noted(graph, **arguments):
        calls.append((graph, arguments["objective"]))
        return make_step(graph, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_lib, "make_step", noted)
        step, state, hypers, source = pieces(
            data, negatives=config, loss=loss, optim=optim, model=model
        )
    ((graph, goal),) = calls
    if state.candidates.index is not None:
        rng = np.random.default_rng(3)
        index = jnp.asarray(rng.normal(size=state.candidates.index.shape), jnp.float32)
        state = state._replace(candidates=state.candidates._replace(index=index))

    @jax.jit
    def both(state, example):
        drawn = step_lib.draw(state, source, example, graph=graph, objective=goal)
        return drawn.sample, *step(state, hypers, source, example)

    taken = []
    for _ in range(steps):
        sample, after, metrics = both(state, jnp.asarray(rows))
        taken.append(Taken(sample, graph, state, after, metrics))
        state = after
    return taken


def check(data, config, loss, taken: Taken, *, q=None) -> None:
    """Loss and gradients of a step are those of the definition."""
    met = taken.met(data, config, q=q)
    users, items = (rows_of(taken.before, name) for name in ("user", "item"))
    arguments = {
        "loss": loss,
        "config": config,
        "known_items": data.dataset.known_items,
    }

    def loss_of(query, item):
        return reference_step.mean_loss(met, query, item, **arguments)

    query, item = users[met.user], items[: data.dataset.num_items + 1]
    np.testing.assert_allclose(taken.metrics["loss"], loss_of(query, item), rtol=1e-5)
    of_users, of_items = np.zeros_like(users), np.zeros_like(items)
    slopes = reference.slopes(lambda x: loss_of(x, item), query)
    np.add.at(of_users, met.user, slopes)
    of_items[: len(item)] = reference.slopes(lambda x: loss_of(query, x), item)
    for name, before, slopes in (("user", users, of_users), ("item", items, of_items)):
        moved, wanted = rows_of(taken.after, name), before - RATE * slopes
        np.testing.assert_allclose(moved, wanted, rtol=1e-4, atol=2e-6, err_msg=name)


LOSSES = {
    "softmax": LossConfig(temperature=0.4),
    "bpr": LossConfig(name="bpr", temperature=0.4),
    "gbce": LossConfig(name="gbce", temperature=0.4, calibration=0.3),
    "hinge": LossConfig(name="hinge", margin=0.3, temperature=0.4),
    "cosine_contrastive": LossConfig(
        name="cosine_contrastive", margin=-0.2, negative_weight=1.7, temperature=0.4
    ),
    "logistic": LossConfig(name="logistic", temperature=0.4, negative_weight=1.7),
    "squared": LossConfig(name="squared", temperature=0.4, negative_weight=1.7),
}
