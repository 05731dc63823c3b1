"""DSSM (Huang et al. 2013; Yi et al. 2019) on a log of Parquet shards larger than memory.

    python -m experiments.run --config=dssm_stream --config.data.path=SHARDS
        --config.data.user=user_id --config.data.item=item_id --config.data.time=ts

As dssm_logs, but the log is laid out once as memory-mapped arrays in SHARDS.prepared
(--config.data.prepared names another place), about 4 bytes an event, and trained on in
windows that are shuffled while the device works on the one before. In memory are ids,
features and tables. What to set (`recall_jax.data.sources.stream.Config`):

    --config.data.window_examples=4000000    more is shuffled better, and takes memory
    --config.data.chunk_examples=65536       of slow disks, longer reads
    --config.data.measured_users=0           measure all held-out users, not 10,000
    --config.train.checkpoint_every=20       dispatches; a killed run goes on there

Protocols leave_one_out and temporal, ties in file order. What to expect is your log's
matter; of the baselines only popularity does without the log in memory.
"""

from recall_jax.data.sources import stream
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import dssm
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="dssm_stream",
        data=stream.Config(),
        model=dssm.Config(),
        negatives=NegativesConfig(kind="in_batch", correction="positive_excluded"),
        loss=LossConfig(name="softmax", temperature=0.1),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(epochs=1, batch_size=4096, checkpoint_every=20),
    )
