"""Train and test as published, from files to results: chosen on a part of train,
refitted on all of it, resumed wherever it was cut off."""

import dataclasses
import json
import pathlib
from typing import NamedTuple

import numpy as np
import pytest
from test_run import assert_same_run, files, timeless

from experiments.common import summary
from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.data.sources import lightgcn, synthetic
from recall_jax.evaluate import measure
from recall_jax.losses import objective
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.models import mf
from recall_jax.run import experiment as experiment_lib
from recall_jax.run.config import Experiment
from recall_jax.training import checkpoint, step
from recall_jax.training import loop as loop_lib
from recall_jax.types import InputError

USERS, ITEMS = 60, 40
BEST, LAST = 2, 6  # epochs: validated every other, stopped after two without a better
pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")


def write(folder: pathlib.Path, *, seed: int = 0) -> pathlib.Path:
    """All like the same items, and a model with a vector a user soon learns his train
    lines by heart; `seed` decides which of what else he likes tests."""
    rng, other = np.random.default_rng(0), np.random.default_rng(seed)
    weight = np.arange(1, ITEMS + 1) ** -1.5
    lines = {"train": [], "test": []}
    for user in range(USERS):
        liked = rng.choice(ITEMS, 14, replace=False, p=weight / weight.sum())
        liked = rng.permutation(liked)
        lines["train"].append(" ".join(map(str, [user, *liked[:8]])))
        lines["test"].append(
            " ".join(map(str, [user, *other.permutation(liked[8:])[:4]]))
        )
    folder.mkdir(exist_ok=True)
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    return folder


def config_of(folder: pathlib.Path, **changes) -> Experiment:
    return Experiment(
        name="given",
        data=lightgcn.Config(dir=str(folder), valid_share=0.25),
        model=mf.Config(width=16, normalize="none", biases="item"),
        negatives=NegativesConfig(),
        loss=objective.LossConfig(temperature=1.0),
        optim=step.OptimConfig(learning_rate=0.05),
        train=loop_lib.TrainConfig(
            epochs=8,
            batch_size=16,
            eval_every=2,
            patience=2,
            scan_steps=5,
            **{"refit": "all"} | changes,
        ),
        evaluate=measure.EvaluateConfig(
            metrics=("recall@5", "ndcg@5"), select_by="ndcg@5", indexes=()
        ),
    )


class Whole(NamedTuple):
    """A finished run."""

    config: Experiment
    workdir: pathlib.Path
    results: dict


@pytest.fixture(scope="module")
def whole(kept_programs, tmp_path_factory) -> Whole:
    """An uninterrupted run; nobody writes there."""
    folder = tmp_path_factory.mktemp("whole")
    config = config_of(write(folder / "data"))
    results = summary.train(config, folder / "run")
    return Whole(config, folder / "run", json.loads(json.dumps(results)))


def log_of(workdir) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def read(path) -> dict:
    return json.loads(path.read_text())


# What it leaves.


def test_results_have_the_chosen_model_and_the_refitted_one(whole, capsys):
    results = whole.results
    assert read(whole.workdir / "results.json") == results
    for row in ("valid", "test", "test_refit"):
        assert results[row].keys() == {"recall@5", "ndcg@5"}
        assert all(0 < figure < 1 for figure in results[row].values())
    assert results["test_refit"] != results["test"]
    for row in ("test", "test_refit"):
        for metric, (low, high) in results["intervals"][row].items():
            assert low < results[row][metric] < high
    # There is no last item, so no bigram.
    rows = {"popularity", "item_knn", "ease"}
    assert results["baselines"].keys() == rows | {f"{row}_refit" for row in rows}
    assert "25% of each user's training events, by seed 0" in results["protocol"]
    assert results["seconds"]["refit_train"] > 0
    summary.train(whole.config, whole.workdir)
    printed = capsys.readouterr().out
    (row,) = [x for x in printed.splitlines() if "refitted on all of train" in x]
    assert all(f"{value:.4f} +-" in row for value in results["test_refit"].values())


def test_the_refit_runs_exactly_the_chosen_epochs_and_chooses_nothing(whole):
    results, refit = whole.results, log_of(whole.workdir / "refit")
    first = log_of(whole.workdir)
    measured = [line for line in first if "valid_ndcg@5" in line]
    assert [line["epoch"] for line in measured] == [BEST, 4, LAST]
    assert max(measured, key=lambda line: line["valid_ndcg@5"]) == measured[0]
    assert results["best_step"] == measured[0]["step"]
    for name, value in results["valid"].items():  # it is the chosen model's row
        assert value == pytest.approx(measured[0][f"valid_{name}"], abs=1e-6)
    assert results["steps"] == first[-1]["step"] == 3 * results["best_step"]
    assert refit[-1]["epoch"] == BEST
    assert not [name for line in refit for name in line if name.startswith("valid_")]
    # 8 lines of 60 users, all or three in four of them, in batches of 16.
    assert results["best_step"] == BEST * (6 * USERS // 16 // 5 * 5)
    assert refit[-1]["step"] == BEST * (8 * USERS // 16)
    folder = whole.workdir / "refit" / "checkpoints"
    assert checkpoint.latest_step(folder) == refit[-1]["step"]


def test_the_refit_is_a_training_on_all_of_train_from_the_start(whole, tmp_path):
    """The same model, made without anything that `run` knows of refits."""
    config = whole.config
    split = split_lib.given(config.data.load(), valid_share=0, seed=0)
    data = prepare.in_memory(split, history_length=0, min_history=0)
    assert data.num_examples == 8 * USERS and not len(data.valid)
    encoder, fitted = experiment_lib.train_model(config, data, tmp_path, epochs=BEST)
    result = measure.measure_model(
        encoder,
        step.params_of(fitted.state),
        data=data,
        part=data.test,
        config=config.evaluate,
        index="exact",
    )
    assert result.means() == whole.results["test_refit"]
    assert_same_run(tmp_path, whole.workdir / "refit")
    described = read(whole.workdir / "refit" / "data.json")
    assert "all of train trains" in described["protocol"]
    assert described == read(tmp_path / "data.json")
    assert described["sha256"] != read(whole.workdir / "data.json")["sha256"]


def test_the_test_part_has_no_say_in_training_or_choosing(whole, tmp_path):
    """Other test lines, as many and of items that train: other figures, of the same
    models chosen at the same epoch."""
    config = config_of(write(tmp_path / "data", seed=1))
    assert len(config.data.load()) == len(whole.config.data.load())
    results = summary.train(config, tmp_path / "run")
    for folder in ("run", "run/refit"):
        theirs = whole.workdir.parent / folder / "metrics.jsonl"
        assert (tmp_path / folder / "metrics.jsonl").read_text() == theirs.read_text()
    for name in ("best_step", "steps", "valid"):
        assert results[name] == whole.results[name]
    for name in ("test", "test_refit"):
        assert results[name] != whole.results[name]
    assert results["baselines"] != whole.results["baselines"]


# Cut off.


@pytest.fixture
def dispatched(monkeypatch) -> list[str]:
    """The folder of every portion of steps that is run, in order."""
    folders, dispatch = [], loop_lib._dispatch

    def recorded(loop, state, **named):
        folders.append(loop.workdir.name)
        return dispatch(loop, state, **named)

    monkeypatch.setattr(loop_lib, "_dispatch", recorded)
    return folders


def test_a_finished_run_is_not_trained_again(whole, dispatched):
    before = files(whole.workdir)
    assert summary.train(whole.config, whole.workdir) == whole.results
    assert files(whole.workdir) == before and not dispatched


@pytest.mark.slow
def test_a_run_cut_off_before_and_within_its_refit_ends_as_if_it_were_not(
    whole, tmp_path, monkeypatch, dispatched
):
    """And only what is left is done: after the first cut the refit, after the second
    its last epoch, after the third, which lost only the results, nothing."""
    workdir = tmp_path / "run"

    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment_lib, "_refit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            summary.train(whole.config, workdir)
    first = len(dispatched)
    assert dispatched == ["run"] * first
    assert not (workdir / "refit").exists()
    assert not (workdir / "results.json").exists()

    save = checkpoint.save

    def save_once(*arguments, kind, **named):
        save(*arguments, kind=kind, **named)
        if kind == "latest":
            raise KeyboardInterrupt

    dispatched.clear()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_once)
        with pytest.raises(KeyboardInterrupt):
            summary.train(whole.config, workdir)
    an_epoch = 8 * USERS // 16 // 5
    assert dispatched == ["refit"] * an_epoch
    assert not (workdir / "results.json").exists()

    dispatched.clear()
    summary.train(whole.config, workdir)
    assert dispatched == ["refit"] * an_epoch * (BEST - 1)
    dispatched.clear()
    (workdir / "results.json").unlink()
    summary.train(whole.config, workdir)
    assert not dispatched
    assert_same_run(workdir, whole.workdir)
    assert_same_run(workdir / "refit", whole.workdir / "refit")
    assert timeless(workdir)["test_refit"] == whole.results["test_refit"]


def test_a_run_does_not_go_on_with_another_train_file(whole, tmp_path, monkeypatch):
    config = config_of(write(tmp_path / "data"))
    monkeypatch.setattr(loop_lib, "fit", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        summary.train(config, tmp_path / "run")
    path = tmp_path / "data" / "train.txt"
    path.write_text(path.read_text().strip().rpartition(" ")[0])  # one event less
    with pytest.raises(InputError, match="was trained on other data than "):
        summary.train(config, tmp_path / "run")


# Refused.


def with_data(config: Experiment, **changes) -> Experiment:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def refused(config: Experiment, folder: pathlib.Path, expected: str) -> None:
    """Told before anything is trained or written."""
    with pytest.raises(InputError, match=expected):
        summary.train(config, folder / "run")
    assert [path for path in folder.glob("run/*") if path.name != ".lock"] == []


def test_a_refit_of_another_kind_is_refused(whole, tmp_path):
    config = config_of(pathlib.Path(whole.config.data.dir), refit="test")
    refused(
        config, tmp_path, "unknown --config.train.refit 'test'; there are: none, all"
    )


@pytest.mark.parametrize("protocol", ["leave_one_out", "temporal"])
def test_a_refit_is_of_given_parts_alone(whole, tmp_path, protocol):
    config = dataclasses.replace(whole.config, data=synthetic.Config(protocol=protocol))
    message = (
        f"refit=all is for data.protocol=given .*under {protocol} set train.refit=no"
    )
    refused(config, tmp_path, message)


def test_without_a_validation_part_nothing_can_be_chosen(whole, tmp_path):
    config = with_data(whole.config, valid_share=0.0)
    refused(config, tmp_path, "the validation part is empty")


def test_ties_of_parts_without_times_are_refused(whole, tmp_path):
    config = with_data(whole.config, ties="both")
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, epochs=1)
    )
    refused(config, tmp_path, "data.ties")


def test_labels_and_sampled_negatives_exclude_each_other(whole, tmp_path):
    config = with_data(whole.config, label="grade")
    refused(config, tmp_path, "sampled negatives would take for positives; set neg")
    none = NegativesConfig(kind="none", correction="none")
    config = dataclasses.replace(
        whole.config, negatives=none, loss=objective.LossConfig(name="squared")
    )
    refused(config, tmp_path, "kind=none trains on labels alone; name the event col")
    config = with_data(config, label="grade")
    refused(config, tmp_path, "data.label 'grade' is no column .* there are: part")
