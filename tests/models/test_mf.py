"""MF: its score by hand for every option, what it refuses, and that it learns."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_data
from flax import nnx

from experiments.common import summary
from recall_jax.data import log as log_lib
from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.data.log import Entities, Interactions
from recall_jax.data.sources import lightgcn
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.losses import negatives, objective
from recall_jax.models import mf
from recall_jax.run import build as build_lib
from recall_jax.run.config import Experiment
from recall_jax.tables import layout
from recall_jax.training import loop
from recall_jax.training import step as step_lib
from recall_jax.types import InputError

WIDTH = 5
OPTIONS = list(itertools.product(mf.BIASES, ("l2", "none")))


@pytest.fixture(scope="module")
def data():
    """With items that have no training event."""
    return make_data(users=40, items=60, events=200)


def build(data, *, biases="none", normalize="none") -> mf.MF:
    config = mf.Config(width=WIDTH, biases=biases, normalize=normalize, init_scale=1.0)
    model, _ = config.make(data.schema, nnx.Rngs(0))
    if biases == "both":
        model.mean[...] = jnp.float32(0.7)
    return model


def by_hand(model, user: int, item: int, *, biases: str, normalize: str) -> float:
    """The score of two look-up ids, in float64 from the tables' rows."""
    row, column = (
        np.asarray(layout.whole(model.tables[name].table[...]), np.float64)[j]
        for name, j in (("user", user), ("item", item))
    )
    u, v = row[:WIDTH], column[:WIDTH]
    score = u @ v
    if normalize == "l2" and u.any() and v.any():
        score /= np.linalg.norm(u) * np.linalg.norm(v)
    if biases == "item":
        score += column[WIDTH]
    if biases == "both":
        score += row[WIDTH] + column[WIDTH] + 0.7
    return score


def scores(model, data, users, items) -> np.ndarray:
    """Inner products [users, items] of the two towers' vectors, by catalogue id."""
    users = jnp.asarray(users)
    query = model.query(data.dataset.query(users, jnp.asarray(data.offsets)[users]))
    return np.asarray(query @ model.item(data.dataset.item(jnp.asarray(items))).T)


@pytest.mark.parametrize(("biases", "normalize"), OPTIONS)
def test_the_inner_product_of_the_vectors_is_the_whole_score(data, biases, normalize):
    model = build(data, biases=biases, normalize=normalize)
    users, items = np.arange(1, 9), np.arange(1, 12)
    wanted = [
        [by_hand(model, u, i, biases=biases, normalize=normalize) for i in items]
        for u in users
    ]
    actual = scores(model, data, users, items)
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)
    assert (np.abs(actual) <= 1 + 1e-5).all() == (
        biases == "none" and normalize == "l2"
    )


@pytest.mark.parametrize(("biases", "normalize"), OPTIONS)
def test_whoever_is_unknown_scores_by_the_other_sides_bias(data, biases, normalize):
    """The unknown row is zero until it is trained, and padding is always."""
    model = build(data, biases=biases, normalize=normalize)
    items, users = data.dataset, np.arange(1, data.dataset.known_users + 1)
    stranger = [items.num_items, items.known_items + 1]  # no training event
    assert stranger[0] > items.known_items
    actual = scores(model, data, users, stranger)
    bias = np.asarray(layout.whole(model.tables["user"].table[...]))[users, WIDTH:].sum(
        axis=1
    )
    wanted = bias + (0.7 if biases == "both" else 0.0)
    np.testing.assert_allclose(actual, np.stack([wanted, wanted], 1), atol=1e-6)
    ids = {"user": jnp.array([0, data.dataset.known_users + 1])}
    vectors = np.asarray(model.query(ids))
    item_ids = np.arange(1, data.dataset.known_items + 1)
    rows = np.asarray(layout.whole(model.tables["item"].table[...]))[item_ids]
    wanted = rows[:, WIDTH:].sum(axis=1) + (0.7 if biases == "both" else 0.0)
    actual = (
        vectors @ np.asarray(model.item(data.dataset.item(jnp.asarray(item_ids)))).T
    )
    np.testing.assert_allclose(actual, np.stack([wanted, wanted]), atol=1e-6)


def test_vectors_are_as_wide_as_their_options_say(data):
    for biases, more in (("none", 0), ("item", 1), ("both", 2)):
        model = build(data, biases=biases)
        assert build_lib.model_width(model, data) == WIDTH + more
        ids = jnp.arange(6).reshape(2, 3)
        assert model.query({"user": ids}).shape == (2, 3, WIDTH + more)
        assert model.item({"item": ids}).shape == (2, 3, WIDTH + more)


def test_the_users_bias_and_the_mean_leave_his_ranking_as_it_is(data):
    model = build(data, biases="both")
    users, items = np.arange(1, 9), np.arange(1, 40)
    before = scores(model, data, users, items)
    model.mean[...] = jnp.float32(-3.0)
    table = model.tables["user"].table
    table[...] = table[...].at[..., WIDTH].add(5.0)
    after = scores(model, data, users, items)
    np.testing.assert_allclose(after, before + 5.0 - 3.7, atol=1e-4)


def test_every_table_is_read_by_its_own_side_alone(data):
    for biases in mf.BIASES:
        config = mf.Config(width=WIDTH, biases=biases)
        _, tables = config.make(data.schema, nnx.Rngs(0))
        assert {table.name: table.reads for table in tables} == {
            "user": ("user",),
            "item": ("item",),
        }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"biases": "user"},
            "unknown --config.model.biases 'user'; there are: none, item, both",
        ),
        (
            {"normalize": "l1"},
            "unknown --config.model.normalize 'l1'; .*there are: l2, none",
        ),
    ],
)
def test_wrong_options_are_named(data, changes, message):
    with pytest.raises(InputError, match=message):
        mf.Config(**changes).make(data.schema, nnx.Rngs(0))


# Learning.


def planted_ratings(*, users=60, items=50, share=0.5, seed=0):
    """A log whose label is u.v + b_i + b_u + mean, rank 2, for a share of the matrix,
    the whole matrix, and which of it the log has."""
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=(users, 2)), rng.normal(size=(items, 2))
    whole = u @ v.T + rng.normal(size=items) + rng.normal(size=(users, 1)) + 3.0
    observed = rng.random((users, items)) < share
    user, item = np.nonzero(observed)
    log = Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        Entities(np.arange(users)),
        Entities(np.arange(items)),
        events={"grade": whole[observed], "part": np.zeros(len(user), int)},
        source="planted ratings",
    )
    return log, whole, observed


def trained(config: Experiment, data, *, steps: int):
    """A model after so many steps on random batches."""
    built = build_lib.make(config, data, batch_size=256)
    hypers = step_lib.make_hypers(
        config.optim, config.loss, config.negatives, num_steps=steps
    )
    step = step_lib.make_step(
        built.graph, objective=built.objective, optimizer=built.optimizer
    )
    examples = np.random.default_rng(0).integers(data.num_examples, size=(steps, 256))
    source = negatives.make_source(data, config.negatives)
    state, metrics = step_lib.scan_steps(step)(built.state, hypers, source, examples)
    return built.graph.model(*step_lib.params_of(state)), np.asarray(metrics["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("biases", mf.BIASES)
def test_squared_error_on_labels_completes_a_planted_matrix(biases):
    """On cells that the log does not have; only with every bias can it do so well."""
    log, whole, observed = planted_ratings()
    split = split_lib.given(log, valid_share=0, seed=0)
    data = prepare.in_memory(
        split,
        history_length=0,
        min_history=0,
        config=log_lib.Config(label="grade"),
    )
    config = Experiment(
        name="planted",
        data=log_lib.Config(protocol="given", label="grade"),
        model=mf.Config(width=2, normalize="none", biases=biases, init_scale=0.1),
        negatives=negatives.NegativesConfig(kind="none", correction="none"),
        loss=objective.LossConfig(name="squared", temperature=1.0),
        optim=step_lib.OptimConfig(learning_rate=0.02),
    )
    model, loss = trained(config, data, steps=600)
    size = data.dataset.num_items
    actual = scores(model, data, np.arange(1, 61), np.arange(1, size + 1))
    wanted = whole[data.user_codes][:, data.item_codes]
    unseen = ~observed[data.user_codes][:, data.item_codes]
    error = np.mean((actual - wanted)[unseen] ** 2)
    blind = np.var(wanted[unseen])
    assert loss[-50:].mean() < 0.5 * loss[:5].mean()
    if biases == "both":
        assert error < 0.05 * blind
    else:
        assert 0.05 * blind < error < blind


def planted_folder(folder, *, users=240, items=120, groups=6, seed=0) -> None:
    """Train and test in LightGCN's format: nearly all that a user likes is of one
    group, and no group or item is liked more than another."""
    rng = np.random.default_rng(seed)
    lines = {"train": [], "test": []}
    for user in range(users):
        weight = np.where(np.arange(items) % groups == user % groups, 100.0, 1.0)
        liked = rng.choice(items, 14, replace=False, p=weight / weight.sum())
        lines["train"].append(" ".join(map(str, [user, *liked[:9]])))
        lines["test"].append(" ".join(map(str, [user, *liked[9:]])))
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text))


@pytest.mark.slow
def test_planted_groups_are_found_where_popularity_finds_nothing(tmp_path):
    planted_folder(tmp_path)
    config = Experiment(
        name="planted",
        data=lightgcn.Config(dir=str(tmp_path)),
        model=mf.Config(width=16),
        negatives=negatives.NegativesConfig(correction="positive_excluded"),
        loss=objective.LossConfig(temperature=0.1),
        optim=step_lib.OptimConfig(learning_rate=1e-2),
        train=loop.TrainConfig(epochs=12, batch_size=128, eval_every=4),
        evaluate=EvaluateConfig(
            metrics=("recall@10", "ndcg@10"), select_by="ndcg@10", indexes=()
        ),
    )
    results = summary.train(config, tmp_path / "run")
    for metric in ("recall@10", "ndcg@10"):
        popularity = results["baselines"]["popularity"][metric]
        assert results["test"][metric] > 5 * popularity > 0
    assert "bigram" not in results["baselines"]  # there is no order to it
    assert results["seen"] == "removed"
    assert results["test_refit"] is None and not (tmp_path / "run" / "refit").exists()
