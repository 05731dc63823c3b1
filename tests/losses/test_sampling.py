import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recall_jax.data.arrays import Events
from recall_jax.losses import candidates, negatives, sampling
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.types import Batch

DRAWS = 200_000
NORMAL = 4.9  # a normal variable exceeds it once in a million times, either side
WEIGHTS = st.lists(
    st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-3, 1e6)),
    min_size=1,
    max_size=60,
).filter(any)


@functools.partial(jax.jit, static_argnames="shape")
def draw(sampler: sampling.Sampler, seed: int, *, shape: tuple[int, ...] = (DRAWS,)):
    return sampler.draw(jax.random.key(seed), shape=shape)


@functools.partial(jax.jit, static_argnames="num")
def draw_like(sampler: sampling.Grouped, seed: int, like, *, num: int):
    return sampler.draw(jax.random.key(seed), like, num=num)


def stated_chance(sampler) -> np.ndarray:
    """exp of the stated log q [V + 1] in float64."""
    return np.exp(np.asarray(sampler.log_q, np.float64))


def chance_of(keep, alias) -> np.ndarray:
    """What an alias table draws, worked out from its cells."""
    keep, alias = np.asarray(keep, np.float64), np.asarray(alias)
    given_away = np.bincount(alias, weights=1 - keep, minlength=len(keep))
    return (keep + given_away) / len(keep)


def assert_follows(drawn: np.ndarray, chance: np.ndarray):
    """Chi-square of counts against chances; a false alarm once in 1e5. What is expected
    less than ten times counts as one cell, what has no chance may not be drawn."""
    chance = np.asarray(chance, np.float64)
    assert chance.sum() == pytest.approx(1, rel=1e-5)
    assert (drawn[chance == 0] == 0).all()
    expected = drawn.sum() * chance
    rare = expected < 10
    drawn = np.append(drawn[~rare], drawn[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    cells = expected > 0
    chi_square = ((drawn - expected)[cells] ** 2 / expected[cells]).sum()
    freedom = max(cells.sum() - 1, 1)
    # The quantile by Wilson and Hilferty (1931).
    spread = 2 / (9 * freedom)
    assert chi_square < freedom * (1 - spread + 4.27 * np.sqrt(spread)) ** 3


# Alias tables.


@settings(max_examples=200, deadline=None)
@given(WEIGHTS)
@example([1.0] * 49)  # 49 times 1/49 is less than 1 in float64
@example([0.0, 0.75, 1.0, 1.0, 1.0])  # the first above the mean is exactly at it
@example([0.5, 2.0, 1.0, 0.5])
@example([0.0, 3.0])
def test_alias_tables_are_exact(weight):
    share = np.array(weight) / np.sum(weight)
    keep, alias = sampling.alias_tables(share, np.array([0, len(share)]))
    assert (keep >= 0).all() and (keep <= 1).all()
    np.testing.assert_allclose(chance_of(keep, alias), share, rtol=0, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.just([]), WEIGHTS), max_size=12))
@example([[], [1.0], [], [1.0, 1.0], [0.0, 3.0], []])
def test_alias_tables_of_many_rows_stay_within_them(rows):
    start = np.cumsum([0, *map(len, rows)])
    keep, alias = sampling.alias_tables(np.concatenate([[], *rows]), start)
    for row, low, high in zip(rows, start, start[1:]):
        chance = chance_of(keep[low:high], alias[low:high] - low)
        share = np.array(row) / np.sum(row)
        np.testing.assert_allclose(chance, share, rtol=0, atol=1e-12)
        assert (keep[low:high][share == 0] == 0).all()


def test_alias_tables_of_a_large_row_beside_small_ones():
    rng = np.random.default_rng(0)
    size = np.array([1, 300_000, 2, 0, 5, 1])
    start = np.append(0, np.cumsum(size))
    weight = rng.pareto(1.0, start[-1]) + 1
    keep, alias = sampling.alias_tables(weight, start)
    row = np.repeat(np.arange(len(size)), size)
    assert (row[alias] == row).all()
    height = keep + np.bincount(alias, weights=1 - keep, minlength=len(keep))
    wanted = weight / (np.bincount(row, weights=weight) / size.clip(1))[row]
    np.testing.assert_allclose(height, wanted, rtol=1e-8)


@settings(max_examples=200, deadline=None)
@given(WEIGHTS)
def test_samplers_keep_their_weights_in_float32(weight):
    """To 1e-6, and exactly 0 where the weight is."""
    sampler = sampling.weighted(np.array(weight))
    chance = chance_of(sampler.keep, np.asarray(sampler.alias) - 1)
    share = np.array(weight) / np.sum(weight)
    np.testing.assert_allclose(chance, share, rtol=0, atol=1e-6)
    stated = stated_chance(sampler)
    np.testing.assert_allclose(stated, np.append(0.0, share), rtol=1e-5)
    assert (chance[share == 0] == 0).all()


@settings(max_examples=100, deadline=None)
@given(WEIGHTS, st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_grouped_tables_keep_their_weights_within_each_group(weight, groups, seed):
    weight = np.array(weight)
    group = np.random.default_rng(seed).integers(0, groups, len(weight))
    sampler = sampling.grouped(weight, group)
    start, item = np.asarray(sampler.start), np.asarray(sampler.item)
    for code in np.unique(group):
        cells = slice(start[code], start[code + 1])
        alias = np.asarray(sampler.alias)[cells] - start[code]
        mine = np.where(group == code, weight, 0.0)
        chance = np.zeros(len(weight))
        if mine.any():
            chance[item[cells] - 1] = chance_of(np.asarray(sampler.keep)[cells], alias)
            mine /= mine.sum()
        np.testing.assert_allclose(chance, mine, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 49, 98, 103, 2000])
def test_a_uniform_catalogue_may_have_any_size(size):
    sampler = sampling.uniform(size)
    np.testing.assert_allclose(
        chance_of(sampler.keep, np.asarray(sampler.alias) - 1), 1 / size
    )


# Samplers.


@pytest.mark.parametrize("size", [10, 200])
@pytest.mark.parametrize("kind", ["uniform", "popularity", "log_uniform"])
def test_frequencies_match_the_stated_log_q(kind, size):
    count = np.ceil(1000 / np.arange(1, size + 1))
    rank = np.arange(1, size + 1)
    sampler, chance = {
        "uniform": (sampling.uniform(size), np.full(size, 1 / size)),
        "popularity": (
            sampling.popularity(count, alpha=0.75),
            count**0.75 / (count**0.75).sum(),
        ),
        "log_uniform": (
            sampling.log_uniform(size),
            np.log((rank + 1) / rank) / np.log(size + 1),
        ),
    }[kind]
    np.testing.assert_allclose(sampler.log_q[1:], np.log(chance), rtol=1e-5)
    ids = np.asarray(draw(sampler, 0))
    assert_follows(np.bincount(ids, minlength=size + 1), stated_chance(sampler))


def test_draws_are_independent():
    """Neighbours in a batch, either way: all pairs as often as chance has it."""
    sampler = sampling.log_uniform(10)
    ids = np.asarray(draw(sampler, 3, shape=(DRAWS // 2, 2))) - 1
    chance = stated_chance(sampler)[1:]
    pair = np.outer(chance, chance).ravel()
    assert_follows(np.bincount(10 * ids[:, 0] + ids[:, 1], minlength=100), pair)
    ids = ids.T.reshape(-1, 2)
    assert_follows(np.bincount(10 * ids[:, 0] + ids[:, 1], minlength=100), pair)


def test_popularity_is_count_to_the_alpha_and_never_the_uncounted():
    sampler = sampling.popularity(np.array([16.0, 1.0, 0.0]), alpha=0.75)
    np.testing.assert_allclose(np.exp(sampler.log_q), [0, 8 / 9, 1 / 9, 0], rtol=1e-6)
    ids = np.asarray(draw(sampler, 1))
    assert set(ids.tolist()) == {1, 2}
    alike = sampling.popularity(np.array([16.0, 1.0, 0.0]), alpha=0.0)
    np.testing.assert_allclose(np.exp(alike.log_q), [0, 1 / 2, 1 / 2, 0], rtol=1e-6)


def test_rare_items_of_a_large_catalogue_are_still_drawn():
    """A float32 cumulative sum would lose the second half of them."""
    sampler = sampling.uniform(2_000_000)
    ids = np.asarray(draw(sampler, 2))
    quarters = np.bincount((ids - 1) // 500_000, minlength=4)
    assert abs(quarters - DRAWS / 4).max() < 5 * np.sqrt(DRAWS * 3 / 16)


def test_log_uniform_tells_late_ids_apart():
    """Beyond float32's resolution: exp of a float32 skips two of three ids here, and
    then those it reaches come up twice too often."""
    size, draws = 2_000_000, 1_000_000
    rank = np.arange(1, size + 1)
    chance = np.log1p(1 / rank) / np.log(size + 1)
    sampler = sampling.log_uniform(size)
    stated = stated_chance(sampler)[1:]
    np.testing.assert_allclose(stated, chance, rtol=1e-5)
    got = chance_of(sampler.keep, np.asarray(sampler.alias) - 1)
    np.testing.assert_allclose(got, chance, rtol=1e-5)
    ids = np.asarray(draw(sampler, 4, shape=(draws,)))
    octaves_and_late = np.append(2.0 ** np.arange(20), np.linspace(2**20, size, 50))
    at = np.searchsorted(octaves_and_late, rank)
    assert_follows(np.bincount(at[ids - 1]), np.bincount(at, weights=chance))
    late = chance[size // 2 :]
    drawn = np.bincount(ids, minlength=size + 1)[size // 2 + 1 :]
    pairs, expected = (drawn * (drawn - 1) // 2).sum(), (late**2).sum() * draws**2 / 2
    assert abs(pairs - expected) < NORMAL * 1.1 * np.sqrt(expected)


# Within a market.


def test_a_market_draws_its_own_items_by_their_weight():
    """Markets lie interleaved; 3 has one item, 1 has two of weight 0 among its five, 2
    nothing that can be drawn; like=0 is padding."""
    group = np.array([0, 1, 3, 1, 0, 2, 1, 1, 0, 1, 2])
    weight = np.array([5.0, 1.0, 2.0, 0.0, 1.0, 0.0, 6.0, 0.0, 0.5, 3.0, 0.0])
    sampler = sampling.grouped(weight, group)
    like = np.array([1, 4, 3, 6, 0, 10, 5, 11], np.int32)
    item, valid = draw_like(sampler, 5, like, num=50_000)
    item, valid = np.asarray(item), np.asarray(valid)
    assert sampler.log_q[0] == -np.inf
    for row, code in enumerate([0, 1, 3, None, None, 1, 0, None]):
        assert (valid[row] == (code is not None)).all()
        if code is None:
            continue
        wanted = np.where(group == code, weight, 0.0) / weight[group == code].sum()
        stated = stated_chance(sampler)[1:]
        np.testing.assert_allclose(stated[group == code], wanted[group == code], 1e-5)
        assert_follows(np.bincount(item[row], minlength=12)[1:], wanted)


def test_large_markets_follow_their_log_q():
    """Twenty Zipf markets of very different sizes, one draw for each of 80 000 items."""
    rng = np.random.default_rng(6)
    group = np.minimum(rng.geometric(0.2, 3000) - 1, 19)
    weight = 1000 / (1 + rng.permutation(3000)) * (rng.random(3000) < 0.9)
    sampler = sampling.grouped(weight, group)
    like = rng.integers(1, 3001, 80_000).astype(np.int32)
    item, valid = map(np.asarray, draw_like(sampler, 7, like, num=3))
    assert valid.all()
    market = group[like - 1][:, None]
    assert (group[item - 1] == market).all()
    share = np.bincount(market.ravel(), minlength=20) / len(like)
    chance = stated_chance(sampler)[1:] * share[group]
    assert_follows(np.bincount(item.ravel(), minlength=3001)[1:], chance)


# Suppression of popular items.


def test_keep_probability_by_hand():
    keep = sampling.keep_probability(np.array([0, 1, 9, 90]), threshold=0.01)
    wanted = [1, 1, 1 / 3 + 1 / 9, 1 / np.sqrt(90) + 1 / 90]
    np.testing.assert_allclose(keep, wanted, rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=20).filter(any),
    st.floats(1e-6, 1.0),
)
def test_keep_probability_falls_with_the_count_and_never_exceeds_1(count, threshold):
    count = np.sort(count)
    keep = sampling.keep_probability(count, threshold=threshold)
    assert (keep > 0).all() and (keep <= 1).all()
    assert (np.diff(keep) <= 0).all()
    assert (keep[count == 0] == 1).all()


ITEMS, KNOWN, THRESHOLD = 20, 18, 0.01
COUNT = np.where(np.arange(ITEMS) < KNOWN, np.ceil(400 / np.arange(1, ITEMS + 1)), 0.0)
SHARE = COUNT / COUNT.sum()
RATIO = THRESHOLD / np.maximum(SHARE, THRESHOLD / 2)
KEEP = np.minimum(1, np.sqrt(RATIO) + RATIO)  # half of the known items are below 1


def source_of(config: NegativesConfig) -> negatives.StepData:
    """Of a log in which item i has COUNT[i - 1] examples, the last two none."""
    nothing = jnp.zeros(2, jnp.int32)
    dataset = Events(
        items=nothing,
        weights=None,
        offsets=nothing,
        example_user=nothing,
        example_position=nothing,
        user_columns={},
        item_columns={},
        item_count=jnp.asarray(np.append(0.0, COUNT), jnp.float32),
        num_items=ITEMS,
        known_items=KNOWN,
        known_users=1,
        history_length=0,
    )
    data = types.SimpleNamespace(dataset=dataset, popularity=np.append(0, COUNT))
    return negatives.make_source(data, config)


def batch_of(item) -> Batch:
    item = jnp.asarray(item, jnp.int32)
    ones = jnp.ones(item.shape)
    return Batch({}, item, item, weight=2.5 * ones, label=ones, position=item)


def draws_of(config: NegativesConfig, *, steps: int, size: int):
    """Batches [steps, b] of items with chance SHARE, the samples of them, the source."""
    source = source_of(config)
    items = np.random.default_rng(8).choice(ITEMS, (steps, size), p=SHARE) + 1

    def sample_of(item, key):
        sample, _ = candidates.draw(
            config,
            batch_of(item),
            key,
            source=source,
            state=negatives.Remembered(),
            query=None,
        )
        return sample

    keys = jax.random.split(jax.random.key(9), steps)
    return (
        items,
        jax.jit(jax.vmap(sample_of))(jnp.asarray(items, jnp.int32), keys),
        source,
    )


def log_q_of(config: NegativesConfig, source, *, size: int) -> np.ndarray:
    """log q of the catalogue as columns of a batch of `size`, float64."""
    log_q = candidates.column_log_q(
        config,
        jnp.arange(1, ITEMS + 1),
        batch=batch_of(np.ones(size)),
        source=source,
        state=negatives.Remembered(),
    )
    return np.asarray(log_q, np.float64)


@pytest.mark.parametrize("kind", ["uniform", "popularity", "log_uniform"])
@pytest.mark.parametrize("threshold", [0.0, THRESHOLD])
def test_drawn_columns_follow_their_log_q_suppressed_or_not(kind, threshold):
    config = NegativesConfig(kind=kind, alpha=0.75, suppress_negatives=threshold)
    source = source_of(config)
    rank = np.arange(1, ITEMS + 1)
    weight = {
        "uniform": np.ones(ITEMS),
        "popularity": COUNT**0.75,
        "log_uniform": np.log((rank + 1) / rank),
    }[kind]
    weight = weight * (COUNT > 0) * (KEEP if threshold else 1.0)
    stated = log_q_of(config, source, size=4)
    np.testing.assert_allclose(np.exp(stated), weight / weight.sum(), rtol=1e-5)
    np.testing.assert_array_equal(stated, source.sampler.log_q[1:])
    ids = np.asarray(draw(source.sampler, 10))
    assert_follows(np.bincount(ids, minlength=ITEMS + 1)[1:], np.exp(stated))


@pytest.mark.parametrize("threshold", [0.0, THRESHOLD])
@pytest.mark.parametrize("kind, num", [("in_batch", 0), ("mixed", 700)])
def test_a_batch_s_columns_follow_their_log_q_suppressed_or_not(kind, num, threshold):
    """Kept columns come up as q keep, beside B' uniform ones as the mixture; what is
    drawn uniformly is not suppressed."""
    config = NegativesConfig(kind=kind, num=num, suppress_negatives=threshold)
    items, sample, source = draws_of(config, steps=200, size=1000)
    chance = 1000 * SHARE * (KEEP if threshold else 1.0) + num * (COUNT > 0) / KNOWN
    chance /= chance.sum()
    stated = np.exp(log_q_of(config, source, size=1000))
    np.testing.assert_allclose(stated[:KNOWN], chance[:KNOWN], rtol=1e-5)
    kept = np.ones(items.shape, bool)
    if threshold:
        kept = np.asarray(sample.kept)
    drawn = np.zeros((len(items), 0), int) if kind == "in_batch" else sample.drawn
    encoded = np.sort(np.asarray(sample.ids), axis=1)
    both = np.concatenate([items, drawn], axis=1)
    np.testing.assert_array_equal(encoded, np.sort(both, axis=1))
    columns = np.concatenate([items[kept], np.ravel(drawn)])
    assert_follows(np.bincount(columns, minlength=ITEMS + 1)[1:], chance)
    np.testing.assert_array_equal(sample.weight, 2.5)


def test_suppressed_positives_keep_their_weight_with_the_keep_probability():
    config = NegativesConfig(suppress_positives=THRESHOLD)
    items, sample, _ = draws_of(config, steps=200, size=1000)
    weight = np.asarray(sample.weight)
    assert set(np.unique(weight)) == {0.0, 2.5}
    assert sample.kept is None
    drawn = np.bincount(items.ravel(), minlength=ITEMS + 1)[1 : KNOWN + 1]
    kept = np.bincount(items[weight > 0], minlength=ITEMS + 1)[1 : KNOWN + 1]
    keep = KEEP[:KNOWN]
    some = keep < 1
    assert 5 < some.sum() < KNOWN
    np.testing.assert_array_equal(kept[~some], drawn[~some])
    spread = np.sqrt(drawn * keep * (1 - keep))[some]
    assert (abs(kept - drawn * keep)[some] < NORMAL * spread).all()


def test_positives_and_columns_are_suppressed_apart():
    """Two coins: the chance to stay both as example and as column is the product."""
    config = NegativesConfig(suppress_positives=0.01, suppress_negatives=0.01)
    items, sample, _ = draws_of(config, steps=200, size=1000)
    popular = items == 1
    both = np.asarray(sample.kept & (sample.weight > 0))[popular].sum()
    n, p = popular.sum(), KEEP[0] ** 2
    assert abs(both - n * p) < NORMAL * np.sqrt(n * p * (1 - p))
