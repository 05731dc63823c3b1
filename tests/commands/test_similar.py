"""The command that shows the items nearest to one in a trained run."""

import functools
import shutil

import command_line
import numpy as np
import pytest
from test_configs import shrunk

from experiments import similar
from experiments.common import cli, summary
from recall_jax.data.sources import synthetic
from recall_jax.run import data as data_lib
from recall_jax.run import open as open_lib
from recall_jax.run.restored import LoadedRun
from recall_jax.types import InputError


@pytest.fixture(scope="module", params=["item2vec_synthetic", "dssm_synthetic"])
def workdir(request, tmp_path_factory, kept_programs):
    """A finished run; nobody writes there."""
    folder = tmp_path_factory.mktemp(request.param)
    summary.train(shrunk(cli.load_config(request.param)), folder)
    return folder


@pytest.fixture(scope="module")
def loaded(workdir) -> LoadedRun:
    return open_lib.open_run(workdir).loaded


command = functools.partial(command_line.called, similar, parse=cli.parse_plain)


def rows_of(printed: str) -> list[list[str]]:
    """Cells of the table's lines below its head."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def test_the_nearest_by_cosine_come_first_and_never_the_item_itself(workdir, loaded):
    vectors = loaded.vectors.astype(np.float64)
    cosine = vectors @ vectors[3]
    cosine[3] = -np.inf
    best = np.argsort(-cosine, kind="stable")[:4]
    item = loaded.ids[3]
    status, printed, said = command(f"--run={workdir}", f"--item={item}", "--num=4")
    assert status == 0, said
    assert f"item       {item}, {loaded.titles[3]}" in printed
    rows = rows_of(printed)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    np.testing.assert_allclose([float(row[3]) for row in rows], cosine[best], atol=1e-4)
    assert item not in [row[1] for row in rows]
    at = [int(np.flatnonzero(loaded.ids == row[1])[0]) for row in rows]
    assert [row[2] for row in rows] == [loaded.titles[j] for j in at]
    assert [int(row[4]) for row in rows] == loaded.data.popularity[1:][at].tolist()


def test_titles_are_those_of_the_logs_own_items(loaded):
    log = loaded.config.data.load()
    titles = dict(zip(log.items.id.astype(str), log.items.text["title"]))
    assert all(titles[name] == title for name, title in zip(loaded.ids, loaded.titles))


def test_more_than_there_are_shows_all_others(loaded):
    with_vector = np.flatnonzero(loaded.vectors.any(axis=1))
    table = similar.similar(loaded, int(with_vector[0]), num=1000, index="exact")
    assert len(rows_of(table)) == len(loaded.ids) - 1


IDS = np.array(["11", "12", "13", "14", "1984"])
TITLES = np.array(["Heat", "Heat wave", "1984", "The Wave", "Alien"])


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("12", 1),
        ("heat", 0),  # a whole title before parts of others
        ("the wave", 3),
        ("ALI", 4),
        ("1984", 4),  # an id before a title
        ("t w", 1),
    ],
)
def test_an_item_is_named_by_id_by_title_or_by_a_part_that_one_title_has(text, row):
    assert similar.find(text, ids=IDS, titles=TITLES) == row


def test_an_item_is_told_by_id_and_by_a_title_of_one_line():
    titles = np.array(["", "x" * 500, "one\nline"], object)
    names = [
        similar._named(row, ids=np.array([*"abc"]), titles=titles) for row in range(3)
    ]
    assert names == ["a", f"b, {'x' * 79}…", "c, one line"]


def test_an_only_item_is_said_to_have_none_like_it():
    only = LoadedRun(*[None] * 9)._replace(ids=np.array(["a"]))
    with pytest.raises(InputError, match="a is the run's only item"):
        similar.similar(only, 0, num=3, index="exact")


def test_an_unknown_item_gets_the_nearest_names():
    with pytest.raises(InputError, match="'alein' is no id .*5 items; nearest: Alien"):
        similar.find("alein", ids=IDS, titles=TITLES)
    with pytest.raises(InputError, match="nearest: 1984"):
        similar.find("1985", ids=IDS, titles=None)


def test_a_part_of_several_titles_is_refused_with_up_to_ten_of_them():
    with pytest.raises(InputError, match="is 2 items, .* 12, Heat wave; 14, The Wave"):
        similar.find("wave", ids=IDS, titles=TITLES)
    many = np.array([f"part {j}" for j in range(30)])
    with pytest.raises(InputError, match="is 30 items") as error:
        similar.find("part", ids=np.arange(30).astype(str), titles=many)
    assert str(error.value).count(", part ") == similar.SHOWN


def test_changed_data_are_refused(workdir, monkeypatch):
    load = synthetic.Config.load

    def shorter(self):
        log = load(self)
        return log.select(np.arange(len(log) - 1))

    monkeypatch.setattr(synthetic.Config, "load", shorter)
    status, _, said = command(f"--run={workdir}", "--item=1")
    assert status == 2 and "was trained on other data than synthetic" in said


@pytest.mark.parametrize("ties", ["file", "shuffled", "both"])
def test_the_data_are_those_that_the_runs_first_model_trained_on(ties):
    config = shrunk(cli.load_config("item2vec_synthetic"))
    config = data_lib.with_ties(config, ties)
    prepared = data_lib.read(config)
    alone = data_lib.lay_out(config, config.data.load())
    assert alone.fingerprint() == prepared.data.fingerprint()
    first = {"both": "file"}.get(ties, ties)
    other = "file" if ties == "shuffled" else "shuffled"
    for data, tie_order in ((prepared.data, first), (prepared.other_ties, other)):
        assert (
            f"ties {'in file order' if tie_order == 'file' else 'shuffled'}"
            in data.protocol
        )


def test_what_is_missing_is_told(workdir, loaded, tmp_path):
    def refused(*arguments) -> str:
        status, _, said = command(*arguments)
        assert status == 2 and said.startswith("error: ") and said.count("\n") == 1
        return said

    item = f"--item={loaded.ids[0]}"
    assert "name a run's folder" in refused(item)
    assert "holds no run" in refused(f"--run={tmp_path}", item)
    assert "--num is 0" in refused(f"--run={workdir}", item, "--num=0")
    assert (
        "unknown --index 'exakt'; did you mean 'exact'? there are: exact, approx, scann"
        in refused(f"--run={workdir}", item, "--index=exakt")
    )
    shutil.copy(workdir / "config.json", tmp_path)
    assert "it has no data.json" in refused(f"--run={tmp_path}", item)
    shutil.copy(workdir / "data.json", tmp_path)
    assert "has no model yet" in refused(f"--run={tmp_path}", item)


def test_an_item_without_a_vector_is_told(loaded):
    vectors = loaded.vectors.copy()
    vectors[2] = 0
    with pytest.raises(InputError, match=f"no vector for item {loaded.ids[2]}, which"):
        similar.similar(loaded._replace(vectors=vectors), 2, num=3, index="exact")


def test_nothing_is_written(workdir, loaded):
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    open_lib.open_run(workdir).loaded  # noqa: B018
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
