"""Many settings of one model trained by one program, on one device or on several.

A *lane* is one setting: its training state, its traced floats, its data order. The
states of all lanes lie stacked, [lanes, ...], split over the devices; what all lanes
read alike (the data set) is there once on each.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recall_jax.training.step import Step
from recall_jax.types import unknown

MODES = ("map", "vmap")
"""A device takes its lanes one after the other, or all at once. A CPU gains nothing
from more work a step, and scatters into stacked tables cost it three times as much."""
AXIS = "settings"


class Layout(NamedTuple):
    """Which devices train how many lanes, and how."""

    mode: str  # MODES
    devices: tuple[jax.Device, ...]
    num: int  # settings; what is more than these pads the last device
    per_device: int

    @property
    def lanes(self) -> int:
        return self.per_device * len(self.devices)

    def sharding(self, spec: PartitionSpec) -> NamedSharding | None:
        """None on one device: tying arrays to it would compile their users again."""
        if len(self.devices) == 1:
            return None
        return NamedSharding(self._mesh(), spec)

    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))


def make_layout(num: int, *, mode: str, devices: Sequence[jax.Device]) -> Layout:
    """The fewest devices that hold `num` settings in the fewest lanes each; `mode` is
    one of MODES, or "auto": map on a CPU, vmap elsewhere."""
    if mode == "auto":
        mode = "map" if devices[0].platform == "cpu" else "vmap"
    if mode not in MODES:
        raise unknown("--mode", mode, ("auto", *MODES))
    per_device = math.ceil(num / len(devices))
    used = math.ceil(num / per_device)
    return Layout(mode, tuple(devices[:used]), num, per_device)


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of one structure as one on the host, [lanes, ...]."""
    trees = [jax.device_get(tree) for tree in trees]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def place(tree: Any, layout: Layout) -> Any:
    """Stacked leaves [num, ...] on the layout's devices; the last one fills the rest."""
    index = np.minimum(np.arange(layout.lanes), layout.num - 1)
    tree = jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)
    return jax.device_put(tree, layout.sharding(PartitionSpec(AXIS)))


def unpadded(tree: Any, layout: Layout) -> Any:
    """A placed tree without what fills the last device, then on the host: where devices
    do not divide it, each would be given the whole."""
    if layout.lanes == layout.num:
        return tree
    return jax.tree.map(lambda leaf: jax.device_get(leaf)[: layout.num], tree)


def share(tree: Any, layout: Layout) -> Any:
    """What all lanes read, once on each device."""
    return jax.device_put(tree, layout.sharding(PartitionSpec()))


def lane(tree: Any, at: int, layout: Layout) -> Any:
    """One lane of a placed tree, on the first device, where evaluation runs."""
    device, place = divmod(at, layout.per_device)
    if len(layout.devices) == 1:
        return _taken(tree, place)
    mine = jax.tree.map(lambda leaf: leaf.addressable_data(device), tree)
    return jax.device_put(_taken(mine, place), jax.devices()[0])


@jax.jit
def _taken(tree: Any, place: int) -> Any:
    """All leaves in one dispatch: leaf by leaf it would take longer than to encode."""
    return jax.tree.map(lambda leaf: leaf[place], tree)


class Sources(NamedTuple):
    """The sources of all lanes: leaves that are alike once, the others stacked, each
    None where it is among the other ones."""

    shared: list[Any]
    own: list[Any]
    treedef: Any

    def merge(self, shared: list[Any], own: list[Any]) -> Any:
        """A lane's source from its own leaves and the shared ones."""
        leaves = [a if b is None else b for a, b in zip(shared, own, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)


def make_sources(sources: Sequence[Any]) -> Sources:
    """Sources of one structure; where samplers differ, only their leaves are stacked."""
    columns = list(zip(*map(jax.tree.leaves, sources), strict=True))
    alike = [all(_same(column[0], x) for x in column[1:]) for column in columns]
    shared = [column[0] if same else None for column, same in zip(columns, alike)]
    own = [None if same else stacked(column) for column, same in zip(columns, alike)]
    return Sources(shared, own, jax.tree.structure(sources[0]))


def _same(one: jax.Array, other: jax.Array) -> bool:
    return one is other or bool(np.array_equal(one, other))


StackedStep = Callable[
    [Any, dict[str, Any], dict[str, Any]], tuple[Any, dict[str, Any]]
]


def make_stacked_step(step: Step, sources: Sources, layout: Layout) -> StackedStep:
    """Many steps of all lanes in one dispatch: (states, each, common) -> (states,
    metrics [lanes, steps]), the states donated.

    `each` has, stacked, the hypers, the source's own leaves ("own"), whether a lane is
    "active", and the "examples" [lanes, steps, b] unless all lanes share them: then
    `common` has them, [steps, b], beside the "shared" leaves. A lane that is not active
    stays as it is, its metrics 0.
    """

    def one(state: Any, each: dict[str, Any], common: dict[str, Any]):
        parts = each | common
        source = sources.merge(parts["shared"], parts["own"])

        def train(state: Any):
            return jax.lax.scan(
                lambda state, example: step(state, parts["hypers"], source, example),
                state,
                parts["examples"],
            )

        def rest(state: Any):
            like = jax.eval_shape(train, state)[1]
            return state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

        return jax.lax.cond(parts["active"], train, rest, state)

    run = _mapped(one) if layout.mode == "map" else jax.vmap(one, in_axes=(0, 0, None))
    if len(layout.devices) > 1:
        own, alike = PartitionSpec(AXIS), PartitionSpec()
        run = jax.shard_map(
            run,
            mesh=layout.sharding(own).mesh,
            in_specs=(own, own, alike),
            out_specs=own,
            check_vma=False,
        )
    return jax.jit(run, donate_argnums=0)


def _mapped(one: StackedStep) -> StackedStep:
    """One lane after the other, each state written where it lay."""

    def run(states: Any, each: dict[str, Any], common: dict[str, Any]):
        def body(states: Any, at_and_each):
            at, mine = at_and_each
            state = jax.tree.map(lambda leaf: leaf[at], states)
            state, metrics = one(state, mine, common)
            write = jax.lax.dynamic_update_index_in_dim
            states = jax.tree.map(lambda x, new: write(x, new, at, 0), states, state)
            return states, metrics

        return jax.lax.scan(body, states, (jnp.arange(len(each["active"])), each))

    return run


def needed_bytes(compiled: Any) -> int | None:
    """What a compiled program needs of one device; None where XLA does not say."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return arguments - memory.alias_size_in_bytes + memory.temp_size_in_bytes
