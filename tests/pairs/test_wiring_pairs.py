"""Steps on pairs by hand: what is drawn for them, how often, and what they cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_corpus import _Unused, make_sequences
from test_objective import TINY

from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.models import eges, item2vec
from recall_jax.models.itemwise import PairsConfig
from recall_jax.pairs import corpus, graph
from recall_jax.pairs import step as pairs_step
from recall_jax.tables import layout
from recall_jax.training import step as training_step


@pytest.fixture(scope="module")
def shop():
    """A log with markets."""
    split = split_lib.by_protocol(TINY.load(), config=TINY)
    return prepare.in_memory(split, history_length=5, min_history=1)


def corpus_of(data, config, items, offsets, booked=None):
    """Of sequences that are given, not the log's."""
    count = np.bincount(items, minlength=data.dataset.num_items + 1)[1:]
    source = corpus.PairData(
        data.dataset,
        corpus.sampling.popularity(count, alpha=config.alpha),
        keep=corpus.keep_of(count, threshold=config.subsample),
        market=corpus._markets(config, data, count),
    )
    sequences = make_sequences(np.int32(items), np.array(offsets), booked=booked)
    return corpus.on_sequences(config, source, sequences)


def blocks_of(on, config, *, seed: int = 0):
    """All blocks of an epoch."""
    first = jnp.arange(on.num_rows) * on.span + config.window
    draw = jax.jit(lambda key: corpus.draw(config, on.source, first, key))
    return draw(jax.random.key(seed))


def close(share, chance, *, num) -> None:
    """A share of `num` draws is its chance, within five deviations."""
    chance = np.asarray(chance)
    room = 5 * np.sqrt(chance * (1 - chance) / num) + 1e-9
    assert (np.abs(share - chance) <= room).all(), (share, chance)


def test_windows_of_each_size_up_to_the_largest_are_as_many(shop):
    config = PairsConfig(window=4, block=32)
    on = corpus_of(shop, config, np.tile(np.arange(1, 21), 200), [0, 4000])
    sizes = []
    for pairs in np.asarray(blocks_of(on, config).pairs):
        for at, row in enumerate(pairs):
            left, right = row[at : at + 4][::-1], row[at + 5 : at + 9]
            if row.any() and len(sizes) < 3900:
                sizes.append(int(right.sum()))
                if 4 < len(sizes):  # the first have less on their left
                    assert left.tolist() == right.tolist() == sorted(right)[::-1]
                    assert row.sum() == 2 * sizes[-1] and not row[at + 4]
    share = np.bincount(sizes, minlength=5)[1:] / len(sizes)
    assert len(share) == 4
    close(share, np.full(4, 0.25), num=len(sizes))


def test_sub_sampling_keeps_each_item_by_word2vecs_chance(shop):
    """min(1, sqrt(s/p) + s/p) of tokens, each by its own coin."""
    config = PairsConfig(window=5, window_size="full", block=32, subsample=0.05)
    rng, share = np.random.default_rng(0), np.array([0.6, 0.25, 0.1, 0.04, 0.01])
    items = 1 + rng.choice(5, size=8000, p=share)
    on = corpus_of(shop, config, items, [0, len(items)])
    block = blocks_of(on, config)
    kept = np.asarray(block.pairs).any(axis=2)
    center, count = np.asarray(block.center), np.bincount(items)[1:]
    ratio = 0.05 / (count / count.sum())
    for item, chance in enumerate(np.minimum(1.0, np.sqrt(ratio) + ratio), start=1):
        close(kept[center == item].mean(), chance, num=count[item - 1])


def test_each_step_draws_anew(shop):
    """Windows, negatives and markets; of a state that rests."""
    config = PairsConfig(window=4, block=8, market="market", shared_negatives=9)
    on = corpus_of(shop, config, np.tile(np.arange(1, 21), 20), [0, 400])
    step, state, hypers = step_of(shop, config)
    first = jnp.arange(4) * 8 + 4
    keys = [jax.random.fold_in(jax.random.key(1), at) for at in range(2)]
    draw_keys = [jax.random.split(key)[0] for key in keys]
    one, other = (corpus.draw(config, on.source, first, key) for key in draw_keys)
    for name in ("pairs", "negative", "market"):
        assert not np.array_equal(getattr(one, name), getattr(other, name)), name
    run = jax.jit(step)
    for at, block in enumerate((one, other)):
        now = state._replace(step=jnp.int32(at))
        _, metrics = run(now, hypers, on.source, first)
        wanted, _ = cost(tables_of(state), block, config)
        np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)


def step_of(data, config):
    optim = training_step.OptimConfig(tables="sgd", learning_rate=0.5)
    optimizer = training_step.make_optimizer(optim)
    model = item2vec.Config(width=3, init_scale=0.7, pairs=config)
    built, tables = model.make(data.schema, nnx.Rngs(0))
    graph_, state = training_step.init_state(
        built, tables, optimizer=optimizer, key=jax.random.key(1)
    )
    hypers = training_step.make_hypers(optim, _Unused(), _Unused(), num_steps=10)
    step = pairs_step.make_step(graph_, config=config, optimizer=optimizer)
    return step, state, hypers


def tables_of(state) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(layout.whole(table), np.float64)
        for name, table in state.tables.items()
    }


def sigma(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def cost(tables, block, config) -> tuple[float, dict[str, np.ndarray]]:
    """The mean over pairs, or predictions, and its gradients, term by term."""
    slopes = {name: np.zeros_like(table) for name, table in tables.items()}
    item, context = tables["item"], tables["context"]
    total, count = 0.0, 0
    block = jax.tree.map(np.asarray, block)
    per_group = len(block.center) // len(block.negative)

    def term(hidden, spread, target, *, label: int, weight: float) -> None:
        """-log sigma of +-score; `hidden` is the mean of the rows `spread`."""
        nonlocal total
        sign = 1 if label else -1
        score = hidden @ context[target]
        total += weight * np.logaddexp(0, -sign * score)
        pull = weight * (sigma(score) - label)
        slopes["context"][target] += pull * hidden
        for row in spread:
            slopes["item"][row] += pull * context[target] / len(spread)

    def negatives(hidden, spread, g: int) -> None:
        for id_ in block.negative[g // per_group]:
            weight = config.num_negatives / config.shared_negatives
            term(hidden, spread, id_, label=0, weight=weight)

    for g, t in np.ndindex(block.center.shape):
        center, met = block.center[g, t], block.context[g][block.pairs[g, t]]
        if config.objective == "cbow":
            if len(met):
                count += 1
                term(item[met].mean(0), met, center, label=1, weight=1)
                negatives(item[met].mean(0), met, g)
            continue
        hidden, spread = item[center], [center]
        for id_ in met:
            count += 1
            term(hidden, spread, id_, label=1, weight=1)
            negatives(hidden, spread, g)
        if config.global_context and center and block.booked[g, t] not in (0, center):
            booked = block.booked[g, t]
            term(hidden, spread, booked, label=1, weight=config.global_context)
        if config.market and center:
            for id_, in_market in zip(block.market[g, t], block.in_market[g, t]):
                if in_market and id_ != center:
                    term(hidden, spread, id_, label=0, weight=config.market_weight)
    return total / count, {name: x / count for name, x in slopes.items()}


TERMS = {
    "skipgram": PairsConfig(window=2, block=4, shared_negatives=6, sharing=2),
    "cbow": PairsConfig(
        objective="cbow", window=2, block=4, shared_negatives=6, sharing=1
    ),
    "airbnb": PairsConfig(
        window=2,
        block=4,
        shared_negatives=6,
        sharing=1,
        global_context=0.7,
        market="market",
        num_market=3,
        market_weight=1.3,
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_a_step_is_that_of_its_terms_one_by_one(shop, name):
    config = TERMS[name]
    items = np.random.default_rng(1).integers(1, 21, 30)
    on = corpus_of(
        shop, config, items, [0, 11, 17, 30], booked=[items[4], 0, items[20]]
    )
    step, state, hypers = step_of(shop, config)
    first = jnp.array([2, 8, 17, 30])
    key, _ = jax.random.split(jax.random.fold_in(jax.random.key(1), 0))
    block = corpus.draw(config, on.source, first, key)
    if name == "airbnb":
        check_block(shop, block, items, np.asarray(first))
    before = tables_of(state)
    loss, slopes = cost(before, block, config)
    after, metrics = jax.jit(step)(state, hypers, on.source, first)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    for table, value in tables_of(after).items():
        wanted = before[table] - 0.5 * slopes[table]
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)


def check_block(data, block, items, first) -> None:
    """The booked item is the center's session's, the market's items its market's."""
    place = first[:, None] + np.arange(4)[None, :] - 4  # in the flat items
    booked = np.repeat([items[4], 0, items[20]], [11, 6, 13])
    is_inside = (place >= 0) & (place < 30)
    at = np.clip(place, 0, 29)
    np.testing.assert_array_equal(block.center, np.where(is_inside, items[at], 0))
    np.testing.assert_array_equal(block.booked, np.where(is_inside, booked[at], 0))
    market = np.asarray(data.dataset.item_columns["market"])
    center, drawn = np.asarray(block.center)[..., None], np.asarray(block.market)
    same = (market[drawn] == market[center]) & np.isin(drawn, items)
    assert (same | ~np.asarray(block.in_market)).all()
    assert np.asarray(block.in_market)[is_inside].any()


@pytest.mark.parametrize(
    ("p", "q", "low", "high"), [(1e-3, 1.0, 0.95, 1.0), (1.0, 1e-3, 0.0, 0.05)]
)
def test_walks_go_back_by_p_and_away_by_q(shop, p, q, low, high):
    """On a ring, where a walk can only go back or on."""
    config = PairsConfig(corpus="walks", walk_length=3, p=p, q=q, walks_per_item=9)
    known_items = shop.dataset.known_items
    ring = np.append(np.arange(1, known_items + 1), 1).astype(np.int32)
    built = graph.co_occurrence(
        ring, np.array([0, len(ring)]), num_nodes=shop.dataset.num_items + 1
    )
    source = corpus.PairData(
        shop.dataset,
        corpus.sampling.uniform(shop.dataset.num_items),
        graph=jax.device_put(built),
    )
    first = jnp.arange(known_items * 9) * 3
    walks = np.asarray(corpus.draw(config, source, first, jax.random.key(0)).context)
    assert np.bincount(walks[:, 0])[1:].tolist() == [9] * known_items
    assert low <= (walks[:, 2] == walks[:, 0]).mean() <= high


def test_an_items_fields_are_weighed_by_its_own_numbers(shop):
    """EGES: exp(a) over their sum, of the id and the side information."""
    config = eges.Config(width=3, side=("market",), init_scale=0.7)
    model, _ = config.make(shop.schema, nnx.Rngs(0))
    rng = np.random.default_rng(0)
    weights = model.tables["weights"].table
    weights[...] = jnp.asarray(rng.normal(size=weights.shape), jnp.float32)
    ids = np.array([3, 7, 11])
    columns = shop.dataset.item(jnp.asarray(ids))
    market = np.asarray(columns["market"])
    tables = {
        name: np.asarray(layout.whole(embed.table[...]), np.float64)
        for name, embed in model.tables.items()
    }
    share = np.exp(tables["weights"][ids])
    share /= share.sum(1, keepdims=True)
    wanted = share[:, :1] * tables["item"][ids]
    wanted += share[:, 1:] * tables["market"][market]
    np.testing.assert_allclose(model.item(columns), wanted, rtol=1e-5)


def test_negatives_follow_the_corpus_frequency_to_the_power(shop):
    items = np.repeat(np.arange(1, 6), [81, 16, 16, 1, 1])
    config = dataclasses.replace(PairsConfig(), alpha=0.5, shared_negatives=4000)
    on = corpus_of(shop, config, items, [0, len(items)])
    block = corpus.draw(config, on.source, jnp.arange(8), jax.random.key(0))
    share = np.bincount(np.ravel(block.negative), minlength=6)[1:6] / 4000
    close(share, np.array([9, 4, 4, 1, 1]) / 19, num=4000)
