"""From a config to a step: what any model may have."""

import dataclasses

from conftest import make_data

from experiments import building, cli


def test_a_model_with_dropout_in_its_item_tower_can_be_built():
    config = cli.load_config("dssm_synthetic")
    model = dataclasses.replace(config.model, dropout=0.3, history_length=5)
    config = dataclasses.replace(config, model=model)
    built = building.build(config, make_data(), batch_size=16)
    assert built.state.step == 0
