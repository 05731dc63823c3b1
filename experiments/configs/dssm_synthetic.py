"""DSSM (Huang et al. 2013; Yi et al. 2019) on a synthetic log made on the spot.

    python -m experiments.run --config=dssm_synthetic

In-batch softmax, log-q correction without the positive. Expected, leave-one-out over all
2,396 items, three seeds: test hr@10 0.333 (spread 0.004), where popularity has 0.043, the
last-item bigram 0.248 and the oracle, which knows the generator, 0.539. About 45 seconds
on two cores (BUILD_NOTES.md, record 4).
"""

from recall_jax.data.sources import synthetic
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import dssm
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="dssm_synthetic",
        data=synthetic.Config(),
        model=dssm.Config(),
        negatives=NegativesConfig(kind="in_batch", correction="positive_excluded"),
        loss=LossConfig(name="softmax", temperature=0.1),
        optim=OptimConfig(learning_rate=4e-3, schedule="cosine"),
        train=TrainConfig(epochs=8, batch_size=1024),
    )
