"""Airbnb listing embeddings (Grbovic and Cheng 2018) on a synthetic log made on the spot.

    python -m experiments.run --config=airbnb_synthetic

A purchase is a booking. Items without training events take the mean of the three most
popular of their market, kind and price. results.json has the rank of what was bought by
the number of clicks before it ("conversions").

Expected, five seeds: test ndcg@10 0.114 (spread 0.002), hr@10 0.22; the booked item's rank
0.082 among all items, 0.326 within its market (0 the first, 1 the last). The market's
negatives help within the market, the global context does not on this log
(BUILD_NOTES.md, record 15).
"""

from recall_jax.data.sources import synthetic
from recall_jax.models import airbnb, itemwise
from recall_jax.models.itemwise import PairsConfig
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    sessions = itemwise.SequencesConfig(
        cut="conversion", gap=1800, conversions=("buy",), oversample=5
    )
    return Experiment(
        name="airbnb_synthetic",
        data=synthetic.Config(),
        model=airbnb.Config(
            recency=2.0,
            pairs=PairsConfig(
                window=5, global_context=1.0, market="market", sequences=sessions
            ),
            cold_market="market",
            cold_type="kind",
            cold_price="price_bucket",
        ),
        optim=OptimConfig(
            learning_rate=2.0, tables="rowwise_adagrad", schedule="linear"
        ),
        train=TrainConfig(epochs=10, batch_size=32),
    )
