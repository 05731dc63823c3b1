"""DSSM (Huang et al. 2013; Yi et al. 2019) on MovieLens 1M, 5-core, leave-one-out.

    python -m experiments.run --config=dssm_ml1m

Full softmax: at 3,416 items it costs less than an in-batch softmax of 4,096, and needs no
correction. Expected, ties in file order, three seeds: test hr@10 0.300 (spread 0.001),
ndcg@10 0.174, recall@20 0.403; trained and tested with ties shuffled
(--config.data.ties=shuffled) 0.286, 0.163, 0.398. One to four and a half minutes
on two cores, with what else they do (BUILD_NOTES.md, record 3).
"""

from recall_jax.data.sources import movielens
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import dssm
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_sweep() -> list[str]:
    """Of python -m experiments.sweep --config=dssm_ml1m."""
    return [
        "loss.temperature=0.04,0.07,0.1",
        "optim.learning_rate=log(1e-3,4e-3,3)",
    ]


def get_config() -> Experiment:
    return Experiment(
        name="dssm_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=dssm.Config(
            query=("history", "gender", "age", "occupation"),
            item=("item", "genres", "year"),
        ),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.07),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=6, batch_size=1024),
    )
