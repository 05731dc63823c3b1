"""DSSM (Huang et al. 2013; Yi et al. 2019) on your own log, from Parquet or CSV.

    python -m experiments.run --config=dssm_logs --config.data.path=events.csv
        --config.data.user=user_id --config.data.item=item_id --config.data.time=ts

One row is one event; user, item and time name its columns. Further fields, where you
have them (`recall_jax.data.sources.logs.Config` lists all, each with its meaning):

    --config.data.time_format=ms             times that are not unix seconds or ISO 8601
    --config.data.action=event --config.data.actions=click,buy   which are positive
    --config.data.rating=stars --config.data.min_rating=4
    --config.data.item_features=items.parquet    a row an item, its id named as above
    --config.data.bags=tags                  columns that hold several values, a|b
    --config.data.dense=age                  whole numbers that are no codes
    --config.data.duplicates=dropped         rows equal in user, item, time (or kept)
    --config.data.min_item_events=5          drop what is rarer, again and again

All feature columns are used; --config.model.item=item,tags takes some. Without a time
the order of rows is the order of events. What to expect, in time and in figures, is your
log's matter: read the popularity and bigram rows, which every table has, first.
"""

from recall_jax.data.sources import logs
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import dssm
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="dssm_logs",
        data=logs.Config(),
        model=dssm.Config(),
        negatives=NegativesConfig(kind="in_batch", correction="positive_excluded"),
        loss=LossConfig(name="softmax", temperature=0.1),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=10, batch_size=512),
    )
