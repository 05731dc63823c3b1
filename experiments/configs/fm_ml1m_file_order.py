"""FM recall (Rendle 2010) on MovieLens 1M under protocol file_order.

    python -m experiments.run --config=fm_ml1m_file_order

The split and features of a published table (FunRec: hr@10 0.0010, a later edition 0.0467),
whose artificial order a bigram reads off: it compares tables, not models. Scores are the
machine's own, not cosines. Expected, three seeds: after the refit on all of train test
hr@10 0.238 (spread 0.003), ndcg@10 0.125; before it 0.139, 0.071. The mean of a history
cannot tell its last item. Two minutes on two cores (BUILD_NOTES.md, record 10).
"""

from recall_jax.data import split
from recall_jax.data.sources import movielens
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import fm
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="fm_ml1m_file_order",
        data=movielens.Config(name="1m", protocol="file_order"),
        model=fm.Config(
            query=("history", "age", "occupation", "zip"), item=("item", "first_genre")
        ),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=1.0),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=4, batch_size=1024, refit="all"),
        evaluate=EvaluateConfig(metrics=split.METRICS, select_by="ndcg@10"),
    )
