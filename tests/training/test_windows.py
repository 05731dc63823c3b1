"""Training in windows is training in memory: each example once an epoch, whatever
interrupts it, the same step on the same batches, the same figures."""

import collections
import dataclasses
import doctest
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_loop import LOSS, MODEL, assert_same, pieces
from test_prepared import in_memory, on_disk, random_rows, write_shards

from recall_jax.data import prepared
from recall_jax.data.sources import stream
from recall_jax.devices import mesh as mesh_lib
from recall_jax.evaluate import encode, measure
from recall_jax.losses import negatives
from recall_jax.models import item2vec, sequence
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.run import experiment as experiment_lib
from recall_jax.run import open as open_lib
from recall_jax.run import restored as restored_lib
from recall_jax.run.config import Experiment
from recall_jax.training import checkpoint, windows
from recall_jax.training import loop as loop_lib
from recall_jax.training import step as step_lib
from recall_jax.types import InputError

pytest.importorskip("polars", reason="shards are read with polars")

KEY = jax.random.key(4)
NEGATIVES = negatives.NegativesConfig(kind="in_batch", mask=("item", "positives"))
CONFIG = loop_lib.TrainConfig(epochs=2, batch_size=16, scan_steps=4, checkpoint_every=3)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> stream.Config:
    rows = random_rows(events=600, users=40, items=25)
    folder = tmp_path_factory.mktemp("stream") / "log"
    return stream.Config(
        path=write_shards(folder, rows),
        time="ts",
        weight="weight",
        window_examples=150,
        chunk_examples=20,
    )


@pytest.fixture(scope="module")
def streamed(config):
    return on_disk(config)


@pytest.fixture(scope="module")
def resident(config):
    return in_memory(config)


def cut_of(data, *, window=130, chunk=20, config=CONFIG) -> windows.Cut:
    return windows.make_cut(config, data.log, window=window, chunk=chunk)


def numbers(log: prepared.Log, source, rows) -> tuple[np.ndarray, np.ndarray]:
    """Which examples of the whole log these rows are, and whether they count."""
    dataset = source.dataset
    user, position = (
        np.asarray(x)[rows] for x in (dataset.example_user, dataset.example_position)
    )
    place = position - np.asarray(dataset.offsets)[user] - log.min_history
    return log.example_start[user] + place, rows < int(dataset.counted)


def met(
    data, feed: loop_lib.Feed, *, steps: range, plan: loop_lib.Plan
) -> collections.Counter:
    """How often each example is trained on in these steps."""
    seen = collections.Counter()
    portions = feed.portions(steps.start)
    for _ in range(len(steps) // plan.scan):
        number, counts = numbers(data.log, *next(portions))
        assert number.shape == (plan.scan, plan.size)
        seen.update(number[counts].tolist())
    portions.close()
    return seen


def source_of(data):
    return negatives.make_source(data, NEGATIVES)


@settings(deadline=None, max_examples=25)
@given(
    window=st.integers(20, 700),
    chunk=st.integers(1, 200),
    batch=st.sampled_from([4, 12, 60]),
    scan=st.integers(1, 6),
    cut_at=st.integers(0, 1000),
)
def test_an_epoch_meets_each_example_once_wherever_it_goes_on(
    streamed, window, chunk, batch, scan, cut_at
):
    assume(window >= batch)
    config = loop_lib.TrainConfig(epochs=2, batch_size=batch, scan_steps=scan)
    cut = cut_of(streamed, window=window, chunk=chunk, config=config)
    base, plan = source_of(streamed), cut.plan
    every = collections.Counter(range(streamed.num_examples))
    for epoch in range(plan.epochs):
        first = epoch * plan.steps_per_epoch
        last = first + plan.steps_per_epoch
        middle = first + cut_at % plan.dispatches * plan.scan
        seen = collections.Counter()
        feed = windows.feed(base, streamed.log, cut, key=KEY)
        for steps in (range(first, middle), range(middle, last)):
            part = met(streamed, feed, steps=steps, plan=plan)
            assert not part.keys() & seen.keys()
            seen += part
        assert seen == every


def test_an_epoch_is_in_another_order_than_the_one_before_and_the_same_again(streamed):
    cut = cut_of(streamed)
    feed = windows.feed(source_of(streamed), streamed.log, cut, key=KEY)
    other = windows.feed(source_of(streamed), streamed.log, cut, key=jax.random.key(5))

    def orders(feed):
        portions = feed.portions(0)
        return [
            numbers(streamed.log, *next(portions))[0].ravel()
            for _ in range(cut.plan.dispatches * 2)
        ]

    first, again, third = orders(feed), orders(feed), orders(other)
    assert_same(first, again)
    half = len(first) // 2
    assert cut.windows > 2
    assert not np.array_equal(first[0], first[half])
    assert not np.array_equal(first[0], third[0])
    # Neighbours in the log are shuffled among those of many other chunks.
    assert np.abs(np.diff(first[0])).mean() > 20


def test_windows_hold_what_memory_holds(streamed, resident):
    """Every column of every batch, and what the masks read."""
    cut = cut_of(streamed)
    feed = windows.feed(source_of(streamed), streamed.log, cut, key=KEY)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), feed.like)
    portions, filled_up = feed.portions(0), 0
    for _ in range(cut.plan.dispatches):
        source, rows = next(portions)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), source) == shapes
        rows = rows.ravel()
        number, counts = numbers(streamed.log, source, rows)
        window_batch, wanted = (
            source.dataset.batch(rows),
            resident.dataset.batch(number),
        )
        for name, column in window_batch.query.items():
            np.testing.assert_array_equal(column, wanted.query[name])
        np.testing.assert_array_equal(window_batch.item, wanted.item)
        np.testing.assert_array_equal(window_batch.weight, wanted.weight * counts)
        last = [
            data.past(batch.user, data.train_stop[batch.user], length=9)
            for data, batch in (
                (source.dataset, window_batch),
                (resident.dataset, wanted),
            )
        ]
        np.testing.assert_array_equal(*last)
        filled_up += np.count_nonzero(~counts)
    portions.close()
    assert filled_up == cut.slots * cut.windows - streamed.num_examples > 0


def in_the_same_order(streamed, resident, feed: loop_lib.Feed) -> loop_lib.Feed:
    """The batches of a feed out of data in memory: what counts from the first half of
    the examples, what does not from a second one."""
    source, total = source_of(resident), resident.num_examples
    twice = {
        name: jnp.tile(getattr(source.dataset, name), 2)
        for name in ("example_user", "example_position")
    }
    dataset = dataclasses.replace(
        source.dataset, counted=jnp.int32(total), age=None, **twice
    )
    source = source._replace(dataset=dataset)

    def portions(step):
        for window, rows in feed.portions(step):
            number, counts = numbers(streamed.log, window, rows)
            yield source, np.where(counts, number, number + total).astype(np.int32)

    return loop_lib.Feed(source, portions)


def loop_of(data, feed: loop_lib.Feed, folder, plan) -> tuple[loop_lib.Loop, object]:
    step, state, hypers, _ = pieces(data, negatives=NEGATIVES)
    loop = loop_lib.Loop(
        step=step,
        feed=feed,
        span=1,
        hypers=hypers,
        plan=plan,
        config=CONFIG,
        validate=None,
        select_by="",
        workdir=folder,
    )
    return loop, state


def test_trained_in_windows_killed_and_resumed_it_is_the_model_of_memory(
    streamed, resident, tmp_path, monkeypatch
):
    cut = cut_of(streamed)
    feed = windows.feed(source_of(streamed), streamed.log, cut, key=KEY)
    same = in_the_same_order(streamed, resident, feed)
    loop, state = loop_of(streamed, same, tmp_path / "memory", cut.plan)
    wanted = loop_lib.fit(loop, state)

    trained = {}  # by step; what is lost with a killed run is forgotten

    def portions(step):
        for lost in [s for s in trained if s >= step]:
            del trained[lost]
        for source, rows in feed.portions(step):
            number, counts = numbers(streamed.log, source, rows)
            trained[step] = number[counts]
            yield source, rows
            step += cut.plan.scan

    counted = loop_lib.Feed(feed.like, portions)
    save, saved = checkpoint.save, []

    def killed(*arguments, **named):
        saved.append(named["step"])
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        loop, state = loop_of(streamed, counted, tmp_path / "disk", cut.plan)
        with pytest.raises(KeyboardInterrupt):
            loop_lib.fit(loop, state)
    assert 0 < saved[0] < saved[1] < cut.plan.steps_per_epoch, "amid an epoch"
    assert saved[0] % cut.steps, "amid a window"
    assert max(trained) > saved[0] and not window_threads()
    loop, state = loop_of(streamed, counted, tmp_path / "disk", cut.plan)
    result = loop_lib.fit(loop, state)
    assert_same(result.state, wanted.state)
    for epoch in range(2):
        steps = [s for s in trained if s // cut.plan.steps_per_epoch == epoch]
        examples = np.concatenate([trained[s] for s in steps])
        assert sorted(examples.tolist()) == [*range(streamed.num_examples)]


def window_threads() -> list:
    return [t for t in threading.enumerate() if t.name.startswith("window")]


def test_what_the_reading_thread_raises_comes_as_it_is_and_the_thread_ends():
    problem = OSError("the disk is gone")

    def make(number):
        if number == 2:
            raise problem
        return number

    portions = windows.ahead(make, range(5))
    assert [next(portions), next(portions)] == [0, 1]
    with pytest.raises(OSError) as raised:
        next(portions)
    assert raised.value is problem and not window_threads()


def test_the_next_window_is_made_while_one_is_used_and_no_more_than_it():
    window_numbers, used = [], []
    ready = threading.Semaphore(0)

    def make(number):
        window_numbers.append(number)
        ready.release()
        return number

    portions = windows.ahead(make, range(9))
    for number in portions:
        used.append(number)
        for _ in range(2 if number == 0 else 1):
            assert ready.acquire(timeout=10)
        assert window_numbers == [*range(number + 2)]
        if number == 3:
            break
    portions.close()
    assert window_numbers == [0, 1, 2, 3, 4] and not window_threads()


EXPERIMENT = functools.partial(
    Experiment,
    name="tiny",
    model=MODEL,
    negatives=NEGATIVES,
    loss=LOSS,
    train=dataclasses.replace(CONFIG, epochs=1),
    evaluate=measure.EvaluateConfig(indexes=(), batch_size=7),
)


def test_figures_are_those_of_memory(config, streamed, resident):
    experiment = EXPERIMENT(data=config)
    measured = []
    for data in (streamed, resident):
        built = build_lib.make(experiment, data, batch_size=16)
        measure.check(experiment.evaluate, data)
        result = measure.measure_model(
            build_lib.make_encoder(experiment, built),
            step_lib.params_of(built.state),
            data=data,
            part=data.test,
            config=experiment.evaluate,
            index="exact",
        )
        measured.append(result)
    np.testing.assert_array_equal(measured[0].ranks, measured[1].ranks)
    np.testing.assert_array_equal(measured[0].lists.ids, measured[1].lists.ids)


@pytest.mark.slow
def test_a_run_on_a_streamed_log_opens_again(config, tmp_path):
    experiment = EXPERIMENT(data=dataclasses.replace(config, measured_users=10))
    data = data_lib.read(experiment).data
    experiment_lib.train_model(experiment, data, tmp_path)
    run = open_lib.open_run(tmp_path).loaded
    assert run.vectors.shape == (25, 4) and len(run.data.test) == 10
    held = prepared.resident(data)
    everybody = prepared.part(data.offsets[2:] - 1, data.offsets[2:])
    encoded = [
        encode.encode_queries(*run.restored[:2], data=x, part=everybody, batch_size=8)
        for x in (data, held)
    ]
    np.testing.assert_array_equal(*encoded)
    served = restored_lib.served(run, tmp_path)
    for user in (1, 25):
        history = served.history(user)[:-1]
        vector = served.encode(user, history, {})
        np.testing.assert_allclose(vector, encoded[0][user - 1], atol=1e-6)


@pytest.mark.slow
def test_eight_devices_train_in_windows_as_one_does(config, tmp_path):
    # Adam's first steps know little but signs, which a rounding may turn.
    optim = step_lib.OptimConfig(tables="sgd", learning_rate=1e-3)
    experiment = EXPERIMENT(data=config, optim=optim)
    data, states = data_lib.read(experiment).data, []
    for number in (1, 8):
        mesh = mesh_lib.make_mesh(jax.devices()[:8]) if number > 1 else None
        with mesh_lib.use(mesh):
            _, fitted = experiment_lib.train_model(
                experiment, data, tmp_path / str(number)
            )
            states.append(jax.device_get(fitted.state))
    assert states[0].step == states[1].step > 8
    for name, table in states[0].tables.items():
        np.testing.assert_allclose(table, states[1].tables[name], atol=1e-5)


def test_models_that_need_the_log_whole_say_so(config):
    for model in (item2vec.Config(), sequence.Config()):
        experiment = Experiment("tiny", data=config, model=model)
        with pytest.raises(InputError, match="takes the log whole.*dssm, youtubednn"):
            data_lib.read(experiment)


def test_few_places_of_a_window_are_filled_up():
    for steps in range(1, 400):
        for about in (1, 7, 50):
            scan, dispatches = windows._equal(steps, about=about)
            assert scan <= about and 0 <= scan * dispatches - steps <= steps * 0.12 + 1
    assert doctest.testmod(windows).attempted and not doctest.testmod(windows).failed


@pytest.mark.parametrize("processes", [2, 3, 40])
def test_a_window_is_the_same_however_many_processes_read_it(streamed, processes):
    """Chunks cut users, whom two processes then both read."""
    cut, log = cut_of(streamed, chunk=7), streamed.log
    assert cut.chunks < 40, "one process of those reads nothing"
    bounds, shapes = cut.bounds(log), set()
    for chunks in windows.chunk_order(cut, seed=(0,)):
        parts = [
            windows.filled_up(
                windows.read(log, bounds, chunks[j::processes]),
                log,
                cut,
                processes=processes,
            )
            for j in range(processes)
        ]
        shapes |= {tuple(x.shape for x in part) for part in parts}
        examples = [set(zip(x.example_user, x.example_place)) for x in parts]
        assert set.intersection(*examples) <= {(0, 0)}, "read twice"
        one, other = (
            windows.lay_out(
                read, cut, num_users=log.num_users, rng=np.random.default_rng(0)
            )
            for read in ([windows.read(log, bounds, chunks)], parts)
        )
        assert_same(one, other)
    assert len(shapes) == 1, "collectives need one shape"


def test_windows_smaller_than_a_batch_are_refused(streamed):
    with pytest.raises(InputError, match="window_examples 10 is less than .* 16"):
        cut_of(streamed, window=10)
