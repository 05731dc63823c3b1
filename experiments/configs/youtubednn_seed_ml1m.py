"""YoutubeDNN at the sizes of most tutorials, on MovieLens 1M, 5-core, leave-one-out.

    python -m experiments.run --config=youtubednn_seed_ml1m

Width 16, one layer of 32, the mean of the history, a sampled softmax of 20 shared
negatives. Expected, one seed: test hr@10 0.052, ndcg@10 0.025, recall@20 0.092, where
youtubednn_ml1m has 0.302, 0.177, 0.407. Half a minute on two cores.
"""

from recall_jax.data.sources import movielens
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import youtubednn
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="youtubednn_seed_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=youtubednn.Config(
            query=("user", "history", "gender", "age", "occupation"),
            history=("mean",),
            id_width=16,
            feature_width=16,
            hidden=(32,),
            width=16,
        ),
        negatives=NegativesConfig(kind="log_uniform", num=20),
        loss=LossConfig(name="softmax", temperature=0.1),
        optim=OptimConfig(learning_rate=1e-3),
        train=TrainConfig(epochs=5, batch_size=1024),
    )
