import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_data, make_log
from flax import nnx

from recall_jax.data import log as log_lib
from recall_jax.data import prepare, prepared
from recall_jax.data import split as split_lib
from recall_jax.evaluate import baselines
from recall_jax.evaluate import encode as encode_lib
from recall_jax.evaluate import measure as measure_lib
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.index import search
from recall_jax.models import dssm
from recall_jax.models import graph as graph_lib
from recall_jax.types import InputError

CONFIG = EvaluateConfig(
    metrics=("hr@3", "ndcg@3", "recall@5"), select_by="ndcg@3", batch_size=7
)


def search_of(vectors, queries):
    return functools.partial(search.Exact.build(vectors).search, queries)


def measure(data, vectors, queries, *, config=CONFIG):
    return measure_lib.measure_search(
        search_of(vectors, queries), data=data, part=data.test, config=config
    )


def test_metrics_equal_a_ranking_by_hand(data):
    """Full argsort, seen items struck out, the target behind its equals."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(data.dataset.num_items, 4)).astype(np.float32)
    queries = rng.normal(size=(len(data.test), 4)).astype(np.float32)
    result = measure(data, vectors, queries)
    for j, (user, start) in enumerate(
        zip(data.test.user, data.test.start, strict=True)
    ):
        scores = queries[j].astype(np.float64) @ vectors.T.astype(np.float64)
        target = data.items[start] - 1
        scores[data.items[data.offsets[user] : start] - 1] = -np.inf
        rank = int((scores >= scores[target]).sum()) - 1
        hit = rank < 3
        assert result.values["hr@3"][j] == hit
        wanted = 1 / math.log2(rank + 2) if hit else 0.0
        assert result.values["ndcg@3"][j] == pytest.approx(wanted)


def test_a_model_that_scores_everything_alike_gets_nothing():
    """Not 1, as optimistic ties give; not popularity, as ties by item order do."""
    data = make_data(items=60, events=600)
    config = dataclasses.replace(CONFIG, metrics=("hr@25",), select_by="hr@25")
    ones = np.ones((60, 4), np.float32)
    alike = measure(data, ones, ones[: len(data.test)], config=config)
    assert alike.means() == {"hr@25": 0.0}
    popularity = baselines.popularity(data, data.test)
    result = measure_lib.measure_search(
        popularity, data=data, part=data.test, config=config
    )
    assert result.means()["hr@25"] > 0


def test_scores_that_are_not_numbers_are_an_error(data):
    vectors = np.ones((data.dataset.num_items, 4), np.float32)
    queries = np.ones((len(data.test), 4), np.float32)
    queries[1] = np.nan
    with pytest.raises(FloatingPointError, match="1 of 30 queries"):
        measure(data, vectors, queries)


def test_the_catalogue_may_be_a_single_item():
    """Then the target is all there is to find: rank 0, found."""
    log = make_log(users=5, items=1, events=5)
    log = dataclasses.replace(
        log,
        user=np.repeat(np.arange(5, dtype=np.int32), 3),
        item=np.zeros(15, np.int32),
        time=np.arange(15),
    )
    split = split_lib.by_protocol(log, config=log_lib.Config())
    data = prepare.in_memory(split, history_length=2, min_history=0)
    config = dataclasses.replace(CONFIG, metrics=("hr@1",), select_by="hr@1")
    measure_lib.check(config, data)
    ones = np.ones((1, 2), np.float32)
    result = measure(data, ones, np.ones((5, 2), np.float32), config=config)
    assert result.means() == {"hr@1": 1.0}


def test_several_targets_of_a_user_count_once_each():
    log = make_log(users=12, items=30, events=300)
    config = log_lib.Config(protocol="temporal", valid_share=0.2, test_share=0.2)
    data = prepare.in_memory(
        split_lib.by_protocol(log, config=config), history_length=3, min_history=1
    )
    aim = measure_lib.targets(data, data.test, seen=True)
    assert aim.positions.shape[1] > 1
    for j, (start, stop) in enumerate(
        zip(data.test.start, data.test.stop, strict=True)
    ):
        wanted = sorted(set((data.items[start:stop] - 1).tolist()))
        row = aim.positions[j]
        assert sorted(row[row >= 0].tolist()) == wanted
        assert aim.count[j] == len(wanted)
        past = aim.exclude.ids[aim.exclude.offsets[j] : aim.exclude.offsets[j + 1]]
        begin = data.offsets[data.test.user[j]]
        np.testing.assert_array_equal(past, data.items[begin:start] - 1)


def test_a_target_met_twice_counts_once(data):
    """In whatever order; of equals one is left, the rest is padding."""
    user, (start, *_) = data.test.user[:1], data.offsets[data.test.user[:1]]
    items = data.items.copy()
    items[start : start + 5] = [3, 7, 3, 7, 3]
    part = prepared.Part(user, np.array([start]), np.array([start + 5]))
    targets = measure_lib.targets(
        dataclasses.replace(data, items=items), part, seen=False
    )
    assert targets.positions.tolist() == [[6, -1, 2, -1, -1]]
    assert targets.count.tolist() == [2]


def test_what_repeats_is_not_removed():
    log = make_log()
    doubled = dataclasses.replace(
        log,
        user=np.tile(log.user, 2),
        item=np.tile(log.item, 2),
        time=np.concatenate([log.time, log.time + 10**6]),
    )
    split = split_lib.by_protocol(doubled, config=log_lib.Config())
    data = prepare.in_memory(split, history_length=2, min_history=1)
    assert data.repeats and not measure_lib.removes_seen(CONFIG, data)
    with pytest.raises(InputError, match=r"evaluate\.seen=kept"):
        measure_lib.check(dataclasses.replace(CONFIG, seen="removed"), data)


def test_a_target_in_its_own_history_is_a_leak(data):
    items = data.items.copy()
    user = data.test.user[0]
    items[data.test.start[0]] = items[data.offsets[user]]
    leaky = dataclasses.replace(data, items=items)
    with pytest.raises(InputError, match="1 targets stand in their own user's history"):
        measure_lib.check(CONFIG, leaky)


def test_a_target_of_anothers_history_is_no_leak(data):
    """Here each target is in many histories, and in none of its own user."""
    begin, stop = data.offsets[data.test.user], data.test.start
    histories = [data.items[a:b].tolist() for a, b in zip(begin, stop, strict=True)]
    target = data.items[stop].tolist()
    assert all(sum(item in one for one in histories) > 1 for item in target)
    try:
        measure_lib.check_leak(data, data.test, seen=True)
    except InputError as problem:
        pytest.fail(str(problem))


def test_a_target_in_the_training_part_is_a_leak(data):
    user, start, stop = data.valid
    early = prepared.Part(user, start - 1, stop)
    with pytest.raises(InputError, match="a target stands in the training part"):
        measure_lib.check(CONFIG, dataclasses.replace(data, valid=early))


def test_held_out_events_that_train_are_a_leak(data):
    """As an example, and as a count."""
    dataset = data.dataset
    position = dataset.example_position.at[0].set(int(data.test.start[0]))
    user = dataset.example_user.at[0].set(int(data.test.user[0]))
    leaky = dataclasses.replace(dataset, example_user=user, example_position=position)
    with pytest.raises(InputError, match="1 training examples are held out"):
        measure_lib.check(CONFIG, dataclasses.replace(data, dataset=leaky))
    counted = data.popularity.copy()
    counted[data.items[data.test.start[0]]] += 1
    with pytest.raises(InputError, match="popularity counts"):
        measure_lib.check(CONFIG, dataclasses.replace(data, popularity=counted))


def test_a_history_from_the_future_is_a_leak(data):
    times = data.times.copy()
    times[data.test.start[0] - 1] = 10**9
    leaky = dataclasses.replace(data, times=times)
    with pytest.raises(InputError, match="history holds an event after the target"):
        measure_lib.check(CONFIG, leaky)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ("hr@500",), "select_by": "hr@500"}, "k=500.*only 20 items"),
        ({"metrics": ("hitrate@5",)}, "evaluate.metrics: unknown metric"),
        ({"select_by": "mrr@7"}, "select_by"),
        ({"seen": "maybe"}, "auto, removed, kept"),
        ({"indexes": ("faiss",)}, "scann"),
    ],
)
def test_what_would_fail_after_training_fails_before(data, changes, message):
    with pytest.raises(InputError, match=message):
        measure_lib.check(dataclasses.replace(CONFIG, **changes), data)


@pytest.mark.parametrize("index", ["exact", "scann"])
def test_a_model_is_measured_through_every_index_alike(data, index):
    if index == "scann":
        pytest.importorskip("scann", reason="scann is not installed")
    config = dssm.Config(
        history_length=5, id_width=4, width=4, hidden=(), item_hidden=()
    )
    model, tables = config.make(data.schema, nnx.Rngs(0))
    graph, *params = graph_lib.make_graph(model, tables)
    encoder = encode_lib.make_towers(graph)
    result = measure_lib.measure_model(
        encoder,
        params,
        data=data,
        part=data.test,
        config=CONFIG,
        index=index,
    )
    by_hand = measure(
        data,
        np.asarray(model.item(data.dataset.item(jnp.arange(1, 21)))),
        np.asarray(
            model.query(
                data.dataset.query(
                    jnp.asarray(data.test.user), jnp.asarray(data.test.start, jnp.int32)
                )
            )
        ),
    )
    assert result.means() == pytest.approx(by_hand.means())
    low, high = result.intervals()["hr@3"]
    assert low <= result.means()["hr@3"] <= high


def test_users_encoded_in_batches_are_users_encoded_at_once(data):
    """The last batch is padded; padding must not reach a result."""
    config = dssm.Config(history_length=5, id_width=4, width=4)
    model, tables = config.make(data.schema, nnx.Rngs(0))
    graph, *params = graph_lib.make_graph(model, tables)
    encode = functools.partial(
        encode_lib.encode_queries,
        encode_lib.make_towers(graph),
        params,
        data=data,
        part=data.test,
    )
    np.testing.assert_allclose(encode(batch_size=7), encode(batch_size=999), rtol=1e-5)
    assert jax.numpy.isfinite(encode(batch_size=1)).all()


def test_rows_without_columns_are_encoded_in_batches():
    user, history = np.arange(5, dtype=np.int32), np.zeros((5, 0), np.int32)

    def encode(user, history):
        assert history.shape == (2, 0)
        return jnp.stack([user, user], axis=1)

    rows = encode_lib.in_batches(encode, user, history, batch_size=2)
    assert rows.everywhere()[:, 0].tolist() == [0, 1, 2, 3, 4]
