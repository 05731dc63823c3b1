"""FM recall (Rendle 2010) on a synthetic log made on the spot.

    python -m experiments.run --config=fm_synthetic

Scores are the machine's own. Expected, one seed: test hr@10 0.242, ndcg@10 0.129 (bigram
0.248, oracle 0.539). Two minutes on two cores with much else on them.
"""

from recall_jax.data.sources import synthetic
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import fm
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="fm_synthetic",
        data=synthetic.Config(),
        model=fm.Config(),
        negatives=NegativesConfig(kind="in_batch"),
        loss=LossConfig(name="softmax", temperature=1.0),
        optim=OptimConfig(learning_rate=4e-3, schedule="cosine"),
        train=TrainConfig(epochs=8, batch_size=1024),
    )
