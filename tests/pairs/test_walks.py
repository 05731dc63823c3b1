"""Walks follow their edges' weights, node2vec's bias, and end where there is no way on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sampling import assert_follows

from recall_jax.pairs import graph, walks
from recall_jax.types import InputError

# Node 5 goes nowhere, 6 has no edge at all, 4 has a loop, 1 -> 3 has no way back but 2.
EDGES = {
    (1, 2): 3.0,
    (1, 3): 1.0,
    (1, 4): 0.5,
    (2, 1): 1.0,
    (2, 3): 4.0,
    (3, 2): 0.7,
    (3, 4): 1.0,
    (3, 5): 0.3,
    (4, 4): 2.0,
    (4, 1): 2.0,
    (4, 3): 1.0,
}
NODES = 7


def make_graph(edges: dict[tuple[int, int], float] = EDGES) -> graph.ItemGraph:
    source, target = np.array(list(edges)).T
    weight = np.array(list(edges.values()))
    return graph.from_edges(source, target, weight, num_nodes=NODES, self_loops="keep")


def chance_of_next(node: int, before: int | None, *, p: float, q: float) -> np.ndarray:
    """Of each node to follow, by node2vec's definition, [NODES]."""
    chance = np.zeros(NODES)
    for (source, target), weight in EDGES.items():
        if source != node:
            continue
        if before is None:
            bias = 1.0
        elif target == before:
            bias = 1 / p
        elif (before, target) in EDGES:
            bias = 1.0
        else:
            bias = 1 / q
        chance[target] = weight * bias
    return chance / chance.sum()


def counts_of_next(nodes: np.ndarray) -> np.ndarray:
    """How often c follows a and b, [NODES, NODES, NODES] as (a, b, c)."""
    triples = np.stack([nodes[:, :-2], nodes[:, 1:-1], nodes[:, 2:]]).reshape(3, -1)
    return np.bincount(
        np.ravel_multi_index(triples, (NODES,) * 3), minlength=NODES**3
    ).reshape(NODES, NODES, NODES)


def start_of(num: int, *, node: int = 0) -> np.ndarray:
    """`num` starts at a node, or over 1..4 in turn."""
    return (
        np.full(num, node, np.int32) if node else 1 + np.arange(num, dtype=np.int32) % 4
    )


def test_walks_follow_the_weights_of_edges():
    nodes = np.asarray(
        walks.walk(make_graph(), jax.random.key(0), start_of(20_000), length=12)
    )
    assert nodes.dtype == np.int32 and nodes.shape == (20_000, 12)
    np.testing.assert_array_equal(nodes[:, 0], start_of(20_000))
    for before in (None, 1, 2, 3, 4):  # whatever came before
        for node in (1, 2, 3, 4):
            counts = counts_of_next(nodes)[before or slice(None), node]
            counts = counts if before else counts.sum(axis=0)
            if counts.sum():
                chance = chance_of_next(node, None, p=1, q=1)
                assert_follows(counts, chance)


@pytest.mark.parametrize("p, q", [(0.25, 4.0), (4.0, 0.25), (0.5, 0.2), (3.0, 7.0)])
def test_node2vec_follows_its_definition(p, q):
    nodes = walks.walk(
        make_graph(), jax.random.key(1), start_of(20_000), length=12, p=p, q=q
    )
    nodes = np.asarray(nodes)
    counts, checked = counts_of_next(nodes), 0
    for before, node in EDGES:
        if node != 5:
            chance = chance_of_next(node, before, p=p, q=q)
            assert counts[before, node].sum() > 300
            assert_follows(counts[before, node], chance)
            checked += abs(chance - chance_of_next(node, None, p=p, q=q)).max() > 0.02
    assert checked > 5  # pairs where the bias tells
    for node in (1, 2, 3, 4):
        first = np.bincount(nodes[nodes[:, 0] == node, 1], minlength=NODES)
        assert_follows(first, chance_of_next(node, None, p=p, q=q))


def test_node2vec_with_traced_ones_follows_the_weights():
    one = jnp.float32(1.0)
    nodes = walks.walk(
        make_graph(), jax.random.key(2), start_of(20_000), length=8, p=one, q=one
    )
    for node in (1, 2, 3, 4):
        counts = counts_of_next(np.asarray(nodes))[:, node].sum(axis=0)
        assert_follows(counts, chance_of_next(node, None, p=1, q=1))


@pytest.mark.parametrize("bias", [{}, {"p": 0.5, "q": 2.0}])
def test_steps_are_edges_in_their_direction_until_a_dead_end(bias):
    nodes = np.asarray(
        walks.walk(make_graph(), jax.random.key(3), start_of(500), length=20, **bias)
    )
    steps = set(zip(nodes[:, :-1].ravel().tolist(), nodes[:, 1:].ravel().tolist()))
    assert steps == {*EDGES, (5, 0), (0, 0)}
    assert (4, 3) in steps and (5, 3) not in steps  # 3 -> 5 is one-way


@pytest.mark.parametrize("bias", [{}, {"p": 0.5, "q": 2.0}])
def test_a_start_without_edges_walks_alone_and_padding_nowhere(bias):
    start = np.array([6, 5, 0, 1], np.int32)
    nodes = np.asarray(
        walks.walk(make_graph(), jax.random.key(4), start, length=5, **bias)
    )
    np.testing.assert_array_equal(nodes[:3], np.outer([6, 5, 0], [1, 0, 0, 0, 0]))
    assert nodes[3, 1] > 0
    nothing = np.zeros(0, np.int32)
    isolated = graph.from_edges(nothing, nothing, np.zeros(0), num_nodes=NODES)
    nodes = walks.walk(isolated, jax.random.key(5), start, length=3, **bias)
    np.testing.assert_array_equal(nodes, np.outer(start, [1, 0, 0]))


@pytest.mark.parametrize("bias", [{}, {"p": 0.5, "q": 2.0}])
def test_walks_may_have_one_node(bias):
    start = start_of(4)
    nodes = walks.walk(make_graph(), jax.random.key(6), start, length=1, **bias)
    np.testing.assert_array_equal(nodes, start[:, None])


@pytest.mark.parametrize("bias", [{}, {"p": 0.5, "q": 2.0}])
def test_a_key_gives_its_walks_again_and_another_gives_others(bias):
    def nodes(seed):
        start = start_of(64)
        return walks.walk(make_graph(), jax.random.key(seed), start, length=9, **bias)

    np.testing.assert_array_equal(nodes(7), nodes(7))
    assert (np.asarray(nodes(7)) != np.asarray(nodes(8))).mean() > 0.2


def test_walks_of_one_key_are_independent():
    """Two walks from node 1: the pair of their third nodes as often as chance has it."""
    start = start_of(40_000, node=1)
    third = np.asarray(walks.walk(make_graph(), jax.random.key(9), start, length=3))[
        :, 2
    ]
    chance = sum(
        share * chance_of_next(node, None, p=1, q=1)
        for node, share in enumerate(chance_of_next(1, None, p=1, q=1))
        if share
    )
    pair = NODES * third[::2] + third[1::2]
    counts = np.bincount(pair, minlength=NODES**2)
    assert_follows(counts, np.outer(chance, chance).ravel())


def test_a_hub_s_edges_are_taken_by_weight():
    """A hundred thousand of them, beside rows of one."""
    size = 100_000
    weight = np.random.default_rng(0).pareto(1.5, size) + 0.1
    hub, others = np.ones(size, np.int32), np.arange(2, size + 2)
    built = graph.from_edges(
        np.append(hub, others),
        np.append(others, hub),
        np.append(weight, weight),
        num_nodes=size + 2,
    )
    start = start_of(200_000, node=1)
    nodes = np.asarray(walks.walk(built, jax.random.key(10), start, length=3))
    assert (nodes[:, 2] == 1).all()
    order = np.argsort(weight)
    bucket = np.empty(size, int)
    bucket[order] = np.arange(size) // 1000
    share = np.bincount(bucket, weights=weight / weight.sum())
    assert_follows(np.bincount(bucket[nodes[:, 1] - 2], minlength=100), share)
    # And by place, which a coarse draw of the cell would get wrong.
    place = np.arange(size) // 1000
    share = np.bincount(place, weights=weight / weight.sum())
    assert_follows(np.bincount(place[nodes[:, 1] - 2], minlength=100), share)


def test_bits_of_walks_are_even_and_know_nothing_of_each_other():
    bits = np.asarray(walks._bits(jax.random.key(3), (4, 2, 50_000)))
    for shift in (0, 12, 28):
        digit = (bits >> shift) & 15
        assert_follows(np.bincount(digit.ravel(), minlength=16), np.full(16, 1 / 16))
        for one, other in (
            (digit[:, 0], digit[:, 1]),  # cell and coin
            (digit[:-1], digit[1:]),  # steps of a walk
            (digit[..., :-1], digit[..., 1:]),  # walks beside each other
        ):
            both = np.bincount((16 * one + other).ravel(), minlength=256)
            assert_follows(both, np.full(256, 1 / 256))
    other = np.asarray(walks._bits(jax.random.key(4), (4, 2, 50_000)))
    assert np.mean(other == bits) < 1e-4


def test_edges_are_found_as_they_are():
    built = make_graph()
    source, target = np.divmod(np.arange(NODES**2, dtype=np.int32), NODES)
    is_edge = jax.jit(walks.has_edge)(built, jnp.asarray(source), jnp.asarray(target))
    wanted = [(a, b) in EDGES for a, b in zip(source.tolist(), target.tolist())]
    np.testing.assert_array_equal(is_edge, wanted)


def test_other_keys_starts_and_biases_do_not_compile_again():
    built = jax.device_put(make_graph())
    for turn in range(3):
        start, key = start_of(10) + turn, jax.random.key(turn)
        walks.walk(built, key, start, length=7)
        walks.walk(built, key, start, length=7, p=0.5 + turn, q=2.0)
        if not turn:
            sizes = walks.first_order._cache_size(), walks.node2vec._cache_size()
    assert sizes == (walks.first_order._cache_size(), walks.node2vec._cache_size())


def test_ones_take_the_fast_path(monkeypatch):
    monkeypatch.setattr(walks, "node2vec", None)
    walks.walk(make_graph(), jax.random.key(0), start_of(4), length=3, p=1.0, q=1.0)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"length": 0}, "1 or more"),
        ({"p": 0.0}, "p 0.0"),
        ({"q": -1.0}, "q -1.0"),
        ({"q": float("nan")}, "q nan"),
        ({"p": float("inf")}, "p inf"),
    ],
)
def test_what_cannot_walk_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        given = {"length": 3} | given
        walks.walk(make_graph(), jax.random.key(0), start_of(4), **given)


@pytest.mark.parametrize("devices", [1, 2])
def test_high_product_is_the_upper_half_of_the_whole_product(devices):
    rng = np.random.default_rng(0)
    some = rng.integers(0, 2**32, 1001, dtype=np.uint64)
    ends = np.array([0, 1, 0xFFFF, 0x10000, 2**32 - 2, 2**32 - 1], np.uint64)
    a, b = (x.ravel() for x in np.meshgrid(ends, np.concatenate([ends, some])))
    halves = [jnp.asarray(x, jnp.uint32) for x in (a, b)]
    multiply = walks.high_product
    if devices > 1:  # split over them in any way, not only as a step is
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("settings",))
        split = jax.sharding.PartitionSpec("settings")
        multiply = jax.shard_map(multiply, mesh=mesh, in_specs=split, out_specs=split)
    products = jax.jit(multiply)(*halves)
    np.testing.assert_array_equal(products, (a * b) >> np.uint64(32))
