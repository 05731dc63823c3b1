"""MF on MovieLens 1M, in-batch negatives and a queue of recent item vectors
(Wang et al. 2020).

    python -m experiments.run --config=mf_ml1m_queue

Expected, one seed: test hr@10 0.031, ndcg@10 0.015, no better than popularity: the queue's copies
take no gradient, so items are pulled more than pushed (recall_jax/losses/negatives.md).
Half a minute to two minutes on two cores (BUILD_NOTES.md, record 8).
"""

from experiments.configs import mf_ml1m
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.run.config import Experiment


def get_config() -> Experiment:
    config = mf_ml1m.get_config()
    config.name = "mf_ml1m_queue"
    config.negatives = NegativesConfig(
        kind="queue", num=4096, correction="positive_excluded"
    )
    return config
