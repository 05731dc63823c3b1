"""Indexes keep ids, order by cosine if asked, and come back from disk as they were."""

import json

import jax
import numpy as np
import pytest
from test_search import BUILDERS, excluding, integers

from recall_jax import files
from recall_jax.index import kinds, scann, search
from recall_jax.types import InputError


@pytest.fixture(params=kinds.INDEXES)
def kind(request):
    if request.param == "scann":
        pytest.importorskip("scann", reason="scann is not installed")
    return request.param


def some(num=40, width=6):
    return np.float32(integers(num, width)), np.float32(integers(5, width, seed=1))


def test_loaded_indexes_answer_as_they_did(tmp_path, kind):
    vectors, queries = some()
    names = np.array([f"item {i}" for i in range(40)])
    for similarity in ("inner_product", "cosine"):
        for ids in (None, names, np.arange(40) * 7):
            built = kinds.INDEXES[kind].build(vectors, ids=ids, similarity=similarity)
            built.save(tmp_path / "index")  # each takes the place of the one before
            loaded = kinds.load(tmp_path / "index")
            assert type(loaded) is kinds.INDEXES[kind]
            assert loaded.similarity == similarity
            for arguments in ((5, None), (40, excluding([1], [], [2, 3], [], [0]))):
                jax.tree.map(
                    np.testing.assert_array_equal,
                    loaded.search(queries, *arguments, np.arange(30)),
                    built.search(queries, *arguments, np.arange(30)),
                )
            if ids is None:
                assert loaded.ids is None
            else:
                np.testing.assert_array_equal(loaded.ids, ids)
    assert [path.name for path in tmp_path.iterdir()] == ["index"], "nothing is left"


def test_a_tree_with_hashing_is_loaded_with_its_settings(tmp_path):
    vectors, queries = some(300)
    built = BUILDERS["scann_forced"](vectors)
    built.save(tmp_path / "index")
    (tmp_path / "index").rename(tmp_path / "moved")
    loaded = kinds.load(tmp_path / "moved")
    assert loaded.settings == built.settings
    np.testing.assert_array_equal(loaded.vectors, vectors)
    exclude = excluding(*[range(200)] * 5)
    jax.tree.map(
        np.testing.assert_array_equal,
        loaded.search(queries, 150, exclude),
        built.search(queries, 150, exclude),
    )


def test_approx_keeps_its_target(tmp_path):
    search.Approx.build(some()[0], recall_target=0.8).save(tmp_path)
    assert kinds.load(tmp_path).recall_target == 0.8
    with pytest.raises(InputError, match="recall_target 0.0 is not between 0 and 1"):
        search.Approx.build(some()[0], recall_target=0.0)


def test_damage_is_an_error_that_names_the_file(tmp_path, kind):
    kinds.INDEXES[kind].build(some()[0], ids=np.arange(40)).save(tmp_path)
    for path in sorted(set(tmp_path.iterdir()) - {tmp_path / "manifest.json"}):
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        for wrong, word in (
            (whole[:-1], f"has {len(whole) - 1} bytes of {len(whole)}"),
            (bytes(flipped), "SHA-256 differs"),
        ):
            path.write_bytes(wrong)
            with pytest.raises(InputError, match=f"{path} .*{word}"):
                kinds.load(tmp_path)
        path.unlink()
        with pytest.raises(InputError, match=f"{path} is missing"):
            kinds.load(tmp_path)
        path.write_bytes(whole)
    kinds.load(tmp_path)
    (tmp_path / "scann_docids.pkl").write_bytes(b"")
    with pytest.raises(InputError, match="scann_docids.pkl is no file of this index"):
        kinds.load(tmp_path)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"format": 1}, "this index has format 1, .* reads format 2"),
        ({"what": "export"}, "holds no index: its manifest.json says 'export'"),
        ({"kind": "hnsw"}, "an index 'hnsw'; there are: exact, approx, scann"),
        ({"kind": None}, "no valid kind"),
        ({"files": {"../a.npy": {"bytes": 1, "sha256": ""}}}, "is no file of it"),
        ({"files": {"/a.npy": {"bytes": 1, "sha256": ""}}}, "is no file of it"),
        ({"files": {"b/a.npy": {"bytes": 1, "sha256": ""}}}, "no file of an index"),
        ({"files": {"a.pkl": {"bytes": 1, "sha256": ""}}}, "no file of an index"),
    ],
)
def test_a_foreign_record_is_an_error(tmp_path, change, word):
    search.Exact.build(some()[0]).save(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=word):
        kinds.load(tmp_path)


def test_what_is_no_index_is_neither_loaded_nor_overwritten(tmp_path):
    with pytest.raises(InputError, match="holds no index"):
        kinds.load(tmp_path / "nowhere")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="something that is no index"):
        search.Exact.build(some()[0]).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "manifest.json").write_text('{"format": "recall')
    with pytest.raises(InputError, match="manifest.json is damaged"):
        kinds.load(tmp_path)
    with pytest.raises(InputError, match="something that is no index"):
        search.Exact.build(some()[0]).save(tmp_path)
    search.Exact.build(some()[0]).save(tmp_path / "b")
    with pytest.raises(InputError, match="holds an index 'exact', not 'approx'"):
        search.Approx.load(tmp_path / "b")


def test_a_link_stays_a_link_and_a_strangers_file_stays(tmp_path):
    (tmp_path / "big").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "big" / "index")
    vectors, queries = some()
    for sign in (1, -1, 1):
        search.Exact.build(sign * vectors).save(link)
        assert link.is_symlink() and kinds.load(link).search(queries, 2)
    assert [path.name for path in (tmp_path / "big").iterdir()] == ["index"]
    (link / "notes.txt").write_text("mine")
    with pytest.raises(
        InputError, match="holds notes.txt, which is no file of the index"
    ):
        search.Exact.build(vectors).save(link)
    assert (link / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("files", [None, [], {"a.npy": 5}, {"a.npy": {"bytes": 1}}])
def test_a_manifest_without_sizes_and_hashes_is_damaged(tmp_path, files):
    search.Exact.build(some()[0]).save(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": files}))
    with pytest.raises(InputError, match="manifest.json is damaged"):
        kinds.load(tmp_path)


def test_an_index_takes_no_exports_place(tmp_path):
    search.Exact.build(some()[0]).save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"what": "export"}))
    with pytest.raises(InputError, match="something that is no index"):
        search.Exact.build(some()[0]).save(tmp_path / "index")


def test_a_save_cut_off_leaves_the_index_that_was_there(tmp_path, monkeypatch):
    vectors, queries = some()
    search.Exact.build(vectors).save(tmp_path)
    wanted = kinds.load(tmp_path).search(queries, 3)

    def cut_off(path, text):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomically", cut_off)
        with pytest.raises(OSError, match="No space"):
            search.Exact.build(-vectors).save(tmp_path)
    result = kinds.load(tmp_path).search(queries, 3)
    jax.tree.map(np.testing.assert_array_equal, result, wanted)
    assert not [*tmp_path.parent.glob(f".{tmp_path.name}.*")]


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_cosine_is_the_inner_product_of_normalised_vectors(build):
    build = getattr(build, "__self__", scann.Scann).build
    rng = np.random.default_rng(3)
    vectors, queries = rng.normal(size=(50, 8)), rng.normal(size=(7, 8))
    vectors *= rng.uniform(0.01, 100, (50, 1))
    cosine = queries @ vectors.T
    cosine /= np.linalg.norm(queries, axis=1)[:, None]
    cosine /= np.linalg.norm(vectors, axis=1)
    vectors, queries = np.float32(vectors), np.float32(queries)
    result = build(vectors, similarity="cosine").search(queries, 50)
    np.testing.assert_array_equal(result.ids, np.argsort(-cosine, axis=1))
    np.testing.assert_allclose(result.scores, -np.sort(-cosine, axis=1), atol=1e-6)
    euclidean = np.linalg.norm(
        queries[:, None] - vectors / np.linalg.norm(vectors, axis=1)[:, None], axis=2
    )
    np.testing.assert_array_equal(result.ids, np.argsort(euclidean, axis=1))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_cosine_of_zero_is_zero_and_lengths_do_not_overflow(kind, scale):
    vectors = np.float32([[0, 0], [3, 4], [-3, -4]]) * np.float32(scale)
    index = kinds.INDEXES[kind].build(vectors, similarity="cosine")
    result = index.search(np.float32([[6, 8], [0, 0]]) * np.float32(scale), 3)
    np.testing.assert_array_equal(result.ids, [[1, 0, 2], [0, 1, 2]])
    np.testing.assert_allclose(result.scores, [[1, 0, -1], [0, 0, 0]], atol=1e-6)


def test_ids_name_what_was_found_and_are_found_again(kind):
    vectors, queries = some()
    ids = np.array([f"item {i}" for i in np.random.default_rng(0).permutation(40)])
    index = kinds.INDEXES[kind].build(vectors, ids=ids)
    allowed = search.rows_of(np.array(["item 3", "item 17"]), ids)
    np.testing.assert_array_equal(ids[allowed], ["item 3", "item 17"])
    result = index.search(queries, 5, excluding([allowed[0]], [], [], [], []), allowed)
    names = search.named(result, index.ids)
    assert names[0].tolist() == ["item 17"]
    assert all(set(row) == {"item 3", "item 17"} for row in names[1:])
    with pytest.raises(InputError, match="1 of 2 ids .* the first 'item 40'"):
        search.rows_of(np.array(["item 3", "item 40"]), ids)


def test_ids_and_similarities_that_do_not_fit_are_errors(kind):
    build, vectors = kinds.INDEXES[kind].build, some()[0]
    for ids in (np.arange(39), np.zeros(40), np.array([None] * 40)):
        with pytest.raises(InputError, match="ids are 40 integers or strings"):
            build(vectors, ids=ids)
    with pytest.raises(InputError, match="ids has 39 repeats"):
        build(vectors, ids=np.zeros(40, int))
    with pytest.raises(InputError, match="unknown similarity 'l2'; there are: inner"):
        build(vectors, similarity="l2")
