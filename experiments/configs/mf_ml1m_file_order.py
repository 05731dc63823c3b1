"""Matrix factorisation on MovieLens 1M under protocol file_order, full softmax.

    python -m experiments.run --config=mf_ml1m_file_order

A vector a user cannot tell which of his rows is the last, and what lies near it in the
file is all that this protocol rewards: far below the bigram and a constant list, a little
above popularity (0.004). It is best after one epoch and falls from there. Expected,
three seeds: after the refit on all of train test hr@10 0.023 (spread 0.004), ndcg@10
0.010; before it 0.014, 0.006. A minute on two cores with much else on them
(BUILD_NOTES.md, record 10).
"""

from recall_jax.data import split
from recall_jax.data.sources import movielens
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import mf
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="mf_ml1m_file_order",
        data=movielens.Config(name="1m", protocol="file_order"),
        model=mf.Config(),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.3),
        optim=OptimConfig(learning_rate=5e-3, schedule="cosine"),
        train=TrainConfig(epochs=2, batch_size=1024, refit="all"),
        evaluate=EvaluateConfig(metrics=split.METRICS, select_by="ndcg@10"),
    )
