"""MF on MovieLens 1M, in-batch negatives and a queue of recent item vectors
(Wang et al. 2020).

    python -m experiments.run --config=mf_ml1m_queue

Expected: EXPECTED.
"""

from experiments.configs import mf_ml1m
from recall_jax.config import Experiment
from recall_jax.negatives import NegativesConfig


def get_config() -> Experiment:
    config = mf_ml1m.get_config()
    config.name = "mf_ml1m_queue"
    config.negatives = NegativesConfig(
        kind="queue", num=4096, correction="positive_excluded"
    )
    return config
