"""Studies: that their settings can run, what a study runs, shares, compares and tells."""

import dataclasses
import functools
import json
import re

import command_line
import jax
import numpy as np
import pytest
import test_table
from conftest import make_data
from flax import nnx
from marks import slow_but
from test_configs import shrunk, tiny_log
from test_table import TINY, cells_of

from experiments import ablate
from experiments.common import ablations_page, cli, study
from experiments.common import cells as cells_lib
from recall_jax.evaluate import measure
from recall_jax.losses.objective import LossConfig
from recall_jax.run import build as build_lib
from recall_jax.run import config as config_lib
from recall_jax.run import data as data_lib
from recall_jax.run import results as run_results
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig
from recall_jax.types import InputError

runs = test_table.runs
pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")
command = functools.partial(command_line.called, ablate, parse=ablate.parse)

MOST = 24
OTHER_PARTS = {
    "loss": LossConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "evaluate": measure.EvaluateConfig,
}

STUDY = """
from experiments.common.study import Factor, Study

STUDY = Study(
    paper="Somebody 1999",
    question="Is it warm?",
    expected="It is.",
    base="mf_ml1m:train.epochs=9",
    factors=(
        Factor("temperature (base: 0.1)", {"warm": "loss.temperature=0.2"}),
        Factor(
            "seen items",
            {"kept": "evaluate.seen=kept", "kept, hot": "loss.temperature=0.5"},
            base="mf_ml1m:loss.temperature=0.3",
            base_label="removed",
        ),
    ),
    budget="train.epochs=2",
    seconds=30,
)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Studies of the test's own: `warm`, and whatever it writes beside it."""
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "warm.py").write_text(STUDY)
    monkeypatch.setattr(study, "STUDIES", studies)
    return studies


def written(where) -> tuple[str, dict]:
    """ablation.md, ablation.json."""
    summary = json.loads((where / "ablation.json").read_text())
    return (where / "ablation.md").read_text(), summary


def rows_of(summary: dict, factor: str) -> dict[str, dict]:
    (rows,) = [b["rows"] for b in summary["blocks"] if b["factor"] == factor]
    return {row["label"]: row for row in rows}


# The studies there are.


@pytest.mark.parametrize("name", study.names())
def test_it_says_what_is_asked_and_has_few_settings_the_base_first(name):
    ablation = study.load(name)
    docstring = (study.STUDIES / f"{name}.py").read_text().split('"""')[1]
    assert f"python -m experiments.ablate {name}" in docstring
    assert ablation.paper and ablation.question.endswith("?") and ablation.expected
    assert ablation.seeds >= 3 and ablation.seconds > 0
    blocks = study.blocks(ablation, shared={})
    entries = study.entries(blocks)
    assert 2 < len(entries) <= MOST
    assert blocks[0].settings == [blocks[0].base] and entries[0] == blocks[0].base.entry
    labels = [[s.label for s in block.settings] for block in blocks]
    assert all(len(set(block)) == len(block) for block in labels)
    factors = [block.factor for block in blocks]
    assert len(set(factors)) == len(factors)


@functools.cache
def laid_out(text: str):
    """The tiny log as a config, written as JSON, wants it."""
    config = config_lib.from_dict(json.loads(text))
    return data_lib.lay_out(config, tiny_log(config))


def tiny_data(config):
    """Laid out once for all configs that differ in what the data do not know."""
    alike = {part: kind() for part, kind in OTHER_PARTS.items()}
    config = dataclasses.replace(config, **alike)
    return laid_out(json.dumps(config_lib.as_dict(config)))


QUICK = ("airbnb", "mf", "mf_movielens", "towers")


@pytest.mark.parametrize("name", slow_but(QUICK, study.names()))
def test_its_settings_mean_something_on_data_that_has_what_they_read(name):
    for entry in study.entries(study.blocks(study.load(name), shared={})):
        config_lib.check(entry.config)
        config = dataclasses.replace(shrunk(entry.config), model=entry.config.model)
        data, settings = tiny_data(config), entry.config.evaluate
        assert settings.select_by in settings.metrics and not settings.indexes
        measure.check(settings, with_items(data, like=settings))
        jax.eval_shape(functools.partial(parameters, config.model, data.schema))
        if not build_lib.on_pairs(config):
            build_lib.make_corpus(config, data)


def parameters(model, schema):
    return nnx.state(model.make(schema, nnx.Rngs(0))[0])


def with_items(data, *, like):
    """Data whose catalogue is large enough for the metrics of a full one."""
    return data if data.dataset.num_items > measure.cutoff(like) else make_data()


def test_studies_share_the_runs_that_they_have_in_common():
    bases = {name: study.load(name) for name in ("losses", "negatives", "protocols")}
    block_lists = [study.blocks(ablation, shared={}) for ablation in bases.values()]
    assert (
        len({cells_lib.folder_name(blocks[0].base.entry) for blocks in block_lists})
        == 1
    )


def test_an_unknown_study_gets_the_nearest_and_none_gets_the_list():
    assert command("negative")[::2] == (
        2,
        "error: there is no study 'negative'; did you mean 'negatives'? there are: "
        + ", ".join(study.names())
        + "\n",
    )
    assert (
        command()[2] == f"error: which study? There are: {', '.join(study.names())}\n"
    )


# What a study runs. Runs only seem to train.


def test_one_config_is_one_run_however_it_is_said():
    read = functools.partial(cli.read_entry, shared={})
    said = [
        "mf_ml1m:loss.temperature=0.1:model.width=32",
        "mf_ml1m:model.width=32:train.epochs=5:data.ties=file",
        "mf_ml1m:model.width=7:model.width=32:evaluate.indexes=[scann]",
    ]
    folder_names = {cells_lib.folder_name(study.canonical(read(text))) for text in said}
    assert folder_names == {"mf_ml1m,model.width=32"}
    lists = "dssm_ml1m:model.hidden=[]:model.history=[mean]:negatives.mask=[item,user]"
    entry = study.canonical(read(lists))
    assert read(entry.label).config == entry.config == read(lists).config


def test_a_setting_is_base_then_budget_then_its_own_then_what_holds_for_all(folder):
    blocks = study.blocks(study.load("warm"), shared={})
    config = blocks[1].settings[0].entry.config
    assert config.train.epochs == 2 and config.loss.temperature == 0.2
    assert blocks[2].settings[1].entry.config.loss.temperature == 0.3
    shared = {"loss.temperature": "0.4", "evaluate.metrics": "hr@10,ndcg@10"}
    for entry in study.entries(study.blocks(study.load("warm"), shared=shared)):
        assert entry.config.loss.temperature == 0.4
        assert entry.config.evaluate.metrics == ("hr@10", "ndcg@10")


def test_it_runs_what_is_missing_and_another_study_finds_it(runs, folder, tmp_path):
    arguments = "--seeds=2", f"--runs={tmp_path}"
    assert command("warm", *arguments)[0] == 0
    assert len(runs) == 2 * 5 and {seed for _, seed in runs} == {0, 1}
    other = STUDY.replace("loss.temperature=0.2", "loss.temperature=0.7")
    (folder / "other.py").write_text(other.replace("0.7", "0.25"))
    runs.clear()
    assert command("other", *arguments)[0] == 0
    assert runs == [("mf_ml1m,loss.temperature=0.25,train.epochs=2", s) for s in (0, 1)]
    runs.clear()
    before = written(tmp_path / "warm")
    assert command("warm", *arguments)[0] == 0
    assert runs == [] and written(tmp_path / "warm") == before


def test_differences_are_to_the_base_of_the_factor_by_seed(runs, folder, tmp_path):
    status, printed, said = command("warm", f"--runs={tmp_path}")
    assert status == 0, said
    text, summary = written(tmp_path / "warm")
    warm = rows_of(summary, "temperature (base: 0.1)")["warm"]["versus_first"]
    assert warm["mean"] == pytest.approx(0.1) and warm["seeds"] == 3
    seen = rows_of(summary, "seen items")
    assert seen["kept, hot"]["versus_first"]["mean"] == pytest.approx(0.2)
    assert seen["kept"]["versus_first"]["mean"] == pytest.approx(0)
    assert seen["removed"]["versus_first"] is None
    base = rows_of(summary, "")["base"]
    wanted = [0.1 + seed**2 / 100 + 0.001 for seed in range(3)]
    metric = base["metrics"]["ndcg@10"]
    assert metric["mean"] == pytest.approx(np.mean(wanted))
    assert metric["sd"] == pytest.approx(np.std(wanted, ddof=1))
    for shown in (printed, text):
        assert "Is it warm? (Somebody 1999)" in shown and "It is." in shown
        assert "not yet measured" in shown
        cells = cells_of(shown, "warm")
        assert cells[1].startswith("0.2177 (") and cells[3].startswith("+0.1000 +-")
        assert cells_of(shown, "**seen items**")[1] == ""
    assert "--config.loss.temperature=0.3" in text and "--seed=0 --workdir=" in text
    assert (tmp_path / "warm" / "ablation.csv").read_text().count("\n") > 50


def test_every_protocol_is_told_once_with_its_baselines(runs, folder, tmp_path):
    command("warm", f"--runs={tmp_path}", "--seeds=1")
    text, summary = written(tmp_path / "warm")
    assert [how["seen"] for how in summary["measured"]] == ["removed", "kept"]
    assert "A: data" in text and "B: data" in text and "whole catalogue ranked" in text
    labels = [row["label"] for b in summary["blocks"] for row in b["rows"]]
    under = ["  popularity", "  bigram", "  oracle"]
    assert labels[:4] == ["base", *under]
    assert labels[5:] == ["removed", "kept", *under, "kept, hot"]
    assert cells_of(text, "kept")[-1] == "B" and cells_of(text, "warm")[-1] == "A"


def test_a_killed_study_goes_on_where_it_was(runs, folder, tmp_path):
    killed = STUDY.replace("loss.temperature=0.2", "loss.temperature=7")
    (folder / "warm.py").write_text(killed)
    arguments = "--seeds=2", f"--runs={tmp_path}"
    assert command("warm", *arguments)[::2] == (
        130,
        "stopped; the same command resumes\n",
    )
    _, summary = written(tmp_path / "warm")
    assert (summary["finished"], summary["runs"]) == (1, 10)
    runs.clear()
    _, printed, _ = command("warm", *arguments, "--dry")
    assert cells_of(printed, "base")[1:] == ["0", "", "1", "18"]
    assert cells_of(printed, "temperature (base: 0.1): warm")[1:4] == ["", "0", "1"]
    assert "10 runs, 9 to go: 3 minutes at 18 s a run (the mean of" in printed
    assert runs == []
    command("warm", *arguments)
    assert runs == [("mf_ml1m,loss.temperature=7.0,train.epochs=2", 0)]


def test_dry_goes_by_the_study_before_anything_ran(runs, folder, tmp_path):
    _, printed, _ = command("warm", f"--runs={tmp_path}", "--dry")
    assert "15 runs, 15 to go: 8 minutes at 30 s a run (on two quiet" in printed
    assert not (tmp_path / "cells").exists() and runs == []


def test_a_row_says_that_it_diverged_and_the_others_go_on(runs, folder, tmp_path):
    (folder / "warm.py").write_text(STUDY.replace("temperature=0.2", "temperature=8.5"))
    status, printed, said = command("warm", f"--runs={tmp_path}")
    assert status == 1 and said.endswith(
        "error: 3 of 15 runs gave no figures; see above\n"
    )
    for text in (printed, written(tmp_path / "warm")[0]):
        assert cells_of(text, "warm")[-2] == "0 of 3, 3 diverged"
        assert "(base: 0.1): warm, seed 0, 1, 2, diverged: training div" in text
        assert "3" in cells_of(text, "kept, hot")


def test_the_whole_grid_has_every_combination_once(folder):
    wanted = STUDY.replace(
        '{"warm": "loss.temperature=0.2"}',
        '{"warm": "loss.temperature=0.2", "too": "loss.temperature=0.5",'
        ' "never": "loss.temperature=-1"}',
    )
    (folder / "warm.py").write_text(wanted)
    base, combined = study.grid(study.load("warm"), shared={})
    assert base.settings == [base.base]
    pairs = {
        (entry.config.loss.temperature, entry.config.evaluate.seen)
        for entry in (setting.entry for setting in combined.settings)
    }
    seen, heats = ("auto", "kept"), (0.1, 0.2, 0.3, 0.5)
    # Without the base; what a later factor sets, an earlier one does not.
    assert pairs <= {(t, s) for t in heats for s in seen} - {(0.1, "auto")}
    assert {(0.2, "auto"), (0.5, "auto"), (0.3, "kept"), (0.2, "kept")} <= pairs
    assert len(combined.settings) == len(pairs)
    labels = [setting.label for setting in combined.settings]
    assert labels[0] == "temperature (base: 0.1): warm"


def test_settings_of_another_config_stay_out_of_the_grid(folder):
    other = STUDY.replace('"loss.temperature=0.2"', '"dssm_ml1m:model.width=8"')
    (folder / "warm.py").write_text(other)
    blocks = study.grid(study.load("warm"), shared={})
    assert [b.factor for b in blocks] == ["", "every combination", blocks[2].factor]
    (setting,) = blocks[2].settings
    assert setting.entry.name == "dssm_ml1m" and setting.entry.config.model.width == 8
    assert setting.entry.config.train.epochs == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["warm", "--config.train.epochs=1"], "another study of it.* --runs=FOLDER"),
        (["warm", "--config=mf_ml1m"], "a study has its own"),
        (["warm", "cold"], "what is 'cold'"),
        (["warm", "--seeds=0"], "--seeds=0"),
        (["warm", "--runs=x", "--config.train.epocs=1"], "did you mean 'epochs'"),
        (["warm", "--runs=x", "--shared=train.epochs"], "write --config.FIELD=VALUE"),
        (["warm", "--runs=x", "--config.seed=3"], "--seeds=N runs"),
        (["warm", "--runs=x", "--config.model.width=0"], "width=0.* at least 1"),
    ],
)
def test_a_mistake_is_told_before_any_run(runs, folder, arguments, message):
    status, printed, said = command(*arguments)
    assert (status, printed, runs) == (2, "", [])
    assert said.startswith("error: ") and said.count("\n") == 1
    with pytest.raises(InputError, match=message):
        raise InputError(said)


# The page.

SHOWING = """Before.
<!-- study: warm -->
old
<!-- /study -->
Between.
<!-- study: cold -->
old
<!-- /study -->
After.
"""
SHOWN_PARTS = re.compile(
    r"(.*)<!-- study: warm -->\n(.*)<!-- /study -->(.*)<!-- study: cold -->\n(.*)"
    r"<!-- /study -->(.*)",
    re.DOTALL,
)


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """The page that is written, and a README that shows one study."""
    path, readme = tmp_path / "page.md", tmp_path / "README.md"
    readme.write_text(SHOWING)
    monkeypatch.setattr(ablations_page, "PATH", str(path))
    monkeypatch.setattr(ablations_page, "README", str(readme))
    return path, readme


def test_the_page_has_what_is_measured_found_and_changed(runs, folder, tmp_path, pages):
    path, _ = pages
    (folder / "cold.py").write_text(STUDY.replace("warm?", "cold?"))
    command("warm", f"--runs={tmp_path}", "--seeds=2")

    def text() -> str:
        assert command("--write_page", f"--runs={tmp_path}")[0] == 0
        return path.read_text()

    cold, warm = text().split("## warm")
    assert "*Found.* not yet measured" in cold and "|" not in cold
    assert "*Found.* measured below" in warm and "--seeds=2" in warm
    assert cells_of(warm, "warm")[-2] == "2" and "--workdir=" in warm
    changed = "The study's file has changed"
    assert changed not in warm
    source = STUDY.replace("seconds=30,", 'seconds=30, finding="Lukewarm.",')
    (folder / "warm.py").write_text(source)
    assert "*Found.* Lukewarm." in text() and changed not in text()
    (folder / "warm.py").write_text(source.replace("epochs=2", "epochs=3"))
    assert changed in text()


def test_the_readme_shows_what_is_measured_and_keeps_the_rest(
    runs, folder, tmp_path, pages
):
    _, readme = pages
    (folder / "cold.py").write_text(STUDY)
    command("warm", f"--runs={tmp_path}", "--seeds=2")
    command("--write_page", f"--runs={tmp_path}")
    shown = readme.read_text()
    before, table, between, old, after = SHOWN_PARTS.fullmatch(shown).groups()
    assert (before, between, old, after) == (
        "Before.\n",
        "\nBetween.\n",
        "old\n",
        "\nAfter.\n",
    )
    assert "experiments.ablate warm" in table and cells_of(table, "warm")[-2] == "2"
    command("--write_page", f"--runs={tmp_path}")
    assert readme.read_text() == shown


def test_the_page_says_where_runs_are_missing(runs, folder, tmp_path, pages):
    (folder / "warm.py").write_text(STUDY.replace("temperature=0.2", "temperature=7"))
    command("warm", f"--runs={tmp_path}", "--seeds=2")
    command("--write_page", f"--runs={tmp_path}")
    assert "**1 of 10 runs gave figures.**" in (tmp_path / "page.md").read_text()


# A study that trains.


def validations(workdir) -> tuple[float, ...]:
    """The figures that chose a run's checkpoint."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    read = [json.loads(line) for line in lines]
    return tuple(line["valid_ndcg@3"] for line in read if "valid_ndcg@3" in line)


TRAINED = """
from experiments.common.study import Factor, Study

STUDY = Study(
    paper="p",
    question="q?",
    expected="e",
    base="dssm_synthetic",
    factors=(
        Factor("rate", {"absurd": "optim.learning_rate=1e38"}),
        Factor(
            "ranked among 5",
            {"drawn": "evaluate.candidates=sampled_uniform"},
        ),
    ),
    budget="evaluate.num_candidates=5:evaluate.metrics=[hr@3,ndcg@3]"
    ":evaluate.select_by=ndcg@3",
    seconds=1,
    by="ndcg@3",
)
"""


@pytest.mark.slow
def test_a_tiny_study_trains_tells_what_diverged_and_ranks_what_it_says(
    folder, tmp_path, monkeypatch
):
    (folder / "tiny.py").write_text(TRAINED)
    tiny = [f for f in TINY if "metrics" not in f and "select_by" not in f]
    arguments = "tiny", *tiny, "--seeds=1", f"--runs={tmp_path}"
    counted = []
    plain = run_results.baselines.item_knn_and_ease

    def counting(*given, **named):
        counted.append(1)
        return plain(*given, **named)

    monkeypatch.setattr(run_results.baselines, "item_knn_and_ease", counting)
    status, _, said = command(*arguments)
    assert status == 1 and "1 of 3 runs gave no figures" in said
    assert len(counted) == 2  # one a protocol; of what diverged none
    text, summary = written(tmp_path / "tiny")
    assert cells_of(text, "absurd")[-2] == "0 of 1, 1 diverged"
    first, second = summary["measured"]
    assert first["candidates"] == "whole catalogue ranked"
    assert "SAMPLED METRICS" in second["candidates"] and "SAMPLED METRICS" in text
    (base, *_), (drawn, *_) = (
        [row for row in part["rows"]]
        for part in (summary["blocks"][0], summary["blocks"][2])
    )
    hit = [row["metrics"]["hr@3"]["mean"] for row in (base, drawn)]
    assert hit[1] > hit[0]  # of six items three are hits by chance
    workdirs = sorted((tmp_path / "cells").glob("*/seed-0/results.json"))
    assert len(workdirs) == 2
    chosen = {validations(path.parent) for path in workdirs}
    assert len(chosen) == 1  # both chosen with all ranked: one model
    monkeypatch.setattr(
        summary, "train", None
    )  # nothing of what is finished runs again
    (folder / "tiny.py").write_text(TRAINED.replace('1e38"}', '4e-3"}'))
    assert command(*arguments)[0] == 0
