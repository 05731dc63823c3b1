"""What the cells of the grid draw and remember, on one device and on eight. What a step
of each costs and moves is in test_wiring."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_data
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_loop import loop_of, pieces

from recall_jax.data import log, prepare
from recall_jax.data import split as split_lib
from recall_jax.data.sources import synthetic
from recall_jax.losses import candidates, negatives, objective
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import mf
from recall_jax.tables import layout
from recall_jax.training import loop as loop_lib
from recall_jax.training import step as step_lib
from recall_jax.types import InputError

FIXED, WARM = {"correction": "none"}, LossConfig(temperature=0.3)
KINDS = {
    "in_batch": NegativesConfig(),
    "uniform": NegativesConfig(kind="uniform", num=8),
    "popularity": NegativesConfig(kind="popularity", num=8),
    "log_uniform": NegativesConfig(kind="log_uniform", num=8),
    "mixed": NegativesConfig(kind="mixed", num=8),
    "queue": NegativesConfig(kind="queue", num=64),
    "full": NegativesConfig(kind="full", **FIXED),
    "hardest": NegativesConfig(kind="uniform", num=16, hardest=4, **FIXED),
    "market": NegativesConfig(kind="none", own="market", market="market"),
    "market_sampled": NegativesConfig(
        kind="none", own="market", market="market", correction="sampled"
    ),
    "uniform_own": NegativesConfig(kind="none", own="uniform"),
    "exposed": NegativesConfig(own="exposed"),
    "exposed_alone": NegativesConfig(kind="none", own="exposed", **FIXED),
    "semi_hard": NegativesConfig(own="semi_hard", ranks=(2, 12)),
    "every_mask": NegativesConfig(mask=("item", "user", "history")),
    "positives": NegativesConfig(kind="uniform", num=8, mask=("item", "positives")),
    "suppressed": NegativesConfig(suppress_positives=0.01, suppress_negatives=0.01),
    "gaps": NegativesConfig(frequency="gaps", hash_width=64),
    "sketch": NegativesConfig(frequency="sketch", hash_width=64),
}
MODEL = mf.Config(width=4)
LOSSES = [name for name in objective.LOSSES if name != "softmax"]
TINY = synthetic.Config(num_users=60, num_items=40, num_events=700, num_markets=4)


@pytest.fixture(scope="module")
def shop():
    """A log with markets and exposures."""
    split = split_lib.by_protocol(TINY.load(), config=TINY)
    return prepare.in_memory(split, history_length=5, min_history=1)


def run_steps(data, config, *, loss=WARM, steps=30, model=MODEL):
    """Losses of steps on one batch, and the last state."""
    optim = step_lib.OptimConfig(learning_rate=0.02)
    step, state, hypers, source = pieces(
        data, negatives=config, loss=loss, optim=optim, model=model
    )
    run, losses = jax.jit(step), []
    for _ in range(steps):
        if state.candidates.index is not None:
            table = layout.whole(state.tables["item"])[1 : data.dataset.num_items + 1]
            state = state._replace(candidates=state.candidates._replace(index=table))
        state, metrics = run(state, hypers, source, jnp.arange(32))
        losses.append(float(metrics["loss"]))
    return losses, state


def drawn(data, config, *, state=None, key=0, size=32):
    """A sample and the batch it is for."""
    source = negatives.make_source(data, config)
    batch = source.dataset.batch(jnp.arange(size))
    memory = state or negatives.init_remembered(
        config, batch_size=size, num_items=data.dataset.num_items, width=4
    )
    query = lambda: jnp.ones((size, 4))
    sample, memory = candidates.draw(
        config, batch, jax.random.key(key), source=source, state=memory, query=query
    )
    return sample, batch, memory


def test_same_market_candidates_are_of_the_positives_market(shop):
    sample, batch, _ = drawn(shop, KINDS["market"])
    market = np.asarray(shop.dataset.item_columns["market"])
    same = market[np.asarray(sample.own)] == market[np.asarray(batch.item)][:, None]
    assert (same | ~np.asarray(sample.own_valid)).all()


def test_uniform_candidates_of_ones_own_are_all_known_items_alike(shop):
    config = NegativesConfig(kind="none", own="uniform", num_own=64)
    ids = np.concatenate(
        [np.asarray(drawn(shop, config, key=key)[0].own).ravel() for key in range(8)]
    )
    known_items = shop.dataset.known_items
    count = np.bincount(ids, minlength=known_items + 1)
    assert len(count) == known_items + 1 and not count[0]
    expected = len(ids) / known_items
    assert (
        np.sum((count[1:] - expected) ** 2 / expected)
        < known_items + 6 * known_items**0.5
    )
    source = negatives.make_source(shop, config)
    np.testing.assert_allclose(
        source.own.log_q[1 : known_items + 1], -np.log(known_items), rtol=1e-5
    )


def test_exposed_candidates_were_shown_to_the_user(shop):
    sample, batch, _ = drawn(shop, KINDS["exposed"])
    offsets = np.asarray(shop.dataset.shown_offsets)
    for own, valid, user in zip(sample.own, sample.own_valid, batch.user):
        here = slice(offsets[user], offsets[user + 1])
        shown = set(np.asarray(shop.dataset.shown_items)[here].tolist())
        assert (set(own.tolist()) <= shown) == bool(valid.all()) == bool(shown)


def test_semi_hard_candidates_lie_between_the_ranks(shop):
    """Of the known items by the index as it was refreshed, the best aside."""
    config = KINDS["semi_hard"]
    rng = np.random.default_rng(0)
    index = rng.normal(size=(shop.dataset.num_items, 4)).astype(np.float32)
    state = negatives.Remembered(index=jnp.asarray(index))
    sample, *_ = drawn(shop, config, state=state)
    score = (index @ np.ones(4))[: shop.dataset.known_items]
    rank = np.argsort(np.argsort(-score))[np.asarray(sample.own) - 1]
    assert rank.min() >= 2 and rank.max() < 12 and len(np.unique(rank)) > 5


def test_a_queue_holds_the_last_batches_and_overwrites_the_oldest(shop):
    config = NegativesConfig(kind="queue", num=10)
    state = negatives.init_remembered(config, batch_size=4, num_items=40, width=2)
    source = negatives.make_source(shop, config)
    seen = []
    for j in range(4):
        batch = source.dataset.batch(jnp.arange(4) + 4 * j)
        vectors = jnp.full((4, 2), float(j))
        sample = candidates.Sample(batch.item, None, batch.weight, None, None, None)
        state = candidates.advance(
            config, state, sample=sample, batch=batch, vectors=vectors
        )
        seen += batch.item.tolist()
        filled = np.asarray(state.queue.item)
        assert (filled > 0).sum() == min(10, len(seen))
        assert sorted(filled[filled > 0].tolist()) == sorted(seen[-10:])
    assert (
        sorted(state.queue.vector[:, 0].tolist()) == [1.0] * 2 + [2.0] * 4 + [3.0] * 4
    )


def test_the_queues_items_stand_against_the_next_batch(shop):
    """The loss grows by what the queue adds, and gives it no gradient."""
    config = NegativesConfig(kind="queue", num=64, correction="none")
    losses, state = run_steps(shop, config, steps=3)
    assert (np.asarray(state.candidates.queue.item) > 0).sum() == 64
    alone, _ = run_steps(shop, NegativesConfig(correction="none"), steps=1)
    np.testing.assert_allclose(losses[0], alone[0], rtol=1e-5)
    assert losses[1] > losses[0]


def test_masks_keep_a_users_items_out_of_his_negatives(shop):
    data = shop.dataset
    for mask in ("history", "positives"):
        config = NegativesConfig(kind="full", mask=("item", mask), **FIXED)
        sample, batch, _ = drawn(shop, config)
        source = negatives.make_source(shop, config)
        rows = candidates.rows_of(config, batch, source=source)
        columns = candidates.columns_of(
            config,
            candidates.Parts(jnp.ones((32, 4)), jnp.ones((data.known_items, 4)), None),
            rows=rows,
            sample=sample,
            batch=batch,
            source=source,
            state=negatives.Remembered(),
        )
        where = np.asarray(candidates.scores.allowed(columns.mask))
        assert not where[:, data.known_items :].any()  # what fills up
        where = where[:, : data.known_items]
        for j in range(32):
            user, at = int(batch.user[j]), int(batch.position[j])
            stop = at if mask == "history" else shop.train_stop[user]
            own = set(shop.items[shop.offsets[user] : stop]) | {int(batch.item[j])}
            masked = set((1 + np.flatnonzero(~where[j])).tolist())
            assert masked == {i for i in own if i <= data.known_items}


def test_a_learned_temperature_moves_stays_inside_and_is_reported(shop):
    loss = LossConfig(temperature=0.011, temperature_kind="learned")
    _, state = run_steps(shop, NegativesConfig(), loss=loss, steps=40)
    learned = float(jnp.exp(state.loss["log_temperature"]))
    assert learned != pytest.approx(0.011) and 0.00999 <= learned <= 10.01
    clamped = objective.clamped({"log_temperature": jnp.float32(-99.0)})
    np.testing.assert_allclose(jnp.exp(clamped["log_temperature"]), 0.01, rtol=1e-5)


def test_a_learned_temperature_follows_its_gradient(shop):
    """A softmax that is too cold for random vectors warms up."""
    loss = LossConfig(temperature=0.05, temperature_kind="learned")
    step, state, hypers, source = pieces(
        shop, negatives=NegativesConfig(), loss=loss, model=MODEL
    )
    state, metrics = jax.jit(step)(state, hypers, source, jnp.arange(32))
    assert metrics["temperature"] == pytest.approx(0.05)
    assert state.loss["log_temperature"] > np.log(0.05)


def test_labels_alone_train_by_their_error(shop):
    split = split_lib.by_protocol(TINY.load(), config=TINY)
    data = prepare.in_memory(
        split,
        history_length=0,
        min_history=0,
        config=log.Config(label="grade"),
    )
    config = NegativesConfig(kind="none", **FIXED)
    loss = LossConfig(name="squared", temperature=1.0)
    model = mf.Config(width=4, normalize="none", biases="both")
    losses, _ = run_steps(data, config, loss=loss, steps=200, model=model)
    labels = np.asarray(data.dataset.example_label[:32])
    np.testing.assert_allclose(losses[0], (labels**2).mean(), rtol=0.2)
    assert losses[-1] < 0.5 * labels.var()


def test_what_negatives_remember_resumes_bit_for_bit(shop, tmp_path):
    """Cut off after a checkpoint in the midst of an epoch, and gone on from it."""
    remembering = NegativesConfig(
        kind="queue", num=64, own="semi_hard", ranks=(2, 12), frequency="gaps"
    )
    config = loop_lib.TrainConfig(
        epochs=2, batch_size=16, scan_steps=4, checkpoint_every=1, patience=9
    )
    changes = {"negatives": remembering, "loss": WARM, "model": MODEL}

    def refresh(state):
        table = layout.whole(state.tables["item"])[1 : shop.dataset.num_items + 1]
        return state._replace(candidates=state.candidates._replace(index=table + 0))

    def whole(folder):
        loop, state = loop_of(shop, folder, config=config, **changes)
        return dataclasses.replace(loop, refresh=refresh, refresh_every=2), state

    loop, state = whole(tmp_path / "one")
    wanted = loop_lib.fit(loop, state).state
    loop, state = whole(tmp_path / "two")
    dispatch, calls = loop_lib._dispatch, []

    def cut_off(*args, **named):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return dispatch(*args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_lib, "_dispatch", cut_off)
        with pytest.raises(KeyboardInterrupt):
            loop_lib.fit(loop, state)
    loop, state = whole(tmp_path / "two")
    got = loop_lib.fit(loop, state).state
    jax.tree.map(np.testing.assert_array_equal, wanted, got)


@pytest.mark.parametrize("name", ["in_batch", "every_mask", "queue", "mixed", "sketch"])
def test_a_step_on_eight_devices_is_that_of_one(shop, name):
    """The batch split over the devices, everything else a copy on each."""
    optim = step_lib.OptimConfig(tables="sgd", learning_rate=0.1)
    step, state, hypers, source = pieces(
        shop, negatives=KINDS[name], optim=optim, model=MODEL
    )
    run, examples = jax.jit(step), jnp.arange(64)
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    split, copied = (
        NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["devices"], [])
    )
    one = run(state, hypers, source, examples)
    eight = run(
        *jax.device_put((state, hypers, source), copied),
        jax.device_put(examples, split),
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "config", "message"),
    [
        ({}, {"kind": "x"}, "unknown --config.negatives.kind 'x'; there are: in_batch"),
        ({}, {"mask": ("item", "x")}, "unknown --config.negatives.mask 'x'"),
        ({}, {"kind": "full"}, "negatives.correction=none"),
        ({}, {"kind": "full", "mask": (), **FIXED}, "count the positive twice"),
        ({}, {"hardest": 3}, "negatives.hardest picks columns by their score"),
        ({}, {"kind": "none", "hardest": 3, **FIXED}, "negatives.kind=none has none"),
        ({}, {"kind": "none"}, "own=none draw nothing.*correction=none"),
        ({}, {"kind": "none", "own": "exposed"}, "not drawn with known chances"),
        ({}, {"kind": "uniform", "num": 4, "hardest": 5, **FIXED}, "more than the"),
        ({}, {"own": "market"}, "name it in negatives.market"),
        ({}, {"own": "semi_hard", "ranks": (5,)}, "must be two ranks"),
        ({}, {"own": "semi_hard", "ranks": (5, 5)}, "must be two ranks"),
        ({}, {"kind": "full", "suppress_negatives": 1e-3, **FIXED}, "draws none"),
        ({}, {"hash_width": 100}, "must be a power of two"),
        ({}, {"hash_width": 1 << 40}, "it must be from 2 to 16777216"),
        ({}, {"kind": "uniform", "frequency": "gaps"}, "negatives.frequency=exact"),
        ({"name": "x"}, {}, "unknown --config.loss.name 'x'; there are: softmax"),
        ({"name": "hinge"}, {}, "means nothing for loss.name=hinge; set .* none"),
        ({"name": "squared"}, {"correction": "log_q"}, "means nothing"),
        ({"name": "bpr"}, {}, "to one of: none, log_q"),
        ({"name": "gbce"}, {"hardest": 3, **FIXED}, "by the rate at which"),
        ({}, {"mask": ()}, "count the positive twice"),
        ({}, {"own": "exposed", "correction": "log_q"}, "positive_excluded"),
        (
            {"temperature_kind": "x"},
            {},
            "temperature_kind 'x'; there are: fixed, learned",
        ),
        (
            {"name": "hinge", "temperature_kind": "learned"},
            FIXED,
            "knows no temperature to learn",
        ),
        (
            {"temperature_kind": "learned", "temperature": 99.0},
            {},
            "between 0.01 and 10.0",
        ),
        ({}, {"kind": "none", **FIXED}, "leaves loss.name=softmax only labels"),
    ],
)
def test_what_means_nothing_is_refused_with_a_remedy(loss, config, message):
    with pytest.raises(InputError, match=message):
        objective.make_objective(LossConfig(**loss), NegativesConfig(**config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"own": "semi_hard", "ranks": (2, 1000)}, "ranks reach to 1000, but only"),
        ({"own": "exposed"}, "has none"),
        ({"own": "market", "market": "tags"}, "one value an item"),
        ({"own": "market", "market": "price"}, "one value an item"),
        ({"own": "market", "market": "x"}, 'no item column "x"'),
    ],
)
def test_what_the_data_lacks_is_named(config, message):
    with pytest.raises(InputError, match=message):
        negatives.make_source(make_data(), NegativesConfig(**config))


def test_a_queue_shorter_than_the_batch_is_refused():
    config = NegativesConfig(kind="queue", num=8)
    with pytest.raises(InputError, match="the 16 examples of a batch; raise it"):
        negatives.init_remembered(config, batch_size=16, num_items=4, width=2)


def test_dropped_columns_do_not_enter_the_queue(shop):
    config = NegativesConfig(kind="queue", num=64, suppress_negatives=1e-3)
    sample, batch, state = drawn(shop, config)
    assert not sample.kept.all()
    vectors = jnp.ones((32, 4))
    state = candidates.advance(
        config, state, sample=sample, batch=batch, vectors=vectors
    )
    queued = np.asarray(state.queue.item)
    assert sorted(queued[queued > 0]) == sorted(np.asarray(batch.item)[sample.kept])


def test_labels_beyond_a_chance_are_refused_by_the_logistic_loss():
    labels = jnp.array([0.0, 4.0])
    objective.check_labels(LossConfig(name="squared"), labels)
    objective.check_labels(LossConfig(name="logistic"), labels / 4)
    with pytest.raises(InputError, match="0 to 4; set loss.name=squared"):
        objective.check_labels(LossConfig(name="logistic"), labels)


def test_hits_masked_under_yis_form_are_advised_against():
    assert "log_q is right on average only" in negatives.advice(
        NegativesConfig(correction="log_q")
    )
    assert not negatives.advice(NegativesConfig(correction="log_q", mask=("user",)))
    assert not negatives.advice(NegativesConfig())
