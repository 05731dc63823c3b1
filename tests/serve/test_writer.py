"""Exports written: resumed, reused, put in place at once or not at all; the command."""

import dataclasses
import functools
import os
import pathlib
import signal
import subprocess
import sys

import command_line
import jax
import numpy as np
import polars as pl
import pytest
from exports import make_run
from test_configs import shrunk

from experiments import export
from experiments.bench import export as bench_export
from experiments.bench import formats
from experiments.common import cli, summary
from recall_jax import files as files_lib
from recall_jax.evaluate import encode as encode_lib
from recall_jax.index import search
from recall_jax.serve import reader, vectors, writer
from recall_jax.types import InputError

pytestmark = pytest.mark.usefixtures("symbolic_shapes")
CONFIG = writer.Config(batch_size=16)


@pytest.fixture(scope="module")
def trained(kept_programs, symbolic_shapes, one_platform):
    return make_run("fm_synthetic")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(vectors, "SHARD", 16)


@pytest.fixture
def folder(trained, tmp_path) -> pathlib.Path:
    writer.write(trained, tmp_path / "export", config=CONFIG)
    return tmp_path / "export"


def content(folder: pathlib.Path) -> dict:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def altered(trained):
    """Other weights."""
    return trained._replace(params=jax.tree.map(lambda x: x * 0.9, trained.params))


class Killed(BaseException):
    """As a signal ends a process: nothing catches it."""


def killed_at(monkeypatch, name: str, shard: int) -> None:
    """The next export ends before that shard of "items" or "users"."""
    write = vectors.write

    def cut(folder, kind, compute, **options):
        def stopping(rows):
            if kind == name and rows.max() >= shard * vectors.SHARD:
                raise Killed
            return compute(rows)

        return write(folder, kind, stopping, **options)

    monkeypatch.setattr(vectors, "write", cut)


def test_a_killed_export_leaves_the_old_one_and_is_gone_on_with(
    trained, folder, tmp_path, monkeypatch
):
    before, new = content(folder), altered(trained)
    with monkeypatch.context() as patch:
        killed_at(patch, "users", 2)
        with pytest.raises(Killed):
            writer.write(new, folder, config=CONFIG)
    assert content(folder) == before
    report = writer.write(new, folder, config=CONFIG)
    items, users = report.written["items"], report.written["users"]
    assert (items.computed, items.resumed) == (0, 40)
    assert (users.computed, users.resumed) == (60 - 32, 32)
    fresh = writer.write(new, tmp_path / "fresh", config=CONFIG)
    assert fresh.written["items"] == vectors.Written(40, 0, 0)
    assert content(folder) == content(tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "fresh"]


def test_what_a_killed_export_of_other_weights_left_is_not_taken(
    trained, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        killed_at(patch, "users", 1)
        with pytest.raises(Killed):
            writer.write(trained, tmp_path / "export", config=CONFIG)
    report = writer.write(altered(trained), tmp_path / "export", config=CONFIG)
    assert report.written["items"] == vectors.Written(40, 0, 0)
    assert report.written["users"] == vectors.Written(60, 0, 0)


def test_unchanged_items_are_not_computed_again(trained, folder):
    again = writer.write(trained, folder, config=CONFIG)
    assert again.written["items"] == vectors.Written(0, 40, 0)
    data = trained.data
    tags = data.dataset.item_columns["tags"]
    other = tags.at[7].set(1).at[40].set(2)
    assert (np.asarray(other) != np.asarray(tags)).any(axis=1).sum() == 2
    columns = data.dataset.item_columns | {"tags": other}
    dataset = dataclasses.replace(data.dataset, item_columns=columns)
    changed = trained._replace(data=dataclasses.replace(data, dataset=dataset))
    before = np.array(reader.load(folder).item_vectors)
    report = writer.write(changed, folder, config=CONFIG)
    assert report.written["items"] == vectors.Written(2, 38, 0)
    after = reader.load(folder).item_vectors
    assert np.flatnonzero((after != before).any(axis=1)).tolist() == [6, 39]


@pytest.mark.parametrize("what", ["weights", "dtype", "damage", "format"])
def test_what_is_no_longer_so_is_computed_again(trained, folder, what):
    now, config = trained, CONFIG
    if what == "weights":
        now = altered(trained)
    elif what == "dtype":
        config = dataclasses.replace(CONFIG, dtype="int8")
    elif what == "damage":
        np.save(folder / "items.npy", np.load(folder / "items.npy") + 1)
    else:
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(
            text.replace('"format": 3', '"format": 0')
        )
    report = writer.write(now, folder, config=config)
    assert report.written["items"] == vectors.Written(40, 0, 0)
    reader.load(folder)


def test_an_export_cut_off_between_the_renames_is_found_and_mended(
    trained, folder, monkeypatch
):
    before, rename = content(folder), os.rename
    new = altered(trained)

    def once(source, target):
        if pathlib.Path(source).name.endswith(".building"):
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", once)
        with pytest.raises(Killed):
            writer.write(new, folder, config=CONFIG)
    assert not folder.exists() and content(files_lib.settled(folder)) == before
    reader.load(folder)
    writer.write(new, folder, config=CONFIG)
    assert content(folder) != before
    assert not files_lib.replaced(folder).exists()


def test_other_things_are_never_replaced(trained, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("notes", "file"):
        with pytest.raises(InputError, match="holds something that is no export"):
            writer.write(trained, tmp_path / name, config=CONFIG)
    assert (tmp_path / "notes" / "diary.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    writer.write(trained, tmp_path / "empty", config=CONFIG)


def test_two_exports_to_one_folder_do_not_meet(trained, folder):
    with (
        files_lib.lock(folder.with_name(".export.building")),
        pytest.raises(InputError, match="is in use by process"),
    ):
        writer.write(trained, folder, config=CONFIG)


def test_vectors_that_are_not_the_models_are_not_put_in_place(
    trained, folder, monkeypatch
):
    before, encode = content(folder), vectors.as_stored

    def wrong(values, *, dtype):
        stored, scale = encode(values, dtype=dtype)
        stored[3:5] += np.float32(3e-5)
        return stored, scale

    monkeypatch.setattr(vectors, "as_stored", wrong)
    with pytest.raises(InputError, match="items.npy is up to .* nothing was replaced"):
        writer.write(altered(trained), folder, config=CONFIG)
    assert content(folder) == before


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_smaller_formats_are_near_and_lie_in_parquet_too(trained, tmp_path, dtype):
    config = dataclasses.replace(CONFIG, dtype=dtype)
    report = writer.write(trained, tmp_path / "export", config=config)
    loaded = reader.load(tmp_path / "export")
    served = encode_lib.encode_items(
        trained.encoder, trained.params, data=trained.data, batch_size=16
    )
    allowed = vectors.tolerance(np.asarray(served), dtype=dtype) + 1e-6
    apart = np.abs(loaded.item_vectors - served)
    assert 0 < apart.max() and (apart <= allowed).all()
    size = report.bytes["items.npy"] - 128
    assert size == served.size * {"bfloat16": 2, "int8": 1}[dtype]
    frame = pl.read_parquet(tmp_path / "export" / "users.parquet")
    assert frame["id"].to_list() == loaded.user_ids.tolist()
    exact = search.Exact.build(loaded.item_vectors)
    assert exact.search(loaded.user_vectors, 5, None).ids.shape == (60, 5)


def test_users_may_be_left_out(trained, folder):
    config = dataclasses.replace(CONFIG, users=False)
    report = writer.write(trained, folder, config=config)
    assert set(report.written) == {"items"} and "users.npy" not in content(folder)
    loaded = reader.load(folder)
    assert loaded.user_vectors is None
    assert loaded.query(loaded.known_user_columns(np.array([1]))).shape == (1, 5)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, kept_programs):
    folder = tmp_path_factory.mktemp("run")
    summary.train(shrunk(cli.load_config("dssm_synthetic")), folder)
    return folder


command = functools.partial(command_line.called, export, parse=cli.parse_plain)


def test_the_command_says_what_it_wrote_and_what_comes_next(workdir, tmp_path):
    given = f"--run={workdir}", f"--to={tmp_path / 'export'}", "--batch_size=16"
    status, printed, said = command(*given)
    assert status == 0, said
    loaded = reader.load(tmp_path / "export")
    num, width = loaded.item_vectors.shape
    assert f"items      {num:,} x {width} float32" in printed
    assert f"{num:,} computed, 0 of the older export" in printed
    assert "whole history, test events included" in printed and "Faiss" in printed
    status, printed, _ = command(*given, "--nousers")
    assert f"0 computed, {num:,} of the older export" in printed
    assert "users      " not in printed
    assert reader.load(tmp_path / "export").titles is not None


def test_what_is_missing_is_told_before_anything_is_loaded(workdir, tmp_path):
    def refused(*arguments) -> str:
        status, _, said = command(*arguments)
        assert status == 2 and said.startswith("error: ") and said.count("\n") == 1
        return said

    target = f"--to={tmp_path / 'export'}"
    assert "name a run's folder with --run" in refused(target)
    assert "a new folder with --to" in refused(f"--run={workdir}")
    assert "holds no run" in refused(f"--run={tmp_path}", target)
    assert "unknown --dtype 'int4'" in refused(
        f"--run={workdir}", target, "--dtype=int4"
    )
    assert "--batch_size is 0" in refused(f"--run={workdir}", target, "--batch_size=0")
    assert "is no export" in refused(f"--run={workdir}", f"--to={workdir}")


@pytest.mark.slow
def test_the_benches_run_on_sizes_that_say_nothing(workdir, tmp_path):
    rows = formats.measure(workdir)
    assert [row["dtype"] for row in rows] == list(vectors.DTYPES)
    assert rows[0]["kept"] == 1 and all(row["kept"] > 0.8 for row in rows)
    untrained_run = bench_export.make_run(64, num_users=8)
    report = writer.write(untrained_run, tmp_path / "export", config=CONFIG)
    assert report.written["items"].computed == 64
    assert bench_export.encoded_per_second(untrained_run, batch_size=16) > 0


KILLED = """
import pathlib, sys, time
sys.path[:0] = sys.argv[2:]
from recall_jax.serve import vectors, writer
vectors.SHARD = 16
write = vectors.write
def slow(folder, kind, compute, **options):
    def waiting(rows):
        if kind == "users" and rows.max() > 32:
            print("ready", flush=True)
            time.sleep(600)
        return compute(rows)
    return write(folder, kind, waiting, **options)
vectors.write = slow
from exports import make_run
writer.write(
    make_run("fm_synthetic"), sys.argv[1], config=writer.Config(batch_size=16)
)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_is_gone_on_with(trained, tmp_path):
    root = pathlib.Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path / "export", root, root / "tests"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    report = writer.write(trained, tmp_path / "export", config=CONFIG)
    assert report.written["users"].resumed == 32
    assert report.written["items"].resumed == 40
