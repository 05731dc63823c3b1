"""From a config to a step: what any model may have."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import make_data, make_log

from experiments.common import cli
from recall_jax.data import log
from recall_jax.evaluate import measure
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.run import experiment as experiment_lib
from recall_jax.training import step


def test_a_model_with_dropout_in_its_item_tower_can_be_built():
    config = cli.load_config("dssm_synthetic")
    model = dataclasses.replace(config.model, dropout=0.3, history_length=5)
    config = dataclasses.replace(config, model=model)
    built = build_lib.make(config, make_data(), batch_size=16)
    assert built.state.step == 0


def test_first_states_are_those_that_are_built():
    config, data = cli.load_config("dssm_synthetic"), make_data()
    model = dataclasses.replace(config.model, dropout=0.3, history_length=5)
    config = dataclasses.replace(config, model=model)
    first = build_lib.first_states(config, data, batch_size=16)
    for seed in (0, 7):
        own = dataclasses.replace(config, seed=seed)
        built = build_lib.make(own, data, batch_size=16)
        state, key = first(seed)
        jax.tree.map(np.testing.assert_array_equal, state, built.state)
        assert key == built.order_key


def test_the_checkpoint_is_chosen_on_validation_with_all_items_ranked(tmp_path):
    """Also where the figures of the end are sampled; the test part has no say."""
    config, data = cli.load_config("dssm_synthetic"), make_data()
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, history_length=5),
        train=dataclasses.replace(config.train, batch_size=64),
        evaluate=measure.EvaluateConfig(
            metrics=("hr@3", "ndcg@3"),
            select_by="ndcg@3",
            candidates="sampled_uniform",
            num_candidates=5,
        ),
    )
    encoder, loop, state = experiment_lib.make_loop(config, data, tmp_path)
    means = {}
    for name, part in (("valid", data.valid), ("test", data.test)):
        means[name] = measure.measure_model(
            encoder,
            step.params_of(state),
            data=data,
            part=part,
            config=measure.over_all(config.evaluate),
            index="exact",
        ).means()
    assert loop.validate(state) == means["valid"] != means["test"]
    assert loop.select_by == "ndcg@3"


class Source(log.Config):
    """The random log of the tests."""

    def load(self):
        return make_log()


@pytest.mark.parametrize(
    ("ties", "first", "second"),
    [
        ("file", "in file order", "shuffled by seed 0"),
        ("shuffled", "shuffled by seed 0", "in file order"),
        ("both", "in file order", "shuffled by seed 0"),
    ],
)
def test_the_other_data_have_ties_broken_the_other_way(ties, first, second):
    config = dataclasses.replace(
        cli.load_config("dssm_synthetic"), data=Source(ties=ties)
    )
    prepared = data_lib.read(config)
    protocols = [data.protocol.partition(" (")[0] for data in prepared]
    assert protocols == [f"leave_one_out, ties {how}" for how in (first, second)]
