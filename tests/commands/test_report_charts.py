"""The report's groups and charts: what is found, kept apart, drawn, and said of it."""

import doctest
import json

import made_up_runs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import (
    ODD,
    SWEPT,
    Parsed,
    chart,
    command,
    grouped,
    labels,
    panels,
    texts,
    write_sweep,
)

from experiments.common import charts, drawing, plots
from experiments.common import groups as groups_lib

# What is found, and what is kept apart.


def test_what_may_not_be_compared_is_apart(tmp_path):
    settings = {
        "plain": ({}, {}),
        "seen": ({"seen_of_evaluate": "kept"}, {}),
        "ties": ({"ties_of_data": "both"}, {}),
        "source": ({}, {"source": "another log"}),
        "protocol": ({}, {"protocol": "temporal"}),
        "lists": ({}, {"results": {"candidates": "100 sampled items ranked"}}),
    }
    for name, (overrides, how) in settings.items():
        config = made_up_runs.experiment(**overrides)
        made_up_runs.write(tmp_path / name, config, **how)
    groups = grouped(tmp_path)
    assert len(groups) == 6
    for group in groups:
        assert labels(group) == ["dssm_synthetic"] and len(group.cells) == 1
        assert len(groups_lib.summaries(group, by="")) == 1


def test_swept_fields_are_those_in_which_configs_differ(tmp_path):
    write_sweep(tmp_path)
    (group,) = grouped(tmp_path)
    wanted = [f"dssm_synthetic:loss.temperature={value}" for value in (*SWEPT, 0.4)]
    assert labels(group) == wanted
    (sweep,) = groups_lib.sweeps(group)
    assert sweep.field == "loss.temperature"
    assert [x for x, _ in sweep.lines[""]] == list(SWEPT)


def test_values_are_in_the_order_of_numbers(tmp_path):
    for value in (8, 16, 128, 1024):
        made_up_runs.write(
            tmp_path / str(value), made_up_runs.experiment(num_of_negatives=value)
        )
    (group,) = grouped(tmp_path)
    assert [label.rpartition("=")[2] for label in labels(group)] == (
        ["8", "16", "128", "1024"]
    )


def test_of_two_swept_fields_one_makes_lines(tmp_path):
    for temperature in (0.1, 0.2):
        for kind in ("in_batch", "uniform"):
            config = made_up_runs.experiment(
                temperature_of_loss=temperature, kind_of_negatives=kind
            )
            made_up_runs.write(tmp_path / f"{temperature}{kind}", config)
    (group,) = grouped(tmp_path)
    (sweep,) = groups_lib.sweeps(group)  # kinds are no numbers
    assert set(sweep.lines) == {"kind=in_batch", "kind=uniform"}
    assert all(len(line) == 2 for line in sweep.lines.values())


def test_an_ablation_names_what_each_variant_changes(tmp_path):
    changes = {"margin_of_loss": 0.7, "width_of_model": 32, "epochs_of_train": 5}
    made_up_runs.write(tmp_path / "base", made_up_runs.experiment())
    for field, value in changes.items():
        config = made_up_runs.experiment(**{field: value})
        made_up_runs.write(tmp_path / field, config)
    (group,) = grouped(tmp_path)
    assert labels(group) == [
        "dssm_synthetic",
        "dssm_synthetic:loss.margin=0.7",
        "dssm_synthetic:model.width=32",
        "dssm_synthetic:train.epochs=5",
    ]


def test_labels_of_plots_are_short_and_plain(tmp_path):
    changes = {"id_width_of_model": 16, "width_of_model": 32}
    for field, value in changes.items():
        made_up_runs.write(tmp_path / field, made_up_runs.experiment(**{field: value}))
    (group,) = grouped(tmp_path)
    plot_labels = [group.label(variant.entry) for variant in group.variants]
    assert plot_labels == ["id_width=16, width=64", "id_width=64, width=32"]
    group.variants[0].entry.own["loss.width"] = "1"  # ends as another field does
    assert group.label(group.variants[1].entry) == "id_width=64, model.width=32"


def test_a_run_twice_counts_once_and_is_told(tmp_path):
    config = made_up_runs.experiment()
    made_up_runs.begin(tmp_path / "a", config)
    made_up_runs.write(tmp_path / "b", config)
    (group,) = grouped(tmp_path)
    assert [cell.workdir.name for cell in group.cells] == ["b"]
    assert [run.workdir.name for run in group.repeated] == ["a"]
    status, *_ = command(tmp_path, f"--to={tmp_path.parent}/{tmp_path.name}-out")
    page = (tmp_path.parent / f"{tmp_path.name}-out" / "index.html").read_text()
    assert status == 0 and f"config and seed: {tmp_path}/a." in page


def test_folders_and_globs_name_a_run_once(tmp_path):
    write_sweep(tmp_path / "s")
    given = [f"{tmp_path}/s", f"{tmp_path}/s/t*", f"{tmp_path}/s/t0.1/seed-0"]
    assert len(groups_lib.find(given)) == 7


def test_what_a_run_keeps_below_it_is_no_run(tmp_path):
    made_up_runs.write(tmp_path / "run", made_up_runs.experiment())
    made_up_runs.begin(tmp_path / "run" / "refit", made_up_runs.experiment())
    assert groups_lib.find([str(tmp_path)]) == [tmp_path / "run"]


# What is drawn.


def test_points_are_means_with_the_spread_of_seeds_and_the_users_interval(tmp_path):
    write_sweep(tmp_path)
    (group,) = grouped(tmp_path)
    panel = panels(group, "sweep")[0]
    assert panel.y == "ndcg@10, test"
    (line,) = panel.lines
    assert [at.x for at in line.points] == list(SWEPT)
    point = line.points[1]  # levels 0.31 and 0.314; ndcg is 0.1 above
    assert point[1:4] == pytest.approx((0.412, 0.41, 0.414))
    assert point.users == pytest.approx((0.392, 0.432))
    levels = {level.label: level.value for level in panel.levels}
    assert levels == pytest.approx({"popularity": 0.15, "bigram": 0.3, "oracle": 0.7})


def test_a_baseline_beyond_the_axis_flattens_nothing(tmp_path):
    write_sweep(tmp_path)
    (group,) = grouped(tmp_path)
    figure = chart(group, "sweep").draw(drawing.LIGHT)
    low, high = figure.axes[0].get_ylim()
    assert 0.3 < low < 0.38 and 0.44 < high < 0.5
    assert {"oracle 0.7000 ↑", "popularity 0.1500 ↓"} <= set(texts(figure))
    assert figure.axes[0].get_xscale() == "linear"
    assert figure.axes[-1].get_xlabel() == "loss.temperature"


def test_curves_over_k_are_of_models_and_baselines(tmp_path):
    write_sweep(tmp_path)
    (group,) = grouped(tmp_path)
    recall, ndcg = panels(group, "curves")
    assert (recall.y, ndcg.y) == ("recall at k, test", "ndcg at k, test")
    assert "recall is the hit rate" in chart(group, "curves").caption
    assert [at.x for at in recall.lines[0].points] == [1, 5, 20]
    best = recall.lines[0]
    assert best.label == "temperature=0.2"
    assert best.points[-1].mean == pytest.approx(0.322)
    assert {line.label for line in recall.references} == set(made_up_runs.BASELINES)


def test_a_run_without_results_has_a_learning_curve_alone(tmp_path):
    config = made_up_runs.experiment()
    made_up_runs.begin(tmp_path / "run", config)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')  # at work right now
    (group,) = grouped(tmp_path)
    (one,) = charts.make(group)
    (loss, traces), (valid, _) = one.draw.args[0]
    assert (loss, valid) == ("training loss", "ndcg@10, validation")
    assert not traces[0].seeds and traces[0].dashed[0][1] == [5.0, 2.5]
    assert "dssm_synthetic (unfinished)" in texts(one.draw(drawing.DARK))
    out = tmp_path / "out"
    status, _, said = command(tmp_path / "run", f"--to={out}")
    assert status == 0, said
    page = Parsed((out / "index.html").read_text())
    assert "unfinished" in page.text and "No figures yet" not in page.text


def test_an_unfinished_run_stands_beside_those_on_its_data(tmp_path):
    write_sweep(tmp_path)
    (group,) = grouped(tmp_path)
    (summary,) = groups_lib.summaries(group, by="")
    assert summary["rows"][-1]["label"] == "dssm_synthetic:loss.temperature=0.4"
    assert summary["rows"][-1]["outcomes"] == {"0": "begun"}


def test_a_mean_over_seeds_ends_where_the_first_of_them_does(tmp_path):
    for seed, epochs in ((0, 4), (1, 2)):
        config = made_up_runs.experiment(seed=seed)
        folder = tmp_path / str(seed)
        made_up_runs.write(folder, config, epochs=epochs, level=0.3 + 0.1 * seed)
    (group,) = grouped(tmp_path)
    (_, traces) = chart(group, "learning").draw.args[0][1]
    x, y = plots._mean(traces[0].seeds)
    assert x == [1.0, 2.0] and y == pytest.approx([0.175, 0.2625])


def test_loss_that_is_no_number_leaves_a_gap(tmp_path):
    folder = made_up_runs.write(tmp_path / "run", made_up_runs.experiment())
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[1]["loss"] = None
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (group,) = grouped(tmp_path)
    (_, traces), _ = chart(group, "learning").draw.args[0]
    assert traces[0].seeds[0][0] == [1.0, 3.0, 4.0]


def test_many_configs_are_drawn_and_the_best_are_named(tmp_path):
    for place in range(9):
        config = made_up_runs.experiment(
            num_of_negatives=2**place, name=ODD, margin_of_loss=place % 2 / 2
        )
        made_up_runs.write(tmp_path / str(place), config, level=0.3 + 0.01 * place)
    (group,) = grouped(tmp_path)
    drawn = panels(group, "curves")[0].lines
    assert len(drawn) == 9
    assert [line.slot is None for line in drawn] == [False] * 6 + [True] * 3
    assert "Grey and unnamed: the other 3 configs." in chart(group, "curves").caption
    for one in charts.make(group):
        assert drawing.png(one.draw(drawing.DARK)).startswith(b"\x89PNG")


def test_each_device_has_axes_of_its_own(tmp_path):
    for device in ("a cpu", "a gpu"):
        config = made_up_runs.experiment(name=device)
        made_up_runs.write(tmp_path / device, config, results={"device": device})
    (group,) = grouped(tmp_path)
    drawn = chart(group, "time").draw.args[0]
    assert [(title, len(lines)) for title, lines in drawn] == [
        ("on a cpu", 1),
        ("on a gpu", 1),
    ]


@given(st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=12), st.floats(0.01, 0.08))
def test_labels_stand_apart_in_order_and_inside(wanted, gap):
    places = drawing.apart(sorted(wanted), gap)
    assert (np.diff(places) >= gap - 1e-9).all() and places[-1] <= 1 + 1e-9
    alone = drawing.apart(wanted[:1], gap)
    assert alone == [min(wanted[0], 1)]


def test_its_example_runs():
    assert doctest.testmod(drawing) == (0, 1)


@pytest.mark.parametrize("by", ["link_auc", "booked_rank_in_market"])
def test_what_is_of_no_list_is_drawn_without_segments(tmp_path, by):
    booked = {"all": {"rank_in_market": 0.3}, "popularity": {"all": {}}}
    results = {"link_auc": {"auc": 0.8}, "conversions": booked}
    made_up_runs.write(tmp_path / "run", made_up_runs.experiment(), results=results)
    (group,) = grouped(tmp_path)
    drawn = charts.make(group, by=by)
    names = [one.name for one in drawn]
    assert names == ["learning", "overview", "curves", "time"]
    assert all(one.draw(drawing.LIGHT).axes for one in drawn)


@pytest.mark.parametrize(
    ("measured", "drawn"),
    [
        (["hr@10", "recall@20"], ["hr@10, test", "recall@20, test"]),
        (["hr@10"], ["hr@10, test"]),
        (["recall@20"], ["recall@20, test"]),
        (["ndcg@10"], None),
    ],
)
def test_a_sweep_has_panels_of_what_it_was_measured_by(tmp_path, measured, drawn):
    write_sweep(tmp_path / "sweep")
    for value in SWEPT:
        folder = tmp_path / "other" / str(value)
        config = made_up_runs.experiment("other", temperature_of_loss=value)
        made_up_runs.write(folder, config, measured=measured)
    (group,) = grouped(tmp_path / "sweep", tmp_path / "other")
    by_name = {one.name: one for one in charts.make(group, by="hr@10")}
    assert len(by_name["sweep-dssm_synthetic-loss.temperature"].draw.args[0]) == 2
    other_chart = by_name.get("sweep-other-loss.temperature")
    assert drawn == (other_chart and [panel.y for panel in other_chart.draw.args[0]])
    assert all(one.draw(drawing.LIGHT).axes for one in by_name.values())


def test_a_metric_that_one_config_alone_has_can_be_drawn(tmp_path):
    config = made_up_runs.experiment("other")
    made_up_runs.write(tmp_path / "1", config, measured=["ndcg@10"])
    made_up_runs.write(tmp_path / "2", made_up_runs.experiment())
    (group,) = grouped(tmp_path)
    for one in charts.make(group, by="hr@10"):
        assert one.draw(drawing.LIGHT).axes


def test_a_sweep_says_in_its_learning_curves_how_it_ended_runs(tmp_path):
    for place, outcome in enumerate(("diverged", "stopped", "")):
        config = made_up_runs.experiment(temperature_of_loss=0.1 + place)
        folder = made_up_runs.begin(tmp_path / str(place), config)
        if outcome:
            made_up_runs.end(folder, outcome=outcome, message="why")
    (group,) = grouped(tmp_path)
    (_, traces), _ = chart(group, "learning").draw.args[0]
    assert [trace.label.partition(" ")[2] for trace in traces] == [
        "(diverged)",
        "(stopped)",
        "(unfinished)",
    ]


def test_seconds_of_runs_that_trained_together_are_not_drawn(tmp_path):
    for seed, num in ((0, 1), (1, 4), (2, 4)):
        config = made_up_runs.experiment(seed=seed)
        made_up_runs.write(tmp_path / str(seed), config, results={"together": num})
    (group,) = grouped(tmp_path)
    time = chart(group, "time")
    ((_, [line]),) = time.draw.args[0]
    assert [at.x for at in line.points] == pytest.approx([30.0])
    assert "shares of a group's: runs trained together (2)." in time.caption
    (shares,) = grouped(tmp_path / "1", tmp_path / "2")
    assert "time" not in [one.name for one in charts.make(shares)]
