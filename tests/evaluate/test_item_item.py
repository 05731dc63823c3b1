import dataclasses

import numpy as np
import pytest
from conftest import make_data, make_log

from recall_jax.data import log as log_lib
from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.evaluate import baselines, measure
from recall_jax.models import mf
from recall_jax.run import overview
from recall_jax.run import results as run_results
from recall_jax.run.config import Experiment

EVALUATE = measure.EvaluateConfig(
    metrics=("hr@5", "ndcg@5"), select_by="ndcg@5", indexes=()
)


def data_of(kind: str, *, seed: int = 0):
    """A small log: without repeats, with them, or of two parts without an order."""
    log, config = make_log(seed=seed), log_lib.Config()
    if kind == "repeats":
        log = log.select(np.arange(600) % len(log))
    if kind == "given":
        part = (np.arange(len(log)) % 5 == 0).astype(int)
        log = dataclasses.replace(log, events={"part": part})
        config = log_lib.Config(protocol="given", valid_share=0.2)
    split = split_lib.by_protocol(log, config=config)
    return prepare.in_memory(split, history_length=0, min_history=0)


def binary_by_loop(data):
    """X float64 [users, V] of training events."""
    met = np.zeros((len(data.train_stop) - 1, data.dataset.num_items))
    for user in range(1, len(data.train_stop)):
        for at in range(data.offsets[user], data.train_stop[user]):
            met[user - 1, data.items[at] - 1] = 1
    return met


def ease_by_loop(met, *, l2):
    """Each column by least squares on the others, l2 as further rows."""
    size = met.shape[1]
    weights = np.zeros((size, size))
    for j in range(size):
        others = np.delete(np.arange(size), j)
        rows = np.concatenate([met[:, others], np.sqrt(l2) * np.eye(size - 1)])
        wanted = np.concatenate([met[:, j], np.zeros(size - 1)])
        weights[others, j] = np.linalg.lstsq(rows, wanted)[0]
    return weights


def knn_by_loop(met, *, num_neighbours):
    size = met.shape[1]
    weights = np.zeros((size, size), np.float32)
    for j in range(size):
        cosine = {}
        for i in set(range(size)) - {j}:
            norms = met[:, i].sum() * met[:, j].sum()
            cosine[i] = np.float32(met[:, i] @ met[:, j] / np.sqrt(max(norms, 1)))
        last = sorted(cosine.values(), reverse=True)[:num_neighbours][-1]
        for i, value in cosine.items():
            weights[i, j] = value if value >= last else 0
    return weights


KINDS = pytest.mark.parametrize("kind", ["plain", "repeats", "given"])


@KINDS
@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_ease_is_the_least_squares_solution_of_its_definition(kind, l2):
    data = data_of(kind)
    weights = baselines.ease_weights(baselines.cooccurrence(data), l2=l2)
    assert weights.dtype == np.float32 and not weights.diagonal().any()
    wanted = ease_by_loop(binary_by_loop(data), l2=l2)
    assert wanted.min() < -0.01
    np.testing.assert_allclose(weights, wanted, atol=1e-6)


@KINDS
@pytest.mark.parametrize("num_neighbours", [1, 4, 100])
def test_item_knn_equals_loops(kind, num_neighbours, monkeypatch):
    monkeypatch.setattr(baselines, "MATRIX_BLOCK", 60)  # several blocks
    data = data_of(kind)
    weights = baselines.knn_weights(
        baselines.cooccurrence(data), num_neighbours=num_neighbours
    ).toarray()
    wanted = knn_by_loop(binary_by_loop(data), num_neighbours=num_neighbours)
    np.testing.assert_array_equal(weights, wanted)
    assert (wanted > 0).sum(0).min() >= min(num_neighbours, 10)


@KINDS
@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_score_is_the_sum_over_the_distinct_items_before_the_targets(
    kind, part, monkeypatch
):
    monkeypatch.setattr(baselines, "BLOCK", 100)  # several blocks
    data = data_of(kind)
    part, num_items = getattr(data, part), data.dataset.num_items
    counts = baselines.cooccurrence(data)
    for weights in (
        baselines.ease_weights(counts, l2=1.0),
        baselines.knn_weights(counts, num_neighbours=3),
    ):
        search = baselines.make_item_search(weights, data, part)
        ranking = search(num_items, None)
        dense = weights if isinstance(weights, np.ndarray) else weights.toarray()
        for j, (user, start) in enumerate(zip(part.user, part.start, strict=True)):
            past = set(data.items[data.offsets[user] : start].tolist())
            wanted = sum(dense[item - 1].astype(np.float64) for item in past)
            np.testing.assert_allclose(
                ranking.scores[j], wanted[ranking.ids[j]], atol=1e-5
            )
            assert sorted(ranking.ids[j]) == list(range(num_items))
            assert (np.diff(ranking.scores[j]) <= 0).all()


@KINDS
def test_held_out_events_never_count(kind):
    data = data_of(kind)
    items = data.items.copy()
    for user in range(1, len(data.train_stop)):
        items[data.train_stop[user] : data.offsets[user + 1]] = 1
    changed = dataclasses.replace(data, items=items)
    counts = baselines.cooccurrence(data)
    np.testing.assert_array_equal(counts, baselines.cooccurrence(changed))
    met = binary_by_loop(data)
    np.testing.assert_array_equal(counts, met.T @ met)


def best_l2(data, part):
    """By a loop over the choices."""
    counts, figures = baselines.cooccurrence(data), []
    for l2 in baselines.L2:
        weights = baselines.ease_weights(counts, l2=l2)
        search = baselines.make_item_search(weights, data, part)
        result = measure.measure_search(search, data=data, part=part, config=EVALUATE)
        figures.append(result.means()["ndcg@5"])
    return baselines.L2[int(np.argmax(figures))]


def without_test(data):
    """The same, but that one item is all that there is to find in the test part."""
    items = data.items.copy()
    items[data.test.start] = 1
    return dataclasses.replace(data, items=items)


def test_l2_is_the_best_on_validation_by_select_by_and_test_has_no_say(monkeypatch):
    monkeypatch.setattr(baselines, "L2", (0.01, 1.0, 100.0))
    logs = [data_of("plain", seed=seed) for seed in range(6)]
    chosen = []
    for data in logs:
        counts = baselines.cooccurrence(data)
        l2, weights = baselines.choose_ease(
            counts, data=without_test(data), config=EVALUATE
        )
        chosen.append(l2)
        wanted = baselines.ease_weights(counts, l2=l2)
        np.testing.assert_array_equal(weights, wanted)
    assert chosen == [best_l2(data, data.valid) for data in logs]
    assert chosen != [best_l2(data, data.test) for data in logs]
    assert len(set(chosen)) > 1


SMALL = Experiment("small", data=log_lib.Config(), model=mf.Config(), evaluate=EVALUATE)


def rows_of(data):
    return run_results._baselines(SMALL, data)


def test_a_table_has_both_rows_up_to_the_limit_and_a_line_above_it(monkeypatch, capsys):
    data = make_data()
    monkeypatch.setattr(baselines, "MAX_ITEMS", 20)
    searches, l2 = rows_of(data)
    assert list(searches) == ["popularity", "bigram", "item_knn", "ease"]
    overview.show(SMALL, data)
    assert l2 in baselines.L2 and "item knn" not in capsys.readouterr().out
    monkeypatch.setattr(baselines, "MAX_ITEMS", 19)
    monkeypatch.setattr(baselines, "cooccurrence", None)  # nothing is computed
    searches, l2 = rows_of(data)
    assert list(searches) == ["popularity", "bigram"] and l2 is None
    overview.show(SMALL, data)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "item knn" in x]
    assert "20 are more than 19" in line


def test_both_find_what_is_met_together():
    """Users of four crowds, each with ten items of its own, equally popular."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 6)
    item = np.concatenate([rng.permutation(10)[:6] + 10 * (u % 4) for u in range(200)])
    log = dataclasses.replace(
        make_log(users=200, items=40), user=user, item=item, time=None
    )
    split = split_lib.by_protocol(log, config=log_lib.Config())
    data = prepare.in_memory(split, history_length=0, min_history=0)
    searches, _ = rows_of(data)
    hits = {
        name: measure.measure_search(
            search, data=data, part=data.test, config=EVALUATE
        ).means()["hr@5"]
        for name, search in searches.items()
    }
    # Five of his crowd's ten items are left.
    assert hits["item_knn"] > 0.9 and hits["ease"] > 0.9 and hits["popularity"] < 0.3
