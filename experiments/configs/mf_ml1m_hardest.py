"""MF on MovieLens 1M, the 32 best-scored of 1,024 uniform negatives.

    python -m experiments.run --config=mf_ml1m_hardest

Expected, one seed: test hr@10 0.062, ndcg@10 0.031, below in-batch negatives: many of the hardest are
unlabelled positives.
Half a minute to two minutes on two cores (BUILD_NOTES.md, record 8).
"""

from experiments.configs import mf_ml1m
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.run.config import Experiment


def get_config() -> Experiment:
    config = mf_ml1m.get_config()
    config.name = "mf_ml1m_hardest"
    config.negatives = NegativesConfig(
        kind="uniform",
        num=1024,
        hardest=32,
        mask=("item", "positives"),
        correction="none",
    )
    return config
