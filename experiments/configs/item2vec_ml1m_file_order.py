"""Item2Vec (Barkan and Koenigstein 2016) on MovieLens 1M under protocol file_order.

    python -m experiments.run --config=item2vec_ml1m_file_order

Pairs are of rows near each other in the file, whose artificial order is what this
protocol rewards: figures compare tables, not models.

Expected, three seeds: test hr@10 0.210 (spread 0.015), ndcg@10 0.088; refitted on all of
train 0.207 (0.002), 0.089; last-item bigram 0.509, 0.318. Three seconds of training on two
cores (BUILD_NOTES.md, record 15).
"""

from recall_jax.data import split
from recall_jax.data.sources import movielens
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.models import item2vec
from recall_jax.models.itemwise import PairsConfig
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="item2vec_ml1m_file_order",
        data=movielens.Config(name="1m", protocol="file_order"),
        model=item2vec.Config(recency=0.3, pairs=PairsConfig(window=1)),
        optim=OptimConfig(
            learning_rate=0.5, tables="rowwise_adagrad", schedule="linear"
        ),
        train=TrainConfig(epochs=10, batch_size=16, refit="all"),
        evaluate=EvaluateConfig(metrics=split.METRICS, select_by="ndcg@10"),
    )
