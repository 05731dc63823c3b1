"""Whether finished runs were trained on what their logs hold now.

Nothing is trained, prepared or downloaded to tell. Where the log is gone, or a streamed
one would have to be prepared anew, there is nothing to compare with, which is said.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from recall_jax.data import folders
from recall_jax.data.sources import movielens
from recall_jax.run import config as config_lib
from recall_jax.run import data as data_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run.config import Experiment
from recall_jax.types import MissingData


class Finished(NamedTuple):
    """A run that is read, not trained."""

    config: Experiment
    workdir: pathlib.Path


def check(runs: Sequence[Finished]) -> None:
    """Raise InputError for a run that was trained on other data than its log holds now;
    a log is read once for all runs that lay it out alike. Prints which logs could not be
    compared."""
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        groups.setdefault(_layout(run.config), []).append(run)
    for alike in groups.values():
        try:
            fingerprints = _fingerprints(alike[0].config)
        except MissingData as problem:
            names = ", ".join(str(run.workdir) for run in alike)
            print(f"not compared with the data of today: {names}: {problem}")
            continue
        for run in alike:
            for folder, (source, sha256) in fingerprints.items():
                folder_lib.check_sha256(sha256, run.workdir / folder, source=source)


def _layout(config: Experiment) -> str:
    """What decides which events a run trains on, and how they are laid out."""
    model = config.model
    laid = [model.history_length, model.min_history, data_lib.span_of(model)]
    data = config_lib.as_dict(config)["data"]
    return json.dumps([data, *laid, config.train.refit], sort_keys=True)


def _fingerprints(config: Experiment) -> dict[str, tuple[str, str]]:
    """Source and `Data.fingerprint` of the data now, by folder of a run. Raises
    MissingData where there are none."""
    if data_lib.is_streamed(config):
        # A refit reads the same files.
        least = config.model.min_history
        sha256 = folders.fingerprint_of(config.data, min_history=least)
        return {"": (config.data.path, sha256)}
    if isinstance(config.data, movielens.Config) and not movielens.is_here(config.data):
        raise MissingData("MovieLens is not on this machine")
    log = config.data.load()
    laid = {"": config}
    if config.data.ties == "both":
        laid["ties_shuffled"] = data_lib.with_ties(config, "shuffled")
    if config.train.refit == "all":
        laid["refit"] = data_lib.without_validation(config)
    return {
        folder: (log.source, data_lib.lay_out(one, log).fingerprint())
        for folder, one in laid.items()
    }
