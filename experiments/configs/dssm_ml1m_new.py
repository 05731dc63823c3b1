"""DSSM on MovieLens 1M, a tenth of the items hidden from training.

Can items that nobody has met be found by their features alone?

    python -m experiments.run --config=dssm_ml1m_new

Titles as letter trigrams (Huang et al. 2013), genres and year; the id is dropped half of
the time in training, so that the rest learns to do without (Volkovs et al. 2017).
Validation holds no new item. Expected, one seed: for users whose test item is new hr@10
0.025 +-0.013, where chance has 0.003 and all that counts events 0; for all users 0.266.
Four minutes on two cores with much else on them (BUILD_NOTES.md, record 12).
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
        name="dssm_ml1m_new",
        data=movielens.Config(
            name="1m", min_user_events=5, min_item_events=5, hidden_share=0.1
        ),
        model=dssm.Config(
            query=("history", "gender", "age", "occupation"),
            item=("item", "genres", "year", "title"),
            id_dropout=0.5,
        ),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.07),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=6, batch_size=1024),
    )
