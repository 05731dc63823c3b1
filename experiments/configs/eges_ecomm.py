"""EGES (Wang et al. 2018) on a sample of a shop's log, split at days.

    python -m experiments.run --config=eges_ecomm

Times are whole days, so a session is a user's day, and as a day has no order the graph is
of what a day holds together, without direction. For the same reason no single event
is a user's last: the last of the ten days tests, and the one before it validates.

Expected of three epochs in larger steps (--config.train.batch_size=256
--config.train.epochs=3), one seed: test hr@10 0.167, ndcg@10 0.062, with
--config.model.kind=bge 0.258, 0.100 (bigram 0.135, 0.063). Half a minute of training on two
cores (BUILD_NOTES.md, record 15).
"""

from recall_jax.data.sources import ecomm
from recall_jax.models import eges, itemwise
from recall_jax.models.itemwise import PairsConfig
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    days = itemwise.SequencesConfig(cut="day")
    return Experiment(
        name="eges_ecomm",
        data=ecomm.Config(protocol="temporal", valid_share=0.15, test_share=0.07),
        model=eges.Config(
            pairs=PairsConfig(corpus="walks", graph="co_occurrence", sequences=days)
        ),
        optim=OptimConfig(
            learning_rate=0.1,
            tables="rowwise_adagrad",
            schedule="linear",
            weight_decay=1e-5,
        ),
        train=TrainConfig(epochs=10, batch_size=32),
    )
