"""What is saved comes back to the bit, and nothing that interrupts a save loses it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recall_jax import files
from recall_jax.training import checkpoint
from recall_jax.types import InputError

shape = jax.ShapeDtypeStruct


class State(NamedTuple):
    step: jax.Array
    params: dict
    others: tuple


def whole(step: int, size: int = 10) -> dict:
    """A state whose every entry is its step: a mixture of two saves shows."""
    numbers = jnp.full((size,), step, jnp.int32)
    return {"a": numbers, "b": {"c": jnp.full((3, 2), step, jnp.float32)}}


def save(folder, step: int, *, kind: str = "latest", size: int = 10) -> None:
    progress = {"step": step}
    checkpoint.save(folder, whole(step, size), kind=kind, step=step, progress=progress)


def restored_step(folder, *, kind: str = "latest", size: int = 10) -> int:
    """Step of the restored checkpoint, checked to be of one piece."""
    state, progress = checkpoint.restore(folder, whole(0, size), kind=kind)
    for leaf in jax.tree.leaves(state):
        np.testing.assert_array_equal(leaf, progress["step"])
    return progress["step"]


def steps(folder, kind: str = "latest") -> list[int]:
    names = sorted(path.name for path in (folder / kind).iterdir())
    return [int(name.split("-")[-1]) for name in names]


def largest(folder: Path) -> Path:
    """The largest file in which Orbax keeps numbers."""
    return max(folder.rglob("d/*"), key=lambda file: file.stat().st_size)


def damage(checkpoint_folder: Path) -> None:
    file = largest(checkpoint_folder)
    os.truncate(file, file.stat().st_size // 2)


def start(code: str, *arguments) -> subprocess.Popen:
    paths = os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": paths},
    )


def test_every_kind_of_leaf_comes_back_to_the_bit(tmp_path):
    random_bits = np.random.default_rng(0).integers(0, 2**32, 64, dtype=np.uint32)
    device = jax.devices()[0]
    state = State(
        step=jnp.int32(7),
        params={
            "any/bits": jax.lax.bitcast_convert_type(random_bits, jnp.float32),
            "minus zero": -jnp.zeros((4,)),
            "bfloat16": jnp.arange(33, dtype=jnp.bfloat16) / 7,
        },
        others=(
            [jnp.array([True, False]), None, ()],
            jax.random.key_data(jax.random.key(3)),
            jnp.zeros((0, 5), jnp.int8),
            jax.device_put(jnp.arange(4), device),
            jax.device_put(jnp.zeros((2, 0)), device),
        ),
    )
    progress = {"epoch": 2, "best": 0.25, "name": "é"}
    checkpoint.save(tmp_path, state, kind="best", step=7, progress=progress)
    restored_state, found_progress = checkpoint.restore(tmp_path, state, kind="best")

    assert found_progress == progress
    assert jax.tree.structure(restored_state) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(restored_state)):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
        assert ours.committed == theirs.committed


def test_a_restored_state_does_not_compile_the_step_again(tmp_path):
    save(tmp_path, 1)
    step = jax.jit(lambda state: jax.tree.map(lambda x: x * 2, state))
    step(whole(0))
    with compilations.counted() as seen:
        state, _ = checkpoint.restore(tmp_path, whole(0), kind="latest")
        step(state)
    assert seen.count == 0


def test_the_template_may_be_shapes_alone(tmp_path):
    save(tmp_path, 5)
    like = jax.eval_shape(lambda: whole(0))
    state, _ = checkpoint.restore(tmp_path, like, kind="latest")
    np.testing.assert_array_equal(state["b"]["c"], np.full((3, 2), 5.0))


def test_an_empty_folder_restores_nothing(tmp_path):
    assert checkpoint.restore(tmp_path / "new", whole(0), kind="latest") is None
    assert checkpoint.latest_step(tmp_path / "new") is None


def test_two_latest_and_one_best_are_kept(tmp_path):
    for step in (9, 10, 11):
        save(tmp_path, step)
        save(tmp_path, step * 10, kind="best")
    assert steps(tmp_path) == [10, 11]
    assert steps(tmp_path, "best") == [110]
    assert checkpoint.latest_step(tmp_path) == 11
    assert restored_step(tmp_path, kind="best") == 110


def test_a_step_saved_again_replaces_it_and_what_came_after(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    damage(next((tmp_path / "latest").glob("*-step-3")))
    with pytest.warns(UserWarning, match="damaged"):
        assert restored_step(tmp_path) == 2
    save(tmp_path, 2)
    assert steps(tmp_path) == [2]
    save(tmp_path, 3)
    assert steps(tmp_path) == [2, 3]
    assert restored_step(tmp_path) == 3


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("a", shape((11,), "int32"), r" is int32\[10\] there and int32\[11\] here"),
        ("a", shape((10,), "float32"), r" is int32\[10\] there and float32\[10\]"),
        ("b", {}, r"\['c'\] is float32\[3, 2\] there and absent here"),
        ("z", shape((1,), "bool"), r" is absent there and bool\[1\] here"),
    ],
)
def test_another_configs_checkpoint_names_the_leaf(tmp_path, name, value, text):
    save(tmp_path, 1)
    with pytest.raises(InputError, match=rf"another config: state\['{name}'\]{text}"):
        checkpoint.restore(tmp_path, whole(0) | {name: value}, kind="latest")


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    older, newer = sorted((tmp_path / "latest").iterdir())
    damage(newer)
    with pytest.warns(UserWarning, match="000001-step-2 is damaged"):
        assert restored_step(tmp_path) == 1
    os.truncate(older / "record.json", 20)
    with pytest.warns(), pytest.raises(InputError, match=str(tmp_path / "latest")):
        restored_step(tmp_path)


def test_a_flipped_bit_is_seen(tmp_path):
    save(tmp_path, 1, size=5000)
    file = largest(tmp_path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.warns(), pytest.raises(InputError, match="is not as it was written"):
        restored_step(tmp_path, size=5000)


def test_what_a_killed_save_left_is_ignored_and_cleared(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / "latest" / ".building-2" / "state"
    half.mkdir(parents=True)
    (half / "x").write_text("half")
    assert restored_step(tmp_path) == 1
    save(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    "make", [lambda: 1.5, lambda: np.float32(3), lambda: jax.random.key(0)]
)
def test_a_leaf_that_is_no_plain_array_is_refused(tmp_path, make):
    with pytest.raises(InputError, match=r"(?s)state\['x'\] is .*plain jax.Array"):
        checkpoint.save(tmp_path, {"x": make()}, kind="best", step=1, progress={})


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="kind is one of latest, best, not 'last'"):
        checkpoint.restore(tmp_path, whole(0), kind="last")


def test_orbax_keeps_quiet(tmp_path, caplog):
    with caplog.at_level("INFO"), caplog.at_level("INFO", logger="absl"):
        save(tmp_path, 1)
        restored_step(tmp_path)
    assert not caplog.records


KILLED = """
import itertools, os, random, signal, sys, time
import orbax.checkpoint
from test_checkpoint import checkpoint, save

folder, rng = sys.argv[1], random.Random(0)
for line in sys.stdin:  # a fork an order: importing JAX again would take a second each
    reading, writing = os.pipe()
    if not (child := os.fork()):
        for step in itertools.count((checkpoint.latest_step(folder) or 0) + 1):
            for kind in ("best", "latest"):
                save(folder, step, kind=kind, size=30_000)
            os.write(writing, b"%d " % step)
    os.close(writing)
    said = b"".join(os.read(reading, 20) for _ in range(rng.randint(1, 3)))
    time.sleep(rng.uniform(0, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print((said + os.read(reading, 1000)).decode(), flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    killer = start(KILLED, tmp_path)
    for _ in range(8):
        print("go", file=killer.stdin, flush=True)
        saved = int(killer.stdout.readline().split()[-1])
        assert restored_step(tmp_path, size=30_000) in (saved, saved + 1)
        assert restored_step(tmp_path, kind="best", size=30_000) in (saved, saved + 1)
    killer.communicate()


FULL = """
import resource, shutil, sys
from test_checkpoint import Path, checkpoint, save

folder, how = Path(sys.argv[1]), sys.argv[2]
for kind in ("latest", "best"):
    save(folder, 1, kind=kind, size=100_000)
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
if how == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
else:
    room = shutil.disk_usage(folder).free
    (folder / "filler").write_bytes(bytes(room - 200_000))
for kind in ("latest", "best"):
    try:
        save(folder, 2, kind=kind, size=100_000)
    except checkpoint.SaveError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
(folder / "filler").unlink(missing_ok=True)
save(folder, 3, size=100_000)
"""


def test_a_full_disk_is_told_alike_whoever_meets_it(tmp_path, monkeypatch):
    """TensorStore, or a plain call beside it: which comes first is chance."""

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "_publish", full)
    message = "step 1 could not be saved: No space left on device. The checkpoints"
    with pytest.raises(checkpoint.SaveError, match=message):
        save(tmp_path, 1)


def check_a_failed_save(folder, *, how: str, reason: str) -> None:
    process = start(FULL, folder, how)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    for line, kind in zip(output.splitlines(), ("latest", "best"), strict=True):
        assert f"step 2 could not be saved: {reason}" in line
        assert f"{folder / kind} are intact" in line
    assert "Error writing" not in errors  # Orbax's own words stay unsaid
    assert steps(folder) == [1, 3]
    assert restored_step(folder, size=100_000) == 3
    assert restored_step(folder, kind="best", size=100_000) == 1


def test_a_file_size_limit_stops_a_save_and_loses_nothing(tmp_path):
    check_a_failed_save(tmp_path, how="limit", reason="File too large")


@pytest.fixture
def small_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if (
        os.geteuid()
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_stops_a_save_and_loses_nothing(small_disk):
    check_a_failed_save(small_disk, how="fill", reason="No space left on device")


def test_a_text_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_atomically(path, json.dumps({"recall": 0.3}))
    monkeypatch.setattr(checkpoint.os, "fsync", lambda descriptor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        files.write_atomically(path, "new")
    assert json.loads(path.read_text()) == {"recall": 0.3}
    assert os.listdir(tmp_path) == ["results.json"]


HOLDER = """
import sys
from recall_jax import files

with files.lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_folder_is_locked_until_its_process_dies(tmp_path):
    holder = start(HOLDER, tmp_path)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(
            InputError, match=f"{tmp_path} is in use by process {holder.pid}"
        ),
        files.lock(tmp_path),
    ):
        pass
    holder.kill()
    holder.communicate()
    with files.lock(tmp_path):
        pass
    with files.lock(tmp_path):
        pass
