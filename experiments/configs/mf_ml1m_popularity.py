"""MF on MovieLens 1M, negatives by popularity^0.75 (word2vec's) with log-q.

    python -m experiments.run --config=mf_ml1m_popularity

Expected, one seed: test hr@10 0.087, ndcg@10 0.042.
Half a minute to two minutes on two cores (BUILD_NOTES.md, record 8).
"""

from experiments.configs import mf_ml1m
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.run.config import Experiment


def get_config() -> Experiment:
    config = mf_ml1m.get_config()
    config.name = "mf_ml1m_popularity"
    config.negatives = NegativesConfig(
        kind="popularity", num=1024, alpha=0.75, correction="positive_excluded"
    )
    return config
