"""MF on MovieLens 1M, in-batch and uniform negatives in one denominator
(Yang et al. 2020).

    python -m experiments.run --config=mf_ml1m_mixed

Expected, one seed: test hr@10 0.082, ndcg@10 0.039.
Half a minute to two minutes on two cores (BUILD_NOTES.md, record 8).
"""

from experiments.configs import mf_ml1m
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.run.config import Experiment


def get_config() -> Experiment:
    config = mf_ml1m.get_config()
    config.name = "mf_ml1m_mixed"
    config.negatives = NegativesConfig(
        kind="mixed", num=1024, correction="positive_excluded"
    )
    return config
