"""Item2Vec (Barkan and Koenigstein 2016) on MovieLens 1M, 5-core, leave-one-out.

    python -m experiments.run --config=item2vec_ml1m

A user is the mean of his last items, each weighing half of the one after it. Expected,
ties in file order, three seeds: test hr@10 0.187 (spread 0.003), ndcg@10 0.098, recall@20
0.278 (bigram 0.214, 0.126, 0.286). Eleven seconds of training on two cores
(BUILD_NOTES.md, record 15).
"""

from recall_jax.data.sources import movielens
from recall_jax.models import item2vec
from recall_jax.models.itemwise import PairsConfig
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="item2vec_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=item2vec.Config(recency=1.0, pairs=PairsConfig(window=2)),
        optim=OptimConfig(
            learning_rate=0.5, tables="rowwise_adagrad", schedule="linear"
        ),
        train=TrainConfig(epochs=10, batch_size=16),
    )
