"""The report: what it finds, keeps apart, draws and says, and that its page needs nothing."""

import csv
import doctest
import functools
import html.parser
import json
import pathlib

import browser
import commands
import made_up_runs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import charts, drawing, gather, plots, report

command = functools.partial(commands.called, report, parse=report.parse)
ODD = '<b>a & "b"</b> $x$'
SWEPT = 0.05, 0.1, 0.2


def write_sweep(folder: pathlib.Path) -> None:
    """Three temperatures with two seeds each, and one that is not finished."""
    for place, value in enumerate(SWEPT):
        for seed in (0, 1):
            config = made_up_runs.experiment(temperature_of_loss=value, seed=seed)
            level = 0.3 + 0.01 * place + 0.004 * seed
            made_up_runs.write(
                folder / f"t{value}" / f"seed-{seed}", config, level=level
            )
    config = made_up_runs.experiment(temperature_of_loss=0.4)
    made_up_runs.begin(folder / "t0.4" / "seed-0", config)


def grouped(*folders: pathlib.Path) -> list[gather.Group]:
    found = gather.find([str(folder) for folder in folders])
    return gather.group(map(gather.read, found))


def labels(group: gather.Group) -> list[str]:
    return [variant.entry.label for variant in group.variants]


def chart(group: gather.Group, name: str) -> charts.Chart:
    (found,) = [one for one in charts.make(group) if one.name.startswith(name)]
    return found


def panels(group: gather.Group, name: str) -> list[plots.Panel]:
    """What a chart of lines draws."""
    return chart(group, name).draw.args[0]


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside of styles; a tag that closes
    another than the last one opened is an error."""

    VOID = "meta", "link", "img", "source"

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self._open = "", []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self._open else ""

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> pathlib.Path:
    """A report of a sweep, and of a run under another protocol with an odd name; runs
    lie in runs/, their files as they were in before.json."""
    folder = tmp_path_factory.mktemp("report")
    write_sweep(folder / "runs" / "sweep")
    config = made_up_runs.experiment(name=ODD)
    other = folder / "runs" / "a<b"
    made_up_runs.write(other, config, protocol="temporal, cut & dried", level=0.25)
    before = {str(p): p.read_text() for p in files(folder / "runs")}
    (folder / "before.json").write_text(json.dumps(before))
    runs = folder / "runs" / "sweep", f"{folder}/runs/a*"
    status, printed, said = command(*runs, f"--to={folder}/out")
    assert status == 0, said
    assert "8 runs, 7 of them finished, 2 groups" in printed
    return folder


@pytest.fixture(scope="module")
def page(written) -> Parsed:
    return Parsed((written / "out" / "index.html").read_text("utf-8"))


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# The page.


def test_the_page_fetches_nothing_and_holds_its_pictures(written, page):
    pictures = page.all("img")
    assert len(pictures) == 6 + 5  # the group of one run has no sweep
    for image, dark in zip(pictures, page.all("source"), strict=True):
        assert image["src"].startswith("data:image/png;base64,iVBOR")
        assert dark["srcset"].startswith("data:image/png;base64,iVBOR")
        assert dark["srcset"] != image["src"]
        assert dark["media"] == "(prefers-color-scheme: dark)"
        assert len(image["alt"]) > 20 and int(image["width"]) > 1000
    for _, attributes in page.tags:
        assert attributes.get("href", "#")[:1] == "#" or attributes["href"] == "data:,"
    assert not page.all("script") and "url(" not in (
        written / "out" / "index.html"
    ).read_text("utf-8")
    (policy,) = [m for m in page.all("meta") if "http-equiv" in m]
    assert policy["content"].startswith("default-src 'none'")


def test_every_plot_lies_beside_the_page_too(written, page):
    names = {path.name for path in (written / "out").glob("*.png")}
    assert len(names) == 2 * len(page.all("img"))
    assert {
        "1-overview.png",
        "1-sweep-dssm_synthetic-loss.temperature-dark.png",
    } <= names


def test_the_page_can_be_found_ones_way_in(page):
    assert page.all("html")[0]["lang"] == "en" and page.all("title")
    anchors = [a["href"][1:] for a in page.all("a")]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert sorted(anchors) == sorted(ids) and len(set(ids)) == len(ids)
    assert all(head["scope"] in ("col", "row") for head in page.all("th"))
    regions = [div for div in page.all("div") if div.get("class") == "scroll"]
    assert regions and all(r["tabindex"] == "0" and r["aria-label"] for r in regions)


def test_names_are_escaped_wherever_they_stand(written, page):
    assert ODD in page.text and "temporal, cut & dried" in page.text
    assert not page.all("b")
    assert "a<b" in page.text and f"--to={written}/out" in page.text


def test_captions_say_protocol_seeds_and_what_bands_are(written):
    first, second = grouped(written / "runs")
    assert {one.protocol for one in (first, second)} != {first.protocol}
    for group, seeds in ((first, "1 seed each"), (second, "2 seeds")):
        for one in charts.make(group):
            lists = "whole catalogue ranked, seen items removed"
            assert f"Protocol: {group.protocol}; {lists}; {seeds}." in one.caption
    assert "from the lowest to the highest seed" in chart(second, "sweep").caption
    assert "95 % bootstrap interval over users" in chart(second, "sweep").caption


def test_figures_stand_at_the_right_and_none_is_bold(written):
    text = (written / "out" / "index.html").read_text("utf-8")
    assert '<td class="number">0.3020 (0.0028)</td>' in text
    assert "<strong>" not in text and "<b>" not in text


def test_no_run_is_touched_and_the_same_report_comes_again(written):
    before = json.loads((written / "before.json").read_text())
    assert {str(p): p.read_text() for p in files(written / "runs")} == before
    made = {p.name: p.read_bytes() for p in files(written / "out")}
    runs = written / "runs" / "sweep", f"{written}/runs/a*"
    assert command(*runs, f"--to={written}/out")[0] == 0
    assert {p.name: p.read_bytes() for p in files(written / "out")} == made


def test_tables_keep_protocols_apart(written):
    text = (written / "out" / "table.md").read_text("utf-8")
    first, second = text.split("# Group 2")
    assert "0.3020 (0.0028)" in first and ODD not in first
    assert "temporal, cut & dried" in second and "loss.temperature=0.1" not in second
    with (written / "out" / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    found = {
        (line["protocol"], line["overrides"], line["seed"]): float(line["value"])
        for line in lines
        if line["row"] == "test" and line["metric"] == "hr@10"
    }
    assert found["leave_one_out, ties in file order", "loss.temperature=0.1", "1"] == (
        pytest.approx(0.314)
    )
    assert found["temporal, cut & dried", "", "0"] == 0.25 and len(found) == 7
    assert {"hr@1", "ndcg@5"} <= {line["metric"] for line in lines}


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
        assert len(gather.summaries(group, by="")) == 1


def test_swept_fields_are_those_in_which_configs_differ(tmp_path):
    write_sweep(tmp_path)
    (group,) = grouped(tmp_path)
    wanted = [f"dssm_synthetic:loss.temperature={value}" for value in (*SWEPT, 0.4)]
    assert labels(group) == wanted
    (sweep,) = gather.sweeps(group)
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
    (sweep,) = gather.sweeps(group)  # kinds are no numbers
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
    found = [group.label(variant.entry) for variant in group.variants]
    assert found == ["id_width=16, width=64", "id_width=64, width=32"]
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
    assert len(gather.find(given)) == 7


def test_what_a_run_keeps_below_it_is_no_run(tmp_path):
    made_up_runs.write(tmp_path / "run", made_up_runs.experiment())
    made_up_runs.begin(tmp_path / "run" / "refit", made_up_runs.experiment())
    assert gather.find([str(tmp_path)]) == [tmp_path / "run"]


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
    (summary,) = gather.summaries(group, by="")
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
    assert [(told, len(lines)) for told, lines in drawn] == [
        ("on a cpu", 1),
        ("on a gpu", 1),
    ]


def test_results_of_an_older_version_have_no_curves_over_k(tmp_path):
    folder = made_up_runs.write(tmp_path / "run", made_up_runs.experiment())
    results = json.loads((folder / "results.json").read_text())
    for name in ("curves", "segments", "indexes", "index", "lists"):
        del results[name]
    results |= {"scann": None, "queries_per_second": 3.0}
    (folder / "results.json").write_text(json.dumps(results))
    (group,) = grouped(tmp_path)
    names = [one.name for one in charts.make(group)]
    assert names == ["learning", "overview", "time"]


@given(st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=12), st.floats(0.01, 0.08))
def test_labels_stand_apart_in_order_and_inside(wanted, gap):
    places = drawing.apart(sorted(wanted), gap)
    assert (np.diff(places) >= gap - 1e-9).all() and places[-1] <= 1 + 1e-9
    alone = drawing.apart(wanted[:1], gap)
    assert alone == [min(wanted[0], 1)]


def test_its_example_runs():
    assert doctest.testmod(drawing) == (0, 1)


# What is refused.


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ("empty", "holds no run"),
        ("nowhere", "there is no folder"),
        ("no*where", "none matches"),
        ("file", "is a file"),
    ],
)
def test_where_there_is_no_run_it_says_so(tmp_path, runs, told):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "file").touch()
    status, _, said = command(tmp_path / runs, f"--to={tmp_path}/out")
    assert status == 2 and said.startswith("error: ") and told in said
    assert not (tmp_path / "out").exists()


def test_without_runs_it_says_how_to_name_them():
    status, _, said = command()
    assert status == 2 and "experiments.report runs/table" in said


@pytest.mark.parametrize(
    "name", ["config.json", "data.json", "results.json", "metrics.jsonl"]
)
@pytest.mark.parametrize("content", ['{"step": 1,\n{"step": 2}\n', "[]\n[]"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    folder = made_up_runs.write(tmp_path / "run", made_up_runs.experiment())
    (folder / name).write_text(content)
    status, _, said = command(folder, f"--to={tmp_path}/out")
    assert status == 2 and f"{folder}/{name}" in said and "Traceback" not in said


def test_a_config_of_another_version_is_named(tmp_path):
    folder = made_up_runs.write(tmp_path / "run", made_up_runs.experiment())
    content = json.loads((folder / "config.json").read_text())
    content["loss"]["warmth"] = 3
    (folder / "config.json").write_text(json.dumps(content))
    status, _, said = command(folder, f"--to={tmp_path}/out")
    assert status == 2 and "config.json is of another version" in said
    assert "warmth" in said


@pytest.mark.parametrize("to", ["", "/sweep", "/sweep/t0.1/seed-0/report"])
def test_a_report_never_lies_among_runs(tmp_path, to):
    write_sweep(tmp_path / "sweep")
    before = files(tmp_path)
    status, _, said = command(f"{tmp_path}/sweep", f"--to={tmp_path}{to}")
    assert status == 2 and "another folder" in said and files(tmp_path) == before


def test_an_unknown_metric_is_refused(tmp_path):
    made_up_runs.write(tmp_path / "run", made_up_runs.experiment())
    status, _, said = command(tmp_path / "run", "--by=hr@7", f"--to={tmp_path}/out")
    assert status == 2 and "hr@10, ndcg@10, recall@20" in said


def test_another_metric_can_be_drawn(tmp_path):
    made_up_runs.write(tmp_path / "run", made_up_runs.experiment())
    (group,) = grouped(tmp_path)
    made = charts.make(group, by="hr@10")
    assert [one.title for one in made][1] == "All configs, hr@10 and recall@20"


# In a browser.


@pytest.mark.slow
@pytest.mark.skipif(browser.program() is None, reason="there is no Chromium")
def test_chromium_shows_it_without_an_error_or_a_request(written, tmp_path):
    with browser.Browser(tmp_path / "profile") as opened:
        opened.open(written / "out" / "index.html")
        seen = {scheme: opened.see(scheme=scheme) for scheme in ("light", "dark")}
        shown = opened.evaluate(
            "[...document.images].every(i => i.complete && i.naturalWidth > 1000)"
        )
        wide = opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert shown and wide and seen["light"] != seen["dark"]
    events = [(event.get("method"), event.get("params")) for event in opened.events]
    asked = [
        said["request"]["url"] for m, said in events if m == "Network.requestWillBeSent"
    ]
    assert len(asked) > 1 and asked[0].startswith("file:")
    assert all(url.startswith("data:") for url in asked[1:])
    told = "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"
    assert not [said for method, said in events if method in told]
