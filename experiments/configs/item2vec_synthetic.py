"""Item2Vec (Barkan and Koenigstein 2016) on a synthetic log, leave-one-out.

    python -m experiments.run --config=item2vec_synthetic

Needs no data. An order in which one item follows another is planted in this log, which
pairs within a window see in part.

Expected, one seed: test hr@10 0.194, ndcg@10 0.098 (bigram 0.248, 0.140), best after a
quarter of the steps. Two seconds of training on two cores.
"""

from recall_jax.data.sources import synthetic
from recall_jax.models import item2vec
from recall_jax.models.itemwise import PairsConfig
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="item2vec_synthetic",
        data=synthetic.Config(),
        model=item2vec.Config(recency=2.0, pairs=PairsConfig(window=5)),
        optim=OptimConfig(
            learning_rate=0.1, tables="rowwise_adagrad", schedule="linear"
        ),
        train=TrainConfig(epochs=10, batch_size=32),
    )
