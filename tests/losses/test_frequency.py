import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recall_jax.losses import candidates, frequency, negatives
from recall_jax.types import Batch

ITEMS, STEPS, BATCH = 1000, 20_000, 64
ZIPF = 1 / np.arange(1, ITEMS + 1)
ZIPF /= ZIPF.sum()  # of ids 1..V; b q is 2.1 at id 4
IDS = jnp.arange(1, ITEMS + 1)
WIDE = 1 << 14  # as good as no collisions of all four hashes
SIGMAS = 5.5  # a normal variable exceeds it once in 3e7 times, either side
MAKE = {"gaps": frequency.init_gaps, "sketch": frequency.init_sketch}


def stream(chance, *, steps: int, size: int = BATCH, seed: int = 0) -> np.ndarray:
    """Batches of ids [steps, size], independent."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(chance), (steps, size), p=chance) + 1
    return drawn.astype(np.int32)


@functools.partial(jax.jit, static_argnames="rate")
def follow(state, batches, *, rate: float):
    """The state after all batches."""

    def step(state, ids):
        return state.update(ids, rate=rate), None

    return jax.lax.scan(step, state, batches)[0]


@functools.partial(jax.jit, static_argnames="batch_size")
def log_q_of(state, ids=IDS, *, batch_size: int = BATCH):
    return state.log_q(ids, batch_size=batch_size)


def log_q(state, ids=IDS, **options) -> np.ndarray:
    return np.asarray(log_q_of(state, ids, **options), np.float64)


@pytest.fixture(scope="module")
def zipf():
    return stream(ZIPF, steps=STEPS)


def noise(name: str, *, steps: int, rate: float, chance=ZIPF, size: int = BATCH):
    """Standard error of log q [V] in a stationary stream, to first order.

    Gaps are geometric: the mean of n has the relative variance (1 - p) / n, and a
    moving average is worth n = (2 - rate) / rate of them. The inversion stretches it by
    d log q / d log p. Shares are binomial.
    """
    steps_worth = min(steps, (2 - rate) / rate if rate else steps)
    if name == "sketch":
        return np.sqrt((1 - chance) / (chance * size * steps_worth))
    present = -np.expm1(size * np.log1p(-chance))
    sightings = np.minimum(steps * present, (2 - rate) / rate if rate else np.inf)
    stretch = present / (size * chance * (1 - present)) * (1 - chance)
    return stretch * np.sqrt((1 - present) / sightings)


# Convergence.


@pytest.mark.parametrize("rate", [0.0, 0.01])
@pytest.mark.parametrize("name", ["gaps", "sketch"])
def test_estimates_converge_to_the_frequencies(name, rate, zipf):
    """Items of a standard error below 10% (Gaps: and b q at most about 2) are as far off
    as that says, without bias; a longer stream is nearer where nothing is forgotten."""
    start = MAKE[name](num_hashes=4, width=WIDE)
    error = log_q(follow(start, zipf, rate=rate)) - np.log(ZIPF)
    spread = noise(name, steps=STEPS, rate=rate)
    some = (spread < 0.1) & (ZIPF * BATCH < 2.2 if name == "gaps" else True)
    assert some.sum() > 10
    z, slack = error[some] / spread[some], SIGMAS / np.sqrt(some.sum())
    assert abs(z).max() < SIGMAS
    assert abs(z.mean()) < slack
    assert abs((z**2).mean() - 1) < np.sqrt(2) * slack
    if not rate:
        short = log_q(follow(start, zipf[: STEPS // 20], rate=rate)) - np.log(ZIPF)
        assert (error[some] ** 2).mean() < 0.1 * (short[some] ** 2).mean()


def test_exact_counts_are_the_share_of_the_examples(zipf):
    count = np.bincount(zipf.ravel(), minlength=ITEMS + 1)[1:]
    state = frequency.exact(count)
    np.testing.assert_allclose(log_q(state), np.log(count / count.sum()), rtol=1e-5)
    z = (log_q(state) - np.log(ZIPF)) / noise("sketch", steps=STEPS, rate=0.0)
    assert abs(z).max() < SIGMAS
    assert state.update(IDS, rate=0.1) is state


def test_a_gap_is_inverted_before_it_is_a_share(zipf):
    """Of an item that a batch holds about once, 1/gap/b misses a third."""
    state = follow(frequency.init_gaps(num_hashes=1, width=WIDE), zipf, rate=0.0)
    id_ = 8
    assert ZIPF[id_ - 1] * BATCH == pytest.approx(1, abs=0.1)
    at = frequency.buckets(state.hashes, jnp.array([id_]), width=WIDE)[0, 0]
    naive = 1 / float(state.gap[0, at]) / BATCH
    assert naive / ZIPF[id_ - 1] == pytest.approx((1 - np.exp(-1.07)) / 1.07, rel=0.03)
    assert np.exp(log_q(state)[id_ - 1]) == pytest.approx(ZIPF[id_ - 1], rel=0.05)


def test_gaps_are_clamped_where_every_batch_holds_the_item():
    """b q is 32 and 19: both count as 1 - b^(-1/b), from below."""
    chance = np.array([0.5, 0.3, 0.15, 0.05])
    state = frequency.init_gaps(num_hashes=4, width=WIDE)
    state = follow(state, stream(chance, steps=500), rate=0.01)
    got, clamp = np.exp(log_q(state, IDS[:4])), 1 - BATCH ** (-1 / BATCH)
    np.testing.assert_allclose(got[:2], clamp, rtol=1e-5)
    assert (got < 1.00001 * clamp).all()
    assert clamp < chance[1]


def sightings(id_: int, steps, *, num: int, times: int = 1, size: int = 4):
    """`num` batches of other ids, with `id_` so many `times` in those of `steps`."""
    batches = np.full((num, size), 99, np.int32)
    batches[np.array(steps) - 1, :times] = id_
    return batches


@pytest.mark.parametrize(
    "rate, gap", [(0.0, (2 + 1 + 4) / 3), (0.5, 2.75), (0.4, 0.6 * 1.5 + 0.4 * 4)]
)
def test_gaps_by_hand(rate, gap):
    """Seen at steps 2, 3 and 7: gaps 2, 1, 4; 1/rate of them averaged plainly."""
    state = frequency.init_gaps(num_hashes=2, width=WIDE)
    state = follow(state, sightings(5, [2, 3, 7], num=9), rate=rate)
    got = log_q(state, jnp.array([5]), batch_size=4)
    np.testing.assert_allclose(got, np.log(1 - (1 - 1 / gap) ** (1 / 4)), rtol=1e-5)


@pytest.mark.parametrize("times", [1, 3])
def test_duplicates_within_a_batch_are_one_sighting(times):
    """Gaps of 1, 4 and 3 steps."""
    batches = sightings(5, [1, 5, 8], num=9, times=times)
    state = follow(frequency.init_gaps(num_hashes=2, width=WIDE), batches, rate=0.1)
    got, gap = log_q(state, jnp.array([5]), batch_size=4), (1 + 4 + 3) / 3
    np.testing.assert_allclose(got, np.log(1 - (1 - 1 / gap) ** (1 / 4)), rtol=1e-5)


def test_a_sketch_counts_every_duplicate_and_fades_by_hand():
    state = frequency.init_sketch(num_hashes=2, width=WIDE)
    state = follow(state, np.array([[1, 1, 2], [2, 3, 3]], np.int32), rate=0.25)
    share = np.array([1.5, 1.75, 2.0]) / (0.75 * 3 + 3)
    np.testing.assert_allclose(log_q(state, IDS[:3]), np.log(share), rtol=1e-5)


def test_what_lies_one_over_rate_batches_back_counts_1_e():
    state = frequency.init_sketch(num_hashes=2, width=WIDE)
    state = follow(state, sightings(5, [1, 1001], num=1001), rate=0.001)
    old = follow(state, sightings(6, [1], num=1), rate=0.001)
    first, both = float(old.total), np.exp(log_q(state, jnp.array([5])))[0]
    assert both * float(state.total) == pytest.approx(1 + np.exp(-1), rel=1e-3)
    assert first == pytest.approx(4 * 1000 * (1 - np.exp(-1.002)), rel=1e-2)


# Drift.


@pytest.mark.parametrize(
    "name, rate",
    [("gaps", 0.02), pytest.param("sketch", 0.0005, marks=pytest.mark.slow)],
)
def test_estimates_follow_a_drift(name, rate):
    """Halfway the most frequent and the rarest change places; what forgets nothing
    stays in between."""
    before = 1 / np.arange(1, 101)
    before /= before.sum()
    after, steps, size = before[::-1], 20_000, 8
    halves = [stream(before, steps=steps, size=size, seed=1)]
    halves.append(stream(after, steps=steps, size=size, seed=2))

    def error(state, chance):
        return log_q(state, IDS[:100], batch_size=size) - np.log(chance)

    state = MAKE[name](num_hashes=4, width=WIDE)
    for half, chance in zip(halves, (before, after), strict=True):
        state = follow(state, half, rate=rate)
        spread = noise(name, steps=steps, rate=rate, chance=chance, size=size)
        assert spread.max() < 0.2
        assert (abs(error(state, chance)) < SIGMAS * spread).all()
    plain = MAKE[name](num_hashes=4, width=WIDE)
    plain = follow(plain, np.concatenate(halves), rate=0.0)
    assert error(plain, after)[0] > 2


# Collisions.


def test_two_ids_meet_with_the_chance_stated():
    """At most 2 / width over hash functions, whatever the ids: neighbours, multiples
    of powers of two, any."""
    num, width = 4096, 64
    rng = np.random.default_rng(3)
    ids = np.concatenate(
        [np.arange(1, 41), 2 ** np.arange(6, 31), rng.integers(1, 2**31 - 1, 40)]
    )
    hashes = frequency.make_hashes(num, seed=0)
    at = np.asarray(frequency.buckets(hashes, jnp.asarray(ids), width=width))
    assert (np.unique(at) == np.arange(width)).all()
    meet = np.mean(at[:, :, None] == at[:, None, :], axis=0)[
        ~np.eye(len(ids), dtype=bool)
    ]
    chance = 2 / width
    assert meet.max() < chance + SIGMAS * np.sqrt(chance / num)


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_a_sketch_is_never_below_the_faded_share(rate, zipf):
    """And equal to it where nothing shares a bucket."""
    batches = zipf[:2000]
    age = np.repeat(np.arange(2000)[::-1], BATCH)
    faded = np.bincount(
        batches.ravel(), weights=(1 - rate) ** age, minlength=ITEMS + 1
    )[1:]
    seen = faded > 0
    truth = np.log(faded[seen] / faded.sum())
    for width in (WIDE, 64):
        state = frequency.init_sketch(num_hashes=4, width=width)
        above = log_q(follow(state, batches, rate=rate))[seen] - truth
        assert above.min() > -1e-4
        assert (above.max() < 1e-4) == (width == WIDE)


@pytest.mark.parametrize("num_hashes", [1, 2, 4])
def test_a_sketch_is_seldom_far_above_the_share(num_hashes, zipf):
    """By more than 4 / width with probability at most 2^-hashes; over hash functions."""
    width, ids = 64, zipf[:1000].ravel()
    share = np.bincount(ids, minlength=ITEMS + 1)[1:] / len(ids)
    excess = []
    for seed in range(30):
        state = frequency.init_sketch(num_hashes=num_hashes, width=width, seed=seed)
        state = follow(state, ids[None], rate=0.0)
        excess.append(np.exp(log_q(state)) - share)
    assert np.mean(np.array(excess) > 4 / width) < 2.0**-num_hashes
    assert np.mean(excess) < 2 / width
    assert np.max(excess) > 0.1 / width


def test_gaps_that_share_buckets_are_never_above_the_truth(zipf):
    """So the estimate is never below it, save for sampling noise."""
    for width in (64, 512):
        state = frequency.init_gaps(num_hashes=4, width=width)
        error = log_q(follow(state, zipf, rate=0.0)) - np.log(ZIPF)
        spread = noise("gaps", steps=STEPS, rate=0.0)
        some = (spread < 0.1) & (ZIPF * BATCH < 2.2)
        assert (error > -SIGMAS * spread)[some].all()
        assert error[some].max() > 10 * spread[some].max()


@pytest.mark.parametrize("name", ["gaps", "sketch"])
def test_several_hashes_are_nearer_than_one(name, zipf):
    """On average over hash functions; twice as near, less the sampling noise."""
    error = {1: [], 4: []}
    for num, errors in error.items():
        for seed in range(10):
            state = MAKE[name](num_hashes=num, width=256, seed=seed)
            state = follow(state, zipf[:1000], rate=0.0)
            errors.append(np.sqrt(np.mean((log_q(state) - np.log(ZIPF))[4:200] ** 2)))
    assert np.mean(error[4]) < 0.75 * np.mean(error[1])


# State.


@pytest.mark.parametrize("name", ["gaps", "sketch"])
@pytest.mark.parametrize("steps", [0, 50])
def test_what_was_never_seen_has_a_finite_log_q(name, steps):
    """Gaps: as if its first sighting were due; Sketch: the least q."""
    state = MAKE[name](num_hashes=4, width=WIDE)
    if steps:
        state = follow(state, stream(np.ones(3) / 3, steps=steps), rate=0.01)
    got = log_q(state, jnp.array([0, 5, 2**31 - 1]))
    wanted = np.log(frequency.LEAST_Q)
    if name == "gaps":
        absent = max(1 - 1 / (steps + 1), 1 / BATCH)
        wanted = np.log(1 - absent ** (1 / BATCH))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_an_item_without_counts_has_the_least_exact_q():
    got = log_q(frequency.exact(np.array([3, 0, 1])), jnp.arange(4))
    least = frequency.LEAST_Q
    np.testing.assert_allclose(got, np.log([least, 3 / 4, least, 1 / 4]), rtol=1e-5)


@pytest.mark.parametrize("name", ["gaps", "sketch"])
def test_a_state_may_be_donated_and_two_runs_are_identical(name, zipf):
    """Step by step with donation, or in one scan: the same state to the bit."""

    def start(seed=0):
        return MAKE[name](num_hashes=3, width=128, seed=seed)

    step = jax.jit(lambda state, ids: state.update(ids, rate=0.1), donate_argnums=0)
    state = given = start()
    for ids in zipf[:30]:
        state = step(state, jnp.asarray(ids))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert step._cache_size() == 1
    scanned = follow(start(), zipf[:30], rate=0.1)
    jax.tree.map(np.testing.assert_array_equal, state, scanned)
    other = follow(start(seed=1), zipf[:30], rate=0.1)
    assert (log_q(other) != log_q(state)).any()


@pytest.mark.parametrize("name", ["gaps", "sketch"])
def test_drawing_counts_the_batch_and_columns_take_its_log_q(name, zipf):
    config = negatives.NegativesConfig(
        frequency=name, frequency_rate=0.2, num_hashes=2, hash_width=256
    )
    state = negatives.init_remembered(
        config, batch_size=BATCH, num_items=ITEMS, width=4
    )
    source = negatives.StepData(None)

    @jax.jit
    def draw(state, batch):
        step_inputs = {"source": source, "state": state}
        return candidates.draw(
            config, batch, jax.random.key(0), query=None, **step_inputs
        )

    for ids in zipf[:3]:
        item, ones = jnp.asarray(ids), jnp.ones(BATCH)
        batch = Batch({}, item, item, weight=ones, label=ones, position=item)
        _, state = draw(state, batch)
    wanted = follow(MAKE[name](num_hashes=2, width=256), zipf[:3], rate=0.2)
    jax.tree.map(np.testing.assert_array_equal, state.estimator, wanted)
    step_inputs = {"batch": batch, "source": source, "state": state}
    got = candidates.column_log_q(config, IDS, **step_inputs)
    np.testing.assert_allclose(got, log_q(wanted), rtol=1e-5)
