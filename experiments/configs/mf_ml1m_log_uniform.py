"""MF on MovieLens 1M, negatives log-uniform in the frequency rank, with log-q.

    python -m experiments.run --config=mf_ml1m_log_uniform

Expected, one seed: test hr@10 0.083, ndcg@10 0.041.
Half a minute to two minutes on two cores (BUILD_NOTES.md, record 8).
"""

from experiments.configs import mf_ml1m
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.run.config import Experiment


def get_config() -> Experiment:
    config = mf_ml1m.get_config()
    config.name = "mf_ml1m_log_uniform"
    config.negatives = NegativesConfig(
        kind="log_uniform", num=1024, correction="positive_excluded"
    )
    return config
