"""Airbnb listing embeddings (Grbovic and Cheng 2018) on a shop's log (Tianchi 231719).

    python -m experiments.run --config=airbnb_ecomm

A purchase is a booking, a category a market (all items share one top category). Times are
whole days, so a session is a user's day and has no order: contexts are drawn from all of
it. Items without training events take the mean of the three most popular of their
category, brand and price.

Expected, five seeds: test ndcg@10 0.279 (spread 0.006); the booked item's rank 0.183 (0.020)
among all items, 0.191 within its category (0 the first, 1 the last; popularity 0.384,
0.391). Global context helps here, the category's negatives do not (BUILD_NOTES.md, record
15).
"""

from recall_jax.data.sources import ecomm
from recall_jax.models import airbnb, itemwise
from recall_jax.models.itemwise import PairsConfig
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    sessions = itemwise.SequencesConfig(cut="day", conversions=("buy",), oversample=5)
    return Experiment(
        name="airbnb_ecomm",
        data=ecomm.Config(),
        model=airbnb.Config(
            recency=2.0,
            pairs=PairsConfig(
                order="set",
                window=5,
                global_context=1.0,
                market="category",
                sequences=sessions,
            ),
            cold_market="category",
            cold_type="brand",
            cold_price="price_bucket",
        ),
        optim=OptimConfig(
            learning_rate=0.1, tables="rowwise_adagrad", schedule="linear"
        ),
        train=TrainConfig(epochs=10, batch_size=32),
    )
