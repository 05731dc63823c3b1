"""The data of an experiment: read, split, laid out."""

import dataclasses
from typing import Any, NamedTuple

from recall_jax.data import describe, prepared
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import split as split_lib
from recall_jax.data.log import Interactions
from recall_jax.data.prepared import Data
from recall_jax.data.sources import stream
from recall_jax.run import build as build_lib
from recall_jax.run.config import Experiment
from recall_jax.types import InputError


def is_streamed(config: Experiment) -> bool:
    """Whether the log is read in windows."""
    return isinstance(config.data, stream.Config)


def open_data(config: Experiment) -> Data:
    """Raises InputError for a model that cannot be trained on windows."""
    if hasattr(config.model, "pairs") or config.model.every_position:
        raise InputError(
            f"{config.name}: a model on pairs of items or over whole sequences takes the "
            "log whole; a streamed one trains models on (user, item) examples: dssm, "
            "youtubednn, mf, fm, markov. Take one of these, or read the log into memory, "
            "with the data of --config=dssm_logs"
        )
    return prepared.open_data(
        config.data,
        history_length=config.model.history_length,
        min_history=config.model.min_history,
    )


class Prepared(NamedTuple):
    """A data set, and the same with ties broken the other way where there are times."""

    data: Data
    other_ties: Data | None


def read(config: Experiment) -> Prepared:
    """Load, filter, split and lay out the data of an experiment."""
    build_lib.check_pairs(config)
    if is_streamed(config):
        return Prepared(open_data(config), None)
    log, ties = config.data.load(), config.data.ties
    other = "file" if ties == "shuffled" else "shuffled"
    compared = config.data.protocol == "leave_one_out" and log.time is not None
    split = split_of(config, log)
    first = laid_out(config, split)
    # Once: of other ties, and of a run that is only compared, nobody reads it.
    report = (*first.report, *describe.events(split.log))
    first = dataclasses.replace(first, report=report)
    if not (compared or ties == "both"):
        return Prepared(first, None)
    return Prepared(first, lay_out(with_ties(config, other), log))


def lay_out(config: Experiment, log: Interactions) -> Data:
    """A log split and laid out; of data.ties=both the first, ties in file order."""
    return laid_out(config, split_of(config, log))


def split_of(config: Experiment, log: Interactions) -> split_lib.Split:
    if config.data.ties == "both":
        config = with_ties(config, "file")
    # An unknown name goes to the split as it is, which names the known ones.
    return split_lib.by_protocol(log, config=config.data)


def laid_out(config: Experiment, split: split_lib.Split) -> Data:
    return prepare_lib.in_memory(
        split,
        history_length=config.model.history_length,
        min_history=config.model.min_history,
        span=span_of(config.model),
        config=config.data,
    )


def span_of(model: Any) -> int:
    """Examples that a model takes as one row of a batch."""
    return model.history_length if model.every_position else 1


def with_ties(config: Experiment, ties: str) -> Experiment:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, ties=ties))


def without_validation(config: Experiment) -> Experiment:
    """What refits it: on all of train, for epochs that are known."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, valid_share=0.0),
        train=dataclasses.replace(config.train, refit="none"),
    )
