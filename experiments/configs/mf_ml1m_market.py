"""MF on MovieLens 1M, in-batch negatives and four of the positive's own year, as
Airbnb draws them from its market (Grbovic and Cheng 2018).

    python -m experiments.run --config=mf_ml1m_market

Expected, one seed: test hr@10 0.084, ndcg@10 0.041.
Half a minute to two minutes on two cores (BUILD_NOTES.md, record 8).
"""

from experiments.configs import mf_ml1m
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.run.config import Experiment


def get_config() -> Experiment:
    config = mf_ml1m.get_config()
    config.name = "mf_ml1m_market"
    config.negatives = NegativesConfig(
        kind="in_batch", own="market", market="year", correction="positive_excluded"
    )
    return config
