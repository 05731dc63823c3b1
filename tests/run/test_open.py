"""The front door: what a program or a notebook does without any script."""

import dataclasses
import pathlib
import re
import runpy
import signal
import subprocess
import sys

import numpy as np
import pytest
from test_configs import TINY_LOG

import recall_jax
from recall_jax.models import dssm
from recall_jax.run import experiment as experiment_lib
from recall_jax.training import log as log_lib
from recall_jax.training.loop import TrainConfig

ROOT = pathlib.Path(__file__).parents[2]
TINY = recall_jax.Experiment(
    name="tiny",
    data=TINY_LOG,
    model=dssm.Config(width=8, id_width=8, hidden=(8,), item_hidden=(8,)),
    train=TrainConfig(epochs=3, batch_size=64),
)


def changed(**changes):
    return dataclasses.replace(TINY, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> recall_jax.Run:
    return recall_jax.train(TINY, tmp_path_factory.mktemp("tiny"), quiet=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_train_recommend_export_and_open_again_twice_in_one_process(
    seed, symbolic_shapes, one_platform, tmp_path
):
    run = recall_jax.train(changed(seed=seed), tmp_path / "run", quiet=True)
    assert 0 < run.results["test"]["hr@10"] <= 1
    user = run.vectors("users")[0][3]
    wanted = run.recommend(user=user, k=5)
    assert wanted.by == "model" and len(wanted.ids) == 5
    run.export(tmp_path / "export")
    again = recall_jax.open_run(tmp_path / "run")
    assert again.results == run.results
    for one in again, recall_jax.load(tmp_path / "export"):
        found = one.recommend(user=user, k=5)
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
        item = wanted.ids[0]
        np.testing.assert_array_equal(
            one.similar(item, 3).ids, run.similar(item, 3).ids
        )


def test_vectors_are_those_of_the_export(
    trained, symbolic_shapes, one_platform, tmp_path
):
    trained.export(tmp_path / "export")
    for side in ("items", "users"):
        ids, vectors = trained.vectors(side)
        stored = np.load(tmp_path / "export" / f"{side}.npy")
        np.testing.assert_allclose(vectors, stored, atol=1e-5)
        assert len(ids) == len(vectors) == len(set(ids.tolist()))
    with pytest.raises(
        recall_jax.InputError, match="'both'; .*there are: items, users"
    ):
        trained.vectors("both")


def test_quiet_prints_nothing_and_otherwise_a_run_tells_what_it_does(tmp_path, capfd):
    recall_jax.train(TINY, tmp_path / "quiet", quiet=True)
    assert capfd.readouterr() == ("", "")
    recall_jax.train(TINY, tmp_path / "told")
    told = capfd.readouterr()
    assert "protocol   leave_one_out" in told.out and "train: " in told.err


def test_silence_ends_where_training_fails(capfd):
    with pytest.raises(recall_jax.InputError), log_lib.silent():
        print("unheard")
        raise recall_jax.InputError("no")
    print("heard")
    assert capfd.readouterr().out == "heard\n"


def test_a_run_that_was_interrupted_goes_on_and_ends_the_same(
    trained, tmp_path, monkeypatch
):
    validated = []

    class AfterTwo(log_lib.RunLog):
        def write(self, step, values):
            super().write(step, values)
            validated.extend(name for name in values if name == "valid_ndcg@10")
            if len(validated) == 2:
                signal.raise_signal(signal.SIGINT)  # as Ctrl-C does

    signal.signal(signal.SIGINT, signal.default_int_handler)  # workers have none
    with monkeypatch.context() as patched:
        patched.setattr(log_lib, "RunLog", AfterTwo)
        with pytest.raises(KeyboardInterrupt):
            recall_jax.train(TINY, tmp_path, quiet=True)
    stopped = recall_jax.open_run(tmp_path)
    assert stopped.restored.step > 0
    with pytest.raises(recall_jax.InputError, match="not finished"):
        _ = stopped.results
    again = recall_jax.train(TINY, tmp_path, quiet=True)
    assert again.results["test"] == trained.results["test"]


@pytest.mark.slow
def test_several_devices_share_the_work(trained, tmp_path):
    shared = recall_jax.train(TINY, tmp_path / "two", devices=2, quiet=True)
    assert shared.results["device"].startswith("2 x ")
    for name, value in trained.results["test"].items():
        assert shared.results["test"][name] == pytest.approx(value, abs=0.05)


def test_more_devices_than_there_are_are_refused(tmp_path):
    with pytest.raises(recall_jax.InputError, match="--devices=99, but there are 8"):
        recall_jax.train(TINY, tmp_path / "many", devices=99)
    assert not (tmp_path / "many").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(recall_jax.InputError, match="holds no run"):
        recall_jax.open_run(tmp_path)


def test_a_run_stays_where_it_is_when_the_working_folder_changes(
    trained, tmp_path, monkeypatch
):
    monkeypatch.chdir(trained.workdir.parent)
    run = recall_jax.open_run(trained.workdir.name)
    monkeypatch.chdir(tmp_path)
    assert run.results == trained.results


class OwnConfig(dssm.Config):
    """A model of somebody's own, in no module of this package."""


def test_a_model_of_ones_own_gives_its_run(tmp_path):
    own = changed(
        model=OwnConfig(width=8, id_width=8, hidden=(8,), item_hidden=(8,)),
        train=TrainConfig(epochs=1, batch_size=64),
    )
    assert recall_jax.train(own, tmp_path, quiet=True).config is own


def test_what_is_no_experiment_is_told(tmp_path):
    with pytest.raises(recall_jax.InputError, match="takes an Experiment, not 'dssm'"):
        recall_jax.train("dssm", tmp_path)
    with pytest.raises(
        recall_jax.InputError, match="config.model is a class; make one"
    ):
        recall_jax.train(changed(model=dssm.Config), tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(recall_jax.InputError, match="cannot be a folder"):
        recall_jax.train(TINY, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_finished_run_is_read_and_not_trained(trained, monkeypatch):
    monkeypatch.setattr(experiment_lib, "train_model", None)
    again = recall_jax.train(TINY, trained.workdir, quiet=True)
    assert again.results["test"] == trained.results["test"]


def test_importing_the_package_imports_no_jax():
    code = "import sys, recall_jax; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert recall_jax.evaluate.__name__ == "recall_jax.evaluate"
    assert {"train", "open_run", "load"} <= set(dir(recall_jax))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        recall_jax.trian  # noqa: B018


def test_the_readmes_first_program_runs_as_it_stands(
    symbolic_shapes, one_platform, tmp_path, monkeypatch, capfd
):
    text = (ROOT / "README.md").read_text()
    program = re.search(r"```python\n(import recall_jax\nfrom .*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.py").write_text(program[1])
    runpy.run_path("first.py")
    assert "hr@10" in capfd.readouterr().out
