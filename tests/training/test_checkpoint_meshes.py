"""A checkpoint written on one mesh, or by several processes, is read on another."""

import jax
import numpy as np
import pytest
import several
from jax.sharding import NamedSharding, PartitionSpec
from test_checkpoint import steps

from recall_jax.training import checkpoint

shape = jax.ShapeDtypeStruct


def split_state(devices: int, seed: int = 0) -> dict:
    """A table whose first axis is split over so many devices, and what they all have."""
    rng = np.random.default_rng(seed)
    return {
        "table": jax.device_put(
            rng.normal(size=(64, 3, 2)).astype(np.float32), over(devices, "devices")
        ),
        "dense": jax.device_put(rng.normal(size=5).astype(np.float32), over(devices)),
        "empty": jax.device_put(np.zeros((0, 2), np.float32), over(devices)),
    }


def over(devices: int, *axes: str) -> NamedSharding:
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh(
        (devices,), ("devices",), auto, devices=jax.devices()[:devices]
    )
    return NamedSharding(mesh, PartitionSpec(*axes))


@pytest.mark.parametrize("most", [-1, checkpoint.SMALL], ids=["apart", "packed"])
@pytest.mark.parametrize(("saved_on", "asked_on"), [(8, 1), (1, 8), (8, 4), (4, 8)])
def test_a_state_comes_back_on_another_mesh(
    tmp_path, monkeypatch, saved_on, asked_on, most
):
    monkeypatch.setattr(checkpoint, "SMALL", most)
    state = split_state(saved_on)
    checkpoint.save(tmp_path, state, kind="latest", step=1, progress={})
    like = {
        name: shape(x.shape, x.dtype, sharding=other.sharding)
        for (name, x), other in zip(state.items(), split_state(asked_on, 1).values())
    }
    restored_state, _ = checkpoint.restore(tmp_path, like, kind="latest")
    for name, array in restored_state.items():
        np.testing.assert_array_equal(array, state[name])
        assert array.sharding == like[name].sharding
    assert len(restored_state["table"].addressable_shards) == asked_on
    assert restored_state["table"].addressable_data(0).shape == (64 // asked_on, 3, 2)


TOGETHER = """
import pathlib
import resource
import warnings
import jax
import numpy as np
import pytest
from recall_jax.devices import mesh as mesh_lib
from recall_jax.training import checkpoint

folder = pathlib.Path(sys.argv[1])
mesh = mesh_lib.make_mesh()
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
table = np.random.default_rng(0).normal(size=(64, 50, 40)).astype(np.float32)
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
state = {
    "table": processes.placed(table, rows),
    "dense": processes.placed(np.arange(5.0, dtype=np.float32), everywhere),
    "empty": processes.placed(np.zeros(0), everywhere),
}
like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
)

def save(step):
    checkpoint.save(folder, state, kind="latest", step=step, progress={"step": step})

def restored(step):
    found, progress = checkpoint.restore(folder, like, kind="latest")
    assert progress == {"step": step}, progress
    assert found["table"].sharding == rows
    for shard in found["table"].addressable_shards:
        np.testing.assert_array_equal(shard.data, table[shard.index])
    np.testing.assert_array_equal(found["dense"], state["dense"])

restored(1)  # what one process has saved
for step in (2, 3):
    save(step)
    restored(step)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
for full in (1, 0):
    if process == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    with pytest.raises(checkpoint.SaveError, match="step 4 .*: File too large. The"):
        save(4)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    restored(3)
    names = sorted(path.name for path in (folder / "latest").iterdir())
    assert names == ["000001-step-2", "000002-step-3"], names
    processes.gathered("looked")
save(4)
if process == 0:
    record = folder / "latest" / "000003-step-4" / "record.json"
    record.write_text(record.read_text()[:-9])
processes.gathered("damaged")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    restored(3)
assert len(said) == 1 - process, said  # the first alone says it
save(5)
"""


def test_what_two_processes_save_one_restores_and_the_other_way_round(
    tmp_path, monkeypatch
):
    """A failure in one of them is a failure of both, and harms nothing."""
    monkeypatch.setattr(
        checkpoint, "SMALL", 1000
    )  # the table is too large to be packed
    table = np.random.default_rng(0).normal(size=(64, 50, 40)).astype(np.float32)
    state = {"table": table, "dense": np.arange(5.0, dtype=np.float32)}
    state = jax.device_put(state | {"empty": np.zeros(0, np.float32)})
    checkpoint.save(tmp_path, state, kind="latest", step=1, progress={"step": 1})
    several.finish(several.start_pair(TOGETHER, tmp_path))
    restored_state, progress = checkpoint.restore(tmp_path, state, kind="latest")
    for name, array in restored_state.items():
        np.testing.assert_array_equal(array, state[name])
    assert progress == {"step": 5} and steps(tmp_path) == [4, 5]
