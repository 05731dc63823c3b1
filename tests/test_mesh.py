"""Eight devices do what one does: every model, every loss, every kind of negatives."""

import dataclasses

import jax
import numpy as np
import pytest
from meshes import run_steps
from test_configs import NAMES, shrunk, tiny_log

from experiments import cli, training
from recall_jax.data import synthetic


def close(one, other, *, rtol=1e-9, atol=1e-11):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other
    )


def small(name: str, **optim):
    """A config on the tiny log, and its data."""
    config = shrunk(cli.load_config(name))
    config = dataclasses.replace(
        config, optim=dataclasses.replace(config.optim, **optim)
    )
    log = tiny_log(config) if not isinstance(config.data, synthetic.Config) else None
    return config, training.lay_out(config, log or config.data.load())


@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_train_as_one(name):
    config, data = small(name)
    if training.on_pairs(config):
        made_by = dataclasses.replace(config.model.pairs, sharing=2)
        model = dataclasses.replace(config.model, pairs=made_by)
        config = dataclasses.replace(config, model=model)
    one, eight = (run_steps(config, data, devices=n, steps=20) for n in (1, 8))
    close(eight.metrics, one.metrics)
    close(eight.state, one.state)
