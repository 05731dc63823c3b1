"""The table of several configs and seeds: what it runs, reads, compares and refuses."""

import csv
import dataclasses
import functools
import io
import json
import sys

import command_line
import numpy as np
import pytest
from test_run import SYNTHETIC

from experiments import table as table_lib
from experiments.common import cells as cells_lib
from experiments.common import cli, summary
from recall_jax.run import config as config_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run import same_data
from recall_jax.training import checkpoint
from recall_jax.training.loop import Diverged
from recall_jax.types import InputError

TINY = [f for f in SYNTHETIC if not f.startswith("--config=")]
TINY += ["--config.evaluate.indexes="]
pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")


command = functools.partial(command_line.called, table_lib, parse=cli.parse_many)


def written(folder) -> tuple[str, list[dict], list[dict]]:
    """table.md, the lines of table.csv, the groups of table.json."""
    lines = csv.DictReader(io.StringIO((folder / "table.csv").read_text()))
    groups = json.loads((folder / "table.json").read_text())["groups"]
    return (folder / "table.md").read_text(), list(lines), groups


def rows_of(group) -> dict[str, dict]:
    return {row["label"]: row for row in group["rows"]}


def cells_of(text: str, label: str) -> list[str]:
    """The cells of a printed row."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    lines = [line[1:-1].split("|") for line in table]
    (row,) = [line for line in lines if line[0].strip() == label]
    return [cell.strip() for cell in row]


# Runs that only seem to train.


def figures(config, names) -> dict[str, float]:
    """Test figures that differ by config, metric and seed."""
    base = config.loss.temperature + config.seed**2 / 100
    return {name: base + 0.001 * j for j, name in enumerate(names)}


def results_of(config) -> dict:
    metrics = figures(config, config.evaluate.metrics)
    low = dict.fromkeys(metrics, 0.01)
    ties = config.data.ties
    again = {name: value + 0.5 for name, value in metrics.items()}
    return {
        "protocol": f"leave_one_out, ties {ties}",
        "seen": "kept" if config.evaluate.seen == "kept" else "removed",
        "test": metrics,
        "valid": metrics,
        "candidates": "whole catalogue ranked",
        "index": "exact",
        "indexes": {"exact": {"metrics": metrics}},
        "segments": {},
        "lists": {},
        "curves": {},
        "test_ties_shuffled": None,
        "test_refit": again if config.train.refit == "all" else None,
        "baselines": {name: low for name in ("popularity", "oracle", "bigram")},
        "intervals": {
            row: {m: [0.0, 0.02 + 0.04 * config.seed] for m in metrics}
            for row in ("test", "popularity")
        },
        "seconds": {"data": 1.0, "train": 10.0 + config.seed, "refit_train": 7.0},
        "num_params": 12345,
        "steps": 9,
        "best_step": 6,
        "examples_per_second": 1000.0,
        "device": "cpu",
    }


@pytest.fixture
def runs(monkeypatch) -> list[tuple[str, int]]:
    """Replaces the training; the runs asked for, in order. A temperature above 8 makes
    one diverge, above 9 be refused, of 7 be interrupted."""
    calls = []

    def fake(config, workdir):
        calls.append((workdir.parent.name, config.seed))
        workdir.mkdir(parents=True, exist_ok=True)
        folder_lib.write_json(workdir / "config.json", config_lib.as_dict(config))
        source = {"source": f"data {getattr(config.data, 'seed', '')}", "events": 7000}
        folder_lib.write_json(workdir / "data.json", source)
        if config.loss.temperature == 7:
            raise KeyboardInterrupt
        if config.loss.temperature > 9:
            raise InputError("there is no such column")
        if config.loss.temperature > 8:
            raise Diverged("training diverged at step 3")
        folder_lib.write_json(workdir / "results.json", results_of(config))

    monkeypatch.setattr(summary, "train", fake)
    monkeypatch.setattr(same_data, "check", lambda runs: None)  # there are no data
    return calls


def test_rows_of_new_items_stand_in_every_form_of_the_table(
    runs, tmp_path, monkeypatch
):
    plain = summary.train

    def with_new_items(config, workdir):
        plain(config, workdir)
        results = folder_lib.read_json(workdir / "results.json")
        metrics = figures(config, config.evaluate.metrics)
        rows = {
            "test": {name: value / 2 for name, value in metrics.items()},
            "chance": dict.fromkeys(metrics, 0.003),
        }
        new = {"rows": rows, "intervals": {}}
        results["segments"] = {"popularity": {"new": new}}
        folder_lib.write_json(workdir / "results.json", results)

    monkeypatch.setattr(summary, "train", with_new_items)
    arguments = "--configs=dssm_synthetic,mf_ml1m", f"--runs={tmp_path}"
    assert command(*arguments, "--seeds=2")[0] == 0
    text, lines, groups = written(tmp_path)
    (rows,) = [rows_of(g) for g in groups if "dssm_synthetic" in rows_of(g)]
    mine = rows["new items, dssm_synthetic"]["metrics"]["hr@10"]
    config = cli.load_config("dssm_synthetic")
    seeds = [dataclasses.replace(config, seed=seed) for seed in (0, 1)]
    halves = [figures(c, ["hr@10"])["hr@10"] / 2 for c in seeds]
    assert mine["mean"] == pytest.approx(np.mean(halves))
    assert mine["sd"] == pytest.approx(np.std(halves, ddof=1))
    assert rows["new items, chance"]["metrics"]["hr@10"]["mean"] == 0.003
    assert "new items, chance" in text
    assert {"test_new", "chance_new"} <= {line["row"] for line in lines}


def test_rows_of_another_index_are_told(runs, tmp_path, monkeypatch):
    plain = summary.train

    def through_approx(config, workdir):
        plain(config, workdir)
        results = folder_lib.read_json(workdir / "results.json")
        exact = {name: value + 0.25 for name, value in results["test"].items()}
        gap = {"absolute": -0.25, "relative": -0.5, "interval": [-0.3, -0.2]}
        results["index"] = "approx"
        results["indexes"] = {
            "approx": {
                "metrics": results["test"],
                "versus_exact": dict.fromkeys(exact, gap),
            },
            "exact": {"metrics": exact},
        }
        folder_lib.write_json(workdir / "results.json", results)

    monkeypatch.setattr(summary, "train", through_approx)
    command("--configs=dssm_synthetic", "--seeds=1", f"--runs={tmp_path}")
    text, lines, (group,) = written(tmp_path)
    rows = {row["row"]: row["metrics"]["hr@10"]["mean"] for row in group["rows"]}
    assert rows["exact"] == rows["test"] + 0.25 and "approx" not in rows
    assert "- rows of models searched through approx" in text
    values = {(line["row"], line["metric"]): line["value"] for line in lines}
    assert values["test", "hr@10_versus_exact"] == "-0.25"
    assert ("exact", "hr@10_versus_exact") not in values


def test_finished_runs_are_read_and_only_missing_ones_run(runs, tmp_path):
    arguments = "--configs=dssm_synthetic,mf_ml1m", f"--runs={tmp_path}"
    assert command(*arguments, "--seeds=2")[0] == 0
    names = "dssm_synthetic", "mf_ml1m"
    assert runs == [(name, seed) for seed in (0, 1) for name in names]
    first = written(tmp_path)
    runs.clear()
    status, printed, _ = command(*arguments, "--seeds=2")
    assert (status, runs) == (0, []) and written(tmp_path) == first
    assert cells_of(printed, "mf_ml1m")[-1] == "2"
    assert command(*arguments, "--seeds=3")[0] == 0
    assert runs == [(name, 2) for name in names]


def test_mean_and_sd_are_numpys_over_seeds(runs, tmp_path):
    entries = "dssm_synthetic:loss.temperature=0.1,dssm_synthetic:loss.temperature=0.2"
    _, printed, _ = command(f"--configs={entries}", "--seeds=4", f"--runs={tmp_path}")
    config = cli.load_config("dssm_synthetic")
    config.loss.temperature = 0.2
    values = []
    for config.seed in range(4):
        values.append(figures(config, config.evaluate.metrics)["ndcg@10"])
    mean, sd = np.mean(values), np.std(values, ddof=1)
    label = "dssm_synthetic:loss.temperature=0.2"
    row = rows_of(written(tmp_path)[2][0])[label]
    assert row["metrics"]["ndcg@10"]["mean"] == pytest.approx(mean)
    assert row["metrics"]["ndcg@10"]["sd"] == pytest.approx(sd)
    half = np.mean([0.01 + 0.02 * seed for seed in range(4)])
    assert row["metrics"]["hr@10"]["half_width"] == pytest.approx(half)
    assert row["train_seconds"] == np.mean([10, 11, 12, 13])
    cells = cells_of(printed, label)
    assert cells[3] == f"{mean:.4f} ({sd:.4f})" and cells[2] == f"{half:.4f}"
    assert cells[-4:] == ["+0.1000 +-0.0000", "11.5", "12,345", "4"]
    assert cells_of(printed, "dssm_synthetic:loss.temperature=0.1")[-4] == ""
    assert "(" not in "".join(cells_of(printed, "popularity"))


def test_the_difference_to_the_first_is_paired_by_seed(runs, tmp_path, monkeypatch):
    gaps, plain = [0.1, 0.2, 0.6], results_of

    def results(config):
        record, gap = plain(config), gaps[config.seed]
        if config.loss.temperature == 0.5:  # 0.1 for the first
            record["test"]["ndcg@10"] = 0.101 + config.seed**2 / 100 + gap
        return record

    monkeypatch.setattr(sys.modules[__name__], "results_of", results)
    command(
        "--configs=dssm_synthetic,dssm_synthetic:loss.temperature=0.5",
        f"--runs={tmp_path}",
    )
    rows = rows_of(written(tmp_path)[2][0])
    versus = rows["dssm_synthetic:loss.temperature=0.5"]["versus_first"]
    assert versus["mean"] == pytest.approx(0.3)
    assert versus["standard_error"] == pytest.approx(np.std(gaps, ddof=1) / np.sqrt(3))
    assert versus["half_width"] == pytest.approx(
        4.3027 * versus["standard_error"], 1e-4
    )
    assert versus["metric"] == "ndcg@10" and versus["seeds"] == 3
    command(
        "--configs=dssm_synthetic,dssm_synthetic:loss.temperature=0.5",
        f"--runs={tmp_path}",
        "--by=hr@10",
    )
    rows = rows_of(written(tmp_path)[2][0])
    versus = rows["dssm_synthetic:loss.temperature=0.5"]["versus_first"]
    assert versus["metric"] == "hr@10" and versus["mean"] != pytest.approx(0.3)


def test_seconds_of_runs_that_trained_together_are_told_as_shares(runs, tmp_path):
    arguments = "--configs=dssm_synthetic", "--seeds=2", f"--runs={tmp_path}"
    command(*arguments)
    assert "a share of their time" not in written(tmp_path)[0]
    path = tmp_path / "dssm_synthetic" / "seed-1" / "results.json"
    folder_lib.write_json(path, folder_lib.read_json(path) | {"together": 4})
    command(*arguments)
    assert "a share of their time" in written(tmp_path)[0]


def test_what_may_not_be_compared_stands_apart(runs, tmp_path):
    entries = [
        "dssm_synthetic",
        "dssm_synthetic:data.ties=shuffled",
        "dssm_synthetic:evaluate.seen=kept",
        "dssm_synthetic:data.seed=5",
        "dssm_synthetic:evaluate.metrics=[ndcg@10,hr@3]",
    ]
    command(f"--configs={','.join(entries)}", "--seeds=1", f"--runs={tmp_path}")
    text, _, groups = written(tmp_path)
    labels = [[r["label"] for r in g["rows"] if not r["baseline"]] for g in groups]
    assert labels == [[entries[0], entries[4]], *([entry] for entry in entries[1:4])]
    assert groups[1]["protocol"] == "leave_one_out, ties shuffled" in text
    assert groups[2]["seen"] == "kept" and groups[3]["source"] == "data 5"
    assert all(
        [row["label"] for row in group["rows"] if row["baseline"]]
        == ["popularity", "bigram", "oracle"]
        for group in groups
    )
    assert groups[0]["metrics"] == [*groups[1]["metrics"], "hr@3"]
    cells = cells_of(text, entries[4])
    assert cells[1:4] == ["", "", "0.1000"] and cells[7] == "0.1010"


def test_overrides_of_an_entry_are_its_own_and_win_over_those_of_all(runs, tmp_path):
    command(
        "--configs=dssm_synthetic:model.hidden=[16,8]:optim.learning_rate=1e-3,mf_ml1m",
        "--configs=dssm_synthetic:model.width=4",
        "--config.model.width=6",
        "--config.train.epochs=2",
        "--seeds=1",
        f"--runs={tmp_path}",
    )
    configs = {}
    for path in tmp_path.glob("*/seed-0/config.json"):
        content = json.loads(path.read_text())
        configs[path.parts[-3]] = content["model"] | content["optim"] | content["train"]
    every = "train.epochs=2"
    own = "model.hidden=16,8,model.width=6,optim.learning_rate=1e-3"
    wide, mf = f"dssm_synthetic,{own},{every}", f"mf_ml1m,model.width=6,{every}"
    narrow = f"dssm_synthetic,model.width=4,{every}"
    assert configs.keys() == {wide, mf, narrow}
    assert configs[wide]["hidden"] == [16, 8] and configs[wide]["width"] == 6
    assert configs[wide]["learning_rate"] == 1e-3 != configs[narrow]["learning_rate"]
    assert configs[narrow]["hidden"] == list(
        cli.load_config("dssm_synthetic").model.hidden
    )
    assert configs[narrow]["width"] == 4
    assert {config["epochs"] for config in configs.values()} == {2}
    text = written(tmp_path)[0]
    assert "dssm_synthetic:model.hidden=[16,8]:optim.learning_rate=1e-3" in text
    assert "--config=dssm_synthetic --config.model.width=4 --config.train" in text
    assert f"--seed=0 --workdir={tmp_path}/{narrow}/seed-0" in text


def test_a_row_says_that_runs_diverged_or_failed_and_the_others_go_on(runs, tmp_path):
    entries = "mf_ml1m:loss.temperature=8.5,mf_ml1m:loss.temperature=10,mf_ml1m"
    status, printed, said = command(f"--configs={entries}", f"--runs={tmp_path}")
    assert status == 1 and said.endswith(
        "error: 6 of 9 runs gave no figures; see above\n"
    )
    assert len(runs) == 9
    for text in (printed, written(tmp_path)[0]):
        first, second, third = entries.split(",")
        assert cells_of(text, first)[-1] == "0 of 3, 3 diverged"
        assert cells_of(text, second)[-1] == "0 of 3, 3 failed"
        assert cells_of(text, third)[-1] == "3"
        assert f"{first}, seed 0, 1, 2, diverged: training diverged at step 3" in text
        assert f"{second}, seed 0, 1, 2, failed: there is no such column" in text
        assert "No figures yet" not in text  # they stand beside their like


def test_a_mistake_of_ours_and_a_full_disk_end_the_table(runs, tmp_path, monkeypatch):
    for problem in (OSError(28, "No space left on device"), ZeroDivisionError()):

        def fail(config, workdir, problem=problem):
            raise problem

        monkeypatch.setattr(summary, "train", fail)
        arguments = "--configs=mf_ml1m", f"--runs={tmp_path}"
        if isinstance(problem, OSError):
            assert command(*arguments)[::2] == (2, f"error: {problem}\n")
        else:
            with pytest.raises(ZeroDivisionError):
                command(*arguments)


def test_a_killed_table_leaves_what_is_there_and_goes_on(runs, tmp_path):
    arguments = "--configs=mf_ml1m,mf_ml1m:loss.temperature=7", f"--runs={tmp_path}"
    status, _, said = command(*arguments)
    assert (status, said) == (130, "stopped; the same command resumes\n")
    text, lines, _ = written(tmp_path)
    assert cells_of(text, "mf_ml1m")[-1] == "1 of 3"
    assert {line["seed"] for line in lines} == {"0"}
    runs.clear()
    _, printed, _ = command(*arguments, "--dry")
    assert cells_of(printed, "mf_ml1m")[1:] == ["0", "", "1 2", "18"]
    other = cells_of(printed, "mf_ml1m:loss.temperature=7")
    assert other[1:] == ["", "0", "1 2", ""]
    assert "about 0.6 minutes to go" in printed and "3 runs more of" in printed
    assert runs == []
    command(*arguments)
    assert runs == [("mf_ml1m,loss.temperature=7", 0)]


def test_the_csv_is_tidy(runs, tmp_path):
    entries = "mf_ml1m,mf_ml1m:loss.temperature=0.3"
    command(f"--configs={entries}", "--seeds=2", f"--runs={tmp_path}")
    lines = written(tmp_path)[1]
    keys = [tuple(line.values())[:-1] for line in lines]
    assert len(keys) == len(set(keys))
    assert list(lines[0]) == ["config", "overrides", "seed", "row", "metric", "value"]
    values = dict(zip(keys, (float(line["value"]) for line in lines)))
    one = "mf_ml1m", "loss.temperature=0.3", "1"
    assert values[*one, "test", "hr@10"] == pytest.approx(0.31)
    assert values[*one, "test", "hr@10_high"] == pytest.approx(0.06)
    assert values[*one, "run", "train_seconds"] == 11
    assert values["mf_ml1m", "", "0", "bigram", "mrr@20"] == 0.01


def test_a_refit_has_its_row_compared_with_the_firsts(runs, tmp_path):
    shared = "--config.train.refit=all", "--seeds=2", f"--runs={tmp_path}"
    status, printed, said = command(
        "--configs=mf_gowalla,mf_gowalla:loss.temperature=0.3", *shared
    )
    assert status == 0, said
    refits = [x for x in printed.splitlines() if "refitted on all" in x]
    assert len(refits) == 2 and "+-" in refits[1].split("|")[-5]
    rows = written(tmp_path)[2][0]["rows"]
    first, second = [row for row in rows if row["row"] == "test_refit"]
    assert second["train_seconds"] == 7 and first["versus_first"] is None
    gap = 0.3 - cli.load_config("mf_gowalla").loss.temperature
    assert second["versus_first"]["mean"] == pytest.approx(gap)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--configs="], "--configs is empty"),
        ([], "--configs is empty"),
        (["--configs=mf_ml1m,dsm_ml1m"], "no config 'dsm_ml1m'; the nearest are dssm"),
        (["--configs=mf_ml1m:model.width=8,9"], "no config '9'.* a list in brackets"),
        (["--configs=mf_ml1m:model.width"], "'model.width' of .* is no override"),
        (["--configs=mf_ml1m:model.width=x"], "mf_ml1m:model.width=x: .*int"),
        (["--configs=mf_ml1m,mf_ml1m:model.width=0"], "width=0: .* at least 1"),
        (
            ["--configs=dssm_ml1m,mf_ml1m", "--config.model.hidden=3"],
            "--configs=mf_ml1m: --config.model has no field 'hidden'",
        ),
        (["--configs=mf_ml1m", "--config.loss.temperature=0"], "mf_ml1m: .* above 0"),
        (["--configs=mf_ml1m", "--seeds=0"], "--seeds=0: .*positive"),
        (["--configs=mf_ml1m", "--config.seed=3"], "--seeds=N runs"),
        (["--configs=mf_ml1m:seed=3"], "--seeds=N runs"),
        (["--configs=mf_ml1m,mf_ml1m"], "lists mf_ml1m twice"),
        (["--configs=mf_ml1m", "--config=mf_ml1m"], "list them with --configs"),
        (["--configs=mf_ml1m", "dssm_ml1m"], "what is 'dssm_ml1m'"),
        (
            ["--configs=mf_ml1m", "--by=ndgc@10"],
            "--by=ndgc@10.* did you mean 'ndcg@10'",
        ),
    ],
)
def test_a_mistake_is_told_before_any_run(runs, tmp_path, arguments, expected):
    status, printed, said = command(*arguments, f"--runs={tmp_path / 'table'}")
    assert (status, printed, runs) == (2, "", [])
    assert said.startswith("error: ") and said.count("\n") == 1
    with pytest.raises(InputError, match=expected):
        raise InputError(said)
    assert not (tmp_path / "table").exists()


def test_folders_of_other_configs_and_versions_are_told_before_any_run(runs, tmp_path):
    arguments = "--configs=dssm_ml1m,mf_ml1m", f"--runs={tmp_path}"
    command(*arguments, "--seeds=1")
    runs.clear()
    path = tmp_path / "mf_ml1m" / "seed-0" / "config.json"
    before = path.read_text()
    path.write_text(before.replace('"batch_size": 1024', '"batch_size": 77'))
    status, _, said = command(*arguments)
    assert (status, runs) == (2, []) and "--runs" in said and "batch_size: 77" in said
    path.write_text(before)
    (path.parent / "results.json").write_text('{"protocol": ""}')
    status, _, said = command(*arguments)
    assert (status, runs) == (2, []) and "another version wrote it" in said


def test_folders_are_told_apart_whatever_the_overrides(tmp_path):
    def name(**overrides):
        return cells_lib.folder_name(cli.Entry("mf_ml1m", {}, overrides, None))

    long = "x" * 300
    names = [name(), name(a="1"), name(a="/b c"), name(a="/b:c"), name(a=long)]
    names.append(name(a=long + "x"))
    assert len(set(names)) == 6
    assert all("/" not in name and len(name) < 200 for name in names)
    assert name(a="1", b="2") == name(b="2", a="1") == "mf_ml1m,a=1,b=2"


# Runs that train.


def test_a_table_is_cut_off_resumes_and_tells_what_diverged(tmp_path, monkeypatch):
    arguments = *TINY, "--seeds=1", f"--runs={tmp_path}"
    entries = "--configs=dssm_synthetic:loss.temperature=0.2,dssm_synthetic"
    entries += ":optim.learning_rate=1e38"
    save = checkpoint.save

    def save_once(*given, kind, **named):
        save(*given, kind=kind, **named)
        if kind == "latest":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_once)
        assert command(entries, *arguments)[0] == 130
    (begun,) = [path.parent for path in tmp_path.glob("*/seed-0/config.json")]
    first = checkpoint.latest_step(begun / "checkpoints")
    status, printed, _ = command(entries, *arguments)
    results = json.loads((begun / "results.json").read_text())
    assert status == 1 and 0 < first < results["steps"] == 2 * first
    assert cells_of(printed, entries.split(",")[1])[-1] == "0 of 1, 1 diverged"
    good = cells_of(printed, "dssm_synthetic:loss.temperature=0.2")
    assert good[1] == f"{results['test']['hr@10']:.4f}" and good[-1] == "1"
    text, lines, (group,) = written(tmp_path)
    assert rows_of(group).keys() >= {"popularity", "bigram", "oracle"}
    (line,) = [x for x in lines if (x["row"], x["metric"]) == ("test", "ndcg@10")]
    assert float(line["value"]) == results["test"]["ndcg@10"]
    values = {(x["row"], x["metric"]): float(x["value"]) for x in lines}
    tail = results["segments"]["popularity"]["tail"]
    assert values["popularity_tail", "hr@10"] == tail["rows"]["popularity"]["hr@10"]
    assert values["test_tail", "queries"] == tail["queries"] > 0
    assert values["targets", "gini"] == results["lists"]["rows"]["targets"]["gini"]
    rate = results["indexes"]["exact"]["queries_per_second"]
    assert values["test", "queries_per_second"] == rate
    assert f"--workdir={begun}" in text and group["protocol"] == results["protocol"]
    monkeypatch.setattr(summary, "train", None)
    assert command(entries.split(",")[0], *arguments)[0] == 0
