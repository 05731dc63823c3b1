"""Eight devices do what one does: every model, every loss, every kind of negatives."""

import dataclasses

import jax
import numpy as np
import pytest
from meshes import run_steps
from test_configs import NAMES, shrunk, tiny_log

from experiments import cli, training
from recall_jax.data import synthetic


def close(one, other):
    """Equal in float64. A gradient that is zero but for rounding moves an entry by Adam
    as far as any other, hence the absolute part."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), one, other
    )


def small(name: str, **optim):
    """A config on the tiny log, and its data."""
    config = shrunk(cli.load_config(name))
    config = dataclasses.replace(
        config, optim=dataclasses.replace(config.optim, **optim)
    )
    log = tiny_log(config) if not isinstance(config.data, synthetic.Config) else None
    return config, training.lay_out(config, log or config.data.load())


QUICK = ("dssm_synthetic", "sequence_synthetic", "eges_synthetic")
EVERY = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in NAMES
]


@pytest.mark.parametrize("name", EVERY)
def test_eight_devices_train_as_one(name):
    config, data = small(name, learning_rate=1e-4)
    if training.on_pairs(config):
        made_by = dataclasses.replace(config.model.pairs, sharing=2)
        model = dataclasses.replace(config.model, pairs=made_by)
        config = dataclasses.replace(config, model=model)
    one, eight = (run_steps(config, data, devices=n, steps=20) for n in (1, 8))
    close(eight.metrics, one.metrics)
    close(eight.state, one.state)
