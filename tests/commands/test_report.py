"""The report: what its page and its tables say, that it needs nothing, what is refused."""

import csv
import json
import pathlib

import browser
import made_up_runs
import pytest
from reports import ODD, Parsed, chart, command, grouped, write_sweep

from experiments.common import charts, report_page


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
    contents = {p.name: p.read_bytes() for p in files(written / "out")}
    runs = written / "runs" / "sweep", f"{written}/runs/a*"
    assert command(*runs, f"--to={written}/out")[0] == 0
    assert {p.name: p.read_bytes() for p in files(written / "out")} == contents


def test_tables_keep_protocols_apart(written):
    text = (written / "out" / "table.md").read_text("utf-8")
    first, second = text.split("# Group 2")
    assert "0.3020 (0.0028)" in first and ODD not in first
    assert "temporal, cut & dried" in second and "loss.temperature=0.1" not in second
    with (written / "out" / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    values = {
        (line["protocol"], line["overrides"], line["seed"]): float(line["value"])
        for line in lines
        if line["row"] == "test" and line["metric"] == "hr@10"
    }
    assert values["leave_one_out, ties in file order", "loss.temperature=0.1", "1"] == (
        pytest.approx(0.314)
    )
    assert values["temporal, cut & dried", "", "0"] == 0.25 and len(values) == 7
    assert {"hr@1", "ndcg@5"} <= {line["metric"] for line in lines}


def test_how_a_sweep_ended_a_run_stands_beside_it(tmp_path):
    made_up_runs.write(tmp_path / "runs" / "1", made_up_runs.experiment(seed=1))
    made_up_runs.begin(tmp_path / "runs" / "2", made_up_runs.experiment(seed=2))
    ended = {"stopped": "place 4 of 9 < 3", "diverged": "a loss of nan in epoch 2"}
    for seed, (outcome, reason) in enumerate(ended.items(), start=3):
        config = made_up_runs.experiment(seed=seed, temperature_of_loss=seed / 10)
        folder = made_up_runs.begin(tmp_path / "runs" / str(seed), config)
        made_up_runs.end(folder, outcome=outcome, message=reason)
    status, _, said = command(tmp_path / "runs", f"--to={tmp_path}/out")
    assert status == 0, said
    page = Parsed((tmp_path / "out" / "index.html").read_text("utf-8"))
    assert "1 finished run, 1 diverged, 1 stopped and 1 unfinished, on one" in page.text
    assert all(reason in page.text for reason in ended.values())
    assert page.text.count("why") == 1, "a column of the runs"
    table = (tmp_path / "out" / "table.md").read_text("utf-8")
    assert all(f"{outcome}: {reason}" in table for outcome, reason in ended.items())


def test_seconds_that_are_a_share_say_so(tmp_path):
    for seed, num in ((0, 1), (1, 8)):
        config = made_up_runs.experiment(seed=seed)
        made_up_runs.write(tmp_path / str(seed), config, results={"together": num})
    (group,) = grouped(tmp_path)
    alone, together = [
        report_page._run(cell, [])["seconds of training"] for cell in group.cells
    ]
    assert (alone, together) == ("30.0", "31.0, share of 8 together")


# What is refused.


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("empty", "holds no run"),
        ("nowhere", "there is no folder"),
        ("no*where", "none matches"),
        ("file", "is a file"),
    ],
)
def test_where_there_is_no_run_it_says_so(tmp_path, runs, message):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "file").touch()
    status, _, said = command(tmp_path / runs, f"--to={tmp_path}/out")
    assert status == 2 and said.startswith("error: ") and message in said
    assert not (tmp_path / "out").exists()


def test_without_runs_it_says_how_to_name_them():
    status, _, said = command()
    assert status == 2 and "experiments.report runs/table" in said


@pytest.mark.parametrize(
    "name",
    ["config.json", "data.json", "results.json", "metrics.jsonl", "ended.json"],
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
    assert status == 2 and "config.json could not be read" in said
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
    all_charts = charts.make(group, by="hr@10")
    assert [one.title for one in all_charts][1] == "All configs, hr@10 and recall@20"


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
    urls = [
        said["request"]["url"] for m, said in events if m == "Network.requestWillBeSent"
    ]
    assert len(urls) > 1 and urls[0].startswith("file:")
    assert all(url.startswith("data:") for url in urls[1:])
    error_methods = (
        "Log.entryAdded",
        "Runtime.exceptionThrown",
        "Runtime.consoleAPICalled",
    )
    assert not [said for method, said in events if method in error_methods]
