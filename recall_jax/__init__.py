"""Embedding-based retrieval for recommenders, in JAX.

Read `types` first, then a batch's way: `data.dataset`, `objective`, `tables`, `train`,
`fit`, `evaluate`. Models are in `models`, sources of data in `data`. What was trained and
exported is served by `load`.
"""

__version__ = "0.1.0"


def load(folder):
    """The `serving.Recommender` of an export's folder."""
    from recall_jax import serving  # which needs JAX, where a version number does not

    return serving.load(folder)
