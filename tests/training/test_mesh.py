"""Eight devices do what one does: every model, every loss, every kind of negatives."""

import dataclasses

import jax
import numpy as np
import pytest
from marks import slow, slow_but
from meshes import run_steps
from test_configs import NAMES, named, shrunk, tiny_log
from test_objective import KINDS, LOSSES, MODEL, TINY, WARM

from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.data.sources import synthetic
from recall_jax.devices import mesh
from recall_jax.losses import objective
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.run.config import Experiment
from recall_jax.training import step
from recall_jax.training.loop import TrainConfig
from recall_jax.types import InputError


def close(one, other):
    """Equal in float64. A gradient that is zero but for rounding moves an entry by Adam
    as far as any other, hence the absolute part."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), one, other
    )


def small(name: str, **optim):
    """A config on the tiny log, and its data. Its vectors are not small: of some that
    are, l2_normalize and Adam make the most of every rounding, step after step."""
    config = shrunk(named(name))
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, init_scale=0.5),
        optim=dataclasses.replace(config.optim, **optim),
    )
    log = tiny_log(config) if not isinstance(config.data, synthetic.Config) else None
    return config, data_lib.lay_out(config, log or config.data.load())


@pytest.fixture(scope="module")
def shop():
    split = split_lib.by_protocol(TINY.load(), config=TINY)
    return prepare.in_memory(split, history_length=5, min_history=1)


def check(config, data, *, steps: int, capacity: int | None = None) -> int:
    """The most rounds that an exchange took."""
    one, eight = (
        run_steps(config, data, devices=n, steps=steps, capacity=capacity)
        for n in (1, 8)
    )
    rounds = eight.metrics.pop("exchange_rounds")
    close(eight.metrics, one.metrics)
    close(eight.state, one.state)
    return int(rounds.max())


MODELS = ("mf_synthetic_graded",)


@pytest.mark.parametrize("rule", slow_but(("lazy_adam",), ("lazy_adam", "sgd")))
@pytest.mark.parametrize("name", slow_but(MODELS, NAMES))
def test_every_model_trains_on_eight_devices_as_on_one(name, rule):
    config, data = small(name, learning_rate=1e-4, tables=rule)
    if build_lib.on_pairs(config):
        made_by = dataclasses.replace(config.model.pairs, sharing=2)
        model = dataclasses.replace(config.model, pairs=made_by)
        config = dataclasses.replace(config, model=model)
    check(config, data, steps=20)


@pytest.mark.slow
def test_a_step_whose_exchange_overflows_is_the_same_step():
    config, data = small("dssm_synthetic", learning_rate=1e-4)
    split = synthetic.Config(num_users=200, num_items=900, num_events=6000)
    config = dataclasses.replace(config, data=split)
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, batch_size=128)
    )
    data = data_lib.lay_out(config, split.load())
    assert check(config, data, steps=5) <= 1
    assert check(config, data, steps=5, capacity=8) > 1


def of_kind(config: NegativesConfig, loss: LossConfig) -> Experiment:
    num = 16 if config.num == 8 else config.num  # which eight devices can share
    return Experiment(
        name="small",
        data=TINY,
        model=MODEL,
        negatives=dataclasses.replace(config, num=num),
        loss=loss,
        optim=step.OptimConfig(learning_rate=1e-4),
        train=TrainConfig(batch_size=32),
    )


@pytest.mark.parametrize("name", slow_but(("queue",), KINDS))
def test_every_kind_of_negatives_is_global(shop, name):
    check(of_kind(KINDS[name], WARM), shop, steps=5)


@pytest.mark.parametrize("kind", ["uniform", slow("full")])
@pytest.mark.parametrize("name", slow_but(("gbce",), LOSSES))
def test_every_loss_is_that_of_the_whole_batch(shop, name, kind):
    correction = "none"
    if kind == "uniform" and name in objective.CORRECTIONS:
        correction = "log_q"
    config = NegativesConfig(kind=kind, num=16, correction=correction)
    check(of_kind(config, LossConfig(name=name, temperature=0.3)), shop, steps=5)


@pytest.mark.parametrize("own", slow_but(("none",), ("none", "uniform")))
def test_a_learned_temperature_and_a_softmax_over_split_columns(shop, own):
    config = NegativesConfig(kind="full", correction="none", own=own)
    loss = dataclasses.replace(WARM, temperature_kind="learned")
    check(of_kind(config, loss), shop, steps=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": TrainConfig(batch_size=30)}, "train.batch_size 30 .* try 24 or 32"),
        ({"negatives": NegativesConfig(kind="uniform", num=12)}, "negatives.num 12"),
    ],
)
def test_what_devices_cannot_share_is_told_before_training(shop, changes, message):
    config = dataclasses.replace(of_kind(NegativesConfig(), WARM), **changes)
    with pytest.raises(InputError, match=message):
        run_steps(config, shop, devices=8, steps=1)


def test_blocks_that_devices_cannot_share_are_told():
    config, data = small("item2vec_synthetic")
    with pytest.raises(InputError, match="model.pairs.sharing 16 makes 1 groups"):
        run_steps(config, data, devices=8, steps=1)


def test_only_divisors_of_the_tables_parts_make_a_mesh():
    with pytest.raises(InputError, match="3 devices cannot share"):
        mesh.make_mesh(jax.devices()[:3])
