"""Steps of any experiment on any number of devices, for tests that compare them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recall_jax.devices import mesh
from recall_jax.run import build as build_lib
from recall_jax.training import loop, step


class Ran(NamedTuple):
    """What steps leave, on the host; tables in the order of their rows."""

    state: step.TrainState
    metrics: dict[str, np.ndarray]  # [steps]


def mesh_of(devices: int):
    return mesh.make_mesh(jax.devices()[:devices]) if devices > 1 else None


def float64(tree: Any) -> Any:
    """Floats in double precision, under jax.enable_x64."""

    def wide(leaf):
        floats = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(jnp.float64) if floats else leaf

    return jax.tree.map(wide, tree)


def run_steps(
    config, data, *, devices: int, steps: int, capacity: int | None = None
) -> Ran:
    """The first steps of an experiment in float64; `capacity` is that of exchanges, as
    measured where None."""
    with jax.enable_x64(True), mesh.use(mesh_of(devices)):
        on = build_lib.make_corpus(config, data)
        plan = loop.make_plan(config.train, num_rows=on.num_rows)
        build_lib.check_devices(config, plan)
        hypers = step.make_hypers(
            config.optim, config.loss, config.negatives, num_steps=steps
        )
        built = build_lib.make(config, data, batch_size=plan.size * on.span)
        source = float64(mesh.on_each(on.source))
        built = build_lib.with_capacity(
            config, built, source, num_rows=on.num_rows, size=plan.size
        )
        if capacity and devices > 1:
            room = dict.fromkeys(built.graph.capacity, capacity)
            built = built._replace(graph=built.graph._replace(capacity=room))
        built = built._replace(state=float64(built.state))
        rows = np.random.default_rng(1).integers(0, on.num_rows, (steps, plan.size))
        examples = mesh.on_each((rows * on.span).astype(np.int32))
        run = step.scan_steps(build_lib.make_step(config, built))
        state, metrics = run(
            built.state, float64(mesh.on_each(hypers)), source, examples
        )
        return jax.device_get(Ran(state, metrics))
