"""What a step over many devices moves and holds, beside the least that it could.

    python -m experiments.bench.scaling

Two towers with a history of 20 (tables of users, items and histories alike),
d = 64, in-batch softmax, row-wise Adagrad, ids log-uniform over the rows that are `met`:
the same look-ups in a larger table move the same bytes. On virtual devices of the
CPU: bytes are read from the compiled program, memory from its analysis; both are those
of any kind of device. Seconds are not: eight virtual devices share the same cores.

The bound counts, over all devices: rows that a device looks up and another has, once a
distinct row, with their ids, and their gradients back; dense gradients by a ring; item
vectors of the batch to everybody and their gradients back. What more than one round of
an exchange moves (`recall_jax.tables.exchange`) is told apart: none here.
"""

import json
import math
import re
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from recall_jax import schema as schema_lib
from recall_jax.data.arrays import Events
from recall_jax.devices import mesh as mesh_lib
from recall_jax.losses import frequency, negatives, objective
from recall_jax.models import dssm
from recall_jax.models import graph as graph_lib
from recall_jax.tables import exchange, layout, lookup
from recall_jax.training import log
from recall_jax.training import step as step_lib

WIDTH, HISTORY, EVENTS = 64, 20, 2_000_000
FLOAT, ID = 4, 4  # bytes
GPUS, BILLION = 64, 10**9
NETWORK = 50e9  # bytes a second and GPU between machines (400 Gb/s), of which
REACHED = 0.6  # this share is reached
FLOPS, BANDWIDTH = 200e12, 2.5e12  # that a GPU reaches in products, and in its memory


class Setting(NamedTuple):
    """A step ready to be compiled: its state as shapes, nothing of it made yet."""

    graph: graph_lib.Graph
    goal: objective.Objective
    optimizer: step_lib.Optimizer
    make: Any  # (key) -> (state, random)
    hypers: Any
    source: negatives.StepData


def make_source(rows: int, *, met: int) -> negatives.StepData:
    """Users' runs of 40 events each, items log-uniform over the first `met` of `rows`."""
    rng = np.random.default_rng(0)
    drawn = np.exp(rng.random(EVENTS) * math.log(met + 1)).astype(np.int64)
    items = np.clip(drawn, 1, met).astype(np.int32)
    users = min(rows, EVENTS // 40)
    offsets = np.linspace(0, EVENTS, users + 1).astype(np.int32)
    owner = np.repeat(np.arange(1, users + 1, dtype=np.int32), np.diff(offsets))
    # User ids spread over the table, as those of a log this size would.
    owner = owner * (rows // users)
    begin = np.zeros(rows + 2, np.int32)
    begin[np.arange(1, users + 1) * (rows // users)] = offsets[:-1]
    data = Events(
        items=jnp.asarray(items),
        weights=None,
        offsets=jnp.asarray(begin),
        example_user=jnp.asarray(owner),
        example_position=jnp.arange(EVENTS, dtype=jnp.int32),
        user_columns={},
        item_columns={},
        item_count=jnp.ones(rows + 1, jnp.float32),
        num_items=rows,
        known_items=rows,
        known_users=rows,
        history_length=HISTORY,
    )
    count = 1 / np.arange(1, rows + 1)
    return negatives.StepData(data, exact=frequency.exact(count))


def make_setting(rows: int, *, met: int = 0) -> Setting:
    """`met` of the rows have events; all for 0."""
    schema = schema_lib.Schema(
        query=(
            schema_lib.Column("user", "user", rows + 2, 0),
            schema_lib.Column("history", "item", rows + 2, HISTORY, "sequence"),
        ),
        item=(schema_lib.Column("item", "item", rows + 2, 0),),
    )
    config, loss = negatives.NegativesConfig(), objective.LossConfig()
    optim = step_lib.OptimConfig(tables="rowwise_adagrad")
    optimizer = step_lib.make_optimizer(optim)
    graphs = []

    def make(key):
        model, tables = dssm.Config(history_length=HISTORY).make(schema, nnx.Rngs(key))
        graph, state = step_lib.init_state(model, tables, optimizer=optimizer, key=key)
        graphs.append(graph)
        return state, graph.random

    jax.eval_shape(make, jax.random.key(0))
    hypers = step_lib.make_hypers(optim, loss, config, num_steps=10**6)
    goal = objective.make_objective(loss, config)
    source = mesh_lib.on_each(make_source(rows, met=met or rows))
    hypers = mesh_lib.on_each(hypers)
    return Setting(graphs[-1], goal, optimizer, make, hypers, source)


def looked_up(setting: Setting, examples: np.ndarray) -> dict[str, np.ndarray]:
    """The ids with which a batch reads each table, [n] of all devices end to end."""
    state = step_lib.TrainState(
        step=jnp.int32(0),
        key=jax.random.key_data(jax.random.key(0)),
        candidates=negatives.Remembered(),
        **dict.fromkeys(
            [
                "tables",
                "table_states",
                "slots",
                "dense",
                "statistics",
                "loss",
                "dense_state",
            ]
        ),
    )
    read = step_lib.make_reader(setting.graph, objective=setting.goal)

    def ids(examples):
        columns = read(state, setting.source, examples)
        return {
            table.name: lookup.ids_of(columns, table=table)
            for table in setting.graph.tables
        }

    return jax.device_get(jax.jit(ids)(mesh_lib.on_each(examples)))


def capacities(setting: Setting, *, batch: int) -> dict[str, int]:
    """As a run measures them."""
    most, rng = {}, np.random.default_rng(3)
    for _ in range(8):
        examples = rng.integers(0, EVENTS, batch, dtype=np.int32)
        for name, ids in looked_up(setting, examples).items():
            count = pairs_of(ids).max()
            most[name] = max(most.get(name, 0), int(count))
    return {name: exchange.capacity_of(n) for name, n in most.items()}


def pairs_of(ids: np.ndarray) -> np.ndarray:
    """[asking, asked]: distinct rows that each device needs of each."""
    devices = mesh_lib.num_devices()
    counts = np.zeros((devices, devices), int)
    for j, mine in enumerate(ids.reshape(devices, -1)):
        distinct = np.setdiff1d(mine, [0])
        owner = distinct % layout.SHARDS // (layout.SHARDS // devices)
        counts[j] = np.bincount(owner, minlength=devices)
    return counts


def least_bytes(setting: Setting, state, *, batch: int) -> float:
    """The bound of the docstring, of all devices together, mean of four batches."""
    devices, rng = mesh_lib.num_devices(), np.random.default_rng(4)
    moved = []
    for _ in range(4):
        ids = looked_up(setting, rng.integers(0, EVENTS, batch, dtype=np.int32))
        needed = sum(pairs_of(x).sum() - np.trace(pairs_of(x)) for x in ids.values())
        moved.append(needed * (2 * WIDTH * FLOAT + ID))
    dense = sum(leaf.size for leaf in jax.tree.leaves((state.dense, state.loss)))
    vectors = batch * WIDTH
    whole = 2 * (devices - 1) * FLOAT * (dense + vectors)
    return float(np.mean(moved)) + whole


COLLECTIVE = re.compile(
    r"= (\([^)]*\)|\S+) (all-gather|all-reduce|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\("
)
ARRAY = re.compile(r"(f64|f32|bf16|s32|u32|s64|u64|s8|u8|pred)\[([\d,]*)\]")
SIZES = {"f64": 8, "s64": 8, "u64": 8, "bf16": 2, "s8": 1, "u8": 1, "pred": 1}


def moved_bytes(program: str, *, devices: int) -> dict[str, float]:
    """Bytes between devices of a compiled program by kind of collective, all devices
    together, each operation counted once: by rings, as libraries do them."""
    share = {
        "all-gather": devices - 1,  # of the result, which all have in the end
        "all-reduce": 2 * (devices - 1),
        "reduce-scatter": devices * (devices - 1),  # of the result, a device's part
        "all-to-all": devices - 1,
        "collective-permute": devices,
    }
    totals: dict[str, float] = {}
    for line in program.splitlines():
        if not (match := COLLECTIVE.search(line)):
            continue
        shape, kind = match.groups()
        size = sum(
            SIZES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n)
            for dtype, dims in ARRAY.findall(shape)
        )
        totals[kind] = totals.get(kind, 0.0) + size * share[kind]
    return totals


def compiled(setting: Setting, *, batch: int, steps: int):
    """The program of a dispatch, of shapes alone, and the shapes of the state."""
    state, _ = jax.eval_shape(setting.make, jax.random.key(0))
    capacity = capacities(setting, batch=batch) if mesh_lib.num_devices() > 1 else None
    graph = setting.graph._replace(capacity=capacity)
    step = step_lib.make_step(
        graph, objective=setting.goal, optimizer=setting.optimizer
    )
    if mesh_lib.num_devices() > 1:
        mesh = jax.sharding.get_mesh()
        state = jax.tree.map(
            lambda leaf, spec: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=jax.NamedSharding(mesh, spec)
            ),
            state,
            mesh_lib.specs(state),
        )
    examples = mesh_lib.on_each_shape((steps, batch), np.int32)
    lowered = step_lib.scan_steps(step).lower(
        state, setting.hypers, setting.source, examples
    )
    return lowered.compile(), state


def held(program) -> int:
    """Bytes that a device holds while a program runs."""
    analysis = program.memory_analysis()
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def measure_bytes(rows: int, *, met: int, batch: int) -> dict[str, Any]:
    """What one step moves, and the bound."""
    setting = make_setting(rows, met=met)
    program, state = compiled(setting, batch=batch, steps=2)
    devices = mesh_lib.num_devices()
    moved = moved_bytes(program.as_text(), devices=devices)
    least = least_bytes(setting, state, batch=batch)
    total = sum(moved.values())
    return {
        "rows": rows,
        "met": met,
        "devices": devices,
        "moved_mb": total / 1e6,
        "least_mb": least / 1e6,
        "over_bound": total / least,
        **{f"{kind}_mb": size / 1e6 for kind, size in moved.items()},
    }


def measure_memory(rows: int, *, batch: int) -> dict[str, Any]:
    """What a device holds of the tables, in initialisation and in a step."""
    setting = make_setting(rows)
    program, state = compiled(setting, batch=batch, steps=2)
    tables = sum(leaf.size * FLOAT for leaf in jax.tree.leaves(state.tables))
    make = jax.jit(setting.make, out_shardings=(mesh_lib.specs(state), mesh_lib.WHOLE))
    initial = make.lower(jax.random.key(0)).compile()
    replicated = sum(leaf.nbytes for leaf in jax.tree.leaves(setting.source))
    return {
        "rows": rows,
        "devices": mesh_lib.num_devices(),
        "tables_gb": tables / 1e9,
        "step_share": held(program) / tables,
        "of_it_data": replicated / tables,  # the data set's, whole on every device
        "init_share": held(initial) / tables,
    }


def measure_speed(rows: int, *, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """Steps for real."""
    setting = make_setting(rows)
    program, _ = compiled(setting, batch=batch, steps=steps)
    state, _ = mesh_lib.placed_state(setting.make, jax.random.key(0))
    rng, seconds, losses = np.random.default_rng(1), [], []
    for _ in range(rounds + 1):
        examples = rng.integers(0, EVENTS, (steps, batch), dtype=np.int32)
        examples = mesh_lib.on_each(examples)
        start = time.perf_counter()
        state, metrics = program(state, setting.hypers, setting.source, examples)
        losses.append(float(jnp.mean(metrics["loss"])))
        seconds.append(time.perf_counter() - start)
    return {
        "rows": rows,
        "devices": mesh_lib.num_devices(),
        "steps_per_second": steps / statistics.median(seconds[1:]),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def plan(row: dict[str, Any], *, batch: int) -> dict[str, Any]:
    """A table of a billion rows on 64 GPUs, on paper, from what was measured here: the
    bytes of a step follow the look-ups of a device, and the bound."""
    per_device = batch // row["devices"]
    ids = per_device * (HISTORY + 2)
    distinct = ids * row["distinct_share"]
    leave = distinct * (GPUS - 1) / GPUS
    rows_bytes = leave * (2 * WIDTH * FLOAT + 2 * ID) * row["over_bound"]
    vectors = 2 * (GPUS - 1) * per_device * WIDTH * FLOAT
    seconds = (rows_bytes + vectors) / (NETWORK * REACHED)
    columns = per_device * GPUS
    flops = 6 * per_device * columns * WIDTH
    touched = 6 * distinct * WIDTH * FLOAT
    return {
        "rows": BILLION,
        "gpus": GPUS,
        "batch": columns,
        "table_gb": BILLION * WIDTH * FLOAT / GPUS / 1e9,
        "states_gb": BILLION * 2 * FLOAT / GPUS / 1e9,
        "network_mb": (rows_bytes + vectors) / 1e6,
        "network_ms": 1e3 * seconds,
        "products_ms": 1e3 * flops / FLOPS,
        "memory_ms": 1e3 * touched / BANDWIDTH,
    }


def distinct_share(rows: int, *, batch: int) -> float:
    """Distinct rows a device asks for over its look-ups."""
    setting = make_setting(rows)
    ids = looked_up(setting, np.random.default_rng(5).integers(0, EVENTS, batch))
    lookups = sum(x.size for x in ids.values())
    return float(sum(pairs_of(x).sum() for x in ids.values()) / lookups)


def main(argv):
    del argv
    given = flags.FLAGS
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    batch, mesh = given.batch_size, mesh_lib.make_mesh()
    with mesh_lib.use(mesh):
        sizes = [
            (given.small, given.small),
            (given.large, given.small),
            (given.large, given.large),
        ]
        moved = [measure_bytes(rows, met=met, batch=batch) for rows, met in sizes]
        small, same, large = moved
        memory = [measure_memory(n, batch=batch) for n in (given.large, given.largest)]
        share = distinct_share(given.large, batch=batch)
    speed = []
    for devices in (1, 2, 4, 8):
        chosen = mesh_lib.make_mesh(jax.devices()[:devices]) if devices > 1 else None
        with mesh_lib.use(chosen):
            speed.append(
                measure_speed(given.trained, batch=batch, steps=4, rounds=given.rounds)
            )
    paper = plan(large | {"distinct_share": share}, batch=batch)
    for rows in (moved, memory, speed, [paper]):
        columns = list(dict.fromkeys(name for row in rows for name in row))
        print(log.as_table(rows, columns), end="\n\n")
    print(
        json.dumps(
            {
                "bench": "scaling",
                "bytes_over_bound": max(row["over_bound"] for row in moved),
                "bytes_ratio_big_over_small_table": same["moved_mb"]
                / small["moved_mb"],
                "peak_share_of_table": max(
                    memory[-1][name] for name in ("step_share", "init_share")
                ),
                "speed": speed,
                "plan": paper,
            }
        )
    )


if __name__ == "__main__":
    flags.DEFINE_integer("batch_size", 8192, "examples a step")
    flags.DEFINE_integer("small", 400_000, "rows of the smaller tables")
    flags.DEFINE_integer("large", 4_000_000, "rows of the larger tables")
    flags.DEFINE_integer("largest", 13_400_000, "rows of tables that are only compiled")
    flags.DEFINE_integer("trained", 1_000_000, "rows of tables that train here")
    flags.DEFINE_integer("rounds", 3, "timed dispatches of each setting")
    app.run(main)
