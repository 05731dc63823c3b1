"""One mesh axis over all devices, and what is split over it.

Dense parameters and the data set are on every device, a batch and the tables are split.
Tables are stored in SHARDS parts (`tables.layout`), so that any number of devices that
divides 64 reads a checkpoint.

Code outside `spread` is written for the whole batch, and the compiler splits it. Inside
`spread` it is written for one device's rows: `mine` takes them of what all devices
have, `everyone` gathers what each has, `total` sums. On one device all of them return
what they are given, so that a step reads the same.
"""

import contextlib
import itertools
import os
import pathlib
import platform
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from recall_jax.devices import processes
from recall_jax.types import InputError

AXIS = "devices"
SHARDS = 64  # parts of a table; what its rows are split into


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """One axis over these devices, or over all of every process. Raises InputError for
    a number that does not divide 64."""
    devices = jax.devices() if devices is None else devices
    if SHARDS % len(devices):
        raise InputError(
            f"{len(devices)} devices cannot share tables of {SHARDS} parts alike; train "
            "on 1, 2, 4, 8, 16, 32 or 64, with --devices=N or as many processes"
        )
    return jax.make_mesh(
        (len(devices),), (AXIS,), devices=devices, axis_types=(AxisType.Auto,)
    )


def first(num: int) -> Mesh | None:
    """A mesh of the first `num` devices, all for 0; None for one. Raises InputError where
    there are not so many, or they cannot share the tables."""
    devices = jax.devices()
    num = num or len(devices)
    if not 1 <= num <= len(devices):
        raise InputError(
            f"--devices={num}, but there are {len(devices)} x {devices[0].device_kind}; "
            f"give 1 to {len(devices)}, or 0 for all"
        )
    return make_mesh(devices[:num]) if num > 1 else None


def use(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """The mesh for all that is traced and placed within; None: one device as ever."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def described() -> str:
    """The devices for people: "8 x NVIDIA H200", "cpu (AMD EPYC, 2 cores)"."""
    device = jax.devices()[0]
    if num_devices() > 1:
        device = jax.sharding.get_mesh().devices.flat[0]
    many = f"{num_devices()} x " if num_devices() > 1 else ""
    return f"{many}{device.device_kind}{_processor(device)}"


def _processor(device: jax.Device) -> str:
    """What a CPU is, and how much of it this process may use; "" of other devices."""
    if device.platform != "cpu":
        return ""
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = len(os.sched_getaffinity(0))
    cpu_info = pathlib.Path("/proc/cpuinfo")
    lines = cpu_info.read_text() if cpu_info.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", lines, re.MULTILINE)
    model = named[1] if named else platform.processor() or platform.machine()
    return f" ({model}, {cores} core{'s' * (cores != 1)})"


def num_devices() -> int:
    """Devices of the mesh that `jax.set_mesh` has set; 1 without one."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(AXIS, 1)


def inside() -> bool:
    """Whether this is traced for one device's rows, in `spread`."""
    return AXIS in jax.sharding.get_abstract_mesh().manual_axes


def by_device_rows(tree: Any) -> Any:
    """Arrays whose first axis is over the devices, from here on."""
    if num_devices() == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, P(AXIS)), tree)


def spread(f: Callable, *, in_specs: Any, out_specs: Any) -> Callable:
    """`f` on each device's own part: specs are `SPLIT` and `WHOLE`, as `shard_map` takes
    them. What it returns as WHOLE must be the same on all devices."""
    return jax.shard_map(f, in_specs=in_specs, out_specs=out_specs, check_vma=False)


SPLIT, WHOLE = P(AXIS), P()


SPLIT_STATE = ("tables", "table_states", "slots")
"""Parts of a training state that are split; all else is on every device."""


def specs(state: Any) -> Any:
    """A training state's leaves as they are placed, by their path."""

    def spec(path, leaf):
        return SPLIT if path[0].name in SPLIT_STATE else WHOLE

    return jax.tree_util.tree_map_with_path(spec, state)


def keep(state: Any) -> Any:
    """A training state in a traced step, each leaf where it is placed."""
    if num_devices() == 1:
        return state
    return jax.tree.map(jax.lax.with_sharding_constraint, state, specs(state))


def placed_state(make: Callable, *args: Any) -> Any:
    """What `make(*args)` gives, a training state and something else, each leaf of the
    state made where it is placed: no table is ever whole on one device."""
    if num_devices() == 1:
        return jax.jit(make)(*args)
    state, _ = jax.eval_shape(make, *args)
    return jax.jit(make, out_shardings=(specs(state), WHOLE))(*args)


def outlined(make: Callable, *args: Any) -> Any:
    """As `placed_state`, but of the state shapes alone, and where each leaf would be placed."""
    state, _ = jax.eval_shape(make, *args)
    if num_devices() > 1:
        state = jax.tree.map(
            lambda x, at: _placed(x.shape, x.dtype, at), state, specs(state)
        )
    rest = jax.jit(lambda *args: make(*args)[1])  # the compiler drops the state
    return state, on_each(rest(*args))


def on_each(tree: Any) -> Any:
    """Arrays of the host, or of one device, on every device; equal in all processes."""
    return _put(tree, WHOLE)


def share(tree: Any) -> Any:
    """The same, of as many rows for each device, to each its own."""
    return _put(tree, SPLIT)


def _put(tree: Any, spec: P) -> Any:
    if num_devices() == 1:
        return jax.device_put(tree)
    if processes.count() == 1:
        return jax.device_put(tree, spec)
    where = NamedSharding(jax.sharding.get_mesh(), spec)
    return jax.tree.map(lambda value: processes.placed(value, where), tree)


def on_each_shape(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """What `on_each` gives of an array, for compilation."""
    if num_devices() == 1:
        return jax.ShapeDtypeStruct(shape, dtype)
    return _placed(shape, dtype, WHOLE)


def _placed(shape: tuple[int, ...], dtype: Any, spec: P) -> jax.ShapeDtypeStruct:
    where = NamedSharding(jax.sharding.get_mesh(), spec)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def by_device(f: Callable) -> Callable:
    """`f`, which treats rows alone, on each device's rows of all its arguments."""
    if num_devices() == 1:
        return f
    return spread(f, in_specs=SPLIT, out_specs=SPLIT)


def shared_groups(*sizes: int) -> int:
    """The most groups, up to 64, into which all sizes divide, a power of two: the same
    on any number of devices.

    >>> shared_groups(1024, 96), shared_groups(6, 64)
    (32, 2)
    """
    return next(n for n in (64, 32, 16, 8, 4, 2, 1) if not any(s % n for s in sizes))


def join(parts: Sequence[Array], *, groups: int) -> Array:
    """Parts [n_j, ...] as one array in which each of `groups` groups holds its share of
    every part, so that a device that has some groups has its rows of each part."""
    if len(parts) == 1:
        return parts[0]
    if groups % num_devices():
        sizes = ", ".join(str(len(part)) for part in parts)
        raise InputError(
            f"{num_devices()} devices cannot share {sizes} rows of a step alike; choose "
            "train.batch_size, negatives.num and groups of negatives that they divide"
        )
    by_group = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
    return jnp.concatenate(by_group, axis=1).reshape(-1, *parts[0].shape[1:])


def cut(x: Array, sizes: Sequence[int], *, groups: int) -> list[Array]:
    """The parts, of these many rows, that `join` made `x` of; inside `spread` the rows
    of them that are this device's."""
    if inside():
        devices = jax.lax.axis_size(AXIS)
        sizes, groups = [size // devices for size in sizes], max(groups // devices, 1)
    if len(sizes) == 1:
        return [x]
    ends = list(itertools.accumulate(size // groups for size in sizes))[:-1]
    parts = jnp.split(x.reshape(groups, -1, *x.shape[1:]), ends, axis=1)
    return [part.reshape(-1, *x.shape[1:]) for part in parts]


def mine(tree: Any) -> Any:
    """This device's rows of arrays that all have whole."""
    if not inside():
        return tree
    index, devices = jax.lax.axis_index(AXIS), jax.lax.axis_size(AXIS)

    def rows(x):
        size = len(x) // devices
        return jax.lax.dynamic_slice_in_dim(x, index * size, size)

    return jax.tree.map(rows, tree)


def everyone(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """All devices' rows, in their order."""
    return jax.lax.all_gather(x, AXIS, tiled=True) if inside() else x


def scattered(x: Float[Array, "n d"]) -> Float[Array, "m d"]:
    """This device's rows of the sum over devices."""
    return jax.lax.psum_scatter(x, AXIS, tiled=True) if inside() else x


def total(x: Array) -> Array:
    """The sum over devices."""
    return jax.lax.psum(x, AXIS) if inside() else x
