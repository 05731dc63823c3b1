"""Factorised Markov chain (Rendle et al. 2010) on MovieLens 1M, 5-core, leave-one-out.

    python -m experiments.run --config=markov_ml1m

The smallest model there is here: a vector for the last item, a vector for the next.
Expected, ties in file order, one seed: test hr@10 0.213, ndcg@10 0.124, as the bigram that
it factorises (0.214, 0.126). Two minutes on two cores with much else on them.
"""

from recall_jax.data.sources import movielens
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import markov
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="markov_ml1m",
        data=movielens.Config(name="1m", min_user_events=5, min_item_events=5),
        model=markov.Config(),
        negatives=NegativesConfig(kind="full", correction="none"),
        loss=LossConfig(name="softmax", temperature=0.07),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=6, batch_size=1024),
    )
