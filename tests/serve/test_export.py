"""Exports of every model: the towers without this package, and what `load` refuses."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from exports import MODELS, QUICK, make_run
from marks import slow, slow_but

from recall_jax import files, schema
from recall_jax.evaluate import encode
from recall_jax.serve import reader, writer
from recall_jax.serve import towers as towers_lib
from recall_jax.types import InputError

pytestmark = pytest.mark.usefixtures("symbolic_shapes")
PAGE = pathlib.Path(reader.__file__).with_name("export.md")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, kept_programs, symbolic_shapes) -> dict[str, tuple]:
    """(run, folder) by model, each made when it is first read; nobody writes there."""
    parent = tmp_path_factory.mktemp("exports")

    class Exports(dict):
        def __missing__(self, name):
            self[name] = make_run(name), parent / name
            writer.write(*self[name], config=writer.Config(batch_size=16))
            return self[name]

    return Exports()


def trained(run: towers_lib.ExportSource, side: str) -> np.ndarray:
    """Vectors of all items, or of all users at the end of their histories."""
    num = run.data.dataset.num_items if side == "item" else len(run.data.user_codes)
    ids = np.arange(1, num + 1, dtype=np.int32)
    if side == "item":
        return np.asarray(run.encoder.item(run.params, run.data.dataset, ids))
    ends = run.data.offsets[2:].astype(np.int32)
    return np.asarray(run.encoder.query(run.params, run.data.dataset, ids, ends))


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


CALL = """
import importlib.util, json, sys
assert importlib.util.find_spec("recall_jax") is None, sys.path
for folder in sys.argv[1:]:
    columns = dict(np.load(folder + "/given.npz"))
    made = {}
    for side in ("query", "item"):
        own = {k.partition(".")[2]: v for k, v in columns.items() if k.startswith(side)}
        made[side] = load_tower(folder, side)(own)
        made[side + "3"] = load_tower(folder, side)({k: v[:3] for k, v in own.items()})
    np.savez(folder + "/made.npz", **made)
assert not any(name.startswith("recall_jax") for name in sys.modules)
"""


def alone(folders: list[pathlib.Path], code: str, cwd: pathlib.Path) -> str:
    """Run the page's code in a process that cannot import this package."""
    root = str(PAGE.parents[2])
    here = {root, str(pathlib.Path(__file__).parent), ""}
    kept = [p for p in sys.path if p not in here and os.path.abspath(p) not in here]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, folders)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(kept)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("names", [QUICK, slow(MODELS)], ids=["some", "all"])
def test_the_towers_of_a_model_run_without_this_package(exported, names, tmp_path):
    folders = []
    for name in names:
        run, folder = exported[name]
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        loaded, users = reader.load(folder), np.arange(1, len(run.data.user_codes) + 1)
        items = {f"item.{k}": v[1:] for k, v in loaded.item_columns.items()}
        query = loaded.known_user_columns(users)
        given = items | {f"query.{k}": v for k, v in query.items()}
        np.savez(copy / "given.npz", **given)
        folders.append(copy)
    alone(folders, code_blocks()[0] + CALL, tmp_path)
    for folder in folders:
        run = exported[folder.name][0]
        with np.load(folder / "made.npz") as read:
            outputs = dict(read)
        for side in ("query", "item"):
            wanted = trained(run, side)
            assert wanted.std(axis=0).max() > 1e-3, (folder.name, side)
            np.testing.assert_allclose(outputs[side], wanted, atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(outputs[side + "3"], wanted[:3], atol=1e-5)


@pytest.mark.parametrize("name", slow_but(QUICK, MODELS))
def test_the_stored_vectors_are_those_that_are_served(exported, name):
    run, folder = exported[name]
    loaded = reader.load(folder)
    served = encode.encode_items(run.encoder, run.params, data=run.data, batch_size=16)
    np.testing.assert_allclose(loaded.item_vectors, served, atol=1e-5, rtol=1e-5)
    users = trained(run, "query")
    np.testing.assert_allclose(loaded.user_vectors, users, atol=1e-5, rtol=1e-5)
    # A longer or shorter batch than was ever compiled.
    five = {k: rows[1:6] for k, rows in loaded.item_columns.items()}
    wanted = trained(run, "item")[:5]
    np.testing.assert_allclose(loaded.item(five), wanted, atol=1e-5, rtol=1e-5)


def test_new_airbnb_items_have_a_vector_in_the_catalogue_that_their_tower_lacks(
    exported,
):
    run, folder = exported["airbnb with new items"]
    loaded = reader.load(folder)
    new = run.data.popularity[1:] == 0
    assert new.any() and loaded.item_vectors[new].any(axis=1).all()
    own = {name: rows[1:] for name, rows in loaded.item_columns.items()}
    unknown = run.encoder.item(run.params, run.data.dataset, np.flatnonzero(new) + 1)
    np.testing.assert_allclose(loaded.item(own)[new], unknown, atol=1e-6)
    assert np.abs(loaded.item_vectors[new] - unknown).max() > 1e-2


def test_towers_are_lowered_for_three_platforms_and_any_batch_size(exported):
    _, folder = exported["dssm_synthetic"]
    program = reader.read_program(folder / "query.jax")
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert {str(x.shape[0]) for x in program.in_avals[-6:]} == {"b"}


def test_a_program_names_no_file_and_is_the_same_when_made_again(exported):
    run, folder = exported["dssm_synthetic"]
    program = (folder / "item.jax").read_bytes()
    assert b".py" not in program and b"recall_jax" not in program
    again = towers_lib.split_towers(run.encoder.graph, run.params, run.data)["item"]
    assert again.program == program


def test_a_tower_takes_only_what_it_reads(exported):
    reads = {
        name: [
            {c["name"] for c in json.loads(text)["towers"][side]["columns"]}
            for side in ("query", "item")
        ]
        for name in (*QUICK, "item2vec_synthetic")
        for text in [(exported[name][1] / "specification.json").read_text()]
    }
    assert reads["dssm mf with biases"] == [{"user"}, {"item"}]
    assert reads["item2vec_synthetic"] == [{"history"}, {"item"}]
    assert {"history", "history_tags"} <= reads["eges_synthetic"][0]
    assert "example_age" in reads["youtubednn_synthetic"][0]
    _, folder = exported["item2vec_synthetic"]
    towers = json.loads((folder / "specification.json").read_text())["towers"]
    names = [{w["name"] for w in towers[x]["weights"]} for x in ("query", "item")]
    assert names == [{"tables.item"}, {"tables.item"}]
    assert len(list((folder / "weights").iterdir())) == 1


def test_raw_features_are_encoded_as_the_data_were(exported):
    """A row of the log's own raw values gives the columns that the data set has."""
    run, folder = exported["dssm of everything"]
    loaded, log = reader.load(folder), config_log()
    rows = []
    for code in run.data.item_codes:
        columns = log.items.columns
        bag = columns["tags"]
        tags = bag.values[bag.offsets[code] : bag.offsets[code + 1]]
        rows.append(
            {
                "title": log.items.text["title"][code],
                "tags": tags.tolist(),
                "birth_time": columns["birth_time"][code],
                "market": columns["market"][code],
            }
        )
    features = loaded.new_columns("item", rows)
    unknown = features.pop("item")
    assert set(unknown.tolist()) == {run.data.vocabularies["item"].known + 1}
    assert set(features) == {"title", "tags", "birth_time", "market"}
    for name, column in features.items():
        wanted = loaded.item_columns[name][1:]
        np.testing.assert_allclose(column, wanted, atol=1e-5, err_msg=name)
    nothing = loaded.new_columns("item", [{}])
    assert not any(nothing[name].any() for name in features)
    with pytest.raises(InputError, match="item tower reads no feature 'colour'"):
        loaded.new_columns("item", [{"colour": "red"}])


def test_a_number_is_scaled_by_the_mean_and_deviation_of_training():
    column = {"name": "price", "kind": "dense", "shape": ["b"], "mean": 4, "scale": 2}
    values = reader._encode([7, None, 4.0], column=column, vocabulary=None)
    assert values.tolist() == [1.5, 0, 0]


def config_log():
    from exports import config_of

    return config_of("dssm of everything").data.load()


def test_a_history_is_the_last_items_with_padding_on_the_left(exported):
    _, folder = exported["eges_synthetic"]
    loaded = reader.load(folder)
    histories = [np.array([3, 0, 2]), np.arange(1, 9), np.array([], int)]
    columns = loaded.with_history({}, histories)
    wanted = np.array([[0, 0, 0, 3, 2], [4, 5, 6, 7, 8], [0] * 5])
    np.testing.assert_array_equal(
        columns["history"], loaded.item_columns["item"][wanted]
    )
    np.testing.assert_array_equal(
        columns["history_tags"], loaded.item_columns["tags"][wanted]
    )


def test_of_a_long_history_the_last_items_are_taken():
    histories = [np.array([3, 0, 2]), np.arange(1, 9), np.array([], int)]
    taken = reader._last(histories, length=5)
    assert taken.tolist() == [[0, 0, 0, 3, 2], [4, 5, 6, 7, 8], [0] * 5]


def test_histories_popularity_and_titles_are_those_of_the_data(exported):
    run, folder = exported["dssm_synthetic"]
    loaded, data = reader.load(folder), run.data
    for user in (1, len(data.user_codes)):
        begin, stop = data.offsets[user], data.offsets[user + 1]
        np.testing.assert_array_equal(loaded.history(user), data.items[begin:stop])
    np.testing.assert_array_equal(loaded.popularity, data.popularity)
    assert loaded.titles.tolist() == run.titles.tolist()
    assert loaded.item_ids.tolist() == data.vocabularies["item"].ids.tolist()


def test_columns_that_do_not_fit_are_told(exported):
    loaded = reader.load(exported["dssm_synthetic"][1])
    columns = loaded.known_user_columns(np.array([1, 2]))
    with pytest.raises(InputError, match="query tower needs a column 'history'"):
        loaded.query({k: v for k, v in columns.items() if k != "history"})
    with pytest.raises(InputError, match=r"'history' is \[2, 4\]; .*\['b', 5\]"):
        loaded.query(columns | {"history": columns["history"][:, 1:]})
    with pytest.raises(InputError, match="the same b"):
        loaded.query(columns | {"user": columns["user"][:1]})


@pytest.fixture
def copy(exported, tmp_path) -> pathlib.Path:
    return shutil.copytree(exported["dssm_synthetic"][1], tmp_path / "export")


def test_a_folder_without_an_export_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no export: it has no manifest.json"):
        reader.load(tmp_path / "nowhere")


def test_another_format_version_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(InputError, match="this export has format 99, and .* format 3"):
        reader.load(copy)
    (copy / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="is damaged: it holds no object"):
        reader.load(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="manifest.json is damaged"):
        reader.load(copy)


@pytest.mark.parametrize(
    "name",
    ["items.npy", "item.jax", "weights/0.npy", "specification.json"],
)
def test_a_changed_or_missing_file_is_refused(copy, name):
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=f"{name} is not as it was written, its SHA-256"
    ):
        reader.load(copy)
    path.unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        reader.load(copy)


def signed(folder: pathlib.Path) -> None:
    """Make the manifest agree with the files again."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        path = folder / name
        entry |= {"bytes": path.stat().st_size, "sha256": files.sha256_of(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_another_vocabulary_is_refused(copy):
    vocabularies = schema.load_vocabularies(copy / "vocabularies.json")
    ids = vocabularies["item"].ids
    swapped = vocabularies["item"]._replace(ids=ids[::-1])
    path = copy / "vocabularies.json"
    path.write_text(schema.dump_vocabularies(vocabularies | {"item": swapped}))
    with pytest.raises(
        InputError, match="vocabularies.json .*so that ids name other things"
    ):
        reader.load(copy)
    fewer = vocabularies["item"]._replace(known=vocabularies["item"].known - 1)
    path.write_text(schema.dump_vocabularies(vocabularies | {"item": fewer}))
    signed(copy)
    with pytest.raises(InputError, match="made for another vocabulary of 'item'"):
        reader.load(copy)


def test_nothing_is_unpickled(copy):
    class Trap:
        def __reduce__(self):
            return (pathlib.Path.touch, (copy / "sprung",))

    np.save(copy / "popularity.npy", np.array([Trap()]), allow_pickle=True)
    signed(copy)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        reader.load(copy)
    assert not (copy / "sprung").exists()


def test_vectors_of_another_shape_than_specified_are_refused(copy):
    np.save(copy / "items.npy", np.load(copy / "items.npy")[:-1])
    signed(copy)
    with pytest.raises(
        InputError, match=r"items.npy is float32\[.* specification says"
    ):
        reader.load(copy)


def test_a_tower_that_is_not_the_models_is_never_written(tmp_path, monkeypatch):
    run, folder = make_run("fm_synthetic"), tmp_path / "export"
    writer.write(run, folder, config=writer.Config(batch_size=16))
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    wrong = jax.tree.map(lambda x: x * 1.01, run.params)
    split = towers_lib.split_towers

    def of_others(graph, params, data):
        return split(graph, wrong, data)

    monkeypatch.setattr(towers_lib, "split_towers", of_others)
    others = run._replace(params=jax.tree.map(lambda x: x * 2, run.params))
    with pytest.raises(InputError, match="exported query tower is up to .* replaced"):
        writer.write(others, folder, config=writer.Config(batch_size=16))
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert before == after


def test_the_code_for_a_key_value_store_runs_as_it_stands(exported, tmp_path):
    _, folder = exported["dssm_synthetic"]
    code = code_blocks()[1].replace("exported/dssm_synthetic", str(folder))
    printed = alone([], code, tmp_path)
    loaded = reader.load(folder)
    best = np.argsort(-(loaded.item_vectors @ loaded.user_vectors[0]))[:10]
    assert printed.strip() == str([loaded.item_ids.tolist()[row] for row in best])


def test_an_export_between_two_renames_is_still_found(copy):
    folder = copy.with_name("there")
    copy.rename(files.replaced(folder))
    assert files.settled(folder) == files.replaced(folder)
    assert len(reader.load(folder).item_ids)


def test_specified_columns_name_their_vocabulary_and_padding(exported):
    loaded = reader.load(exported["youtubednn_synthetic"][1])
    columns = {c["name"]: c for c in loaded.specification["towers"]["query"]["columns"]}
    history, searched = columns["history"], columns["searched"]
    assert history["shape"] == ["b", 5] and history["dtype"] == "int32"
    assert history["vocabulary"] == "item" and history["padding_side"] == "left"
    assert searched["vocabulary"] == "searched" and searched["padding_side"] == "left"
    assert columns["example_age"]["of"] == "now"
    words = loaded.vocabularies["searched"].ids[:3].tolist()
    codes = loaded.new_columns("query", [{"searched": words}])["searched"]
    assert codes[0, -3:].tolist() == [1, 2, 3] and not codes[0, :-3].any()
