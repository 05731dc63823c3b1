import itertools

import numpy as np
import pytest
from conftest import make_data

from recall_jax import baselines, evaluate
from recall_jax.data import dataset, interactions, movielens


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
    aim = evaluate.targets(data, data.test, seen=True)
    found = search(5, aim.exclude)
    popularity, pairs = data.popularity[1:], count_pairs(data)
    for j in range(len(data.test)):
        scores = popularity.astype(float)
        if name == "bigram":
            last = data.items[data.test.start[j] - 1] - 1
            scores = scores + 10_000 * pairs[last]
        wanted = by_hand(data, data.test, j, scores)
        got = [i for i in found.ids[j].tolist() if i >= 0]
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


@pytest.mark.parametrize(("ties", "wanted"), [("file", 0.214), ("shuffled", 0.184)])
def test_the_bigram_of_ml_1m_is_the_known_one(ml_1m, ties, wanted):
    """If these move, the protocol moved."""
    config = movielens.Config(
        dir=str(ml_1m), ties=ties, min_user_events=5, min_item_events=5
    )
    split = interactions.split(config.load(), config=config)
    data = dataset.prepare(split, history_length=0, min_history=0)
    assert (len(data.vocabularies["item"].ids), len(data.items)) == (3416, 999_611)
    settings = evaluate.EvaluateConfig(metrics=("hr@10",), select_by="hr@10")
    row = evaluate.measure(
        baselines.bigram(data, data.test), data=data, part=data.test, config=settings
    )
    assert row.means()["hr@10"] == pytest.approx(wanted, abs=0.003)
