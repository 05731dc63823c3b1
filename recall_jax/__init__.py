"""Embedding-based retrieval for recommenders, in JAX.

Read `types` first, then a batch's way: `data.arrays`, `losses.objective`, `tables.rows`,
`training.step`, `training.loop`, `evaluate.measure`. Models are in `models`, sources of
data in `data.sources`. What was trained and exported is served by `load`.
"""

__version__ = "0.1.0"


def load(folder):
    """The `serve.recommender.Recommender` of an export's folder."""
    # It needs JAX, which a version number does not.
    from recall_jax.serve import recommender

    return recommender.load(folder)
