"""MF on MovieLens 1M, uniform negatives shared by the batch.

    python -m experiments.run --config=mf_ml1m_uniform

Expected: EXPECTED.
"""

from experiments.configs import mf_ml1m
from recall_jax.config import Experiment
from recall_jax.negatives import NegativesConfig


def get_config() -> Experiment:
    config = mf_ml1m.get_config()
    config.name = "mf_ml1m_uniform"
    config.negatives = NegativesConfig(
        kind="uniform", num=1024, correction="positive_excluded"
    )
    return config
