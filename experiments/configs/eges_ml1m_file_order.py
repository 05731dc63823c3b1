"""EGES (Wang et al. 2018) on MovieLens 1M under protocol file_order.

    python -m experiments.run --config=eges_ml1m_file_order

The edges are of rows next to each other in the file, whose artificial order is what this
protocol rewards: figures compare tables, not models. Of the side information the
published table's first genre alone.

Expected, three seeds: test hr@10 0.196 (spread 0.004), ndcg@10 0.082; refitted on all of
train 0.184 (0.028), 0.076; last-item bigram 0.509, 0.318. Two seconds of training on two
cores (BUILD_NOTES.md, record 15).
"""

from recall_jax.data import split
from recall_jax.data.sources import movielens
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.models import eges
from recall_jax.models.itemwise import PairsConfig
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="eges_ml1m_file_order",
        data=movielens.Config(name="1m", protocol="file_order"),
        model=eges.Config(
            side=("first_genre",),
            recency=0.3,
            pairs=PairsConfig(corpus="walks", window=1),
        ),
        optim=OptimConfig(
            learning_rate=0.5,
            tables="rowwise_adagrad",
            schedule="linear",
            weight_decay=1e-5,
        ),
        train=TrainConfig(epochs=10, batch_size=32, refit="all"),
        evaluate=EvaluateConfig(metrics=split.METRICS, select_by="ndcg@10"),
    )
