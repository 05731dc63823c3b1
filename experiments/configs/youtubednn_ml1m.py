"""YoutubeDNN (Covington et al. 2016) on MovieLens 1M, 5-core, leave-one-out.

    python -m experiments.run --config=youtubednn_ml1m

Mean and recency-weighted mean of the last 50 items beside the profile, full softmax.
Expected, ties in file order, five seeds: test hr@10 0.302 (spread 0.001), ndcg@10 0.176,
recall@20 0.404; trained and tested with ties shuffled (--config.data.ties=shuffled)
0.286, 0.160, 0.396. One and a half to five minutes on two cores, with what else they do
(BUILD_NOTES.md, records 3 and 13).
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
        name="youtubednn_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=youtubednn.Config(query=("history", "gender", "age", "occupation")),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.07),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=8, batch_size=1024),
    )
