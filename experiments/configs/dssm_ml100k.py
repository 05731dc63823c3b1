"""DSSM (Huang et al. 2013; Yi et al. 2019) on MovieLens 100K, 5-core, leave-one-out.

    python -m experiments.run --config=dssm_ml100k

Expected, ties in file order, three seeds: test hr@10 0.212 (spread 0.005; with 943 users
the interval of one run is +-0.027), where popularity has 0.084 and the last-item bigram
0.144. About 15 seconds on two cores (BUILD_NOTES.md, record 5).
"""

from recall_jax.data.sources import movielens
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import dssm
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="dssm_ml100k",
        data=movielens.Config(name="100k", min_user_events=5, min_item_events=5),
        model=dssm.Config(
            query=("history", "gender", "age", "occupation"),
            item=("item", "genres", "year"),
        ),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.07),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=8, batch_size=256),
    )
