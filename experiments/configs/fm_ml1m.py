"""FM recall (Rendle 2010) on MovieLens 1M, 5-core, leave-one-out.

    python -m experiments.run --config=fm_ml1m

Expected, ties in file order, one seed: test hr@10 0.137, ndcg@10 0.070, recall@20 0.208: a
mean of the history knows no order, and the bigram has 0.214. Four minutes on two cores
with much else on them.
"""

from recall_jax.data.sources import movielens
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import fm
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="fm_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=fm.Config(
            query=("history", "gender", "age", "occupation"),
            item=("item", "genres", "year"),
        ),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=1.0),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=6, batch_size=1024),
    )
