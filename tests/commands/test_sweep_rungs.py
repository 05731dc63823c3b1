"""Where --halving stops settings, what it compares there, and what a failure costs."""

import doctest
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import sweep
from experiments.common import cells as cells_lib
from experiments.common import cli, grid, programs, rungs
from recall_jax.run import folder as folder_lib
from recall_jax.training import loop
from recall_jax.types import InputError

RATES = "optim.learning_rate=0.1,0.2,0.3,0.4"


def make_cells(folder, *, overs=(RATES,), seeds=2, **train):
    entry = cli.Entry("dssm_synthetic", {}, {}, cli.load_config("dssm_synthetic"))
    entries = grid.make_settings(entry, overs, samples=0, seed=0)
    for each in entries:
        for field, value in train.items():
            setattr(each.config.train, field, value)
    cells = cells_lib.make_cells(entries, num_seeds=seeds, folder=folder)
    for cell in cells:
        cell.workdir.mkdir(parents=True, exist_ok=True)
        programs.read_end(cell)
    return cells


def labels(cells) -> list[str]:
    return list(dict.fromkeys(cell.entry.label for cell in cells))


def outcomes(cells) -> list[str]:
    return [cell.outcome for cell in cells]


def test_examples_of_rungs():
    results = doctest.testmod(rungs)
    assert results.attempted and not results.failed


@given(
    st.integers(0, 5).filter(lambda halving: halving != 1),
    st.integers(1, 300),
    st.integers(1, 100),
    st.integers(1, 12),
)
def test_every_rung_ends_with_a_validation(halving, num, epochs, every):
    marks = rungs.rungs(halving, num=num, epochs=epochs, every=every)
    assert marks[-1] == epochs and marks == sorted(set(marks))
    assert all(mark % every == 0 and mark > 0 for mark in marks[:-1])
    if not halving:
        assert marks == [epochs]


def test_marks_follow_the_validations_of_the_config(tmp_path):
    cells = make_cells(tmp_path, epochs=8, eval_every=2)
    assert rungs.marks(cells, 3) == [2, 4, None]


def test_settings_with_more_runs_left_come_before_better_means(tmp_path):
    cells = make_cells(tmp_path)
    reached = dict(zip(labels(cells), ([0.3, 0.4], [0.9], [0.2, 0.3], [0.1, 0.2])))
    decided = rungs.decide(cells, reached, halving=2, epoch=3)
    rungs.follow(cells, decided)
    stopped = ["stopped"] * 2
    assert outcomes(cells) == [*["missing"] * 2, *stopped, *["missing"] * 2, *stopped]
    assert "at epoch 3: validation" in cells[2].stopped
    assert "0.9000 of 1 seeds, not 2, place 4 of 4; 2 went on" in cells[2].stopped


def test_what_failed_before_a_rung_stays_failed_and_says_so(tmp_path):
    cells = make_cells(tmp_path)
    cells[0].problem = InputError("no room")
    cells[1].problem = loop.Diverged("not a number")
    reached = {label: [0.5, 0.5] for label in labels(cells)[1:]}
    decided = rungs.decide(cells, reached, halving=2, epoch=3)
    assert programs.name(cells[1]) not in decided["ended"]
    rungs.follow(cells, decided)
    (again, *_) = make_cells(tmp_path)
    assert again.outcome == "failed" and not programs.left(again)
    assert "no room; so the rung of epoch 3 was decided without it" in str(
        again.problem
    )


class Trainer:
    """In place of training: `reached` of each run by its label; `failing` fail, and a
    part of more than `most` runs is too large."""

    def __init__(self, monkeypatch, *, most=100):
        self.calls, self.failing, self.most = [], set(), most
        monkeypatch.setattr(sweep, "_train", self)
        monkeypatch.setattr(sweep, "_portions", lambda group, *_: [group])

    def __call__(self, part, groups, held, options, *, rung, until):
        going = list(filter(programs.goes_on, part))
        if len(going) > self.most:
            raise sweep.lanes.TooLarge("large")
        self.calls.append((rung, [programs.name(cell) for cell in going]))
        if failures := [cell for cell in going if cell.entry.label in self.failing]:
            programs.note_problem(going, InputError("no luck"))
            assert len(failures) == len(going), "these fail apart"
            return {}
        reached = {}
        for cell in going:
            value = cell.config.optim.learning_rate - cell.seed
            reached.setdefault(cell.entry.label, []).append(value)
        return reached


class Options:
    halving = 2


def test_seeds_of_a_setting_in_two_portions_are_compared_as_one(tmp_path, monkeypatch):
    Trainer(monkeypatch, most=3)
    cells = make_cells(tmp_path, overs=["optim.learning_rate=0.1,0.2,0.3"], epochs=4)
    sweep.run_all(cells, tmp_path, Options)
    assert outcomes(cells) == [*["stopped"] * 4, *["missing"] * 2]
    assert "-0.3000, place 2 of 2" in cells[2].stopped, "the mean over both seeds"


def test_a_rung_compares_the_best_that_each_run_had_on_validation(
    tmp_path, monkeypatch
):
    """And of a run that diverged nothing."""
    cells = make_cells(tmp_path)[:4]
    best = [0.4, 0.5, 0.3, 0.9]
    lanes = [
        sweep.lanes.Lane({}, loop.Progress(value, 3, 1), steps=10, problem=problem)
        for value, problem in zip(best, ["", "", "", "not a number"], strict=True)
    ]
    trained = programs.Trained(None, [], tuple(lanes), None)
    monkeypatch.setattr(sweep, "_held", lambda *_: None)
    monkeypatch.setattr(programs, "train_portion", lambda *_, **__: trained)
    options = types.SimpleNamespace(mode="auto", memory_gb=1.0)
    values = sweep._train(cells, tmp_path / "groups", {}, options, rung=0, until=2)
    first, second, *_ = labels(cells)
    assert values == {first: [0.4, 0.5], second: [0.3]}
    assert outcomes(cells) == [*["missing"] * 3, "diverged"]


def test_a_split_is_remembered_by_the_next_command(tmp_path, monkeypatch):
    first = Trainer(monkeypatch, most=2)
    sweep.run_all(make_cells(tmp_path, epochs=4), tmp_path, Options)
    second = Trainer(monkeypatch)
    sweep.run_all(make_cells(tmp_path, epochs=4), tmp_path, Options)
    last = [names for rung, names in first.calls if rung == 2]
    assert len(last) == 4 and second.calls == [(2, names) for names in last]


def test_training_state_is_kept_while_a_failed_run_is_left(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)
    cells = make_cells(tmp_path)
    trainer.failing = set(labels(cells))
    sweep.run_all(cells, tmp_path, Options)
    assert trainer.calls == [(0, [*map(programs.name, cells)])], "no rung is decided"
    assert (tmp_path / "groups").exists()
    trainer.failing = set()
    cells = make_cells(tmp_path)
    sweep.run_all(cells, tmp_path, Options)
    assert sorted(outcomes(cells)) == [*["missing"] * 2, *["stopped"] * 6]
    for cell in filter(programs.goes_on, cells):
        programs.note_end(cell, outcome="diverged", reason="")
    sweep.run_all(make_cells(tmp_path), tmp_path, Options)
    assert not (tmp_path / "groups").exists()


def test_a_setting_that_failed_at_a_rung_does_not_enter_the_next(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)
    overs = [RATES, "model.width=4,8"]
    cells = make_cells(tmp_path, overs=overs)
    wide = {label for label in labels(cells) if "width=8" in label}
    trainer.failing = wide
    sweep.run_all(cells, tmp_path, Options)
    trainer.failing, trainer.calls = set(), []
    again = make_cells(tmp_path, overs=overs)
    assert {c.entry.label for c in again if c.outcome == "failed"} == wide
    sweep.run_all(again, tmp_path, Options)
    assert not [name for _, names in trainer.calls for name in names if "=8" in name]


def test_a_decision_that_was_cut_off_is_followed_by_the_next_command(
    tmp_path, monkeypatch
):
    Trainer(monkeypatch)
    cells = make_cells(tmp_path)
    content = rungs.decide(
        cells,
        {label: [0.0] for label in labels(cells)},
        halving=4,
        epoch=1,
    )
    (tmp_path / "groups").mkdir()
    folder_lib.write_json(tmp_path / "groups" / "decided-0.json", content)
    sweep.run_all(cells, tmp_path, Options)
    assert outcomes(cells[2:]) == ["stopped"] * 6


@pytest.mark.parametrize("field", rungs.FIXED)
def test_halving_wants_what_rungs_are_made_of_alike(tmp_path, field):
    entries = [cell.entry for cell in make_cells(tmp_path, overs=[f"{field}=1,2"])]
    rungs.check(entries, 0)
    with pytest.raises(InputError, match=f"do not sweep over {field}"):
        rungs.check(entries, 2)
