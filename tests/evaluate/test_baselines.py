import itertools

import numpy as np
import pytest
from conftest import make_data

from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.data.sources import movielens
from recall_jax.evaluate import baselines, measure


def by_hand(data, part, j, scores):
    """The best five by score, then by item order, seen ones struck out."""
    user, start = part.user[j], part.start[j]
    seen = set((data.items[data.offsets[user] : start] - 1).tolist())
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [i for i in order if i not in seen][:5]


def count_pairs(data):
    counts = np.zeros((data.dataset.num_items, data.dataset.num_items))
    for user in range(1, len(data.train_stop)):
        mine = data.items[data.offsets[user] : data.train_stop[user]] - 1
        for a, b in itertools.pairwise(mine):
            counts[a, b] += 1
    return counts


@pytest.mark.parametrize("name", ["popularity", "bigram"])
def test_baselines_equal_loops(name, monkeypatch):
    monkeypatch.setattr(baselines, "BLOCK", 100)  # several blocks
    data = make_data()
    search = getattr(baselines, name)(data, data.test)
    aim = measure.targets(data, data.test, seen=True)
    ranking = search(5, aim.exclude)
    popularity, pairs = data.popularity[1:], count_pairs(data)
    for j in range(len(data.test)):
        scores = popularity.astype(float)
        if name == "bigram":
            last = data.items[data.test.start[j] - 1] - 1
            scores = scores + 10_000 * pairs[last]
        wanted = by_hand(data, data.test, j, scores)
        got = [i for i in ranking.ids[j].tolist() if i >= 0]
        # Which of equals stands at the cut-off is open, and no metric depends on it.
        assert scores[got].tolist() == scores[wanted].tolist()
        assert len(set(got)) == len(wanted)
        seen = data.items[data.offsets[data.test.user[j]] : data.test.start[j]] - 1
        assert not set(got) & set(seen.tolist())


def test_test_events_never_count():
    data = make_data()
    *_, counts = baselines._followers(data)
    events = np.diff(data.offsets)[1:]
    held_out = np.where(events >= 3, 2, 0)
    assert counts.sum() == np.maximum(events - held_out - 1, 0).sum()
    assert data.popularity.sum() == (events - held_out).sum()


def search_of(data, scores, *, k, exclude=None):
    search = baselines.dense_search(lambda rows: scores[rows], part=data.test)
    return search(k, exclude)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_scores_below_zero_rank_as_any_others_and_only_excluded_ones_go(dtype):
    data = make_data()
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(-25, -5), (len(data.test), 1)), axis=1)
    aim = measure.targets(data, data.test, seen=True)
    ranking = search_of(data, scores.astype(dtype), k=20, exclude=aim.exclude)
    for j in range(len(data.test)):
        past = data.items[data.offsets[data.test.user[j]] : data.test.start[j]] - 1
        wanted = [i for i in np.argsort(-scores[j]) if i not in past]
        gone = 20 - len(wanted)
        assert ranking.ids[j].tolist() == [*wanted, *[-1] * gone]
        listed = scores[j, wanted].tolist()
        assert ranking.scores[j].tolist() == [*listed, *[-np.inf] * gone]


def test_integers_that_no_float_tells_apart_keep_their_order():
    data = make_data()
    scores = np.full((len(data.test), 20), 2**60) - np.arange(20)[::-1]
    ranking = search_of(data, scores, k=4, exclude=None)
    assert (ranking.ids == [19, 18, 17, 16]).all()


def test_a_score_that_is_not_a_number_is_an_error():
    data = make_data()
    scores = np.zeros((len(data.test), 20))
    scores[3, 7] = np.nan
    with pytest.raises(FloatingPointError, match="1 scores are NaN"):
        search_of(data, scores, k=2)


@pytest.mark.parametrize(("ties", "wanted"), [("file", 0.214), ("shuffled", 0.184)])
def test_the_bigram_of_ml_1m_is_the_known_one(ml_1m, ties, wanted):
    """If these move, the protocol moved."""
    config = movielens.Config(
        dir=str(ml_1m), ties=ties, min_user_events=5, min_item_events=5
    )
    split = split_lib.by_protocol(config.load(), config=config)
    data = prepare.in_memory(split, history_length=0, min_history=0)
    assert (len(data.vocabularies["item"].ids), len(data.items)) == (3416, 999_611)
    settings = measure.EvaluateConfig(metrics=("hr@10",), select_by="hr@10")
    row = measure.measure_search(
        baselines.bigram(data, data.test), data=data, part=data.test, config=settings
    )
    assert row.means()["hr@10"] == pytest.approx(wanted, abs=0.003)
