"""YoutubeDNN (Covington et al. 2016) with all of its tricks, on a synthetic log.

    python -m experiments.run --config=youtubednn_synthetic

Watches, searched words, profile and the age of the example (0 in use), as many examples
of every user. Expected, three seeds: test hr@10 0.291 (spread 0.003), ndcg@10 0.157
(bigram 0.248, oracle 0.539). What each trick is worth here is in BUILD_NOTES.md, record
14: all examples, without their age, reach 0.31. Half a minute on two cores.
"""

from recall_jax.data.sources import synthetic
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import youtubednn
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="youtubednn_synthetic",
        data=synthetic.Config(examples_per_user=40),
        model=youtubednn.Config(
            query=(
                "history",
                "searched",
                "example_age",
                "user",
                "age",
                "gender",
                "region",
                "device",
            ),
        ),
        negatives=NegativesConfig(kind="in_batch"),
        loss=LossConfig(name="softmax", temperature=0.1),
        optim=OptimConfig(learning_rate=4e-3, schedule="cosine"),
        train=TrainConfig(epochs=8, batch_size=1024),
    )
