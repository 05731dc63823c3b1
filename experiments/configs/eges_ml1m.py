"""EGES (Wang et al. 2018) on MovieLens 1M, 5-core, leave-one-out.

    python -m experiments.run --config=eges_ml1m

ML-1M has no real sessions: people rated dozens of films in one sitting. So a user's whole
sequence is one session, and an edge is that one film was rated right after another.

Expected, ties in file order, three seeds: test hr@10 0.150 (spread 0.005), ndcg@10 0.078,
recall@20 0.224; with --config.model.kind=ges 0.171, =bge 0.194: side information does not
help here (bigram 0.214). Six seconds of training on two cores (BUILD_NOTES.md, record 15).
"""

from recall_jax.data.sources import movielens
from recall_jax.models import eges
from recall_jax.models.itemwise import PairsConfig
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="eges_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=eges.Config(
            side=("genres", "year"),
            recency=1.0,
            pairs=PairsConfig(corpus="walks", window=2),
        ),
        optim=OptimConfig(
            learning_rate=0.5,
            tables="rowwise_adagrad",
            schedule="linear",
            weight_decay=1e-5,
        ),
        train=TrainConfig(epochs=10, batch_size=32),
    )
