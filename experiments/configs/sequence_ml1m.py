"""Self-attention user tower (Kang and McAuley 2018, SASRec) on MovieLens 1M, leave-one-out.

    python -m experiments.run --config=sequence_ml1m

5-core. Two blocks, 128 wide, over the last 200 items, a table of its own for the
history, full softmax, every position trained in one pass. Expected, ties in file order, five seeds: test
hr@10 0.314 (spread 0.003), ndcg@10 0.185, recall@20 0.417; on validation 0.336, 0.196.
With ties shuffled (--config.data.ties=shuffled) 0.293, 0.168, 0.402.
Nine minutes of training on two cores with another training on them (BUILD_NOTES.md,
records 11 and 13).
"""

from recall_jax.data.sources import movielens
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import sequence
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="sequence_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=sequence.Config(width=128, heads=4),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.07),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=8, batch_size=16, eval_every=2),
        evaluate=EvaluateConfig(batch_size=128),
    )
