"""Cold start by hand-made markets, and the loss of a hand-made session."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.common import summary
from recall_jax.data import log as log_lib
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import prepared
from recall_jax.data import split as split_lib
from recall_jax.data.log import Bag, Entities, Interactions
from recall_jax.data.sources import synthetic
from recall_jax.evaluate import encode, measure
from recall_jax.models import airbnb, itemwise
from recall_jax.models.itemwise import PairsConfig
from recall_jax.pairs import corpus as corpus_lib
from recall_jax.pairs import step
from recall_jax.run import data as data_lib
from recall_jax.run import restored as restored_lib
from recall_jax.run.config import Experiment
from recall_jax.tables import layout
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig
from recall_jax.types import InputError

# Raw id: market, type, price bucket, place, training events.
ITEMS = {
    10: ("a", "flat", 1, 0.0, 9),
    11: ("a", "flat", 1, 5.0, 8),
    12: ("a", "flat", 1, 6.0, 7),
    13: ("a", "flat", 1, 7.0, 6),
    14: ("a", "flat", 2, 1.0, 12),
    15: ("a", "house", 1, 2.0, 14),
    20: ("b", "flat", 1, 0.0, 15),
    21: ("b", "house", 1, 0.0, 11),
    90: ("a", "flat", 1, 6.4, 0),  # three of its bucket and more
    91: ("a", "flat", 2, 6.4, 0),  # one of its bucket
    92: ("a", "house", 1, 6.4, 0),  # one of its type
    93: ("a", "tent", 7, 6.4, 0),  # none of its type
    94: ("b", "flat", 1, 6.4, 0),  # two in the whole market
    95: ("c", "flat", 1, 6.4, 0),  # an empty market
}
NAMES = ("market", "type", "price", "place")
COLD = {f"cold_{name}": name for name in ("market", "type", "price")}


def prepare(item, *, time=None, columns=None, events=None) -> prepared.Data:
    """Of rows [users, events] of raw item ids; each user's last two are held out."""
    codes, ids = log_lib.factorize(np.array(item).ravel())
    users, length = np.shape(item)
    time = np.tile(np.arange(length), users) if time is None else np.ravel(time)
    log = Interactions(
        user=np.repeat(np.arange(users, dtype=np.int32), length),
        item=codes,
        users=Entities(np.arange(users)),
        items=Entities(ids, {n: f(ids) for n, f in (columns or {}).items()}),
        time=time,
        events={n: np.ravel(x) for n, x in (events or {}).items()},
        source="a log by hand",
    )
    split = split_lib.by_protocol(log, config=log_lib.Config())
    return prepare_lib.in_memory(split, history_length=2, min_history=0)


@pytest.fixture(scope="module")
def listings() -> prepared.Data:
    """A user for each training event: that, then two held-out events of cold items."""
    cold = [item for item, row in ITEMS.items() if not row[-1]]
    trained = np.repeat(list(ITEMS), [row[-1] for row in ITEMS.values()])
    last = [
        (cold[j % len(cold)], cold[-1 - j % len(cold)]) for j in range(len(trained))
    ]
    columns = {
        name: lambda ids, j=j: np.array([ITEMS[item][j] for item in ids.tolist()])
        for j, name in enumerate(NAMES)
    }
    columns["tags"] = lambda ids: Bag(
        np.full(2 * len(ids), "x"), 2 * np.arange(len(ids) + 1)
    )
    return prepare(np.column_stack([trained, last]), columns=columns)


def filled(data, **changes):
    """Raw id -> vector; of a trained item its own axis, of a cold one noise before."""
    ids = data.vocabularies["item"].ids.tolist()
    axis = {item: j for j, item in enumerate(ITEMS)}
    vectors = np.eye(len(ITEMS), dtype=np.float32)[[axis[item] for item in ids]]
    vectors[data.popularity[1:] == 0] = 0.5
    config = airbnb.Config(**{"normalize": "none", **COLD, **changes})
    all_vectors = np.asarray(config.complete(jnp.asarray(vectors), data))
    trained = data.popularity[1:] > 0
    np.testing.assert_array_equal(all_vectors[trained], vectors[trained])
    return dict(zip(ids, all_vectors, strict=True))


def neighbours(vector) -> list[int]:
    """The items of which a vector is the plain mean."""
    some = np.flatnonzero(vector)
    np.testing.assert_allclose(vector[some], 1 / max(len(some), 1), rtol=1e-6)
    return [list(ITEMS)[j] for j in some]


def test_a_new_item_is_the_mean_of_the_three_most_popular_of_its_kind(listings):
    vectors = filled(listings)
    assert neighbours(vectors[90]) == [10, 11, 12]


def test_without_three_the_price_is_given_up_then_the_type(listings):
    vectors = filled(listings)
    assert neighbours(vectors[91]) == [10, 11, 14]
    assert neighbours(vectors[92]) == neighbours(vectors[93]) == [10, 14, 15]


def test_a_small_market_gives_what_it_has_and_an_empty_one_nothing(listings):
    vectors = filled(listings)
    assert neighbours(vectors[94]) == [20, 21]
    assert neighbours(vectors[95]) == []


def test_with_a_distance_the_nearest_are_taken(listings):
    vectors = filled(listings, cold_distance="place")
    assert neighbours(vectors[90]) == [11, 12, 13]
    assert neighbours(vectors[91]) == [11, 12, 13]
    assert neighbours(vectors[93]) == [11, 12, 13]


def test_fields_that_are_not_named_need_not_agree(listings):
    vectors = filled(listings, cold_type="", cold_price="")
    assert neighbours(vectors[90]) == [10, 14, 15]
    vectors = filled(listings, cold_type="")
    assert neighbours(vectors[90]) == [10, 11, 15]
    untouched = filled(listings, cold_market="")
    np.testing.assert_array_equal(untouched[90], 0.5)


def test_a_new_item_scores_the_mean_of_what_its_neighbours_score(listings):
    """Normalised items too: it is not made as long as they are."""
    vectors = filled(listings, normalize="l2")
    query = np.random.default_rng(0).normal(size=len(ITEMS))
    expected = np.mean([vectors[x] @ query for x in (10, 11, 12)])
    np.testing.assert_allclose(vectors[90] @ query, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"cold_type": "type"}, "name the column of markets in model.cold_market"),
        ({"cold_market": "place"}, "'place' must be a categorical item column"),
        ({"cold_market": "tags"}, "'tags' must be a categorical item column"),
        (COLD | {"cold_distance": "price"}, "'price' must be a dense item column"),
        ({"cold_market": "town"}, 'no item column "town"'),
    ],
)
def test_columns_that_cannot_serve_are_refused(listings, changes, expected):
    with pytest.raises(InputError, match=expected):
        airbnb.Config(**changes).make(listings.schema, nnx.Rngs(0))


# The loss.


def softplus(x: float) -> float:
    return float(np.log1p(np.exp(x)))


def by_hand(model, block, *, config) -> float:
    """The paper's sum over centers l: pairs, the booked item, the market's items."""
    h = np.asarray(layout.whole(model.tables["item"].table[...]), np.float64)
    z = np.asarray(layout.whole(model.tables["context"].table[...]), np.float64)
    total, (num_g, num_t) = 0.0, block.center.shape
    for g, t in np.ndindex(num_g, num_t):
        l = int(block.center[g, t])
        for c in np.flatnonzero(block.pairs[g, t]):
            total += softplus(-z[block.context[g, c]] @ h[l])
            weight = config.num_negatives / block.negative.size
            total += weight * sum(softplus(z[n] @ h[l]) for n in block.negative[0])
        if l and (b := int(block.booked[g, t])) not in (0, l):
            total += config.global_context * softplus(-z[b] @ h[l])
        for m, in_market in zip(block.market[g, t], block.in_market[g, t]):
            if l and in_market and m != l:
                total += config.market_weight * softplus(z[m] @ h[l])
    return total


def tiny(data, **changes):
    """A model with tables of size 1, and its settings."""
    config = airbnb.Config(width=3, init_scale=1.0)
    config.pairs = dataclasses.replace(
        config.pairs, num_negatives=3, num_market=2, market_weight=0.7, **changes
    )
    model, _ = config.make(data.schema, nnx.Rngs(0))
    return model, config.pairs


def loss_of(model, config, block):
    targets = [block.context.ravel(), block.negative.ravel()]
    targets += [x.ravel() for x in (block.booked, block.market) if x is not None]
    columns = {"item": block.center, "context": jnp.concatenate(targets)}
    return step.total_loss(config, model, columns, block=block)


def hand_made_block() -> corpus_lib.Block:
    """A booked session 1 2 3 -> 4, of which the block holds its first three and padding;
    and an exploratory one, 5 6 beside 7, with a market of its own."""
    return corpus_lib.Block(
        center=jnp.array([[1, 2, 3, 0], [5, 6, 4, 7]]),
        context=jnp.array([[1, 2, 3, 4, 0], [5, 6, 4, 7, 1]]),
        pairs=jnp.zeros((2, 4, 5), bool)
        .at[0, 0, 1]
        .set(True)
        .at[0, 2, 3]
        .set(True)
        .at[1, 0, 1]
        .set(True),
        negative=jnp.array([[8, 2, 7, 7]]),
        booked=jnp.array([[4, 4, 4, 0], [0, 0, 4, 0]]),
        market=jnp.array(
            [[[2, 3], [2, 1], [8, 8], [1, 2]], [[6, 7], [5, 7], [1, 1], [0, 0]]]
        ),
        in_market=jnp.ones((2, 4, 2), bool).at[1, 3].set(False),
    )


def test_the_loss_of_a_session_is_the_papers_sum(listings):
    model, config = tiny(listings, market="market", global_context=1.5)
    block = hand_made_block()
    total, count = loss_of(model, config, block)
    np.testing.assert_allclose(total, by_hand(model, block, config=config), rtol=1e-5)
    assert count == 3
    for weights in ({"global_context": 0.0}, {"market_weight": 0.0}):
        other = dataclasses.replace(config, **weights)
        less, _ = loss_of(model, other, block)
        expected = by_hand(model, block, config=other)
        np.testing.assert_allclose(less, expected, rtol=1e-5)
        assert less < total - 1


DAY = 86_400


def test_a_conversion_that_nothing_precedes_trains_nothing_and_stays_finite():
    """Two users buy at once, and come back days later for what is held out."""
    time = [[1, 5 * DAY, 9 * DAY]] * 2
    action = [["buy", "click", "click"], ["buy", "click", "click"]]
    data = prepare([[1, 2, 3], [2, 1, 3]], time=time, events={"action": action})
    model, config = tiny(data, block=4, shared_negatives=4)
    corpus = corpus_lib.make_corpus(data, config)
    assert sorted(np.asarray(corpus.source.booked)) == [1] * 5 + [2] * 5
    rows = jnp.arange(corpus.num_rows) * corpus.span
    block = corpus_lib.draw(config, corpus.source, rows, nnx.Rngs(1)())
    assert block.booked.any() and not block.pairs.any()
    total, count = loss_of(model, config, block)
    assert total == count == 0


def test_every_item_of_a_booked_session_meets_what_it_booked():
    """However far away; items of an exploratory session meet nothing."""
    length, far = 14, 12
    item = [[*range(1, length + 1), 50, 51], [*range(20, 20 + length), 50, 51]]
    time = [[*range(length), 5 * DAY, 9 * DAY]] * 2
    action = np.full((2, length + 2), "click")
    action[0, length - 1] = "buy"
    data = prepare(item, time=time, events={"action": action})
    ids = data.vocabularies["item"].ids.tolist()
    inner = {raw: j + 1 for j, raw in enumerate(ids)}
    _, config = tiny(data, block=4)
    config.sequences = dataclasses.replace(config.sequences, oversample=1)
    corpus = corpus_lib.make_corpus(data, config)
    rows = jnp.arange(corpus.num_rows) * corpus.span
    block = corpus_lib.draw(config, corpus.source, rows, nnx.Rngs(1)())
    met = dict(zip(block.center.ravel().tolist(), block.booked.ravel().tolist()))
    assert far > config.window
    assert {met[inner[x]] for x in range(1, length + 1)} == {inner[length]}
    assert {met[inner[x]] for x in range(20, 20 + length)} == {0}


@pytest.mark.slow
def test_a_run_finds_new_items_and_tells_what_was_booked(tmp_path, capsys):
    """Without cold start their vectors are zero and nobody finds them."""
    experiment = Experiment(
        name="airbnb",
        data=synthetic.Config(
            num_users=80, num_items=60, num_events=900, num_markets=4, hidden_share=0.2
        ),
        model=airbnb.Config(
            width=8,
            history_length=5,
            cold_market="market",
            pairs=PairsConfig(
                global_context=1.0,
                market="market",
                sequences=itemwise.SequencesConfig(cut="session", conversions=("buy",)),
            ),
        ),
        optim=OptimConfig(learning_rate=0.1, tables="rowwise_adagrad"),
        train=TrainConfig(epochs=20, batch_size=4),
        evaluate=measure.EvaluateConfig(indexes=()),
    )
    results = summary.train(experiment, tmp_path / "cold")
    figures = results["conversions"]
    assert figures["conversions"] > 10 and figures["ordered"]
    assert 0 <= figures["all"]["rank_in_market"] <= 1
    assert f"booked     {figures['conversions']} conversions" in capsys.readouterr().out
    rows = results["segments"]["popularity"]["new"]["rows"]
    chance = rows["chance"]["recall@20"]
    assert rows["test"]["recall@20"] > 1.3 * chance
    data = data_lib.read(experiment).data
    restored = restored_lib.restore(experiment, data, tmp_path / "cold")[:2]
    vectors = encode.encode_items(*restored, data=data, batch_size=64)
    new = np.asarray(vectors)[data.dataset.known_items :]
    assert len(new) and new.any(axis=1).all(), "restored, it serves them as well"
    experiment.model.cold_market = ""
    results = summary.train(experiment, tmp_path / "zero")
    rows = results["segments"]["popularity"]["new"]["rows"]
    assert rows["test"]["recall@20"] < chance


def test_the_papers_settings_are_the_default():
    config = airbnb.Config().pairs
    assert (config.window, config.global_context, config.market) == (5, 1.0, "")
    assert config.sequences == itemwise.SequencesConfig(
        cut="conversion", gap=1800, conversions=("buy",), oversample=5
    )
