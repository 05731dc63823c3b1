"""The bench of peers: its talk with other programs, its figures, and our own entrant."""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest
from command_line import called
from marks import slow

from experiments.bench import peers
from experiments.bench.contestants import (
    in_recall_jax,
    programs,
    races,
    session,
    timing,
)
from experiments.common import cli
from recall_jax.data.sources import synthetic
from recall_jax.evaluate import measure
from recall_jax.types import InputError

FAKE = """
import sys, time
sys.path.insert(0, {folder!r})
import numpy as np
import session

def make(job):
    print("a library may print what it likes")
    if job.form == "unborn":
        sys.exit("no such kernel")
    def train(rows):
        assert rows.shape[1] == job.batch_size
        if job.form == "mortal":
            sys.exit("out of patience")
        time.sleep(0.01)
        return job.user[rows].mean()
    def vectors():
        return np.ones((job.num_users, 2)), np.ones((job.num_items, 2))
    return session.Trainer(train, vectors)

session.serve(make, packages=("numpy",))
"""
SMALL = synthetic.Config(
    num_users=60, num_items=60, num_events=900, num_markets=3, max_events_per_user=20
)


def make_job(**fields) -> session.Job:
    rng = np.random.default_rng(0)
    user = rng.integers(1, 41, 2_000, dtype=np.int32)
    item = (user + rng.integers(0, 3, 2_000)) % 40 + 1
    job = session.Job("", user, item.astype(np.int32), 40, 40, None, batch_size=50)
    return dataclasses.replace(job, **fields)


@pytest.fixture
def fake(tmp_path, monkeypatch) -> pathlib.Path:
    """The folder of an environment with a peer that runs the program above, as we do."""
    program = tmp_path / "fake.py"
    program.write_text(FAKE.format(folder=str(programs.FOLDER)))
    python = programs.python_of(tmp_path, "fake")
    (tmp_path / "fake/lib/python3/site-packages/a_fake-1.0.dist-info").mkdir(
        parents=True
    )
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    peer = programs.Peer(str(program), ("a-fake==1.0",), ("plain", "unborn", "mortal"))
    monkeypatch.setattr(programs, "PEERS", {"fake": peer, "absent": peer})
    real = programs.command_of
    monkeypatch.setattr(
        programs,
        "command_of",
        lambda envs, name: real(envs, "fake" if name == timing.OURS else name),
    )
    monkeypatch.setattr(peers, "DATA", {"small": SMALL})
    return tmp_path


def test_batches_are_permutations_one_after_another():
    job = make_job(batch_size=600)
    coming = session.batches(job)
    for _ in range(2):
        epoch = np.concatenate([next(coming) for _ in range(3)])
        assert len(set(epoch)) == 1_800 and epoch.max() < 2_000
    assert not np.array_equal(epoch[:600], next(coming))


@pytest.mark.parametrize("log_q", [None, np.zeros(42, np.float32)])
def test_a_contestant_answers_what_it_is_asked(fake, log_q):
    command = programs.command_of(fake, "fake")
    with programs.started(command, make_job(form="plain", log_q=log_q)) as talk:
        assert talk.described["versions"] == {"numpy": np.__version__}
        answer = talk.train(3)
        assert answer["examples"] == 150 and answer["seconds"] > 0
        assert 15 < answer["loss"] < 26, "the mean of its users, in place of a loss"
        user, item = talk.vectors()
    assert user.shape == item.shape == (40, 2)


def test_a_contestant_that_dies_says_why(fake):
    command = programs.command_of(fake, "fake")
    job = make_job(form="unborn")
    with (
        pytest.raises(programs.Failed, match="no such kernel"),
        programs.started(command, job),
    ):
        pass


def test_what_fails_is_noted_and_the_others_are_timed(fake):
    entrants = timing.entrants(fake, "fake")
    rows = timing.time_in_turn(entrants, make_job(), steps=2, rounds=2)
    assert [row["form"] for row in rows] == ["plain", "unborn", "mortal"]
    assert rows[0]["ratio"] > 0 and rows[0]["threads"] >= 1
    assert [row.get("note") for row in rows] == [
        None,
        "failed: no such kernel",
        "failed: out of patience",
    ]


def test_the_turn_that_compiles_is_not_counted(fake, monkeypatch):
    monkeypatch.setattr(timing, "speed", lambda *both: {"taken": [*map(len, both)]})
    entrants = timing.entrants(fake, "fake")[:2]
    (row,) = timing.time_in_turn(entrants, make_job(), steps=1, rounds=2)
    assert row["taken"] == [2, 2]


def test_our_own_failure_is_an_error(fake):
    ours = timing.Entrant(timing.OURS, "mortal", programs.command_of(fake, "fake"))
    with pytest.raises(programs.Failed, match="out of patience"):
        timing.time_in_turn([ours], make_job(), steps=2, rounds=1)


def test_ratios_are_of_medians_with_the_rounds_beside_them():
    def answers(*seconds):
        return [{"seconds": s, "examples": 100, "loss": 1.0} for s in seconds]

    row = timing.speed(answers(4.0, 10.0, 5.0), answers(1.0, 2.0, 10.0))
    assert row["examples_per_second"] == 20 and row["ours_per_second"] == 50
    assert row["ratio"] == 2.5
    assert (row["ratio_low"], row["ratio_high"]) == (0.5, 5.0)


def test_the_headline_is_over_the_fastest_form_at_a_million_rows():
    def row(peer, form, rows, ratio):
        return {"peer": peer, "form": form, "rows": rows, "ratio": ratio}

    rows = [
        row("keras_rs", "embedding", 1_000_000, 4.0),
        row("keras_rs", "scan", 1_000_000, 3.0),
        row("keras_rs", "scan", 10_000, 1.5),
        {"peer": "torch", "rows": 1_000_000, "note": "not installed"},
        row("torch_rechub", "in_batch", 10_000, 7.0),
        row("torch_rechub", "in_batch", 1_000_000, 9.0),
    ]
    assert peers.headline(rows) == {
        "over_keras_rs_1m": 3.0,
        "over_torch_sparse_1m": None,
        "over_torch_rechub": 7.0,
    }


def test_a_library_is_at_the_recall_when_the_first_form_that_always_comes_is():
    def row(peer, form, seconds, **note):
        times = {"seconds": seconds, "seconds_high": seconds}
        metrics = {"valid recall@20": 0.1, "test recall@20": 0.1}
        return {"peer": peer, "form": form, **times, **metrics, **note}

    raced = [
        row("recall_jax", "", 9.0),
        row("torch", "compiled", 30.0),
        row("torch", "eager", 20.0),
        row("torch", "lucky", 4.0, note="not reached in 1 of 2 races"),
        {"peer": "torch", "form": "ill", "note": "failed: no such kernel"},
        row("keras_rs", "scan", 900.0, note="not reached in 2 of 2 races"),
        {"peer": "torch_rechub", "note": "not installed"},
    ]
    first = peers.first_forms(raced)
    assert first == {"recall_jax": raced[0], "torch": raced[2]}
    forms = [peers._race_cells(r, first=r in first.values())["form"] for r in raced]
    assert forms == ["*", "compiled", "eager *", "lucky", "ill", "scan", ""]


class Learner:
    """Talks like a contestant; at the looks `knows` its vectors find the targets of a
    part."""

    def __init__(self, data, knows):
        self.data, self.knows, self.looks = data, knows, 0

    def train(self, steps):
        return {"seconds": 2.0, "examples": steps, "loss": 1.0}

    def vectors(self):
        self.looks += 1
        items = np.eye(self.data.dataset.num_items, dtype=np.float32)
        users = np.zeros((len(self.data.user_codes), len(items)), np.float32)
        if part := self.knows.get(self.looks):
            aim = measure.targets(self.data, part, seen=False).positions[:, 0]
            users[part.user - 1] = items[aim]
        return users, items


@pytest.fixture(scope="module")
def small():
    return races.prepare(SMALL)


def test_a_race_ends_when_the_recall_is_reached_or_the_time_is_up(small):
    goal = races.Goal(small, recall=0.9, every=5, cap=100.0)
    won = races.race(Learner(small, {3: small.valid}), goal)
    assert (won["seconds"], won["steps"]) == (6.0, 15)
    assert won["valid recall@20"] == 1 and won["test recall@20"] < 0.5
    lost = races.race(Learner(small, {3: small.valid}), goal._replace(cap=3.0))
    assert (lost["seconds"], lost["valid recall@20"]) == (4.0, 0)
    assert races.outcome([won, lost], goal)["note"] == "not reached in 1 of 2 races"
    assert "note" not in races.outcome([won, won], goal)


def test_a_race_that_is_lost_tells_of_its_best_look(small):
    goal = races.Goal(small, recall=0.9, every=5, cap=8.0)
    half = type(small.valid)(*(array[::2] for array in small.valid))
    looks = {2: half, 4: small.test}  # best on validation, and then on test
    lost = races.race(Learner(small, looks), goal)
    first = races.race(Learner(small, {1: half}), goal._replace(cap=1.0))
    assert (lost["seconds"], lost["steps"]) == (8.0, 20)
    assert 0.4 < lost["valid recall@20"] == first["valid recall@20"] < 0.7
    assert lost["test recall@20"] == first["test recall@20"] < 0.5


def test_a_log_becomes_pairs_with_the_chance_of_each_item(small):
    job = races.data_job(small, batch_size=50)
    assert len(job.user) == len(job.item) == small.popularity.sum()
    chance = np.exp(job.log_q[1 : job.num_items + 1])
    assert chance[small.popularity[1:] > 0].sum() == pytest.approx(1, abs=1e-5)
    assert job.item.min() >= 1 and job.user.max() <= job.num_users
    held_out = set(zip(small.test.user, small.items[small.test.start], strict=True))
    assert not held_out & set(zip(job.user, job.item, strict=True))


@pytest.mark.parametrize("log_q", [slow(None), np.full(42, -3.7, np.float32)])
def test_our_entrant_learns_its_pairs(log_q):
    job = make_job(log_q=log_q, learning_rate=2e-2, width=8, hidden=16)
    trainer = in_recall_jax.make(job)
    coming = session.batches(job)
    losses = [
        trainer.train(np.stack([next(coming) for _ in range(20)])) for _ in range(4)
    ]
    assert losses[-1] < losses[0]
    user, item = trainer.vectors()
    assert user.shape == item.shape == (40, 8)
    nearest = np.argsort(-user @ item.T, axis=1)[:, :3]
    wanted = (np.arange(1, 41)[:, None] + np.arange(3)) % 40
    hits = [len(set(a) & set(b)) / 3 for a, b in zip(nearest, wanted, strict=True)]
    assert np.mean(hits) > 0.6, "chance is 0.075"


def run(envs: pathlib.Path, *arguments) -> tuple[int, str, str]:
    sizes = ("--smoke", "--data=small", "--rows=90", "--batch_size=30", "--cap=0.02")
    given = (f"--envs={envs}", "--threads=1", "--recall=0.9", *sizes)
    return called(peers, *given, *arguments, parse=cli.parse_plain)


def test_the_command_goes_on_without_a_peer_that_is_not_installed(fake):
    status, output, errors = run(fake, "--peers=fake,absent")
    assert status == 0, errors
    assert f"absent is not installed; --install, or {sys.executable} -m venv" in output
    assert "pip install --quiet a-fake==1.0" in output
    result = json.loads(output.splitlines()[-1])
    assert [row.get("note") for row in result["rows"]] == [
        None,
        "failed: no such kernel",
        "failed: out of patience",
        "not installed",
    ]
    short = "not reached in 1 of 1 races"
    assert [(r["peer"], r.get("form"), r["note"]) for r in result["races"]] == [
        ("recall_jax", "", short),
        ("fake", "plain", short),
        ("fake", "unborn", "failed: no such kernel"),
        ("fake", "mortal", "failed: out of patience"),
        ("absent", None, "not installed"),
    ]
    assert result["over_keras_rs_1m"] is None and result["seconds_to_recall"] == {}


@pytest.mark.parametrize(
    "flag, line",
    [
        ("--peers=tensorflow", "there is no 'tensorflow'; there are: fake, absent"),
        ("--rows=1e6", "--rows=1e6: these are numbers of rows"),
        ("--data=netflix", "there are: small"),
        ("--recall=14", "--recall=14.0 is no share of users"),
        ("--cap=0", "--cap is the seconds"),
        ("--races=-1", "--races=-1"),
        ("--threads=4096", "--threads=4096: this machine offers 1 to"),
    ],
)
def test_a_flag_that_means_nothing_is_one_plain_line(fake, flag, line):
    status, _, errors = run(fake, "--peers=fake", flag)
    assert status == 2 and line in errors and "Traceback" not in errors


def test_a_failed_installation_says_what_pip_said(tmp_path, monkeypatch):
    commands = [[sys.executable, "-c", "import sys; sys.exit('no space left')"]]
    monkeypatch.setattr(programs, "install_commands", lambda *_: commands)
    with pytest.raises(InputError, match="no space left; remove .* or leave it out"):
        programs.install(tmp_path, "torch")
