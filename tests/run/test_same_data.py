"""Finished runs are read for as long as their data are what they were."""

import dataclasses
import pathlib
import shutil

import pytest

from experiments.common import cells as cells_lib
from experiments.common import cli, summary
from recall_jax.data.sources import logs, movielens, stream
from recall_jax.run import config as config_lib
from recall_jax.run import data as data_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run import same_data
from recall_jax.types import InputError

pl = pytest.importorskip("polars", reason="logs are read with polars")

OTHER = "was trained on other data than .* holds now|files have changed since it was"


def log_of(folder: pathlib.Path, *, users: int) -> str:
    """Of users with twelve events each, two in one second."""
    rows = [(u, i, 1_600_000_000 + i // 2) for u in range(users) for i in range(12)]
    path = folder / "events.parquet"
    frame = pl.DataFrame(rows, schema=["user", "item", "t"], orient="row")
    frame.write_parquet(path)
    return str(path)


def config_of(path: str, *, kind: str = "memory", **data):
    config = cli.load_config("dssm_logs")
    read = stream.Config if kind == "streamed" else logs.Config
    ties = "both" if kind == "both ties" else "file"
    config.data = read(path=path, time="t", ties=ties, **data)
    if kind == "refit":
        train = dataclasses.replace(config.train, refit="all")
        config = dataclasses.replace(config, train=train)
        config.data = dataclasses.replace(config.data, protocol="file_order")
    return config


def finished(config, workdir: pathlib.Path) -> same_data.Finished:
    """A run folder as training leaves it, without figures."""
    if data_lib.is_streamed(config):
        parts = {"": data_lib.open_data(config)}
    else:
        log = config.data.load()
        parts = {"": data_lib.lay_out(config, log)}
        if config.data.ties == "both":
            other = data_lib.with_ties(config, "shuffled")
            parts["ties_shuffled"] = data_lib.lay_out(other, log)
        if config.train.refit == "all":
            again = data_lib.without_validation(config)
            parts["refit"] = data_lib.lay_out(again, log)
    for folder, data in parts.items():
        folder_lib.write_description(config, data, workdir / folder)
    results = {key: {} for key in folder_lib.NEEDED}
    folder_lib.write_json(workdir / "results.json", results)
    return same_data.Finished(config, workdir)


def files(folder: pathlib.Path) -> dict:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["memory", "streamed", "both ties"])
def test_a_finished_run_is_refused_once_its_log_has_grown(tmp_path, kind, capsys):
    config = config_of(log_of(tmp_path, users=6), kind=kind)
    finished_run = finished(config, tmp_path / "run")
    before = files(tmp_path)
    same_data.check([finished_run])
    assert files(tmp_path) == before
    assert "not compared" not in capsys.readouterr().out
    log_of(tmp_path, users=7)
    before = files(tmp_path)
    with pytest.raises(InputError, match=f"run {OTHER}"):
        summary.train(config, tmp_path / "run")
    assert files(tmp_path).keys() - before.keys() <= {tmp_path / "run" / ".lock"}
    assert before.items() <= files(tmp_path).items()


@pytest.mark.parametrize(
    "kind, folder", [("both ties", "ties_shuffled"), ("refit", "refit")]
)
def test_the_second_model_of_a_run_is_compared_too(tmp_path, kind, folder):
    config = config_of(log_of(tmp_path, users=6), kind=kind)
    finished_run = finished(config, tmp_path / "run")
    same_data.check([finished_run])
    path = tmp_path / "run" / folder / "data.json"
    folder_lib.write_json(path, folder_lib.read_json(path) | {"sha256": "another"})
    with pytest.raises(InputError, match=f"run/{folder} {OTHER}"):
        same_data.check([finished_run])


@pytest.mark.parametrize("kind", ["memory", "streamed"])
def test_a_log_that_is_gone_is_said(tmp_path, kind, capsys):
    config = config_of(log_of(tmp_path, users=6), kind=kind)
    finished_run = finished(config, tmp_path / "run")
    (tmp_path / "events.parquet").unlink()
    same_data.check([finished_run])
    said = capsys.readouterr().out
    assert "not compared with the data of today: " in said and "there is no log" in said


def test_a_streamed_log_that_is_not_prepared_is_not_prepared_to_tell(tmp_path, capsys):
    config = config_of(log_of(tmp_path, users=6), kind="streamed")
    finished_run = finished(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "events.parquet.prepared")
    before = files(tmp_path)
    capsys.readouterr()
    same_data.check([finished_run])
    assert "events.parquet is not prepared" in capsys.readouterr().out
    assert files(tmp_path) == before


def test_a_table_reads_each_log_once_and_refuses_what_is_of_another(
    tmp_path, monkeypatch
):
    path = log_of(tmp_path, users=6)
    configs = {
        "first": config_of(path),
        "hot": config_of(path),
        "shuffled": config_of(path, ties_seed=3),
    }
    configs["hot"].loss.temperature = 0.7
    for name, config in configs.items():
        written = tmp_path / f"{name}.json"
        folder_lib.write_json(written, config_lib.as_dict(config))
    entries = [cli.Entry(f"{tmp_path}/{n}.json", {}, {}, c) for n, c in configs.items()]
    folders = [cells_lib.folder_name(entry) for entry in entries]
    for name, config in zip(folders, configs.values()):
        for seed in range(2):
            seeded = dataclasses.replace(config, seed=seed)
            finished(seeded, tmp_path / "runs" / name / f"seed-{seed}")
    reads, load = [], logs.Config.load

    def counted(config):
        reads.append(config)
        return load(config)

    monkeypatch.setattr(logs.Config, "load", counted)
    monkeypatch.setattr(folder_lib, "read_results", folder_lib.read_json)
    cells = cells_lib.make_cells(entries, num_seeds=2, folder=tmp_path / "runs")
    assert all(cell.results for cell in cells) and len(reads) == 2
    log_of(tmp_path, users=7)
    with pytest.raises(InputError, match=f"seed-0 {OTHER}.*of a table: --runs"):
        cells_lib.make_cells(entries, num_seeds=2, folder=tmp_path / "runs")


def test_nothing_is_downloaded_to_tell(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RECALL_DATA_DIR", raising=False)
    monkeypatch.setenv("RECALL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(movielens, "download", None)
    config = cli.load_config("mf_ml1m")
    (tmp_path / "run").mkdir()
    folder_lib.write_json(tmp_path / "run" / "data.json", {"sha256": "5a"})
    same_data.check([same_data.Finished(config, tmp_path / "run")])
    assert "run: MovieLens is not on this machine" in capsys.readouterr().out
    for name in ("RECALL_CACHE_DIR", "RECALL_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
        assert not movielens.is_here(config.data)
        (tmp_path / "ml-1m.zip").touch()
        assert movielens.is_here(config.data)
        (tmp_path / "ml-1m.zip").unlink()
