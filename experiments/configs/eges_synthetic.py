"""EGES (Wang et al. 2018) on a synthetic log, leave-one-out.

    python -m experiments.run --config=eges_synthetic

Needs no data. Sessions end at a pause of an hour; an edge is that one item followed
another within one. The side information is every categorical column: market, kind,
price_bucket, brand, tags, and noise, which tells nothing. For the paper's prediction of
links, a third of the edges removed:

    python -m experiments.run --config=eges_synthetic
        --config.model.pairs.removed_share=0.33 --workdir=runs/eges_synthetic_links

Expected of that, five seeds: AUC 0.830 (spread 0.001); --config.model.kind=ges 0.825, =bge
0.814, popularity 0.775. Three seconds of training on two cores (BUILD_NOTES.md, record 15).
"""

from recall_jax.data.sources import synthetic
from recall_jax.models import eges, itemwise
from recall_jax.models.itemwise import PairsConfig
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    sessions = itemwise.SequencesConfig(cut="gap", gap=3600)
    return Experiment(
        name="eges_synthetic",
        data=synthetic.Config(),
        model=eges.Config(
            kind="eges",
            recency=2.0,
            pairs=PairsConfig(corpus="walks", sequences=sessions),
        ),
        optim=OptimConfig(
            learning_rate=0.1,
            tables="rowwise_adagrad",
            schedule="linear",
            weight_decay=1e-5,
        ),
        train=TrainConfig(epochs=10, batch_size=32),
    )
