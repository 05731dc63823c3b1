"""DSSM (Huang et al. 2013; Yi et al. 2019) on MovieLens 1M under protocol file_order.

    python -m experiments.run --config=dssm_ml1m_file_order

The split and features of a published table (FunRec: hr@10 0.0401, ndcg@10 0.0137), whose
artificial order a bigram reads off: it compares tables, not models. Expected, three
seeds: after the refit on all of train test hr@10 0.609 (spread 0.006), ndcg@10 0.405, and
the bigram counted on the same 0.509, 0.318; before it 0.539, 0.350 and the bigram 0.467,
0.288. Two to three minutes on two cores (BUILD_NOTES.md, record 10).
"""

from recall_jax.data import split
from recall_jax.data.sources import movielens
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import dssm
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="dssm_ml1m_file_order",
        data=movielens.Config(name="1m", protocol="file_order"),
        model=dssm.Config(
            query=("history", "age", "occupation", "zip"),
            item=("item", "first_genre"),
        ),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.07),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=4, batch_size=1024, refit="all"),
        evaluate=EvaluateConfig(metrics=split.METRICS, select_by="ndcg@10"),
    )
