"""An index over several devices answers as a plain argsort, to the last tie."""

import compilations
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshes import mesh_of
from test_search import Tiled, check, excluding, integers

from recall_jax.devices import mesh
from recall_jax.devices import rows as rows_lib
from recall_jax.index import kinds, search, topk
from recall_jax.types import InputError

BUILDERS = {
    "exact": search.Exact.build,
    "tiled": Tiled.build,
    "approx": search.Approx.build,
}


@pytest.fixture(params=BUILDERS.values(), ids=BUILDERS)
def build(request):
    return request.param


@pytest.fixture(params=[2, 8])
def devices(request):
    with mesh.use(mesh_of(request.param)):
        yield request.param


def test_vectors_are_split_and_the_padding_is_never_found(build, devices):
    """Of negative scores that of padding, 0, would be the best."""
    vectors = -1 - np.abs(integers(8 * 5 - 7, 3))
    rows = build(np.float32(vectors)).vectors
    assert rows.num == 33 and len(rows.array.addressable_shards) == devices
    shares = {shard.data.shape for shard in rows.array.addressable_shards}
    assert shares == {(-(-33 // devices), 3)}
    check(build, vectors, np.ones((4, 3)), 33)


def test_k_may_be_more_than_a_device_has(build, devices):
    for k in (1, 6, 40):
        check(build, integers(40, 4), integers(5, 4, seed=1), k)


def test_there_may_be_fewer_vectors_than_devices(build, devices):
    check(build, integers(1, 3), integers(4, 3, seed=1), 1)
    check(build, integers(3, 3), integers(4, 3, seed=1), 3, excluding([1], [], [], [0]))


def test_of_equals_the_lower_rows_come_first(build, devices):
    check(build, np.ones((21, 2)), np.ones((3, 2)), 9)
    zeros = np.zeros((21, 2)) * np.where(np.arange(21) % 2, 1, -1)[:, None]
    check(build, zeros, np.ones((3, 2)), 21)


def test_exclusions_and_filters_find_their_rows(build, devices):
    rng = np.random.default_rng(2)
    rows = [rng.permutation(30)[:count] for count in (0, 1, 29, 30, 7)]
    vectors, queries = integers(30, 4), integers(5, 4, seed=1)
    for allowed in (None, rng.permutation(30)[:11], np.arange(30) % 4 == 3):
        some = allowed if allowed is None else np.arange(30)[allowed]
        for k in (3, 30):
            check(build, vectors, queries, k, excluding(*rows), some)
    nothing = build(np.float32(vectors)).search(
        np.float32(queries[:1]), 4, excluding(range(30))
    )
    assert (nothing.ids == -1).all() and (nothing.scores == -np.inf).all()


@pytest.mark.parametrize("name", BUILDERS)
@settings(max_examples=5, deadline=None)
@given(
    st.sampled_from([2, 4, 8]),
    st.sampled_from([1, 5, 16, 23]),
    st.sampled_from([1, 3, 9, 23]),
    st.integers(0, 10**6),
)
def test_any_shape_equals_argsort(name, devices, n, k, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, n, rng.integers(0, 2 * n)) for _ in range(6)]
    allowed = rng.permutation(n)[: rng.integers(n + 1)] if seed % 2 else None
    vectors, queries = integers(n, 2, seed=seed, largest=2), integers(6, 2, seed=seed)
    with mesh.use(mesh_of(devices)):
        build = BUILDERS[name]
        check(build, vectors, queries, min(k, n), excluding(*rows), allowed)


def test_every_similarity_answers_as_on_one_device(build):
    vectors, queries = (np.random.default_rng(s).normal(size=(50, 8)) for s in (0, 1))
    vectors, queries = np.float32(vectors), np.float32(queries)
    for similarity in ("inner_product", "cosine"):
        one = build(vectors, similarity=similarity).search(queries, 20)
        with mesh.use(mesh_of(8)):
            rows = rows_lib.split_rows(vectors)  # as encoders leave them
            for given_ in (vectors, rows):
                index = build(given_, similarity=similarity)
                result = index.search(queries, 20)
                np.testing.assert_array_equal(result.ids, one.ids)
                np.testing.assert_allclose(result.scores, one.scores, rtol=1e-5)


def test_an_index_searches_where_its_vectors_are(build):
    vectors, queries = np.float32(integers(21, 3)), np.float32(integers(4, 3, seed=1))
    with mesh.use(mesh_of(8)):
        spread = build(vectors)
    one = build(vectors)
    with mesh.use(mesh_of(4)):
        results = spread.search(queries, 21), one.search(queries, 21)
    assert results[0].ids.max() == 20
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_it_is_saved_as_on_one_device(tmp_path, build):
    vectors, queries = np.float32(integers(21, 3)), np.float32(integers(4, 3, seed=1))
    build(vectors).save(tmp_path / "one")
    with mesh.use(mesh_of(8)):
        build(vectors).save(tmp_path / "eight")
        loaded = kinds.load(tmp_path / "one")
        assert loaded.vectors.mesh is not None
        result = loaded.search(queries, 5)
    again = kinds.load(tmp_path / "eight").search(queries, 5)
    jax.tree.map(np.testing.assert_array_equal, result, again)


def test_what_is_no_number_is_an_error_wherever_it_is(build):
    vectors = np.float32(integers(21, 3))
    with mesh.use(mesh_of(8)):
        for row in (0, 20):
            bad = vectors.copy()
            bad[row, 1] = np.nan
            for rows in (bad, rows_lib.split_rows(bad)):
                with pytest.raises(FloatingPointError, match=f"21 vectors.* at {row},"):
                    build(rows)
        # Finite numbers whose products are not.
        vectors[20], queries = (
            [3e38, -3e38, 0],
            np.float32([[1, 0, 1], [3e38, 3e38, 0]]),
        )
        with pytest.raises(FloatingPointError, match="1 of 2 queries, the first at 1"):
            build(vectors).search(queries, 2)
        with pytest.raises(InputError, match="k=22 is not within 1..21"):
            build(vectors).search(queries, 22)


def test_two_searches_are_one_program(monkeypatch, build):
    monkeypatch.setattr(search, "BLOCK_ROWS", 16)
    monkeypatch.setattr(search, "BLOCK_BYTES", 0)
    with mesh.use(mesh_of(8)):
        index = build(np.float32(integers(70, 5)))
        queries = np.float32(integers(50, 5, seed=1))
        index.search(queries, 9)
        with compilations.counted() as seen:
            index.search(queries[:33], 9)
            build(np.float32(integers(70, 5, seed=2))).search(queries, 9)
    assert seen.count == 0


def test_devices_exchange_what_they_found_and_no_vectors():
    with mesh.use(mesh_of(8)):
        rows = rows_lib.split_rows(np.ones((80, 16), np.float32))
        args = np.ones((4, 16), np.float32), (np.zeros(0, np.int32),) * 2
        program = topk.search_devices.lower(
            *mesh.on_each(args),
            rows.array,
            None,
            search=search._by_scores(jax.lax.top_k),
            k=3,
        )
        text = program.compile().as_text()
    moved = [line for line in text.splitlines() if "all-gather(" in line]
    assert len(moved) == 2 and all("[4,24]" in line for line in moved), moved
    assert not any(name in text for name in ("all-to-all(", "collective-permute("))
