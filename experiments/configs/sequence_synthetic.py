"""Self-attention user tower (Kang and McAuley 2018) on a synthetic log.

    python -m experiments.run --config=sequence_synthetic

Expected, one seed: test hr@10 0.339, ndcg@10 0.188 (bigram 0.248, oracle 0.539). Two
minutes on two cores with much else on them.
"""

from recall_jax.data.sources import synthetic
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import sequence
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="sequence_synthetic",
        data=synthetic.Config(),
        model=sequence.Config(history_length=50),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.1),
        optim=OptimConfig(learning_rate=4e-3, schedule="cosine"),
        train=TrainConfig(epochs=20, batch_size=32, eval_every=2),
        evaluate=EvaluateConfig(batch_size=128),
    )
