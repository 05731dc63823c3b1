"""MF on MovieLens 1M, in-batch negatives and four between ranks 50 and 300 of the
user's own list, by item vectors refreshed every 50 steps (Xiong et al. 2021).

    python -m experiments.run --config=mf_ml1m_semi_hard

Expected, one seed: test hr@10 0.083, ndcg@10 0.041.
Half a minute to two minutes on two cores (BUILD_NOTES.md, record 8).
"""

from experiments.configs import mf_ml1m
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.run.config import Experiment


def get_config() -> Experiment:
    config = mf_ml1m.get_config()
    config.name = "mf_ml1m_semi_hard"
    config.negatives = NegativesConfig(
        kind="in_batch",
        own="semi_hard",
        ranks=(50, 300),
        mask=("item", "positives"),
        correction="positive_excluded",
    )
    return config
