"""What an epoch is made of, and when the loop refreshes, validates, saves and stops: with
a step that only counts."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_mesh import of_kind
from test_objective import KINDS, TINY, WARM

from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.losses import negatives, objective
from recall_jax.run import experiment as experiment_lib
from recall_jax.tables import layout
from recall_jax.training import checkpoint
from recall_jax.training import loop as loop_lib
from recall_jax.training import step as step_lib

PLAN = loop_lib.Plan(scan=2, dispatches=3, size=4, epochs=4)


def rows_of(feed: loop_lib.Feed, *, step: int = 0) -> np.ndarray:
    return np.array([rows for _, rows in feed.portions(step)])


def feed_of(*, num_rows: int = 26, span: int = 1, seed: int = 0) -> loop_lib.Feed:
    key = jax.random.key(seed)
    return loop_lib.resident("source", num_rows=num_rows, span=span, plan=PLAN, key=key)


def test_each_epoch_has_its_own_order_of_rows_and_none_twice():
    rows = rows_of(feed_of())
    assert rows.shape == (4 * 3, 2, 4)
    epochs = rows.reshape(4, 24)
    for epoch in epochs:
        assert len(set(epoch)) == 24 and set(epoch) <= set(range(26))
    orders = {tuple(epoch) for epoch in epochs}
    assert len(orders) == 4
    left_out = {frozenset(range(26)) - frozenset(epoch) for epoch in epochs}
    assert len(left_out) > 1
    assert tuple(epochs[0]) != tuple(range(24))
    np.testing.assert_array_equal(rows, rows_of(feed_of()))
    assert not np.array_equal(rows, rows_of(feed_of(seed=1)))


@pytest.mark.parametrize("dispatch", [1, 3, 7])
def test_an_epoch_goes_on_from_where_it_stood(dispatch):
    rows = rows_of(feed_of(), step=dispatch * PLAN.scan)
    np.testing.assert_array_equal(rows, rows_of(feed_of())[dispatch:])


def test_spans_begin_elsewhere_in_each_epoch():
    shifts = set()
    for seed in range(6):
        for epoch in rows_of(feed_of(span=5, seed=seed)).reshape(4, 24):
            (shift,) = set(epoch % 5)
            shifts.add(int(shift))
            assert len(set(epoch // 5)) == 24 and max(epoch // 5) < 26
    assert shifts == set(range(5))


def count(state, hypers, source, example):
    """A step whose loss tells what index it had."""
    loss = state.candidates.index[0, 0]
    metrics = {"loss": loss, "gradient_norm": loss}
    return state._replace(step=state.step + 1), metrics


class Kept:
    """Checkpoints in memory, in place of the disk's."""

    def __init__(self):
        self.held = {}
        self.outline = checkpoint.outline

    def save(self, folder, state, *, kind: str, step: int, progress: dict) -> None:
        self.held[kind] = jax.device_get(state), step, progress

    def exists(self, folder, *, kind: str) -> bool:
        return kind in self.held

    def restore(self, folder, like, *, kind: str):
        state, _, progress = self.held[kind]
        return jax.tree.map(jnp.asarray, state), dict(progress)

    def latest_step(self, folder):
        return self.held["latest"][1] if "latest" in self.held else None


@pytest.fixture
def kept(monkeypatch) -> Kept:
    checkpoints = Kept()
    monkeypatch.setattr(loop_lib, "checkpoint", checkpoints)
    return checkpoints


@dataclasses.dataclass
class Watched:
    """A loop, and what it did."""

    folder: object
    values: list[float]
    config: loop_lib.TrainConfig
    every: int = 0
    refreshed: list[int] = dataclasses.field(default_factory=list)
    validated: list[int] = dataclasses.field(default_factory=list)
    chosen: bool = True

    def run(self) -> loop_lib.Fitted:
        values = itertools.chain(self.values, itertools.repeat(0.0))

        def refresh(state):
            self.refreshed.append(int(state.step))
            index = jnp.full((1, 1), 1.0 + int(state.step))
            return state._replace(candidates=negatives.Remembered(index=index))

        def validate(state):
            self.validated.append(int(state.step))
            return {"other": -int(state.step), "chosen": next(values)}

        zero = jnp.zeros((), jnp.int32)
        state = step_lib.TrainState(
            step=zero,
            key=jax.random.key_data(jax.random.key(0)),
            tables={},
            table_states={},
            slots={},
            dense={},
            statistics={},
            loss={},
            dense_state={},
            candidates=negatives.Remembered(index=jnp.zeros((1, 1))),
        )
        plan = PLAN._replace(epochs=self.config.epochs)
        loop = loop_lib.Loop(
            step=count,
            feed=loop_lib.resident(
                jnp.zeros(1), num_rows=26, span=1, plan=plan, key=jax.random.key(0)
            ),
            span=1,
            hypers={"one": jnp.float32(1)},
            plan=plan,
            config=self.config,
            validate=validate if self.chosen else None,
            select_by="chosen",
            workdir=self.folder,
            refresh=refresh,
            refresh_every=self.every,
        )
        return loop_lib.fit(loop, state)


def losses(folder) -> list[float]:
    """Of each dispatch."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize(
    ("every", "at"), [(0, []), (1, [0, 2, 4, 6, 8, 10]), (2, [0, 4, 8]), (4, [0, 8])]
)
def test_an_index_is_refreshed_before_every_so_many_dispatches(
    kept, tmp_path, every, at
):
    """And the steps of the dispatch see it: of 6 dispatches of 2 steps."""
    config = loop_lib.TrainConfig(epochs=2)
    watched = Watched(tmp_path, [0.1, 0.2], config, every=every)
    watched.run()
    assert watched.refreshed == at
    index = [
        max([1.0 + step for step in at if step <= now], default=0.0)
        for now in range(0, 12, 2)
    ]
    assert losses(tmp_path) == index


@pytest.mark.parametrize(
    ("config", "values", "validated", "best"),
    [
        ({"epochs": 4}, [0.1, 0.2, 0.3, 0.4], [6, 12, 18, 24], 24),
        ({"epochs": 4, "eval_every": 3}, [0.2, 0.1], [18, 24], 18),
        ({"epochs": 9, "patience": 2}, [0.1, 0.3, 0.3, 0.2], [6, 12, 18, 24], 12),
        ({"epochs": 9, "patience": 1}, [0.1, 0.0], [6, 12], 6),
        ({"epochs": 5, "patience": 2}, [0.3, 0.1, 0.4, 0.2, 0.1], [6, 12, 18, 24, 30], 18),
    ],
)  # fmt: skip
def test_the_best_validation_is_kept_and_patience_counts_from_it(
    kept, tmp_path, config, values, validated, best
):
    watched = Watched(tmp_path, values, loop_lib.TrainConfig(**config))
    fitted = watched.run()
    assert watched.validated == validated
    assert int(fitted.state.step) == best == fitted.progress.best_step
    assert fitted.progress.best == max(values) and fitted.steps == validated[-1]
    assert fitted.best_epoch == best // 6 and fitted.epochs == validated[-1] / 6


def test_where_nothing_validates_the_last_state_counts(kept, tmp_path):
    watched = Watched(tmp_path, [], loop_lib.TrainConfig(epochs=2), chosen=False)
    fitted = watched.run()
    assert int(fitted.state.step) == 12 == fitted.progress.best_step
    assert not watched.validated


@pytest.mark.parametrize(
    ("every", "saved"), [(0, [6, 12]), (1, [2, 4, 6, 8, 10, 12]), (2, [4, 6, 8, 12])]
)
def test_checkpoints_to_go_on_from_are_saved_when_due(
    kept, tmp_path, monkeypatch, every, saved
):
    steps, save = [], kept.save

    def noted(folder, state, *, kind, step, **rest):
        steps.extend([step] * (kind == "latest"))
        save(folder, state, kind=kind, step=step, **rest)

    monkeypatch.setattr(kept, "save", noted)
    config = loop_lib.TrainConfig(epochs=2, checkpoint_every=every)
    Watched(tmp_path, [0.3, 0.2], config).run()
    assert steps == saved


def test_a_run_that_goes_on_counts_the_validations_before_it(kept, tmp_path):
    config = loop_lib.TrainConfig(epochs=4, patience=2)
    Watched(tmp_path, [0.3, 0.2], dataclasses.replace(config, epochs=2)).run()
    again = Watched(tmp_path, [0.1, 0.4], config)
    fitted = again.run()
    assert again.validated == [18] and fitted.steps == 18
    assert int(fitted.state.step) == 6 == fitted.progress.best_step


def test_an_index_is_of_the_items_as_they_are_now(tmp_path):
    """What a semi-hard experiment refreshes, and how often."""
    config = of_kind(dataclasses.replace(KINDS["semi_hard"], refresh_every=3), WARM)
    split = split_lib.by_protocol(TINY.load(), config=TINY)
    data = prepare.in_memory(split, history_length=0, min_history=0)
    ready = experiment_lib.make_loop(config, data, tmp_path)
    assert ready.loop.refresh_every == 3
    moved = jax.tree.map(lambda x: 1.5 - x, ready.state.tables)
    index = ready.loop.refresh(ready.state._replace(tables=moved)).candidates.index
    rows = np.asarray(layout.whole(moved["item"]), np.float64)
    known_items = data.dataset.known_items
    wanted = (
        rows[1 : known_items + 1]
        / np.linalg.norm(rows[1 : known_items + 1], axis=1)[:, None]
    )
    np.testing.assert_allclose(index[:known_items], wanted, rtol=1e-5)


def test_kinds_without_an_index_refresh_nothing():
    goal = objective.make_objective(WARM, KINDS["exposed"])
    assert goal.refresh_every == 0
