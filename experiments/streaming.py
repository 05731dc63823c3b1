"""What training takes from data in memory, or from a log that is read in windows."""

import contextlib
import operator
from typing import Any

import jax
from jax.experimental import multihost_utils

from recall_jax.data import prepared
from recall_jax.data.prepared import Data
from recall_jax.data.sources import stream
from recall_jax.devices import mesh, processes
from recall_jax.pairs import corpus
from recall_jax.run.config import Experiment
from recall_jax.training import loop, windows
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


def cut(config: Experiment, data: Data) -> windows.Cut:
    """How the epochs of a streamed log are cut into windows."""
    settings = config.data
    return windows.make_cut(
        config.train,
        data.log,
        window=settings.window_examples,
        chunk=settings.chunk_examples,
    )


def make_plan(config: Experiment, data: Data, *, num_rows: int) -> loop.Plan:
    """Of epochs of rows in memory, or of windows."""
    if data.log is None:
        return loop.make_plan(config.train, num_rows=num_rows)
    return cut(config, data).plan


def make_feed(
    config: Experiment,
    data: Data,
    on: corpus.Corpus,
    *,
    plan: loop.Plan,
    key: jax.Array,
) -> loop.Feed:
    """What the steps of `plan` train on."""
    if data.log is None:
        return loop.resident(
            on.source, num_rows=on.num_rows, span=on.span, plan=plan, key=key
        )
    window_cut = cut(config, data)._replace(plan=plan)
    return windows.feed(on.source, data.log, window_cut, key=key, share=_share())


def _share() -> windows.Share:
    """Of the processes of a run, which exchange what they have read."""
    if processes.count() == 1:
        return windows.ALONE

    def gather(part: windows.Read) -> list[windows.Read]:
        processes.gathered("window")  # a collective on CPUs waits for 30 seconds only
        stacked = multihost_utils.process_allgather(part)
        return [
            jax.tree.map(operator.itemgetter(process), stacked)
            for process in range(processes.count())
        ]

    return windows.Share(processes.process_index(), processes.count(), gather)


def some_rows(on: corpus.Corpus, data: Data, feed: loop.Feed) -> tuple[Any, int]:
    """A source with rows to measure batches by, and how many it has: the first window,
    where several devices want to know, or all data in memory."""
    if data.log is None or mesh.num_devices() == 1:
        return on.source, on.num_rows
    with contextlib.closing(feed.portions(0)) as portions:
        source, _ = next(portions)
    return source, source.dataset.num_rows
