import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import make_data
from flax import nnx

from recall_jax.models import item2vec
from recall_jax.models.itemwise import PairsConfig
from recall_jax.pairs import corpus as corpus_lib
from recall_jax.pairs import graph, sequences
from recall_jax.pairs import step as pairs_step
from recall_jax.tables import layout
from recall_jax.training import step as training_step
from recall_jax.types import InputError

ITEMS = np.array([1, 2, 3, 4, 5, 6, 7, 8, 1, 2], np.int32)
OFFSETS = np.array([0, 6, 10])


def make_sequences(items=ITEMS, offsets=OFFSETS, booked=None):
    users = np.zeros(len(offsets) - 1, np.int32)
    booked = users if booked is None else np.int32(booked)
    return sequences.Sequences(items, offsets, users, booked, True)


def corpus(config, data, **changes):
    count = np.maximum(data.popularity[1:], 1)
    source = corpus_lib.PairData(
        data.dataset,
        corpus_lib.sampling.popularity(count, alpha=config.alpha),
        keep=corpus_lib.keep_of(count, threshold=config.subsample),
    )
    return corpus_lib.on_sequences(config, source, make_sequences(**changes))


def all_pairs(config, on, *, shift=0, seed=0):
    """Every (center, context) of an epoch, as (place, place) in the flat tokens."""
    first = jnp.arange(on.num_rows) * on.span + shift
    block = corpus_lib.draw(config, on.source, first, jax.random.key(seed))
    place = np.asarray(first)[:, None] + np.arange(block.context.shape[1])
    row, center, context = np.nonzero(np.asarray(block.pairs))
    head = config.block + config.window
    centers = place[row, center + config.window] - head
    contexts = place[row, context] - head
    assert np.array_equal(ITEMS[centers], block.center[row, center])
    assert np.array_equal(ITEMS[contexts], block.context[row, context])
    return list(zip(centers.tolist(), contexts.tolist()))


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("block", [4, 32])
def test_an_epoch_has_every_pair_of_a_full_window_once(shift, block):
    config = PairsConfig(window=2, window_size="full", block=block)
    pairs = all_pairs(config, corpus(config, make_data()), shift=shift)
    ends = np.repeat([0, 1], np.diff(OFFSETS))
    expected = [
        (i, j)
        for i in range(10)
        for j in range(10)
        if 0 < abs(i - j) <= 2 and ends[i] == ends[j]
    ]
    assert sorted(pairs) == expected


@pytest.mark.slow
def test_windows_are_drawn_uniformly_up_to_the_largest():
    config = PairsConfig(window=3, block=32)
    on = corpus(config, make_data())
    counts = np.zeros(4)
    for seed in range(200):
        for center, context in all_pairs(config, on, seed=seed):
            if center == 2 and context > 2:
                counts[context - center] += 1
    # Context j - i stands in the windows of that size or more: 3, 2, 1 of 3.
    np.testing.assert_allclose(counts[1:] / 200, [1, 2 / 3, 1 / 3], atol=0.12)


def test_a_set_meets_all_of_its_sequence_and_nothing_else():
    config = PairsConfig(order="set", window=2, window_size="full", block=32)
    on = corpus(config, make_data())
    met = set()
    for seed in range(60):
        first = jnp.arange(on.num_rows) * on.span
        block = corpus_lib.draw(config, on.source, first, jax.random.key(seed))
        row, center, context = np.nonzero(np.asarray(block.pairs))
        ids = block.center[row, center], block.context[row, context]
        met |= set(zip(*(np.asarray(x).tolist() for x in ids), strict=True))
    one, other = range(1, 7), (7, 8, 1, 2)
    expected = {(i, j) for part in (one, other) for i in part for j in part if i != j}
    assert met == expected


def test_sub_sampling_drops_tokens_and_closes_the_gap():
    data = make_data()
    config = PairsConfig(window=1, window_size="full", block=32, subsample=1.0)
    on = corpus(config, data)
    keep = np.ones(data.dataset.num_items + 1, np.float32)
    keep[3] = 0.0
    on = on._replace(source=on.source._replace(keep=jnp.asarray(keep)))
    pairs = set(all_pairs(config, on))
    assert not any(2 in pair for pair in pairs), "item 3 stands at place 2"
    assert {(1, 3), (3, 1)} <= pairs, "its neighbours are neighbours now"


def test_walks_follow_directed_edges_and_their_pairs_stay_in_a_walk():
    data = make_data()
    config = PairsConfig(
        corpus="walks", walk_length=4, window=3, window_size="full", walks_per_item=2
    )
    on = corpus_lib.make_corpus(data, config)
    assert on.num_rows == 2 * data.dataset.known_items and on.span == 4
    first = jnp.arange(on.num_rows) * on.span + 2
    block = corpus_lib.draw(config, on.source, first, jax.random.key(0))
    starts = np.sort(np.asarray(block.center[:, 0]))
    assert np.array_equal(
        starts, np.repeat(np.arange(1, data.dataset.known_items + 1), 2)
    )
    laid = sequences.make(data, config.sequences)
    built = graph.transitions(
        laid.items, laid.offsets, num_nodes=data.dataset.num_items + 1
    )
    edges = set(zip(built.source.tolist(), np.asarray(built.target).tolist()))
    for walk in np.asarray(block.center).tolist():
        nodes = [node for node in walk if node]
        assert set(itertools.pairwise(nodes)) <= edges
    present = np.asarray(block.center) > 0
    both = present[:, :, None] & present[:, None, :] & ~np.eye(4, dtype=bool)
    assert np.array_equal(block.pairs, both)


def test_a_step_costs_what_its_pairs_cost_and_moves_their_rows_alone():
    data = make_data()
    config = PairsConfig(window=2, window_size="full", block=4, shared_negatives=3)
    on = corpus(config, data)
    optim = training_step.OptimConfig(tables="sgd", learning_rate=0.5)
    optimizer = training_step.make_optimizer(optim)
    model, tables = item2vec.Config(width=3, pairs=config).make(
        data.schema, nnx.Rngs(0)
    )
    graph_, state = training_step.init_state(
        model, tables, optimizer=optimizer, key=jax.random.key(1)
    )
    hypers = training_step.make_hypers(optim, *(_Unused(), _Unused()), num_steps=10)
    example = jnp.array([1, 5])
    draw_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(1), 0))
    block = corpus_lib.draw(config, on.source, example, draw_key)

    def expected(tables):
        lookup = data.dataset.item(block.center)["item"]
        h = tables["item"][lookup][:, :, None]
        z = tables["context"][data.dataset.item(block.context)["item"]][:, None]
        zn = tables["context"][data.dataset.item(block.negative[0])["item"]]
        h, z = jnp.broadcast_arrays(h, z)
        zn = jnp.broadcast_to(zn, (*h.shape[:-1], *zn.shape))
        loss = reference.pair_loss(h, z, zn, negative_weight=5 / 3)
        return jnp.sum(jnp.where(block.pairs, loss, 0)) / block.pairs.sum()

    before = {name: layout.whole(table) for name, table in state.tables.items()}
    loss, gradients = jax.value_and_grad(expected)(before)
    step = pairs_step.make_step(graph_, config=config, optimizer=optimizer)
    after, metrics = jax.jit(step)(state, hypers, on.source, example)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    after = {name: layout.whole(table) for name, table in after.tables.items()}
    for name, table in before.items():
        moved = table - 0.5 * gradients[name]
        np.testing.assert_allclose(after[name], moved, rtol=1e-4, atol=1e-6)
    still = np.setdiff1d(
        np.arange(len(before["item"])), data.dataset.item(block.center)["item"]
    )
    assert np.array_equal(after["item"][still], before["item"][still])


@dataclasses.dataclass
class _Unused:
    """The fields of a loss and of negatives that hypers are made of."""

    temperature: float = 1.0
    margin: float = 0.0
    negative_weight: float = 1.0
    calibration: float = 0.0
    strength: float = 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "glove"}, "unknown --config.model.pairs.objective 'glove'"),
        ({"window": 0}, "model.pairs.window is 0; it must be at least 1"),
        ({"walk_length": 1}, "walk_length is 1; it must be at least 2"),
        ({"corpus": "file"}, "name it with --config.model.pairs.path"),
        ({"corpus": "walks", "global_context": 1.0}, "only model.pairs.corpus=seq"),
        ({"objective": "cbow", "market": "kind"}, "cbow has no terms"),
        ({"q": 0.0}, "q is 0.0; it must be from 0.01 to 100"),
        ({"market": "nothing"}, 'no item column "nothing"'),
    ],
)
def test_what_means_nothing_is_told(changes, message):
    with pytest.raises(InputError, match=message):
        corpus_lib.make_corpus(make_data(), PairsConfig(**changes))


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [({}, "order=set"), ({"corpus": "walks"}, "graph=co_occurrence")],
)
def test_sequences_without_an_order_are_not_taken_for_ordered_ones(
    changes, remedy, monkeypatch
):
    unordered = make_sequences()._replace(ordered=False)
    monkeypatch.setattr(sequences, "make", lambda data, config: unordered)
    with pytest.raises(InputError, match=f"nothing tells the order.*{remedy}"):
        corpus_lib.make_corpus(make_data(), PairsConfig(**changes))


@pytest.mark.parametrize(("blocks", "sharing"), [(8, 3), (8, 8), (7, 2), (1, 16)])
def test_groups_that_share_negatives_are_equal_and_never_larger(blocks, sharing):
    groups = corpus_lib.num_groups(blocks, sharing)
    assert blocks % groups == 0 and blocks // groups <= sharing
    config = PairsConfig(block=4, shared_negatives=3, sharing=sharing)
    on = corpus(config, make_data())
    block = corpus_lib.draw(
        config, on.source, jnp.zeros(blocks, jnp.int32), jax.random.key(0)
    )
    assert block.negative.shape == (groups, 3)
    wanted = {(8, 3): 4, (8, 8): 1, (7, 2): 7, (1, 16): 1}
    assert groups == wanted[blocks, sharing]
