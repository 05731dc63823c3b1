"""DSSM (Huang et al. 2013; Yi et al. 2019) on a synthetic log made on the spot.

python -m experiments.run --config=dssm_synthetic
"""

from recall_jax.config import Experiment
from recall_jax.data import synthetic
from recall_jax.fit import TrainConfig
from recall_jax.models import dssm
from recall_jax.objective import LossConfig, NegativesConfig
from recall_jax.train import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="dssm_synthetic",
        data=synthetic.Config(),
        model=dssm.Config(),
        negatives=NegativesConfig(kind="in_batch", correction="log_q"),
        loss=LossConfig(name="softmax", temperature=0.1),
        optim=OptimConfig(learning_rate=4e-3, schedule="cosine"),
        train=TrainConfig(epochs=8, batch_size=1024),
    )
