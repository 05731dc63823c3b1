"""Items hidden from training: nothing but their features can find them."""

import dataclasses

import numpy as np
import pytest
from conftest import make_log

from experiments.common import summary
from recall_jax.data import log as log_lib
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import split as split_lib
from recall_jax.data.log import Entities, Interactions
from recall_jax.data.sources import synthetic
from recall_jax.evaluate import baselines, measure
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import dssm
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig
from recall_jax.types import InputError

CONFIG = log_lib.Config(hidden_share=0.25)


def prepare(config=CONFIG):
    split = split_lib.by_protocol(make_log(), config=config)
    return split, prepare_lib.in_memory(split, history_length=4, min_history=1)


def test_hidden_items_keep_the_last_event_of_a_user_and_nothing_else():
    split, data = prepare()
    plain = split_lib.by_protocol(make_log(), config=log_lib.Config())
    positions = np.flatnonzero(data.items > data.dataset.known_items)
    assert len(positions) and np.isin(positions, data.test.start).all()
    trained = set(data.item_codes[: data.dataset.known_items].tolist())
    # Every other event stays, in its order.
    for user in range(len(split.start) - 1):
        before = plain.log.item[plain.start[user] : plain.start[user + 1]].tolist()
        after = split.log.item[split.start[user] : split.start[user + 1]].tolist()
        assert after[:-1] == [i for i in before[:-1] if i in trained]
        assert after[-1] == before[-1]
    assert "5 items hidden from training" in split.protocol


def test_the_catalogue_is_the_same_with_and_without():
    _, data = prepare()
    _, plain = prepare(log_lib.Config())
    assert data.dataset.num_items == plain.dataset.num_items
    assert data.dataset.num_items - data.dataset.known_items == 5


def test_short_users_do_not_train_on_what_is_hidden():
    rng = np.random.default_rng(0)
    log = Interactions(
        np.repeat(np.arange(60), 4).astype(np.int32),
        rng.integers(0, 20, 240).astype(np.int32),
        Entities(np.arange(60)),
        Entities(np.arange(20)),
        time=np.arange(240),
    )
    config = log_lib.Config(hidden_share=0.5)
    split = split_lib.by_protocol(log, config=config)
    train = split.log.item[log_lib.ranges(split.start[:-1], split.test)]
    assert split.hidden.sum() == 10 and not split.hidden[train].any()


def test_which_are_hidden_goes_by_the_seed():
    protocols = [dataclasses.replace(CONFIG, hidden_seed=seed) for seed in (0, 0, 1)]
    first, again, other = (prepare(config)[0].log.item for config in protocols)
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or (first != other).any()


def test_chance_is_what_random_orders_have_on_average():
    _, data = prepare()
    config = measure.EvaluateConfig(
        metrics=("hr@3", "ndcg@3", "mrr@3"), select_by="hr@3"
    )
    wanted = measure.chance(data, data.test, config=config)
    rng = np.random.default_rng(0)
    total = dict.fromkeys(wanted, 0.0)
    for _ in range(300):
        order = baselines.dense_search(
            lambda rows: rng.random((len(rows), data.dataset.num_items)),
            part=data.test,
        )
        result = measure.measure_search(order, data=data, part=data.test, config=config)
        for name, value in result.values.items():
            total[name] = total[name] + value / 300
    for name, value in wanted.items():
        assert value.mean() == pytest.approx(total[name].mean(), rel=0.06), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_share": 1.0}, "data.hidden_share is 1.0"),
        ({"protocol": "file_order"}, "not under file_order"),
        ({"hidden_share": 0.001}, "no test item is among those"),
        ({"hidden_share": 0.96}, "lower --config.data.hidden_share"),
        ({"protocol": "temporal"}, "under protocol leave_one_out, not under temporal"),
    ],
)
def test_what_cannot_be_hidden_is_told(changes, message):
    with pytest.raises(InputError, match=message):
        prepare(dataclasses.replace(CONFIG, **changes))


def planted_log() -> Interactions:
    """Each user keeps to one of five genres; an item's id says nothing else."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 12)
    choice = np.stack([rng.permutation(40)[:12] for _ in range(200)]).ravel()
    item = (user % 5) * 40 + choice
    genres = np.array([f"g{j // 40}" for j in range(200)])
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        Entities(np.arange(200)),
        Entities(np.arange(200), {"genre": genres}),
        time=np.arange(len(user)),
        source="genres",
    )


@pytest.mark.slow
def test_features_find_new_items_far_above_chance_and_popularity(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic.Config, "load", lambda self: planted_log())
    monkeypatch.setattr(baselines, "oracle", lambda *arguments: None)
    config = Experiment(
        name="planted",
        data=synthetic.Config(hidden_share=0.2, tokens=""),
        model=dssm.Config(
            query=("history",),
            item=("item", "genre"),
            history_length=8,
            id_width=8,
            width=8,
            hidden=(16,),
            item_hidden=(16,),
            id_dropout=0.5,
        ),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(temperature=0.2),
        optim=OptimConfig(learning_rate=1e-2),
        train=TrainConfig(epochs=4, batch_size=64, scan_steps=10),
        evaluate=measure.EvaluateConfig(
            metrics=("hr@40",), select_by="hr@40", indexes=()
        ),
    )
    results = summary.train(config, tmp_path)
    segment = results["segments"]["popularity"]["new"]
    new = {name: row["hr@40"] for name, row in segment["rows"].items()}
    assert new["test"] > 0.7 > 3 * new["chance"]
    # What counts events has nothing to say of items without any.
    counting = {"popularity", "bigram", "item_knn", "ease"}
    assert {name for name in new if not new[name]} == counting
    assert segment["queries"] > 30 and new.keys() == segment["intervals"].keys()
