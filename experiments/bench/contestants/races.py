"""Contestants of `experiments.bench.peers` on a log: seconds until a recall."""

import dataclasses
import functools
import statistics
from typing import Any, NamedTuple

import numpy as np

from experiments.bench.contestants import programs, session, timing
from recall_jax.data import log
from recall_jax.data import prepare as prepare_lib
from recall_jax.data import split as split_lib
from recall_jax.data.prepared import Data, Part
from recall_jax.evaluate import measure
from recall_jax.index import search

METRIC = "recall@20"


class Goal(NamedTuple):
    """What a model is to find, and when it has found enough."""

    data: Data
    recall: float  # validation recall@20
    every: int  # steps between two looks
    cap: float  # seconds of training

    def recall_of(self, part: Part, vectors: tuple[np.ndarray, np.ndarray]) -> float:
        """recall@20 of a part's users from vectors of all users and all items."""
        user, item = vectors
        index = search.Exact.build(item)
        config = measure.EvaluateConfig(metrics=(METRIC,), select_by=METRIC)
        result = measure.measure_search(
            functools.partial(index.search, user[part.user - 1]),
            data=self.data,
            part=part,
            config=config,
        )
        return result.means()[METRIC]


def prepare(config: log.Config) -> Data:
    """A log for towers over ids alone: every event of the training part is an example."""
    split = split_lib.by_protocol(config.load(), config=config)
    return prepare_lib.in_memory(split, history_length=0, min_history=0, config=config)


def data_job(data: Data, **sizes) -> session.Job:
    """Training positives as (user, item) pairs, and log q of each item."""
    user = np.asarray(data.dataset.example_user)
    item = data.items[np.asarray(data.dataset.example_position)]
    users, items = len(data.user_codes), data.dataset.num_items
    count = np.bincount(item, minlength=items + 2)
    log_q = np.log(np.maximum(count, 0.5) / len(item))
    return session.Job("", user, item, users, items, np.float32(log_q), **sizes)


def race(talk: programs.Talk, goal: Goal) -> dict[str, float]:
    """Train until the goal or the cap; figures are of the best look on validation."""
    seconds, steps, valid = 0.0, 0, -1.0
    while seconds < goal.cap and valid < goal.recall:
        answer = talk.train(goal.every)
        seconds += answer["seconds"]
        steps += goal.every
        seen = talk.vectors()
        if (recall := goal.recall_of(goal.data.valid, seen)) > valid:
            valid, vectors = recall, seen
    return {
        "seconds": seconds,
        "steps": steps,
        "loss": answer["loss"],
        f"valid {METRIC}": valid,
        f"test {METRIC}": goal.recall_of(goal.data.test, vectors),
    }


def race_in_turn(
    racing: list[timing.Entrant], job: session.Job, goal: Goal, *, rounds: int
) -> list[dict[str, Any]]:
    """A row for each entrant's races, one entrant after the other, a seed a round."""
    races, failed = {entrant: [] for entrant in racing}, {}
    for seed in range(rounds):
        for entrant in [entrant for entrant in racing if entrant not in failed]:
            with (
                timing.noted(failed, entrant),
                timing.started(entrant, dataclasses.replace(job, seed=seed)) as talk,
            ):
                races[entrant].append(race(talk, goal))
    rows = []
    for entrant, own_races in races.items():
        row = {"peer": entrant.peer, "form": entrant.form}
        if entrant in failed:
            row["note"] = f"failed: {failed[entrant]}"
        else:
            row |= outcome(own_races, goal)
        rows.append(row)
    return rows


def outcome(races: list[dict[str, float]], goal: Goal) -> dict[str, Any]:
    """Medians of an entrant's races, and the slowest of them."""
    medians = {name: statistics.median(r[name] for r in races) for name in races[0]}
    medians["seconds_high"] = max(r["seconds"] for r in races)
    short = sum(r[f"valid {METRIC}"] < goal.recall for r in races)
    if short:
        medians["note"] = f"not reached in {short} of {len(races)} races"
    return medians
