"""Matrix factorisation on MovieLens 1M, 5-core, leave-one-out, full softmax.

    python -m experiments.run --config=mf_ml1m

A vector a user and a vector an item, no features, no history: a baseline for losses and
negatives, which study mf_movielens varies. Without the order of events it is far below
a bigram. Expected (one seed): test hr@10 0.083, ndcg@10 0.040; about a minute and a half
on two cores (BUILD_NOTES.md, record 8).
"""

from recall_jax.data.sources import movielens
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import mf
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="mf_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=mf.Config(),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.1),
        optim=OptimConfig(learning_rate=1e-2, schedule="cosine"),
        train=TrainConfig(epochs=5, batch_size=1024),
    )
