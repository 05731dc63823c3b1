"""DSSM at the sizes of most tutorials, on MovieLens 1M, 5-core, leave-one-out.

    python -m experiments.run --config=dssm_seed_ml1m

Ids 8 wide, 128-64-32 with tanh, batch norm and dropout, logistic loss on five uniform
negatives an example: what a newcomer's first recall is made of. Expected, one seed: test hr@10
0.072, ndcg@10 0.036, recall@20 0.128, where dssm_ml1m has 0.300, 0.174, 0.403. Two
minutes on two cores with much else on them.
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
        name="dssm_seed_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=dssm.Config(
            query=("user", "history", "gender", "age", "occupation"),
            item=("item", "genres"),
            history=("mean",),
            id_width=8,
            feature_width=8,
            hidden=(128, 64),
            item_hidden=(128, 64),
            width=32,
            activation="tanh",
            norm="batch",
            dropout=0.2,
        ),
        negatives=NegativesConfig(
            kind="none", own="uniform", num_own=5, correction="none"
        ),
        loss=LossConfig(name="logistic", temperature=0.2, negative_weight=5.0),
        optim=OptimConfig(learning_rate=1e-3),
        train=TrainConfig(epochs=5, batch_size=1024),
    )
