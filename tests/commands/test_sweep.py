"""A sweep: what it trains together, what it leaves, resumes after kills, and refuses."""

import csv
import functools
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from unittest import mock

import command_line
import made_up_runs
import numpy as np
import pytest
import test_sweep_rungs
from test_run import ROOT, SYNTHETIC, parameters

from experiments import run, sweep
from experiments.common import cli, plan, programs, ranking
from recall_jax.training import checkpoint, stack
from recall_jax.types import InputError

TINY = [flag for flag in SYNTHETIC if "indexes=scann" not in flag]
GRID = ["--over=loss.temperature=0.05,0.2", "--seeds=2"]
TIMES = ("seconds", "per_second")
pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")

command = functools.partial(command_line.called, sweep, parse=cli.parse_entry)


def finish(*arguments, runs) -> str:
    """What a command that must succeed prints."""
    status, printed, said = command(*TINY, *arguments, f"--runs={runs}")
    assert status == 0, said
    return printed


def rows(runs) -> dict[str, dict]:
    """The settings of sweep.json by their label without the config's name."""
    settings = json.loads((runs / "sweep.json").read_text())["settings"]
    return {row["setting"].partition(":")[2]: row for row in settings}


def figures(runs) -> list[tuple]:
    """Everything in sweep.csv but times."""
    lines = csv.DictReader(io.StringIO((runs / "sweep.csv").read_text()))
    return sorted(
        tuple(line.values())
        for line in lines
        if not any(time in line["metric"] for time in TIMES)
    )


def folders(runs):
    return sorted(path.parent for path in runs.glob("*/seed-*/config.json"))


@pytest.fixture(scope="module")
def whole(kept_programs, tmp_path_factory):
    """The folder of a finished sweep of GRID; nobody writes there."""
    runs = tmp_path_factory.mktemp("sweep")
    finish(*GRID, runs=runs)
    return runs


def test_every_run_is_as_its_lone_command_leaves_it(whole, tmp_path):
    row = rows(whole)["loss.temperature=0.2"]
    (folder,) = (
        p
        for p in folders(whole)
        if "0.2" in row["command"]
        and p.name == ("seed-1")
        and json.loads((p / "config.json").read_text())["loss"]["temperature"] == 0.2
    )
    status, _, said = command_line.called(
        run, *TINY, "--config.loss.temperature=0.2", "--seed=1", f"--workdir={tmp_path}"
    )
    assert status == 0, said
    ours, theirs = (
        json.loads((path / "results.json").read_text()) for path in (folder, tmp_path)
    )
    assert ours.keys() == theirs.keys() | {"together"} and ours["together"] == 4
    assert ours["seconds"].keys() >= {"data", "compile", "train", "evaluate"}
    for name in ("valid", "test", "baselines", "best_step", "steps", "num_params"):
        assert ours[name] == theirs[name], name
    ours, theirs = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (folder, tmp_path)
    )
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-3)
    entries = {path.name for path in (tmp_path / "checkpoints" / "best").iterdir()}
    sweep_entries = {path.name for path in (folder / "checkpoints" / "best").iterdir()}
    assert {n.split("-")[-1] for n in entries} == {
        n.split("-")[-1] for n in sweep_entries
    }


def test_the_table_ranks_by_what_its_runs_reached_on_validation(whole):
    summary = json.loads((whole / "sweep.json").read_text())
    reached = {}
    for folder in folders(whole):
        config = json.loads((folder / "config.json").read_text())
        results = json.loads((folder / "results.json").read_text())
        value = results["valid"][config["evaluate"]["select_by"]]
        reached.setdefault(f"{config['loss']['temperature']:g}", []).append(value)
    settings = {row["setting"].partition("=")[2]: row for row in summary["settings"]}
    assert settings.keys() == reached.keys()
    for name, values in reached.items():
        assert settings[name]["valid"] == pytest.approx(np.mean(values))
    best = max(reached, key=lambda name: np.mean(reached[name]))
    assert (
        summary["best"]
        == summary["settings"][0]["setting"]
        == settings[best]["setting"]
    )
    text = (whole / "sweep.md").read_text()
    assert f"best on validation: {summary['best']}" in text and "popularity" in text
    assert not (whole / "groups").exists()


def test_the_best_is_chosen_on_validation_and_not_on_test(tmp_path):
    """Where the two disagree, by means over seeds."""
    rates = "optim.learning_rate=0.1,0.2,0.3"
    cells = test_sweep_rungs.make_cells(tmp_path, overs=(rates,))
    metric = cells[0].config.evaluate.select_by
    valid, test = [0.1, 0.3, 0.6, 0.2, 0.3, 0.4], [0.9, 0.9, 0.1, 0.1, 0.5, 0.5]
    for cell, on_valid, on_test in zip(cells, valid, test, strict=True):
        results = made_up_runs.results_of(cell.config, level=0.3, protocol="p")
        cell.results = results | {
            "valid": {metric: on_valid},
            "test": {metric: on_test},
        }
    rows = ranking.ranked(cells)
    assert [row["own"]["optim.learning_rate"] for row in rows] == ["0.2", "0.3", "0.1"]
    assert [row["valid"] for row in rows] == pytest.approx([0.4, 0.35, 0.2])
    assert [row["test"][metric] for row in rows] == pytest.approx([0.1, 0.5, 0.9])


def test_a_finished_sweep_is_not_trained_again(whole, monkeypatch):
    monkeypatch.setattr(stack, "make_stacked_step", None)
    before = figures(whole)
    finish(*GRID, runs=whole)
    assert figures(whole) == before


def test_another_sweep_in_its_folder_is_refused(whole):
    status, _, said = command(*TINY, *GRID[:1], "--seeds=3", f"--runs={whole}")
    assert status == 2 and "seeds: 2 there, 3 asked" in said and "--runs" in said


@pytest.mark.slow
def test_groups_compile_once_each(tmp_path, monkeypatch):
    builds, make = [], stack.make_stacked_step

    def noted(step, sources, layout):
        program = make(step, sources, layout)
        builds.append((program, layout.num))
        return program

    monkeypatch.setattr(stack, "make_stacked_step", noted)
    printed = finish(
        "--over=optim.learning_rate=0.001,0.01",
        "--over=model.width=4,6",
        "--config.train.epochs=1",
        runs=tmp_path,
    )
    assert [num for _, num in builds] == [2, 2]
    assert "best on validation" in printed and len(folders(tmp_path)) == 4


@pytest.mark.slow
def test_a_diverged_setting_is_a_row_and_harms_no_other(whole, tmp_path):
    printed = finish(
        "--over=loss.temperature=0.05,1e-36,0.2", "--seeds=2", runs=tmp_path
    )
    ended = rows(tmp_path)["loss.temperature=1e-36"]
    assert set(ended["outcomes"].values()) == {"diverged"}
    assert "training diverged at step 1 (" in printed
    others = [line for line in figures(tmp_path) if "1e-36" not in line[1]]
    assert others == figures(whole)
    again = finish("--over=loss.temperature=0.05,1e-36,0.2", "--seeds=2", runs=tmp_path)
    assert "runs to epoch" not in again, "it was tried again"


@pytest.mark.slow
def test_a_setting_that_fails_is_a_row_and_the_others_finish(tmp_path):
    status, printed, said = command(
        *TINY,
        "--over=negatives.kind=in_batch,queue",
        "--over=negatives.num=8",
        f"--runs={tmp_path}",
    )
    assert status == 1 and "at least the 16 examples of a batch" in said
    outcomes = {name: row["outcomes"] for name, row in rows(tmp_path).items()}
    assert outcomes["negatives.kind=in_batch:negatives.num=8"] == {"0": "finished"}
    assert outcomes["negatives.kind=queue:negatives.num=8"] == {"0": "failed"}
    assert "1 failed" in printed


def cut_off(*arguments, runs, at: int) -> None:
    """The command, interrupted after its `at`-th checkpoint."""
    saves, save = [], checkpoint.save

    def save_and_stop(*given, **named):
        save(*given, **named)
        saves.append(named["kind"])
        if len(saves) == at:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        assert command(*TINY, *arguments, f"--runs={runs}")[0] == 130


@pytest.mark.slow
def test_what_failed_goes_on_from_where_it_stood(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        failing = mock.Mock(side_effect=InputError("no luck"))
        patch.setattr(programs, "measure", failing)
        status, _, said = command(*TINY, *GRID, f"--runs={tmp_path}")
    assert status == 1 and said.count("failed: no luck") == 4
    assert (tmp_path / "groups").exists()
    monkeypatch.setattr(stack, "make_stacked_step", None)  # nothing is left to train
    finish(*GRID, runs=tmp_path)
    assert figures(tmp_path) == figures(whole)
    assert not (tmp_path / "groups").exists()


@pytest.mark.slow
def test_cut_off_again_and_again_it_ends_with_the_same_table(whole, tmp_path):
    for at in (1, 3, 6):  # in the first epoch, then in the second
        cut_off(*GRID, runs=tmp_path, at=at)
    finish(*GRID, runs=tmp_path)
    assert figures(tmp_path) == figures(whole)
    for ours, theirs in zip(folders(tmp_path), folders(whole), strict=True):
        lines = [(path / "metrics.jsonl").read_text() for path in (ours, theirs)]
        assert lines[0] == lines[1]


@pytest.mark.slow
def test_halving_stops_all_but_the_best_at_each_rung(tmp_path):
    rates = "--over=optim.learning_rate=1e-5,1e-3,1e-2,3e-2"
    arguments = [rates, "--halving=2", "--config.train.epochs=4"]
    printed = finish(*arguments, runs=tmp_path / "whole")
    outcomes = [row["outcomes"]["0"] for row in rows(tmp_path / "whole").values()]
    assert sorted(outcomes) == ["finished", "stopped", "stopped", "stopped"]
    assert printed.count("stopped by --halving=2 at epoch 1: validation") == 2
    assert printed.count("stopped by --halving=2 at epoch 2: validation") == 1
    for at in (2, 6, 2):
        cut_off(*arguments, runs=tmp_path / "cut", at=at)
    finish(*arguments, runs=tmp_path / "cut")
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")


@pytest.mark.slow
def test_a_group_that_does_not_fit_is_split(whole, tmp_path, monkeypatch):
    needed = stack.needed_bytes
    monkeypatch.setattr(stack, "needed_bytes", lambda c: 2**60 if big() else needed(c))
    seen = []

    def big() -> bool:
        seen.append(None)
        return len(seen) == 1

    printed = finish(*GRID, runs=tmp_path)
    assert "they train in two portions" in printed and len(seen) == 3
    assert figures(tmp_path) == figures(whole)


def test_portions_hold_what_fits():
    parts = plan.portions(list(range(10)), state_bytes=100, limit=950, num_devices=1)
    assert [len(part) for part in parts] == [2, 3, 2, 3]
    assert [cell for part in parts for cell in part] == list(range(10))
    with pytest.raises(InputError, match="raise --memory_gb"):
        plan.portions([1], state_bytes=100, limit=250, num_devices=8)
    # An accelerator that does not tell its memory has, for all we know, enough.
    whole = plan.portions([1, 2], state_bytes=1, limit=math.inf, num_devices=1)
    assert whole == [[1, 2]]


def test_dry_tells_groups_and_trains_nothing(tmp_path):
    printed = finish(
        "--over=model.width=4,6,8", "--seeds=5", "--dry", "--halving=2", runs=tmp_path
    )
    assert "6 compilations" in printed and "model.width=6" in printed
    assert "15 runs to go" in printed and "GiB" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "nothing to sweep over"),
        (["--over=loss.temprature=1,2"], "did you mean 'temperature'"),
        (["--over=temperature=1,2"], "config has no field 'temperature'"),
        (["--over=seed=1,2"], "--seeds=N"),
        (["--over=loss.temperature"], "FIELD=A,B,C"),
        (["--over=loss.temperature=0.1,-1"], "loss.temperature is -1"),
        (["--over=loss.temperature=0.1,x"], "x"),
        (["--over=loss.temperature=uniform(0.1,1)"], "--samples=N"),
        (["--over=loss.temperature=log(0,1,3)"], "bounds above 0"),
        (["--over=loss.temperature=log(1,0.1,3)"], "LOW below HIGH"),
        (["--over=loss.name=log(1,2,3)"], "no number"),
        (["--over=loss.temperature=1", "--over=loss.temperature=2"], "twice"),
        (["--over=loss.temperature=1,2", "--config.seed=3"], "--seeds=N"),
        (["--over=train.epochs=1,2", "--halving=2"], "do not sweep over train.epochs"),
        (["--over=train.eval_every=1,2", "--halving=2"], "over train.eval_every"),
        (["--over=loss.temperature=linear(0,1,nan)"], "finite numbers"),
        (["--over=loss.temperature=1,2", "--memory_gb=-1"], "--memory_gb=-1"),
        (["--over=loss.temperature=1,2", "--memory_gb=nan"], "--memory_gb=nan"),
        (["--over=evaluate.seen=kept,removed"], "experiments.table"),
        (["--over=evaluate.select_by=hr@10,ndcg@10"], "--over=evaluate.select_by"),
        (["--over=data.ties=file,shuffled"], "--over=data.ties: it changes what"),
        (
            [
                "--over=loss.temperature=1,2",
                "--config.evaluate.candidates=sampled_uniform",
            ],
            "set evaluate.candidates=all",
        ),
    ],
)
def test_bad_input_is_one_plain_line_before_any_work(arguments, said, tmp_path):
    status, printed, errors = command(*TINY, *arguments, f"--runs={tmp_path}")
    assert status == 2 and printed == "" and said in errors
    assert errors.count("\n") == 1 and errors.startswith("error: ")


def test_a_streamed_log_is_refused():
    status, _, said = command("--config=dssm_stream", "--over=optim.learning_rate=1,2")
    assert status == 2 and "experiments.table" in said


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_table(
    whole, tmp_path, program_folder
):
    arguments = [*TINY, *GRID, f"--runs={tmp_path}"]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(program_folder),
    }
    rng = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.sweep", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment,
        )
        time.sleep(rng.uniform(5, 25))
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(*GRID, runs=tmp_path)
    assert figures(tmp_path) == figures(whole)
    for ours, theirs in zip(folders(tmp_path), folders(whole), strict=True):
        one, other = (
            parameters(ours, kinds=["best"]),
            parameters(theirs, kinds=["best"]),
        )
        assert one.keys() == other.keys()
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])
