"""Contestants of `experiments.bench.peers` in turn: how many examples a second."""

import contextlib
import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.bench.contestants import programs, session

OURS = "recall_jax"


class Entrant(NamedTuple):
    """A library, its form, and the command that starts it."""

    peer: str
    form: str
    command: tuple[str, ...]


def entrants(envs: pathlib.Path, peer: str) -> list[Entrant]:
    """We, and every form of a peer."""
    forms, theirs = programs.PEERS[peer].forms, programs.command_of(envs, peer)
    ours = Entrant(OURS, "", programs.command_of(envs, OURS))
    return [ours, *(Entrant(peer, form, theirs) for form in forms)]


def started(entrant: Entrant, job: session.Job):
    """The entrant at work on a job: a context that gives a `programs.Talk`."""
    own = dataclasses.replace(job, form=entrant.form)
    return programs.started(entrant.command, own)


@contextlib.contextmanager
def noted(failed: dict[Entrant, str], entrant: Entrant) -> Iterator[None]:
    """A peer's failure is kept, and the others go on; ours stays an error."""
    try:
        yield
    except programs.Failed as problem:
        if entrant.peer == OURS:
            raise
        print(f"{entrant.peer} {entrant.form} failed: {problem}", file=sys.stderr)
        failed[entrant] = str(problem).splitlines()[-1]


def time_in_turn(
    racing: list[Entrant], job: session.Job, *, steps: int, rounds: int
) -> list[dict[str, Any]]:
    """A row for each entrant but the first, us, who are timed beside them: A B C A B C."""
    failed, answers, talks = {}, {entrant: [] for entrant in racing}, {}
    with contextlib.ExitStack() as stack:
        for entrant in racing:
            with noted(failed, entrant):
                talks[entrant] = stack.enter_context(started(entrant, job))
        for turn in range(rounds + 1):
            for entrant in [entrant for entrant in racing if entrant not in failed]:
                with noted(failed, entrant):
                    answer = talks[entrant].train(steps)
                    answers[entrant] += [answer] if turn else []  # the first compiles
    ours, rows = answers[racing[0]], []
    for entrant in racing[1:]:
        row = {"peer": entrant.peer, "form": entrant.form, "rows": job.num_items}
        if entrant in failed:
            row["note"] = f"failed: {failed[entrant]}"
        else:
            row |= speed(answers[entrant], ours) | talks[entrant].described
        rows.append(row)
    return rows


def speed(theirs: list[dict], ours: list[dict]) -> dict[str, float]:
    """Examples a second of a peer and of us, from medians, and our speed over its: by
    medians, and the least and the largest of the rounds."""
    rate, own = (
        statistics.median(a["examples"] / a["seconds"] for a in answers)
        for answers in (theirs, ours)
    )
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(theirs, ours, strict=True)]
    return {
        "examples_per_second": rate,
        "ours_per_second": own,
        "ratio": own / rate,
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "loss": theirs[-1]["loss"],
        "ours_loss": ours[-1]["loss"],
    }
