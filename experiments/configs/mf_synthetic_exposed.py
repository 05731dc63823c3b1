"""MF on a synthetic log, with negatives that users were shown and passed over.

Four of them beside those of the batch.

    python -m experiments.run --config=mf_synthetic_exposed

Expected, one seed: test hr@10 0.191, ndcg@10 0.098 (popularity 0.043, the oracle
0.539). Half a minute on two cores (BUILD_NOTES.md, record 8).
"""

from recall_jax.data.sources import synthetic
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import mf
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="mf_synthetic_exposed",
        data=synthetic.Config(),
        model=mf.Config(),
        negatives=NegativesConfig(
            kind="in_batch", own="exposed", correction="positive_excluded"
        ),
        loss=LossConfig(name="softmax", temperature=0.1),
        optim=OptimConfig(learning_rate=1e-2, schedule="cosine"),
        train=TrainConfig(epochs=8, batch_size=1024),
    )
