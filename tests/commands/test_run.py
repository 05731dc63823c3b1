"""The main command from end to end: what it leaves, resumes after kills, and refuses."""

import functools
import importlib.util
import json
import os
import pathlib
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import command_line
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import make_log
from test_run_log import events

from experiments import run
from experiments.common import cli
from recall_jax.run import config as config_lib
from recall_jax.run import data as data_lib
from recall_jax.run import experiment as experiment_lib
from recall_jax.run import results as run_results
from recall_jax.training import checkpoint, loop

ROOT = pathlib.Path(__file__).parents[2]
SMALL = [  # a model, its batches and dispatches
    "--config.model.id_width=32",
    "--config.model.feature_width=2",
    "--config.model.hidden=8",
    "--config.model.item_hidden=",
    "--config.model.width=4",
    "--config.model.history_length=5",
    "--config.train.batch_size=16",
    "--config.train.scan_steps=5",
    "--config.train.epochs=2",
    "--config.evaluate.indexes=",
]
SYNTHETIC = [
    "--config=dssm_synthetic",
    "--config.data.num_users=60",
    "--config.data.num_items=40",
    "--config.data.num_events=700",
    "--config.data.num_markets=4",
    *SMALL,
    "--config.evaluate.indexes=scann",
]
TIMES = ("seconds", "examples_per_second", "test_pass_seconds", "epoch_seconds")
OF_INDEX = ("build_seconds", "search_seconds", "queries_per_second")

pytestmark = [
    pytest.mark.usefixtures("kept_programs"),
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
]


command = functools.partial(command_line.called, run)


class Whole(NamedTuple):
    """A finished run."""

    workdir: pathlib.Path
    results: dict
    printed: str


def finish(*arguments, workdir) -> Whole:
    """Run a command that must succeed."""
    status, printed, said = command(*arguments, f"--workdir={workdir}")
    assert status == 0, said
    return Whole(workdir, json.loads((workdir / "results.json").read_text()), printed)


@pytest.fixture(scope="module")
def whole(kept_programs, tmp_path_factory) -> Whole:
    """An uninterrupted run of SYNTHETIC; nobody writes there."""
    return finish(*SYNTHETIC, workdir=tmp_path_factory.mktemp("whole"))


def spawn(*arguments, programs, limit: str = "unlimited") -> subprocess.Popen:
    """The command as a process of its own; `limit`, in blocks of 512 bytes, is the
    largest file it may write."""
    limited = ["sh", "-c", 'ulimit -f "$0" && exec "$@"', limit]
    return subprocess.Popen(
        [*limited, sys.executable, "-m", "experiments.run", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | programs | {"JAX_PLATFORMS": "cpu", "RECALL_DATA_DIR": ""},
    )


def files(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def parameters(workdir, *, kinds=("latest", "best")) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoints of these kinds."""
    arrays = {}
    for kind in kinds:
        newest = max((workdir / "checkpoints" / kind).iterdir())
        record = json.loads((newest / "record.json").read_text())
        packs, leaves = record.get("packed", {}), record["leaves"]
        held = {name for names in packs.values() for name in names}
        filled = {x for x, kind in leaves.items() if not re.search(r"\b0\b", kind)}
        names = sorted(filled - held) + [*packs]
        shapes = {x: shape_of(leaf) for x, leaf in leaves.items()}
        plain = ocp.RestoreArgs(restore_type=np.ndarray)  # on whatever device it was
        wanted = ocp.args.PyTreeRestore(
            item=dict.fromkeys(names, 0), restore_args=dict.fromkeys(names, plain)
        )
        handler = ocp.PyTreeCheckpointHandler(use_compression=False)
        contents = ocp.Checkpointer(handler).restore(newest / "state", args=wanted)
        step = newest.name.split("-")[-1]
        contents = checkpoint.unpack(checkpoint.Packed(contents, packs), shapes)
        arrays |= {f"{kind} {step} {name}": value for name, value in contents.items()}
    return arrays


def shape_of(leaf: str) -> tuple[int, ...]:
    """Of a leaf as a record has it, such as float32[3, 4]."""
    return tuple(map(int, re.findall(r"\d+", leaf.partition("[")[2])))


def assert_same_run(one, other) -> None:
    """The same parameters to the bit, the same metrics, the same results but times."""
    ours, theirs = parameters(one), parameters(other)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, array in ours.items():
        assert np.asarray(array).tobytes() == np.asarray(theirs[name]).tobytes(), name
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    assert events(one) == events(other)
    if (one / "results.json").exists():
        assert timeless(one) == timeless(other)


def timeless(workdir) -> dict:
    results = json.loads((workdir / "results.json").read_text())
    for row in results["indexes"].values():
        for name in OF_INDEX:
            del row[name]
    return {name: value for name, value in results.items() if name not in TIMES}


def num_lines(workdir) -> int:
    """How often a run has written metrics; -1 before it has made its files."""
    if not (workdir / "config.json").exists():
        return -1
    log = workdir / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


# What a run leaves.


def test_a_run_leaves_its_config_results_metrics_and_vocabularies(whole):
    workdir, results, _ = whole
    assert set(results) >= {"config", "protocol", "device", "num_params", "best_step"}
    assert set(results["seconds"]) == {"data", "compile", "train", "evaluate"}
    rows = {"popularity", "bigram", "item_knn", "ease", "oracle"}
    assert set(results["baselines"]) == rows | {"bigram_ties_shuffled"}
    assert f"ease with l2 {results['ease_l2']:g}, the best" in whole.printed
    assert results["test"].keys() == results["valid"].keys()
    if importlib.util.find_spec("scann"):
        scann = results["indexes"]["scann"]  # of 40 items: exact
        assert scann["metrics"] == results["test"]
        assert {gap["absolute"] for gap in scann["versus_exact"].values()} == {0}
    assert results["test_ties_shuffled"] is None
    assert results["examples_per_second"] > 0
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert {"step", "loss", "epoch", "valid_ndcg@10"} <= json.loads(lines[-1]).keys()
    assert json.loads(lines[-1])["step"] == results["steps"]
    assert [entry for entry in events(workdir) if entry[0] == "valid_ndcg@10"]
    vocabularies = json.loads((workdir / "vocabularies.json").read_text())
    assert len(vocabularies["item"]["ids"]) == 40
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["hidden"] == [8]


def test_a_finished_run_prints_its_results_again(whole, monkeypatch):
    before = files(whole.workdir)
    monkeypatch.setattr(data_lib, "read", None)
    status, printed, _ = command(*SYNTHETIC, f"--workdir={whole.workdir}")
    assert status == 0 and "is finished" in printed
    table, again = (
        [line for line in text.splitlines() if line.startswith("|")]
        for text in (whole.printed, printed)
    )
    assert len(table) > 4 and table == again
    assert files(whole.workdir) == before


@pytest.mark.slow
def test_one_seed_is_one_run_and_another_seed_another(whole, tmp_path):
    """The same run is made from the config.json of the first."""
    config = f"--config={whole.workdir / 'config.json'}"
    finish(config, workdir=tmp_path / "same")
    assert_same_run(whole.workdir, tmp_path / "same")
    finish(config, "--seed=1", workdir=tmp_path / "other")
    loss, other = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for folder in (whole.workdir, tmp_path / "other")
    )
    assert loss != other


def test_the_fields_that_a_run_prints_are_its_config(whole):
    block, _, rest = whole.printed.partition("the rest as by default")
    assert block.startswith("config     ") and f"{whole.workdir}/config.json" in rest
    config = cli.load_config(f"{whole.workdir}/config.json")
    printed = [f"--config.{x}" for x in shlex.split(block)[1:]]
    assert printed == config_lib.changed_flags(config)
    arguments = f"--config={whole.workdir}/config.json", f"--workdir={whole.workdir}"
    status, again, _ = command(*arguments)
    assert status == 0 and again.startswith(block) and "is finished" in again


@pytest.mark.slow
def test_planted_taste_is_learned(tmp_path):
    results = finish(
        "--config=dssm_synthetic",
        "--config.data.num_users=1000",
        "--config.data.num_items=300",
        "--config.data.num_events=20000",
        "--config.data.num_markets=10",
        "--config.model.id_width=32",
        "--config.model.hidden=",
        "--config.model.item_hidden=",
        "--config.model.history_length=20",
        "--config.train.batch_size=256",
        "--config.train.scan_steps=10",
        "--config.evaluate.indexes=",
        workdir=tmp_path,
    ).results
    figure = {name: row["ndcg@10"] for name, row in results["baselines"].items()}
    assert 3 * figure["popularity"] < results["test"]["ndcg@10"] < figure["oracle"]


# A log of one's own, with ties in time.


@pytest.fixture(scope="module")
def log_csv(tmp_path_factory) -> pathlib.Path:
    log = make_log(users=40, items=30, events=600)
    path = tmp_path_factory.mktemp("log") / "events.csv"
    rows = zip(log.users.id[log.user], log.items.id[log.item], log.time // 40)
    lines = [f"{user},{item},{1_600_000_000 + day}" for user, item, day in rows]
    path.write_text("\n".join(["user_id,item_id,ts", *lines]) + "\n")
    return path


def own_log(path, *arguments) -> list[str]:
    names = "user=user_id", "item=item_id", "time=ts"
    columns = [f"--config.data.{name}" for name in names]
    return [
        "--config=dssm_logs",
        f"--config.data.path={path}",
        *columns,
        *SMALL,
        *arguments,
    ]


@pytest.fixture(scope="module")
def both(kept_programs, log_csv, tmp_path_factory) -> Whole:
    """Two runs in one, uninterrupted, with a checkpoint a dispatch."""
    return finish(*both_ties(log_csv), workdir=tmp_path_factory.mktemp("both"))


def both_ties(path) -> list[str]:
    every = "--config.train.checkpoint_every=1"
    return own_log(path, "--config.data.ties=both", every)


def test_ties_both_trains_a_second_model(both, log_csv, tmp_path):
    arguments = own_log(log_csv, "--config.data.ties=shuffled")
    alone = finish(*arguments, workdir=tmp_path / "shuffled").results
    results = both.results
    assert "ties in file order" in results["protocol"]
    assert results["test_ties_shuffled"] == alone["test"] != results["test"]
    compared = results["baselines"]
    assert compared["bigram_ties_shuffled"] == alone["baselines"]["bigram"]
    assert compared["bigram_ties_shuffled"] != compared["bigram"]
    second = both.workdir / "ties_shuffled"
    ours, theirs = parameters(second), parameters(tmp_path / "shuffled")
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])
    config = json.loads((second / "config.json").read_text())
    assert config["data"]["ties"] == "shuffled"
    vocabularies = second / "vocabularies.json", tmp_path / "shuffled/vocabularies.json"
    assert vocabularies[0].read_text() == vocabularies[1].read_text()
    assert "trained and tested, ties shuffled" in both.printed


# Kills.


def kill(process, workdir, *, lines: int, rng) -> None:
    """SIGKILL a random moment after the run has written so many lines."""
    wait(process, workdir, lines=lines)
    time.sleep(rng.uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()


def wait(process, workdir, *, lines: int) -> None:
    while num_lines(workdir) < lines:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


def test_kills_at_any_moment_and_a_full_disk_change_nothing(
    both, log_csv, tmp_path, kept_programs
):
    """Killed in the first run, between the two and in the second; refused by a full
    disk, guarded by its lock."""
    cut, rng = tmp_path / "cut", random.Random(0)
    last = num_lines(both.workdir)
    assert last == num_lines(both.workdir / "ties_shuffled") > 10
    arguments = *both_ties(log_csv), f"--workdir={cut}"
    start = functools.partial(spawn, *arguments, programs=kept_programs)

    process = start()
    wait(process, cut, lines=1)
    status, _, said = command(*arguments)
    assert_refused(status, said, f"in use by process {process.pid}")
    kill(process, cut, lines=rng.randint(2, last - 4), rng=rng)

    kept = checkpoint.latest_step(cut / "checkpoints")
    full = start(limit="48")
    _, said = full.communicate()
    assert_refused(full.returncode, said, "could not be saved: File too large")
    assert checkpoint.latest_step(cut / "checkpoints") == kept

    kill(start(), cut, lines=last, rng=rng)
    kill(start(), cut / "ties_shuffled", lines=rng.randint(2, last - 4), rng=rng)
    finish(*arguments, workdir=cut)
    assert_same_runs(both.workdir, cut)


@pytest.mark.slow
def test_many_kills_change_nothing(both, log_csv, tmp_path, kept_programs):
    cut, rng = tmp_path / "cut", random.Random(2)
    arguments = *both_ties(log_csv), f"--workdir={cut}"
    for turn in range(20):
        process = spawn(*arguments, programs=kept_programs)
        time.sleep(rng.uniform(0, 5))  # imports alone take more than one
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0), (turn, process.stderr.read())
        process.stderr.close()
    finish(*arguments, workdir=cut)
    assert_same_runs(both.workdir, cut)


def assert_same_runs(one, other) -> None:
    assert_same_run(one, other)
    assert_same_run(one / "ties_shuffled", other / "ties_shuffled")


@pytest.mark.slow
def test_kills_between_checkpoints_change_nothing(whole, tmp_path, kept_programs):
    """The default, a checkpoint an epoch: what came after it is done again. The first
    kill falls on compilation."""
    cut, rng = tmp_path / "cut", random.Random(1)
    for lines in (0, num_lines(whole.workdir) // 2 + 1):
        process = spawn(*SYNTHETIC, f"--workdir={cut}", programs=kept_programs)
        kill(process, cut, lines=lines, rng=rng)
    finish(*SYNTHETIC, workdir=cut)
    assert_same_run(whole.workdir, cut)


def test_a_run_cut_off_between_training_and_results_resumes(
    both, log_csv, tmp_path, monkeypatch
):
    arguments = own_log(log_csv, "--config.data.ties=both")
    for room, name in (
        (run_results, "measure_rows"),
        (experiment_lib, "_measure_shuffled"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(room, name, interrupted)
            status, _, said = command(*arguments, f"--workdir={tmp_path}")
        assert status == 130
        assert said.splitlines()[-1] == "stopped; the same command resumes"
        assert not (tmp_path / "results.json").exists()
    finish(*arguments, workdir=tmp_path)
    assert_same_runs(both.workdir, tmp_path)


def interrupted(*arguments, **named):
    raise KeyboardInterrupt


# Mistakes.


def assert_refused(status: int, said: str, expected: str) -> None:
    """Exit status 2, one plain message, no traceback."""
    assert status == 2, said
    assert said.startswith("error: ") and said.count("error:") == 1, said
    assert "Traceback" not in said
    assert re.search(expected, said), said


@pytest.fixture
def refused(tmp_path):
    """Checks that a command is refused before it trains or leaves anything."""

    def call(*arguments, expected: str) -> None:
        workdir = tmp_path / "refused"
        status, _, said = command(*arguments, f"--workdir={workdir}")
        assert_refused(status, said, expected)
        assert not workdir.exists() or not files(workdir)

    return call


def test_help_has_a_line_for_every_config():
    status, output, errors = command("--config=help")
    assert (status, errors) == (0, "")
    names = [line.split()[0] for line in output.splitlines()]
    assert names == cli.config_names()
    assert all(line.endswith(".") and len(line) < 120 for line in output.splitlines())


def test_a_mistake_stops_a_real_process_with_one_line(kept_programs):
    process = spawn("--config=dssm_sintetic", programs=kept_programs)
    _, said = process.communicate()
    assert_refused(process.returncode, said, "the nearest are dssm_synthetic")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "--config=dssm_sintetic",
            r"'dssm_sintetic'; the nearest are dssm_synthetic(, \w+){2}; --config=help",
        ),
        ("--config=no/such.py", r"no file no/such\.py"),
        ("--config=", "no config ''"),
        ("--config.model.widht=8", "--config.model has no field 'widht'.* 'width'"),
        (
            "--config.mdoel.width=8",
            "--config has no field 'mdoel'; did you mean 'model'",
        ),
        ("--config.model.width.x=8", "--config.model.width is a value"),
        ("--config.model.width=abc", "--config.model.width=abc: .*int.* 'abc'"),
        ("--config.model.width=6.5", "--config.model.width=6.5: .*int.* '6.5'"),
        ("--config.loss.temperature=hot", "temperature=hot: .*float: 'hot'"),
        ("--config.loss.temperature=nan", "temperature is nan; .*finite"),
        ("--config.model=3", "--config.model is a group of fields"),
        ("--config.model.hidden=8,x", r"model.hidden.*tuple\[int, ...\]|hidden=8,x"),
        ("--config.evaluate.metrics=3@hr", "unknown metric '3@hr'"),
        ("--config.evaluate.metrics=", "evaluate.metrics is empty"),
        ("--config.evaluate.metrics=hr@41", "k=41, but the catalogue has only 40"),
        ("--config.evaluate.select_by=mrr@7", "'mrr@7' is not among evaluate.metrics"),
        ("--config.evaluate.seen=no", "unknown --config.evaluate.seen 'no'"),
        (
            "--config.evaluate.index=fast",
            "unknown --config.evaluate.index 'fast'; .* approx",
        ),
        ("--config.evaluate.indexes=fast", "unknown --config.evaluate.indexes 'fast'"),
        ("--config.evaluate.batch_size=0", "batch_size is 0; .*at least 1"),
        ("--config.train.batch_size=100000", "larger than the [0-9,]+ training"),
        ("--config.train.epochs=0", "train.epochs is 0"),
        ("--config.train.checkpoint_every=-1", "checkpoint_every is -1; .*at least 0"),
        ("--config.loss.temperature=0", "temperature is 0.0; it must be above 0"),
        ("--config.loss.temperature=-1", "temperature is -1.0; it must be above 0"),
        (
            "--config.loss.name=sofmax",
            "unknown --config.loss.name 'sofmax'; did you mean 'softmax'",
        ),
        ("--config.optim.learning_rate=-0.1", "learning_rate is -0.1; .*at least 0"),
        ("--config.optim.tables=adam", "unknown --config.optim.tables 'adam'"),
        ("--config.optim.schedule=step", "unknown --config.optim.schedule 'step'"),
        (
            "--config.negatives.kind=hard",
            "unknown --config.negatives.kind 'hard'; there are",
        ),
        ("--config.negatives.num=0", "negatives.num is 0; it must be at least 1"),
        ("--config.negatives.correction=q", "unknown --config.negatives.correction"),
        ("--config.negatives.kind=full", "set negatives.correction=none"),
        ("--config.model.dropout=1", "dropout is 1.0; .*at least 0 and below 1"),
        ("--config.model.dropout=-0.1", "dropout is -0.1; .*at least 0 and below 1"),
        ("--config.model.history_length=-1", "history_length is -1; .*at least 0"),
        ("--config.model.width=0", "width is 0; it must be at least 1"),
        ("--config.model.hidden=8,0", r"hidden is \(8, 0\); it must be at least 1"),
        ("--config.model.history=last", "unknown --config.model.history 'last'"),
        ("--config.model.history=", "model.history is empty"),
        (
            "--config.model.query=history,shoe",
            'no query column "shoe"; there are: user',
        ),
        ("--config.model.item=item,shoe", 'no item column "shoe"; there are: item'),
        ("--config.model.activation=sin", "unknown --config.model.activation 'sin'"),
        ("--config.model.normalize=l1", "unknown --config.model.normalize 'l1'"),
        ("--config.model.min_history=500", "no user has more than 500 training events"),
        ("--config.data.protocol=random", "unknown --config.data.protocol 'random'"),
        ("--config.data.ties=none", "unknown --config.data.ties 'none'"),
        (
            "--config.data.min_user_events=999",
            "nothing is left with min_user_events=999",
        ),
        ("--config.data.num_users=0", "--config.data.num_users is 0, outside"),
        ("--seed=-1", "--config.seed is -1; it must be from 0"),
        ("--seed=x", "--seed=x: .*int.* 'x'"),
        ("--wrkdir=x", "flag 'wrkdir'. Did you mean: workdir"),
        ("runs/x", "what is 'runs/x'[?] Options start with --"),
    ],
)
def test_a_mistake_in_the_arguments_is_told_before_training(
    refused, argument, expected
):
    refused(*SYNTHETIC, argument, expected=expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def get_config(:", r"config\.py.*could not be read: SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such"),
        ("x = 1", r"has no function get_config\(\)"),
        ("def get_config(): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("def get_config(): return {}", "gives a dict, not an Experiment"),
    ],
)
def test_a_broken_config_file_is_told(refused, tmp_path, text, expected):
    path = tmp_path / "config.py"
    path.write_text(text)
    refused(f"--config={path}", expected=expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "could not be read: JSONDecodeError"),
        ("[1]", "gives a tuple, not an Experiment"),
        ('{"type": "os:path"}', "names the type os:path, not of recall_jax"),
        (
            '{"type": "recall_jax.run.config:Experiment", "nmae": 1}',
            "did you mean 'name'",
        ),
        ('{"type": "recall_jax.run.config:Experiment"}', "TypeError: .*missing"),
        ('{"type": "recall_jax.run.config:Nothing"}', "no attribute 'Nothing'"),
    ],
)
def test_a_broken_config_json_is_told(refused, tmp_path, text, expected):
    path = tmp_path / "config.json"
    path.write_text(text)
    refused(f"--config={path}", expected=expected)


def test_a_folder_of_another_config_is_refused_and_kept(whole):
    before = files(whole.workdir)
    for argument, expected in [
        ("--config.model.width=5", "another config .model.width: 4 there, 5 asked"),
        ("--seed=1", "another config .seed: 0 there, 1 asked"),
    ]:
        status, _, said = command(*SYNTHETIC, argument, f"--workdir={whole.workdir}")
        assert_refused(status, said, expected)
    assert files(whole.workdir) == before


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_a_damaged_file_of_a_run_is_told(whole, tmp_path, name):
    (tmp_path / "config.json").write_bytes((whole.workdir / "config.json").read_bytes())
    (tmp_path / name).write_text("{")
    status, _, said = command(*SYNTHETIC, f"--workdir={tmp_path}")
    assert_refused(status, said, f"{name} is damaged")


def test_a_refused_run_has_not_taken_its_folder(tmp_path, monkeypatch):
    """So the mistake can be mended in the same folder: that is no other config."""
    workdir = f"--workdir={tmp_path}"
    status, _, said = command(*SYNTHETIC, "--config.model.query=history,shoe", workdir)
    assert_refused(status, said, "shoe")
    monkeypatch.setattr(loop, "fit", interrupted)
    assert command(*SYNTHETIC, workdir)[0] == 130


def test_a_run_does_not_go_on_with_other_data(log_csv, tmp_path, monkeypatch):
    path, run_folder = tmp_path / "events.csv", tmp_path / "run"
    text = log_csv.read_text()
    path.write_text(text)
    arguments = *own_log(path), f"--workdir={run_folder}"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "fit", interrupted)
        assert command(*arguments)[0] == 130
    before = files(run_folder)
    path.write_text(text.replace("u7,", "u8,"))
    status, _, said = command(*arguments)
    assert_refused(status, said, "was trained on other data than .*events.csv")
    assert files(run_folder) == before
    path.write_text(text)
    monkeypatch.setattr(loop, "fit", interrupted)
    assert command(*arguments)[0] == 130


def test_a_workdir_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    status, _, said = command(*SYNTHETIC, f"--workdir={tmp_path / 'file'}")
    assert_refused(status, said, "file")


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(tmp_path):
    arguments = *SYNTHETIC, "--config.optim.learning_rate=1e38"
    status, _, said = command(*arguments, f"--workdir={tmp_path}")
    assert_refused(status, said, "Lower --config.optim.learning_rate")


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB"), "out of memory"),
        (FloatingPointError("scores are not numbers"), "not numbers"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_what_stops_a_run_in_its_middle_is_told(
    tmp_path, monkeypatch, problem, expected
):
    def fail(*arguments):
        raise problem

    monkeypatch.setattr(experiment_lib, "train_model", fail)
    status, _, said = command(*SYNTHETIC, f"--workdir={tmp_path}")
    assert_refused(status, said, expected)


def test_an_error_of_ours_is_no_mistake_of_the_users(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment_lib, "train_model", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(*SYNTHETIC, f"--workdir={tmp_path}")


# Mistakes in data files.


def fake_ml_1m(folder, **contents: bytes) -> pathlib.Path:
    """A folder like MovieLens 1M's, 40 users by 30 movies; `contents` by file name."""
    log = make_log(users=40, items=30, events=600)
    ratings = [
        f"{user + 1}::{item + 1}::{1 + item % 5}::{956_703_932 + time}"
        for user, item, time in zip(log.user, log.item, log.time)
    ]
    users = [f"{user + 1}::M::25::{user % 5}::00000" for user in range(40)]
    movies = [f"{item + 1}::Film {item} (1990)::Drama|War" for item in range(30)]
    folder.mkdir()
    tables = {"ratings": ratings, "users": users, "movies": movies}
    for name, lines in tables.items():
        text = contents.get(name, "\n".join([*lines, ""]).encode())
        (folder / f"{name}.dat").write_bytes(text)
    return folder


ML_1M = ["--config=dssm_ml1m", "--config.data.num_ratings=0", *SMALL]


def test_a_folder_like_ml_1ms_is_read(refused, tmp_path):
    """As far as the first mistake after the data, which is another."""
    folder = f"--config.data.dir={fake_ml_1m(tmp_path / 'ml-1m')}"
    refused(*ML_1M, folder, "--config.train.batch_size=9999", expected="larger than")


def test_data_that_is_not_there_is_told(refused, tmp_path):
    refused(*ML_1M, f"--config.data.dir={tmp_path}/x", expected="x' does not exist")
    refused(*ML_1M, f"--config.data.dir={tmp_path}", expected="has no ratings.dat")
    path = f"--config.data.path={tmp_path}/events.csv"
    refused("--config=dssm_logs", path, expected="there is no log at .*events.csv'")
    refused("--config=dssm_logs", expected="there is no log at ''")


def test_too_few_ratings_are_told(refused, tmp_path):
    folder = fake_ml_1m(tmp_path / "ml-1m")
    arguments = "--config=dssm_ml1m", f"--config.data.dir={folder}"
    refused(*arguments, expected="600 rating rows, expected 1,000,209")


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        (b"1::1::5::978300760\n1::2::4", r"line 2 of 2: 3 fields instead of 4"),
        (b"1::1::5::978300760\n1::2::4::97830", "line 2 of 2: unix time should be in"),
        (bytes(range(256)) * 9, r"line 1 of \d+: 1 fields instead of 4"),
        (b"1::1::978300760::5\n", "line 1 of 1: rating should be in 1..5"),
        (b"", "ratings.dat is empty"),
    ],
    ids=["cut", "cut in a number", "binary", "reordered", "empty"],
)
def test_damaged_ratings_are_told(refused, tmp_path, ratings, expected):
    folder = fake_ml_1m(tmp_path / "ml-1m", ratings=ratings)
    refused(*ML_1M, f"--config.data.dir={folder}", expected=expected)


def test_ratings_with_user_and_movie_exchanged_are_told(refused, tmp_path):
    lines = [f"{j % 30 + 1}::{j % 600 + 100}::5::978300760" for j in range(600)]
    ratings = "\n".join(lines).encode()
    folder = fake_ml_1m(tmp_path / "ml-1m", ratings=ratings)
    refused(*ML_1M, f"--config.data.dir={folder}", expected="movie file does not list")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["user_id,film,ts", "u,1,5"], "no column 'item_id' .data.item."),
        (["user_id,item_id,ts", "u,1,5", ",2,6"], "line 3: column 'user_id' .* an id"),
        (["user_id,item_id,ts", "u,1,5", "v,,6"], "line 3: column 'item_id' .* an id"),
        (["user_id,item_id,ts", "u,1,noon", "v,1,6"], "line 2: column 'ts' .*'noon'"),
        (["user_id,item_id,ts", "u,1,5", "u,2,6", "u,3,7"], "3 events .* one user's"),
        (["user_id,item_id,ts", "u,1,5", "v,2,6"], "no user has three events"),
        (["user_id,item_id,ts"], "has a header but no rows"),
        (["\x00\x01\xff"], "line 1 holds a zero byte"),
    ],
    ids=["column", "user", "item", "time", "alone", "short", "empty", "binary"],
)
def test_mistakes_in_a_csv_are_told(refused, tmp_path, rows, expected):
    path = tmp_path / "events.csv"
    path.write_text("\n".join([*rows, ""]))
    refused(*own_log(path), expected=expected)


def test_ties_cannot_be_shuffled_without_times(refused, log_csv):
    arguments = own_log(log_csv, "--config.data.ties=both", "--config.data.time=")
    refused(*arguments, expected="needs times")
