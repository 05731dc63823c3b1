"""The command that clusters a run's items and draws them."""

import csv
import functools
import re
import sys

import command_line
import numpy as np
import pytest
from test_configs import shrunk

from experiments import map
from experiments.common import cli, summary
from recall_jax.data.log import Bag
from recall_jax.run import open as open_lib
from recall_jax.run.restored import LoadedRun


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, kept_programs):
    """A finished run; nobody writes there."""
    folder = tmp_path_factory.mktemp("run")
    summary.train(shrunk(cli.load_config("item2vec_synthetic")), folder)
    return folder


@pytest.fixture(scope="module")
def loaded(workdir) -> LoadedRun:
    return open_lib.open_run(workdir).loaded


command = functools.partial(command_line.called, map, parse=cli.parse_plain)


def rows_of(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_it_prints_and_writes_clusters_items_and_a_picture(workdir, loaded, tmp_path):
    to = tmp_path / "new" / "here.png"
    status, printed, said = command(f"--run={workdir}", f"--to={to}", "--clusters=4")
    assert status == 0, said
    assert to.read_bytes().startswith(b"\x89PNG") and to.stat().st_size > 10_000
    clusters, items = (
        rows_of(to.with_suffix(".csv")),
        rows_of(to.with_name("here_items.csv")),
    )
    served = np.flatnonzero(loaded.vectors.any(axis=1))
    assert len(items) == len(served)
    assert [int(row["cluster"]) for row in clusters] == [0, 1, 2, 3]
    of = np.array([int(row["cluster"]) for row in items])
    assert [int(row["items"]) for row in clusters] == np.bincount(of).tolist()
    market = dict(zip(loaded.items.id.astype(str), loaded.items.columns["market"]))
    title = dict(zip(loaded.items.id.astype(str), loaded.items.text["title"]))
    for row in items:
        assert (row["value"], row["title"]) == (market[row["id"]], title[row["id"]])
    for cluster in clusters:
        values = [x["value"] for x in items if x["cluster"] == cluster["cluster"]]
        top = cluster["commonest market"]
        assert values.count(top) == max(map_count(values).values())
        assert float(cluster["share"]) == pytest.approx(values.count(top) / len(values))
        shown = "; ".join(title[name] for name in cluster["ids"].split())
        assert cluster["nearest to its centre"] == shown and shown in printed
    assert re.search(r"NMI +0\.\d{3} of clusters and market; shuffled", printed)
    assert f"written    {to}" in printed


def map_count(values: list[str]) -> dict[str, int]:
    return {value: values.count(value) for value in values}


def test_the_nearest_to_a_centre_are_the_nearest_of_its_own_cluster(loaded):
    item_map = map.make(loaded, map.values_of(loaded, None), num=3, seed=0)
    for cluster, near in enumerate(item_map.near):
        mine = item_map.rows[item_map.of == cluster]
        vectors = loaded.vectors[mine]
        away = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
        assert set(near) <= set(mine)
        distances = away[[np.flatnonzero(mine == row)[0] for row in near]]
        np.testing.assert_allclose(distances, np.sort(away)[: len(near)], atol=1e-5)


def test_a_seed_gives_the_same_files_again(workdir, tmp_path):
    for name in ("one", "two"):
        assert command(f"--run={workdir}", f"--to={tmp_path / name}.png")[0] == 0
    for suffix in (".png", ".csv", "_items.csv"):
        one, two = (tmp_path / f"{name}{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_without_to_it_stands_in_the_runs_folder(workdir, monkeypatch):
    written = []
    monkeypatch.setattr(
        map, "draw", lambda item_map, path, **named: written.append(path)
    )
    monkeypatch.setattr(map, "write", lambda *made: written.append(made[-1]))
    assert command(f"--run={workdir}")[0] == 0
    assert written == [workdir / "map.png"] * 2


def test_an_item_without_a_title_is_told_by_its_id(loaded):
    titles = np.array(["", "x" * 500] * len(loaded.ids), object)[: len(loaded.ids)]
    some = loaded._replace(titles=titles)
    item_map = map.make(some, map.values_of(some, None), num=3, seed=0)
    for cluster, near in zip(map.describe(item_map, some), item_map.near):
        names = cluster["nearest to its centre"].split("; ")
        for row, name in zip(near, names, strict=True):
            assert name == (f"{'x' * 79}…" if titles[row] else some.ids[row])


def with_columns(loaded: LoadedRun, **columns) -> LoadedRun:
    entities = loaded.items
    return loaded._replace(items=type(entities)(entities.id, columns, entities.text))


def test_of_several_values_the_first_colours_and_none_is_told(loaded):
    num = len(loaded.items)
    lengths = np.arange(num) % 3
    bag = Bag(
        np.arange(lengths.sum()).astype(str), np.concatenate([[0], np.cumsum(lengths)])
    )
    some = with_columns(loaded, price=np.zeros(num, np.float32), genres=bag)
    values = map.values_of(some, None)
    assert values.name == "genres"
    for code, value in zip(some.data.item_codes, values.of):
        assert value == (str(bag.offsets[code]) if lengths[code] else "")
    item_map = map.make(some, values, num=2, seed=0)
    printed = map.as_text(item_map, some, map.describe(item_map, some), seed=0)
    assert f"{(item_map.values.of == '').sum()} items without one" in printed


def test_a_column_without_any_value_still_gives_a_map(loaded):
    empty = with_columns(loaded, kind=np.full(len(loaded.items), ""))
    item_map = map.make(empty, map.values_of(empty, "kind"), num=2, seed=0)
    printed = map.as_text(item_map, empty, map.describe(item_map, empty), seed=0)
    assert "0 values" in printed and "NMI" not in printed


def test_frequent_values_are_named_the_rest_is_grey(loaded, tmp_path):
    num = len(loaded.items)
    many = with_columns(loaded, kind=np.array([f"k${min(j, 15)}$" for j in range(num)]))
    item_map = map.make(many, map.values_of(many, "kind"), num=2, seed=0)
    from matplotlib import pyplot

    kept = []

    class Kept:
        subplots = staticmethod(
            lambda **named: kept.append(pyplot.subplots(**named)) or kept[0]
        )
        close = staticmethod(lambda figure: None)

    map.draw(item_map, tmp_path / "map.png", pyplot=Kept, title="run")
    labels = [text.get_text() for text in kept[0][1].get_legend().get_texts()]
    assert len(labels) == 1 + len(map.COLORS) and labels[0].startswith("other (")
    assert labels[1] == rf"k\$15\$ ({(item_map.values.of == 'k$15$').sum()})"
    points = sum(len(x.get_offsets()) for x in kept[0][1].collections)
    assert points == len(item_map.rows)
    pyplot.close(kept[0][0])


def test_what_is_wrong_is_told(workdir, tmp_path, monkeypatch):
    def refused(*arguments) -> str:
        status, _, said = command(*arguments)
        assert status == 2 and said.startswith("error: ") and said.count("\n") == 1
        return said

    it = f"--run={workdir}"
    assert "name a run's folder with --run" in refused()
    assert "holds no run" in refused(f"--run={tmp_path}")
    assert "--clusters is 0; it must be at least 1" in refused(it, "--clusters=0")
    assert "only 40 items have a vector" in refused(it, "--clusters=4000")
    assert "must end in .png" in refused(it, f"--to={tmp_path}/map.jpg")
    said = refused(it, "--color=markt")
    assert "--color='markt' is no item column; there are: market, " in said
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install matplotlib" in refused(it)
