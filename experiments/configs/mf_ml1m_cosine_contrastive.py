"""MF on MovieLens 1M with the cosine contrastive loss (Mao et al. 2021, SimpleX).

    python -m experiments.run --config=mf_ml1m_cosine_contrastive

Expected, one seed, margin and weight not tuned: test hr@10 0.027, ndcg@10 0.012. A
minute on two cores (BUILD_NOTES.md, record 8).
"""

from experiments.configs import mf_ml1m
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.run.config import Experiment


def get_config() -> Experiment:
    config = mf_ml1m.get_config()
    config.name = "mf_ml1m_cosine_contrastive"
    config.negatives = NegativesConfig(kind="uniform", num=1024, correction="none")
    config.loss = LossConfig(
        name="cosine_contrastive", margin=0.4, negative_weight=100.0
    )
    return config
