"""Two real processes on one machine: they agree, one of them speaks, they end together,
and a kill costs what was done after the last checkpoint."""

import re
import shutil
import signal
import time

import command_line
import jax
import numpy as np
import pytest
import several
from test_prepared import random_rows, write_shards
from test_run import SYNTHETIC, assert_refused, files, num_lines, parameters

from experiments import run
from recall_jax.devices import processes
from recall_jax.training import checkpoint
from recall_jax.types import InputError

AGREE = """
import json
import pathlib
import jax
import numpy as np
import pytest
from recall_jax.devices import mesh as mesh_lib
from recall_jax.training import log as log_lib
from recall_jax.types import InputError

def refused():
    raise InputError(f"refused by {process}")

folder, mine = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1]) / str(process)
mine.mkdir()
with processes.together(lambda problem: None):
    assert processes.count() == 2 and processes.is_first() == (process == 0)
    assert processes.gathered(process + 0.1) == [0.1, 1.1]
    assert processes.agreed({"hr@10": process}) == {"hr@10": 0}
    assert processes.of_first(lambda: process) == 0
    with pytest.raises(InputError, match="refused by 0"):
        processes.of_first(refused)
    with pytest.raises(InputError, match="process 1 has another config .*seed: 0 there"):
        processes.check_alike("config", "seed: 0 there" if process else "")
    processes.check_alike("config", "")
    processes.check_shared(folder)
    processes.FOLDER_SECONDS = 0.2
    with pytest.raises(InputError, match="process 1 does not see the run folder"):
        processes.check_shared(mine)
    assert not list(mine.iterdir())

    mesh = mesh_lib.make_mesh()
    values = np.arange(6, dtype=np.float32)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    whole = {
        name: processes.placed(value, everywhere)
        for name, value in {"step": np.int32(3), "loss": values}.items()
    }
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    split = processes.placed(values, rows)
    assert not split.is_fully_addressable and split.addressable_data(0).size == 3
    for array in whole["loss"], split, split * 2 - split:
        np.testing.assert_array_equal(processes.to_host(array), values)
    with mesh_lib.use(mesh):
        assert mesh_lib.on_each(values).sharding == whole["step"].sharding
    assert int(whole["step"]) == 3
    np.testing.assert_array_equal(jax.device_get(whole)["loss"], values)
    with log_lib.RunLog(mine) as log:
        log.write(whole["step"], {"loss": whole["loss"].mean()})
    assert json.loads((mine / "metrics.jsonl").read_text()) == {"step": 3, "loss": 2.5}
print("agreed")
"""


def test_processes_agree_and_share_arrays(tmp_path):
    left = several.finish(several.start_pair(AGREE, tmp_path))
    assert all("agreed" in process.output for process in left)


def test_one_process_agrees_with_itself(tmp_path):
    assert processes.count() == 1 and processes.is_first()
    assert processes.gathered(3) == [3]
    assert processes.of_first(lambda: "x") == processes.agreed("x") == "x"
    processes.check_shared(tmp_path / "absent")
    with pytest.raises(KeyError), processes.together(lambda problem: None):
        raise KeyError
    with pytest.raises(InputError, match="process 0 has another config"):
        processes.check_alike("config", "seed")


# Ending together.


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


FAILING = """
import os
import signal
import jax
import numpy as np
from recall_jax.devices import mesh as mesh_lib
from recall_jax.types import InputError

how = sys.argv[1]
mesh = mesh_lib.make_mesh()
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
split = processes.placed(np.ones(4, np.float32), rows)
total = jax.jit(lambda x: x.sum())
total(split).block_until_ready()
print("ready", flush=True)
with processes.together(lambda p: str(p) if isinstance(p, InputError) else None):
    if how == "all":
        raise InputError("a wrong field")
    if how == "first" and process == 0:
        raise InputError("a folder of another run")
    if how == "second" and process == 1:
        raise InputError("a full disk")
    if how == "mistake" and process == 1:
        raise KeyError("no such name")
    if how == "killed" and process == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "terminated" and process == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    while True:  # the other is in a collective, which nobody answers
        total(split).block_until_ready()
"""


@pytest.mark.parametrize(
    ("how", "statuses", "message"),
    [
        slow("first", (2, 2), "error: a folder of another run"),
        ("second", (2, 2), "error: process 1: a full disk"),
        ("killed", (2, -signal.SIGKILL), "error: the connection to another process"),
        slow("all", (2, 2), "error: a wrong field"),
        slow("mistake", (1, 1), "error: process 1: KeyError: 'no such name'"),
        slow("terminated", (2, -signal.SIGTERM), "error: the connection to another"),
    ],
)
def test_what_ends_one_ends_the_other_with_one_message(how, statuses, message):
    first, second = several.ended(several.start_pair(FAILING, how), seconds=30)
    assert (first.status, second.status) == statuses, (first.errors, second.errors)
    assert "ready" in first.output and first.errors.count("error:") == 1
    assert message in first.errors and "Traceback" not in first.errors
    assert "error:" not in second.errors
    assert ("Traceback" in second.errors) == (how == "mistake")


SILENT = """
import os
import signal
if process == int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
processes.gathered("never")
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_who_dies_without_a_word_is_missed_within_two_minutes(killed):
    left = several.ended(several.start_pair(SILENT, killed), seconds=120)
    assert left[killed].status == -signal.SIGKILL
    assert left[1 - killed].status == -signal.SIGABRT, left[1 - killed].errors
    assert "another task died" in left[1 - killed].errors


# Flags.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--coordinator=h:1"], "--coordinator says nothing without --distributed"),
        (["--process_id=0"], "--process_id says nothing without --distributed"),
        (
            ["--distributed", "--num_processes=2"],
            "with --num_processes: give all of --coordinator=HOST:PORT --num_processes",
        ),
        (["--distributed"], "JAX knows no cluster here .*give all of --coordinator"),
        *(
            (["--distributed", *place], expected)
            for place, expected in [
                (
                    ["--coordinator=h", "--num_processes=2", "--process_id=0"],
                    "--coordinator=h is no HOST:PORT",
                ),
                (
                    ["--coordinator=h:70000", "--num_processes=2", "--process_id=0"],
                    "--coordinator=h:70000 is no HOST:PORT",
                ),
                (
                    ["--coordinator=h:1", "--num_processes=0", "--process_id=0"],
                    "--num_processes=0 must be at least 1",
                ),
                (
                    ["--coordinator=h:1", "--num_processes=2", "--process_id=2"],
                    "--process_id=2 must be one of 0 to 1",
                ),
            ]
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.setattr(jax.distributed, "initialize", no_cluster)
    workdir = tmp_path / "refused"
    status, _, said = command_line.called(run, *arguments, f"--workdir={workdir}")
    assert_refused(status, said, expected)
    assert not workdir.exists()


def no_cluster(*arguments, **named):
    raise ValueError("coordinator_address should be defined.")


# The command.


EVERY = "--config.train.checkpoint_every=1"
TRAINED = [*SYNTHETIC[:-1], "--config.evaluate.indexes=", EVERY]


def words(text: str) -> str:
    """What was printed, without Gloo's lines on its connections."""
    return re.sub(r"\[Gloo\].*\n", "", text)


def test_processes_with_unlike_configs_end_with_what_differs(tmp_path):
    pair = several.start_runs(*SYNTHETIC, f"--workdir={tmp_path}", second=["--seed=3"])
    first, second = several.ended(pair)
    assert_refused(
        first.status, words(first.errors), r"process 1 has another config .*seed: 0"
    )
    assert second.status == 2 and words(second.output + second.errors) == ""
    assert not files(tmp_path)


@pytest.fixture(scope="module")
def together(kept_programs, tmp_path_factory):
    """An uninterrupted run of two processes; nobody writes there."""
    workdir = tmp_path_factory.mktemp("together")
    pair = several.start_runs(
        *TRAINED, f"--workdir={workdir}", programs=dict(kept_programs)
    )
    first, second = several.finish(pair)
    assert "dssm_synthetic, test" in first.output
    assert words(second.output + second.errors) == ""
    return workdir


@pytest.mark.slow
def test_two_processes_train_what_one_does(together, tmp_path):
    status, _, said = command_line.called(run, *TRAINED, f"--workdir={tmp_path}")
    assert status == 0, said
    assert_close(together, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {path.name for path in together.iterdir()}
    status, again, said = command_line.called(run, *TRAINED, f"--workdir={together}")
    assert status == 0 and "is finished" in again, said


@pytest.mark.slow
def test_processes_read_a_streamed_log_together(tmp_path, kept_programs):
    shards = write_shards(tmp_path / "log", random_rows(events=900, users=60, items=40))
    windows = {"window_examples": 300, "chunk_examples": 20}
    arguments = (
        "--config=dssm_stream",
        f"--config.data.path={shards}",
        "--config.data.time=ts",
        *(f"--config.data.{name}={value}" for name, value in windows.items()),
        "--config.train.batch_size=32",
        "--config.train.epochs=2",
        "--config.train.scan_steps=4",
        "--config.model.history_length=4",
        "--config.evaluate.indexes=",
    )
    pair = several.start_runs(
        *arguments, f"--workdir={tmp_path / 'two'}", programs=dict(kept_programs)
    )
    first, second = several.finish(pair)
    assert "windows" in first.output and words(second.output + second.errors) == ""
    status, _, said = command_line.called(
        run, *arguments, f"--workdir={tmp_path / 'one'}"
    )
    assert status == 0, said
    # Adam's rate is 2e-3: another batch anywhere would show.
    assert_close(tmp_path / "two", tmp_path / "one", atol=1e-4)


@pytest.mark.slow
def test_processes_of_a_folder_of_another_run_end_with_one_message(together):
    before = files(together)
    pair = several.start_runs(*TRAINED, "--seed=1", f"--workdir={together}")
    first, second = several.ended(pair)
    assert_refused(
        first.status, words(first.errors), "holds a run of another config .seed: 0"
    )
    assert second.status == 2 and words(second.output + second.errors) == ""
    assert files(together) == before


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_which_resumes_on_two_or_one(
    together, tmp_path, kept_programs, victim
):
    cut = tmp_path / "cut"
    start = several.start_runs(*TRAINED, f"--workdir={cut}", programs=kept_programs)
    while num_lines(cut) < 5:
        assert all(process.poll() is None for process in start)
        time.sleep(0.002)
    kept = checkpoint.latest_step(cut / "checkpoints")
    start[victim].kill()
    left = several.ended(start, seconds=120)
    assert left[victim].status == -signal.SIGKILL
    assert left[1 - victim].status not in (0, -signal.SIGKILL), left[1 - victim].errors
    assert checkpoint.latest_step(cut / "checkpoints") >= kept > 0
    assert num_lines(cut) < num_lines(together)

    alone = shutil.copytree(cut, tmp_path / "alone")
    several.finish(
        several.start_runs(*TRAINED, f"--workdir={cut}", programs=kept_programs)
    )
    assert_bitwise(cut, together)
    status, _, said = command_line.called(run, *TRAINED, f"--workdir={alone}")
    assert status == 0, said
    assert_close(alone, together)


def assert_bitwise(one, other) -> None:
    ours, theirs = parameters(one), parameters(other)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


def assert_close(one, other, *, atol: float = 1e-6) -> None:
    """Sums over several devices are rounded otherwise than over one."""
    ours, theirs = parameters(one), parameters(other)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], 1e-5, atol, err_msg=name)
