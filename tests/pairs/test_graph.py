"""Graphs of items: what becomes an edge, exact alias tables, the link-prediction split."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.pairs import graph
from recall_jax.types import InputError

NODES = 9


def as_edges(built: graph.ItemGraph) -> dict[tuple[int, int], float]:
    """By (source, target); checks the invariants of a graph on the way."""
    source, target = built.source.tolist(), np.asarray(built.target).tolist()
    pairs = list(zip(source, target, strict=True))
    assert pairs == sorted(set(pairs)) and 0 not in {*source, *target}
    assert built.offsets[0] == 0 and built.offsets[-1] == len(pairs)
    assert built.offsets.dtype == built.target.dtype == np.int32
    assert built.weight.dtype == np.float32 and (built.weight > 0).all()
    return dict(zip(pairs, np.asarray(built.weight).tolist(), strict=True))


def chance_by_cells(built: graph.ItemGraph) -> np.ndarray:
    """Of each edge once at its source, worked out from the alias table alone."""
    keep, alias = built.keep.astype(np.float64), built.alias
    np.testing.assert_array_equal(built.source[alias], built.source)
    np.testing.assert_array_equal(np.asarray(built.target)[alias], built.cells[:, 2])
    np.testing.assert_array_equal(built.target, built.cells[:, 1])
    height = keep + np.bincount(alias, weights=1 - keep, minlength=len(keep))
    return height / np.diff(built.offsets)[built.source]


def chance_by_weight(built: graph.ItemGraph) -> np.ndarray:
    total = np.bincount(built.source, weights=built.weight, minlength=1)
    return built.weight / total[built.source]


RANDOM_EDGES = st.lists(
    st.tuples(
        st.integers(0, NODES - 1),
        st.integers(0, NODES - 1),
        st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-3, 1e6)),
    ),
    max_size=60,
)


def from_list(edges, **how) -> graph.ItemGraph:
    source, target, weight = np.array(edges, np.float64).reshape(-1, 3).T
    return graph.from_edges(
        source.astype(np.int32),
        target.astype(np.int32),
        weight,
        num_nodes=NODES,
        **how,
    )


# Edges.


@settings(max_examples=200, deadline=None)
@given(RANDOM_EDGES, st.sampled_from(["drop", "keep"]))
def test_edges_are_summed_sorted_and_drawn_by_weight(edges, loops):
    built = from_list(edges, self_loops=loops)
    wanted = {}
    for source, target, weight in edges:
        if source and target and weight and (loops == "keep" or source != target):
            wanted[source, target] = wanted.get((source, target), 0.0) + weight
    assert as_edges(built) == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(
        chance_by_cells(built), chance_by_weight(built), rtol=0, atol=2e-7
    )


def test_self_loops_are_left_out_unless_asked_for():
    edges = [(1, 1, 2.0), (1, 2, 1.0)]
    assert as_edges(from_list(edges)) == {(1, 2): 1.0}
    assert as_edges(from_list(edges, self_loops="keep")) == {(1, 1): 2.0, (1, 2): 1.0}


def test_alias_tables_of_a_hub_are_exact(monkeypatch):
    """Beside small rows, in one block of rows and in many."""
    rng = np.random.default_rng(0)
    source = np.append(np.full(50_000, 3), rng.integers(1, 2000, 20_000))
    target = np.append(np.arange(1, 50_001), rng.integers(1, 50_001, 20_000))
    weight = rng.pareto(1.0, len(source)) + 0.01
    built = graph.from_edges(source, target, weight, num_nodes=50_001)
    assert np.diff(built.offsets).max() > 49_990
    wanted = chance_by_weight(built)
    size = np.diff(built.offsets)[built.source]
    # In parts of the row's mean, which rounding to float32 can shift by some.
    error = abs(chance_by_cells(built) - wanted) * size
    assert error.max() < 1e-7 * (wanted * size).max() and np.median(error) < 1e-7
    monkeypatch.setattr(graph, "BLOCK", 1000)
    blocks = graph.from_edges(source, target, weight, num_nodes=50_001)
    np.testing.assert_allclose(
        chance_by_cells(blocks) * size, chance_by_cells(built) * size, rtol=1e-5
    )


def test_a_graph_is_a_pytree():
    built = from_list([(1, 2, 1.0), (2, 3, 4.0)])
    moved = jax.device_put(built)
    assert isinstance(moved.cells, jax.Array) and as_edges(moved) == as_edges(built)
    np.testing.assert_array_equal(moved.alias, built.alias)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf, 1e39])
def test_weights_that_are_none_are_refused(weight):
    with pytest.raises(InputError, match="weigh"):
        from_list([(1, 2, 1.0), (2, 3, weight)])


def test_ids_that_are_none_are_refused():
    one = np.ones(1, np.int32)
    for bad in (np.array([NODES]), np.array([-1])):
        with pytest.raises(InputError, match=r"not within 0\.\.8"):
            graph.from_edges(one, bad, one, num_nodes=NODES)
        with pytest.raises(InputError, match=r"not within 0\.\.8"):
            graph.from_edges(bad, one, one, num_nodes=NODES)
        with pytest.raises(InputError, match=r"not within 0\.\.8"):
            graph.transitions(bad, np.array([0, 1]), num_nodes=NODES)
    with pytest.raises(InputError, match="float64"):
        graph.from_edges(one, np.ones(1), one, num_nodes=NODES)
    with pytest.raises(InputError, match="1 sources, 2 targets"):
        graph.from_edges(one, np.append(one, one), one, num_nodes=NODES)


# Sessions.

SESSIONS = st.lists(st.lists(st.integers(0, NODES - 1), max_size=7), max_size=8)


def flat(sessions: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    items = np.array([item for session in sessions for item in session], np.int32)
    return items, np.cumsum([0, *map(len, sessions)], dtype=np.int64)


@settings(max_examples=200, deadline=None)
@given(SESSIONS)
def test_transitions_count_what_follows_within_a_session(sessions):
    wanted = {}
    for session in sessions:
        for pair in itertools.pairwise(session):
            if 0 not in pair and pair[0] != pair[1]:
                wanted[pair] = wanted.get(pair, 0) + 1
    assert as_edges(graph.transitions(*flat(sessions), num_nodes=NODES)) == wanted


def test_transitions_keep_loops_when_asked():
    built = graph.transitions(*flat([[1, 1, 2]]), num_nodes=NODES, self_loops="keep")
    assert as_edges(built) == {(1, 1): 1.0, (1, 2): 1.0}


@settings(max_examples=200, deadline=None)
@given(SESSIONS, st.integers(2, 8), st.sampled_from([1, 5, 2**24]))
def test_items_of_a_session_occur_together_once(sessions, most, block):
    wanted = {}
    for session in sessions:
        items = {item for item in session[:most] if item}
        for pair in ((a, b) for a in items for b in items if a != b):
            wanted[pair] = wanted.get(pair, 0) + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "BLOCK", block)
        built = graph.co_occurrence(*flat(sessions), num_nodes=NODES, most=most)
    assert as_edges(built) == wanted


@pytest.mark.parametrize("offsets", [[], [0, 1], [1, 3], [0, 2, 1, 3]])
def test_offsets_that_do_not_cut_the_events_are_refused(offsets):
    items = np.array([1, 2, 3], np.int32)
    for make in (graph.transitions, graph.co_occurrence):
        with pytest.raises(InputError, match="offsets do not rise"):
            make(items, np.array(offsets, np.int64), num_nodes=NODES)


def test_sessions_of_one_event_make_no_pair():
    with pytest.raises(InputError, match="2 or more"):
        graph.co_occurrence(*flat([[1, 2]]), num_nodes=NODES, most=1)


# The split for link prediction.


@settings(max_examples=200, deadline=None)
@given(
    RANDOM_EDGES,
    st.sampled_from(["drop", "keep"]),
    st.floats(0.05, 0.95),
    st.integers(0, 99),
)
def test_removed_pairs_are_gone_both_ways(edges, loops, share, seed):
    built = from_list(edges, self_loops=loops)
    rest, removed = graph.split_edges(built, share, seed)
    full, rest = as_edges(built), as_edges(rest)
    pairs = {(min(pair), max(pair)) for pair in full}
    removed = [tuple(pair) for pair in removed.tolist()]
    assert removed == sorted(set(removed)) and set(removed) <= pairs
    assert len(removed) == round(share * len(pairs))
    gone = {*removed, *((b, a) for a, b in removed)}
    assert rest == {pair: full[pair] for pair in full if pair not in gone}


@settings(max_examples=100, deadline=None)
@given(RANDOM_EDGES, st.floats(0.05, 0.95))
def test_removed_edges_may_leave_their_way_back(edges, share):
    built = from_list(edges)
    rest, removed = graph.split_edges(built, share, 0, unit="edge")
    full, rest = as_edges(built), as_edges(rest)
    removed = [tuple(pair) for pair in removed.tolist()]
    assert removed == sorted(set(removed)) and len(removed) == round(share * len(full))
    assert rest == {pair: full[pair] for pair in full if pair not in set(removed)}


def test_splits_are_drawn_anew_by_the_seed_and_again_by_the_same():
    rng = np.random.default_rng(0)
    built = graph.from_edges(
        *rng.integers(1, 100, (2, 900)), np.ones(900), num_nodes=100
    )
    first, again, other = (
        graph.split_edges(built, 1 / 3, seed).removed for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert len(first) == len(other) and not np.array_equal(first, other)
    pairs = np.unique([sorted(pair) for pair in as_edges(built)], axis=0)
    held_out, all_of = (
        np.bincount(ends[:, 0] // 25, minlength=4) for ends in (first, pairs)
    )
    assert (abs(held_out - all_of / 3) < 5 * np.sqrt(all_of * 2 / 9)).all()
    drawn = [graph.random_non_edges(built, 500, seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_words_that_choose_nothing_are_refused():
    """A misspelt unit would leave the way back of an edge held out."""
    with pytest.raises(InputError, match="'pairs' is none of"):
        graph.split_edges(from_list([(1, 2, 1.0)]), 0.5, 0, unit="pairs")
    with pytest.raises(InputError, match="'no' is none of"):
        from_list([(1, 2, 1.0)], self_loops="no")


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, np.nan])
def test_a_share_that_splits_nothing_is_refused(share):
    with pytest.raises(InputError, match="between 0 and 1"):
        graph.split_edges(from_list([(1, 2, 1.0)]), share, 0)


@settings(max_examples=100, deadline=None)
@given(RANDOM_EDGES, st.sampled_from(["drop", "keep"]), st.data())
def test_non_edges_are_pairs_of_connected_nodes_without_an_edge(edges, loops, data):
    built = from_list(edges, self_loops=loops)
    full = as_edges(built)
    nodes = {node for pair in full for node in pair}
    free = {
        (a, b)
        for a in nodes
        for b in nodes
        if a < b and (a, b) not in full and (b, a) not in full
    }
    num = data.draw(st.integers(0, len(free)))
    drawn = [tuple(pair) for pair in graph.random_non_edges(built, num, 0).tolist()]
    assert len(drawn) == num == len(set(drawn)) and set(drawn) <= free
    assert set(map(tuple, graph.random_non_edges(built, len(free), 1).tolist())) == free
    with pytest.raises(InputError, match=f"leave {len(free)}"):
        graph.random_non_edges(built, len(free) + 1, 0)


def test_non_edges_are_uniform():
    """Over the three that a path of four nodes leaves."""
    path = from_list([(1, 2, 9.0), (2, 3, 1.0), (3, 4, 1.0)])
    drawn = np.concatenate(
        [graph.random_non_edges(path, 1, seed) for seed in range(900)]
    )
    _, count = np.unique(drawn, axis=0, return_counts=True)
    assert len(count) == 3 and abs(count - 300).max() < 5 * np.sqrt(200)
