"""Small runs of every model for the tests of exports, with parameters that are nowhere
as they start: a bias of zero would hide that it was left out."""

import dataclasses

import jax
import numpy as np
from test_configs import shrunk

from experiments.common import cli
from recall_jax.models import markov, mf
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.serve import towers

CONFIGS = [name for name in cli.config_names() if "synthetic" in name]


def config_of(name: str):
    """A shrunk config: a file's, or one of what no file has."""
    if name in CONFIGS:
        return shrunk(cli.load_config(name))
    kind, _, what = name.partition(" ")
    config = shrunk(cli.load_config(f"{kind}_synthetic"))
    data, model = config.data, config.model
    if what == "with new items":
        data = dataclasses.replace(data, hidden_share=0.2)
    elif what == "of everything":
        item = ("item", "title", "tags", "birth_time", "market")
        data = dataclasses.replace(data, text_buckets=50)
        model = dataclasses.replace(
            model, item=item, text="gru", norm="batch", gates="senet", hidden=(8, 8)
        )
    elif what == "markov":
        model = markov.Config(width=4)
    elif what == "mf with biases":
        model = mf.Config(width=4, biases="both", normalize="none")
    return dataclasses.replace(config, data=data, model=model)


VARIANTS = (
    "airbnb with new items",
    "eges with new items",
    "dssm of everything",
    "dssm markov",
    "dssm mf with biases",
)
MODELS = (*CONFIGS, *VARIANTS)
QUICK = (  # of every kind one
    "youtubednn_synthetic",
    "eges_synthetic",
    "airbnb with new items",
    "dssm of everything",
    "dssm mf with biases",
)


def make_run(name: str) -> towers.ExportSource:
    config = config_of(name)
    log = config.data.load()
    data = data_lib.lay_out(config, log)
    built = build_lib.make(config, data, batch_size=16 * data.dataset.span)
    rng = np.random.default_rng(0)

    def moved(leaf: jax.Array) -> jax.Array:
        noise = rng.uniform(0.05, 0.3, leaf.shape).astype(np.float32)
        return jax.device_put(np.asarray(leaf) + noise)

    state = built.state
    params = jax.tree.map(moved, (state.tables, state.dense, state.statistics))
    return towers.ExportSource(
        build_lib.make_encoder(config, built),
        params,
        data,
        name=config.name,
        titles=log.items.text["title"][data.item_codes],
    )
