"""Matrix completion (Koren et al. 2009) of graded interest, on a synthetic log.

Squared error; 0 shown only, 1 to 4 by click, like, save, share and purchase.

    python -m experiments.run --config=mf_synthetic_graded

Expected, one seed: test hr@10 0.039, ndcg@10 0.020, no better than popularity (0.043):
what tells grades apart does not tell what somebody meets next. Fifteen seconds on two
cores (BUILD_NOTES.md, record 8).
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
        name="mf_synthetic_graded",
        data=synthetic.Config(label="grade"),
        model=mf.Config(normalize="none", biases="both"),
        negatives=NegativesConfig(kind="none", correction="none"),
        loss=LossConfig(name="squared", temperature=1.0),
        optim=OptimConfig(learning_rate=4e-3, schedule="cosine"),
        train=TrainConfig(epochs=8, batch_size=1024),
    )
