"""Embedding-based retrieval for recommenders, in JAX.

Read `types` first, then a batch's way: `data.dataset`, `objective`, `tables`, `train`,
`fit`, `evaluate`. Models are in `models`, sources of data in `data`.
"""

__version__ = "0.1.0"
