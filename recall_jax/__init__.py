"""Embedding-based retrieval for recommenders, in JAX.

    run = recall_jax.train(experiment)      # in runs/NAME; again, it resumes
    run = recall_jax.open_run("runs/NAME")
    run.recommend(user=42).ids
    run.export("exported/NAME")
    recall_jax.load("exported/NAME").recommend(user=42).ids

Read `types` first, then a batch's way: `data.arrays`, `losses.objective`, `tables.rows`,
`training.step`, `training.loop`, `evaluate.measure`. Models are in `models`, sources of
data in `data.sources`; `run.experiment` puts an experiment together.
"""

import importlib.util

__version__ = "0.1.0"

_PUBLIC = {
    "Experiment": "run.config",
    "InputError": "types",
    "Run": "run.open",
    "load": "serve.recommender",
    "open_run": "run.open",
    "train": "run.experiment",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    """What is public, imported where it is first used: a version number needs no JAX."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"recall_jax.{_PUBLIC[name]}"), name)
    if importlib.util.find_spec(f"recall_jax.{name}") is not None:  # a room
        return importlib.import_module(f"recall_jax.{name}")
    raise AttributeError(f"module 'recall_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
