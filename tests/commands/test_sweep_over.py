"""The settings that --over names, and which of them train in one program."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.common import cells as cells_lib
from experiments.common import cli, grid, plan
from recall_jax.types import InputError


def entry(name="dssm_synthetic"):
    return cli.Entry(name, {}, {}, cli.load_config(name))


def test_axes_are_lists_of_values_or_spaced():
    parsed = functools.partial(grid.parse, entry())
    assert parsed("model.hidden=[64,32],8").values == ("64,32", "8")
    rates = parsed("optim.learning_rate=log(1e-4,1e-2,5)").values
    np.testing.assert_allclose(
        [*map(float, rates)], np.geomspace(1e-4, 1e-2, 5), rtol=1e-5
    )
    assert parsed("train.epochs=linear(1,4,7)").values == ("1", "2", "3", "4")


def test_a_sample_is_reproducible_and_within_its_bounds():
    overs = ["optim.learning_rate=loguniform(1e-4,1e-2)", "model.dropout=0,0.2"]
    draw = functools.partial(grid.make_settings, entry(), overs, samples=200)
    one, other = draw(seed=0), draw(seed=1)
    assert one == draw(seed=0) != other
    rates = np.array([each.config.optim.learning_rate for each in one])
    assert len(one) == 200 and rates.min() >= 1e-4 and rates.max() <= 1e-2
    assert abs(np.mean(rates < 1e-3) - 0.5) < 0.15, "half of the draws in each decade"
    assert {each.config.model.dropout for each in one} == {0, 0.2}
    few = grid.make_settings(entry(), ["model.dropout=0,0.2"], samples=9, seed=0)
    assert len(few) == 2


def test_a_config_may_name_its_sweep(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from experiments.configs import dssm_synthetic\n"
        "get_config = dssm_synthetic.get_config\n"
        "def get_sweep():\n    return ['loss.temperature=0.1,0.2']\n"
    )
    assert cli.load_sweep(str(path)) == ["loss.temperature=0.1,0.2"]
    assert cli.load_sweep("dssm_synthetic") == []
    for line, message in (
        ("return 'loss.temperature=0.1,0.2'", "it must give a list of strings"),
        ("return None", "gives None"),
        ("return [1, 2]", "it must give a list of strings"),
        ("return 1 / 0", "failed: ZeroDivisionError"),
    ):
        path.write_text(f"def get_sweep():\n    {line}\n")
        with pytest.raises(InputError, match=message):
            cli.load_sweep(str(path))


def test_the_sweeps_of_shipped_configs_are_plain_grids(tmp_path):
    named = {name: cli.load_sweep(name) for name in cli.config_names()}
    assert named["dssm_ml1m"]
    for name, overs in named.items():
        if overs:
            grid_settings = grid.make_settings(entry(name), overs, samples=0, seed=0)
            plan.check(grid_settings, memory_gb=0.0)
            assert len(grid_settings) == len(
                cells_lib.make_cells(grid_settings, num_seeds=1, folder=tmp_path)
            )


def test_traced_fields_share_a_group_and_others_do_not(tmp_path):
    overs = ["negatives.alpha=0,1", "optim.tables=sgd,lazy_adam"]
    grid_settings = grid.make_settings(
        cli.read_entry("mf_ml1m:negatives.kind=popularity", shared={}),
        overs,
        samples=0,
        seed=0,
    )
    cells = cells_lib.make_cells(grid_settings, num_seeds=2, folder=tmp_path)
    groups = plan.make_groups(cells)
    assert [len(group) for group in groups] == [4, 4]
    for group in groups:
        assert len({cell.config.optim.tables for cell in group}) == 1


@pytest.mark.parametrize(
    "over_", ["data.ties=file,shuffled", "evaluate.seen=kept,removed"]
)
def test_settings_of_other_targets_are_not_ranked(over_):
    grid_settings = grid.make_settings(entry(), [over_], samples=0, seed=0)
    with pytest.raises(InputError, match="it changes what is measured"):
        plan.check(grid_settings, memory_gb=0.0)


def test_data_are_shared_by_runs_that_differ_in_training_alone(tmp_path):
    def data_of(field, value):
        grid_settings = grid.make_settings(
            entry(), [f"{field}={value}"], samples=0, seed=0
        )
        (cell,) = cells_lib.make_cells(grid_settings, num_seeds=1, folder=tmp_path)
        return plan.data_of(cell.config)

    plain = plan.data_of(entry().config)
    for field, value in (("loss.temperature", 0.3), ("optim.learning_rate", 0.01)):
        assert data_of(field, value) == plain
    others = {"evaluate.seen": "kept", "data.ties": "shuffled", "data.ties_seed": 3}
    for field, value in (others | {"model.history_length": 7}).items():
        assert data_of(field, value) != plain


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*grid.SPACED, *grid.DRAWN]),
    st.lists(
        st.floats()
        | st.integers(-3, 20_000)
        | st.sampled_from(["nan", "inf", "", "x"]),
        min_size=1,
        max_size=4,
    ),
)
def test_a_function_of_bounds_gives_finite_values_or_one_plain_error(name, numbers):
    text = f"optim.learning_rate={name}({','.join(map(str, numbers))})"
    try:
        axis = grid.parse(entry(), text)
    except InputError as problem:
        assert str(problem).startswith(f"--over={text}: ")
        return
    rng = np.random.default_rng(0)
    drawn = axis.sample(rng, lambda field, value: grid.as_text(float, value))
    for value in [*axis.values, drawn]:
        assert math.isfinite(float(value))


def test_a_setting_that_its_model_does_not_heed_is_named():
    with pytest.raises(InputError, match="of the setting loss.margin=0.3: .* pairs"):
        overs = ["loss.margin=0.3"]
        grid.make_settings(entry("item2vec_synthetic"), overs, samples=0, seed=0)
