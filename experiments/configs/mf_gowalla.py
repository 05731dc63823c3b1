"""Matrix factorisation with a softmax loss on Gowalla, train and test as published.

    python -m experiments.run --config=mf_gowalla

Cosine plus an item bias, width 1,024, in-batch negatives with log-q, a user's items never
his negatives; then a refit on all of train. Expected, three seeds (spread below 0.001):
after the refit test recall@20 0.196, ndcg@20 0.161; before it, on 90 % of train, 0.188 and
0.155. Published: MF softmax 0.176/0.140, MF-CCL 0.184/0.149, SimpleX 0.187/0.156, chosen
on test. 17 to 24 minutes on two cores, 1.6 GB (BUILD_NOTES.md, record 9).
"""

from recall_jax.data.sources import lightgcn
from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import mf
from recall_jax.run.config import Experiment
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig


def get_config() -> Experiment:
    return Experiment(
        name="mf_gowalla",
        data=lightgcn.Config(name="gowalla"),
        model=mf.Config(width=1024, biases="item"),
        negatives=NegativesConfig(
            kind="in_batch",
            correction="positive_excluded",
            mask=("item", "positives"),
        ),
        loss=LossConfig(name="softmax", temperature=0.075),
        optim=OptimConfig(learning_rate=1e-2),
        train=TrainConfig(epochs=12, batch_size=2048, eval_every=4, refit="all"),
        evaluate=EvaluateConfig(
            metrics=("recall@20", "ndcg@20", "hr@20", "mrr@20"), select_by="ndcg@20"
        ),
    )
