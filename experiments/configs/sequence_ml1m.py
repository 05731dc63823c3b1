"""Self-attention user tower (Kang and McAuley 2018, SASRec) on MovieLens 1M, 5-core,
leave-one-out.

    python -m experiments.run --config=sequence_ml1m

Expected: to be measured.
"""

from recall_jax.config import Experiment
from recall_jax.data import movielens
from recall_jax.evaluate import EvaluateConfig
from recall_jax.fit import TrainConfig
from recall_jax.models import sequence
from recall_jax.negatives import NegativesConfig
from recall_jax.objective import LossConfig
from recall_jax.train import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="sequence_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=sequence.Config(),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.07),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=30, batch_size=16, eval_every=3),
        evaluate=EvaluateConfig(batch_size=128),
    )
