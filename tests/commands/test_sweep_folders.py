"""What a sweep keeps where: its folder, those of its runs, and training states."""

import resource
import types

import jax
import jax.numpy as jnp
import made_up_runs
import numpy as np
import pytest
from test_run import SYNTHETIC
from test_sweep_rungs import make_cells

from experiments.common import cells as cells_lib
from experiments.common import cli, grid, plan, programs
from recall_jax import files
from recall_jax.losses import negatives
from recall_jax.run import folder as folder_lib
from recall_jax.training import checkpoint
from recall_jax.training import lanes as lanes_lib
from recall_jax.training import loop as loop_lib
from recall_jax.training import stack as stack_lib
from recall_jax.training import step as step_lib
from recall_jax.types import InputError

pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")


def test_another_plan_is_refused_once_a_run_has_begun(tmp_path):
    first_plan, other = {"seeds": 1}, {"seeds": 2}
    plan.note(tmp_path, first_plan)
    plan.refuse_another(tmp_path, other)
    workdir = tmp_path / "a" / "seed-0"
    workdir.mkdir(parents=True)
    folder_lib.write_json(workdir / "config.json", {})
    plan.refuse_another(tmp_path, first_plan)
    with pytest.raises(InputError, match="seeds: 1 there, 2 asked"):
        plan.refuse_another(tmp_path, other)


def test_runs_that_are_not_finished_are_held_and_others_read(tmp_path):
    cells = make_cells(tmp_path)
    first, second, *_ = cells
    results = made_up_runs.results_of(first.config, level=0.3, protocol="p")
    folder_lib.write_json(first.workdir / "results.json", results)
    folder_lib.write_json(first.workdir / "data.json", {})
    with programs.locked(cells):
        assert first.outcome == "finished" and second.outcome == "missing"
        with pytest.raises(InputError, match=f"{second.workdir} is in use"):
            files.lock(second.workdir).__enter__()
    with files.lock(first.workdir), programs.locked(cells):
        pass
    in_use = pytest.raises(InputError, match=f"{second.workdir} is in use")
    with files.lock(second.workdir), in_use:
        programs.locked(cells).__enter__()


def test_many_runs_may_open_many_files(tmp_path, monkeypatch):
    cells, new_limits = make_cells(tmp_path), []
    monkeypatch.setattr(
        resource, "setrlimit", lambda _, limits: new_limits.append(limits)
    )
    for soft, hard in ((10, 1000), (10, resource.RLIM_INFINITY), (1000, 1000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, now=(soft, hard): now)
        with programs.locked(cells):
            pass
    assert new_limits == [(272, 1000), (272, resource.RLIM_INFINITY)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 20))
    with pytest.raises(InputError, match="ulimit"):
        programs.locked(cells).__enter__()


def state(number) -> step_lib.TrainState:
    return step_lib.TrainState(
        step=jnp.int32(number),
        key=jnp.zeros(2, jnp.uint32),
        tables={"item": jnp.full((64, 1, 2), number, jnp.float32)},
        table_states={"item": {}},
        slots={"item": jnp.zeros((64, 1), jnp.int32)},
        dense={"bias": jnp.zeros(3)},
        statistics={},
        loss={},
        dense_state=(),
        candidates=negatives.Remembered(),
    )


def keep(portion: programs.Portion, numbers, *, step: int) -> None:
    """A checkpoint of a portion's runs whose states are full of these numbers."""
    stack = lanes_lib.begin(list(map(state, numbers)))
    lanes = [x._asdict() | {"progress": x.progress._asdict()} for x in stack.lanes]
    checkpoint.save(
        portion.folder / "checkpoints",
        jax.tree.map(jnp.asarray, stack.states),
        kind="latest",
        step=step,
        progress={"step": step, "lanes": lanes},
    )
    folder_lib.write_json(portion.folder / "lanes.json", portion.names)


def test_a_split_portion_goes_on_from_the_checkpoint_of_the_whole(tmp_path):
    cells, groups = make_cells(tmp_path)[:4], tmp_path / "groups"
    whole = programs.portion_at(cells, groups, rung=0)
    halves = [programs.portion_at(x, groups, rung=0) for x in (cells[:2], cells[2:])]
    keep(whole, [1, 2, 3, 4], step=5)
    keep(halves[0], [5, 6], step=10)
    # Begun, but without a checkpoint of its own yet.
    halves[1].folder.mkdir(parents=True)
    folder_lib.write_json(halves[1].folder / "lanes.json", halves[1].names)

    def restored(portion):
        stack = programs._restored(portion, lanes_lib.outline(state(0)))
        leaves = jax.tree.leaves(stack.states)
        assert all(isinstance(leaf, np.ndarray) for leaf in leaves), "on the host"
        return stack.step, stack.states.step.tolist()

    assert restored(halves[0]) == (10, [5, 6])
    assert restored(halves[1]) == (5, [3, 4])
    last = programs.portion_at(cells[1:2], groups, rung=1)
    assert restored(last) == (10, [6])
    later = programs.portion_at(cells[1:2], groups, rung=2)
    assert programs._restored(later, lanes_lib.outline(state(0))) is None


def test_runs_of_one_seed_read_their_rows_in_one_order(tmp_path):
    cells = make_cells(tmp_path, seeds=3)[:6]
    assert programs.orders_of(cells) == [0, 1, 2] * 2

    def feed(number):
        rows = ((None, np.array([[number, at]])) for at in range(2))
        return types.SimpleNamespace(portions=lambda step: rows)

    loops = [types.SimpleNamespace(feed=feed(number)) for number in (5, 6, 7)]
    group = lanes_lib.Program(loops, [0, 1, 0], tmp_path, layout=None)
    read = lanes_lib.portions(group, step=0)
    first, second = next(read), next(read)
    assert first[:, 0].tolist() == [[5, 0], [6, 0], [5, 0]]
    assert second[:, 0].tolist() == [[5, 1], [6, 1], [5, 1]]


def test_lanes_are_selected_with_their_states():
    lanes = tuple(lanes_lib.Lane({}, steps=number) for number in range(3))
    stack = lanes_lib.Stack({"a": np.arange(3)}, lanes, step=4).select([2, 0])
    assert stack.states["a"].tolist() == [2, 0] and stack.step == 4
    assert [lane.steps for lane in stack.lanes] == [2, 0]


def test_each_lane_keeps_the_best_of_its_own_by_select_by(tmp_path):
    """The first is best after the first epoch, the second after the second, by one
    metric; the other metric says the contrary."""
    curves, epoch = {1: [0.4, 0.3], 2: [0.1, 0.2]}, 0

    def validate(state):
        value = curves[int(state.dense["bias"][0])][epoch]
        return {"hr@10": 1 - value, "ndcg@10": value}

    loops = [
        loop_lib.Loop(
            step=None,
            feed=None,
            span=1,
            hypers=None,
            plan=loop_lib.make_plan(
                loop_lib.TrainConfig(epochs=2, batch_size=8), num_rows=64
            ),
            config=loop_lib.TrainConfig(epochs=2),
            validate=validate,
            select_by="ndcg@10",
            workdir=tmp_path / str(number),
        )
        for number in (1, 2)
    ]
    layout = stack_lib.make_layout(2, mode="map", devices=jax.devices()[:1])
    group = lanes_lib.Program(loops, [0, 0], tmp_path, layout)
    lanes, steps = [lanes_lib.Lane({})] * 2, loops[0].plan.steps_per_epoch
    for epoch in range(2):
        states = [state(10 * epoch + at) for at in (1, 2)]
        states = [
            x._replace(slots={}, dense={"bias": jnp.full(3, at)})
            for x, at in zip(states, (1, 2))
        ]
        placed = stack_lib.place(stack_lib.stacked(states), layout)
        for at in range(2):
            step = (epoch + 1) * steps
            lanes[at], values = lanes_lib._followed(
                group, at, lanes[at], placed, {}, step=step
            )
            assert values["valid_ndcg@10"] == curves[at + 1][epoch]
    assert [lane.progress.best for lane in lanes] == [0.4, 0.2]
    for loop, lane, number in zip(loops, lanes, (1, 12), strict=True):
        like = lanes_lib.outline(
            state(0)._replace(slots={}, dense={"bias": jnp.arange(3)})
        )
        restored = checkpoint.restore_on_host(loop.folder, like, kind="best")
        assert restored is not None, "in its own folder"
        kept, _ = restored
        assert kept.step == number and lane.progress.best_step == steps * (
            1 + (number == 12)
        )


def test_a_checkpoint_without_padding_is_of_the_host(tmp_path):
    """Sliced on the devices, which do not divide it, each would have held all of it."""
    layout = stack_lib.make_layout(11, mode="map", devices=jax.devices())
    assert layout.lanes == 12
    stack = lanes_lib.begin([state(number) for number in range(11)])
    placed = stack_lib.place(stack.states, layout)
    states = stack_lib.unpadded(placed, layout)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(states))
    checkpoint.save(tmp_path, states, kind="latest", step=1, progress={})
    restored, _ = checkpoint.restore_on_host(
        tmp_path, lanes_lib.outline(states), kind="latest"
    )
    jax.tree.map(np.testing.assert_array_equal, restored, stack.states)


def test_what_runs_out_of_memory_is_too_large_unless_it_is_alone():
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    other = jax.errors.JaxRuntimeError("INTERNAL: something else")
    for num, problem, seen in (
        (2, full, lanes_lib.TooLarge),
        (1, full, jax.errors.JaxRuntimeError),
        (2, other, jax.errors.JaxRuntimeError),
    ):
        with pytest.raises(seen), lanes_lib.memory_told(num):
            raise problem


@pytest.mark.parametrize(
    "kind, states, compiled",
    [("fixed", 2, 1), pytest.param("learned", 4, 2, marks=pytest.mark.slow)],
)
def test_first_states_lie_on_the_host_one_of_each_kind(
    kind, states, compiled, tmp_path, monkeypatch
):
    flags = SYNTHETIC[1:-1]
    own = dict(flag.removeprefix("--config.").split("=", 1) for flag in flags)
    entry = cli.Entry("dssm_synthetic", {}, {}, cli.load_config("dssm_synthetic"))
    entry = cli.with_own(entry, own | {"loss.temperature_kind": kind})
    settings = grid.make_settings(
        entry, ["loss.temperature=0.05,0.2"], samples=0, seed=0
    )
    cells, built = cells_lib.make_cells(settings, num_seeds=2, folder=tmp_path), []
    shared, init = programs.share(cells[0].config), step_lib.init_state

    def noted(*given, **named):  # as often as a program is traced that makes a state
        built.append(None)
        return init(*given, **named)

    monkeypatch.setattr(step_lib, "init_state", noted)
    _, loops, first_states = programs.make_loops(cells, shared)
    # The loop of all has one of its own.
    assert len(built) == compiled + 1, "one for the seeds of a kind"
    assert len({id(each) for each in first_states}) == states
    for leaf in jax.tree.leaves(first_states):
        assert isinstance(leaf, np.ndarray)
    temperatures = [float(loop.hypers["temperature"]) for loop in loops]
    np.testing.assert_allclose(temperatures, [0.05, 0.05, 0.2, 0.2], rtol=1e-6)
