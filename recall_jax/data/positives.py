"""Which events of a log are positives, and whether what is left can train a model."""

from collections.abc import Sequence

import numpy as np

from recall_jax.data.interactions import Interactions
from recall_jax.types import InputError

LARGEST_WEIGHT = 1e-25, 1e25
"""Between which the largest weight must be: float32 then holds the sum of a batch's
weights and losses, of which the ratios alone matter."""


def filter_positives(
    log: Interactions,
    *,
    actions: Sequence[str | int] = (),
    min_rating: float | None = None,
    min_weight: float | None = None,
    min_dwell: float | None = None,
) -> Interactions:
    """The events that pass every filter given; entities stay.

    Reads the event columns `action`, `rating` and `dwell`, and the log's weight. A
    missing (NaN) rating or dwell time fails its filter. Whoever wants the rest, such
    as exposures for hard negatives, takes it from `log` itself.
    """
    keep = np.ones(len(log), bool)
    if actions:
        keep &= is_one_of(event_column(log, "action"), values=actions)
    bounds = {"rating": min_rating, "weight": min_weight, "dwell": min_dwell}
    for name, least in bounds.items():
        if least is not None:
            keep &= event_column(log, name) >= least
    if not keep.any():
        asked = {name: least for name, least in bounds.items() if least is not None}
        raise InputError(
            f"none of the {len(log):,} events has an action in {list(actions)} and at "
            f"least {asked}; lower a bound or name other actions"
        )
    return log if keep.all() else log.select(keep)


def set_apart(
    log: Interactions, *, exposures: Sequence[str | int]
) -> tuple[Interactions, Interactions | None]:
    """The log without the exposures, which are events of these actions, and those; None
    where there are no such actions. Neither has entities of its own."""
    if not exposures:
        return log, None
    shown = is_one_of(event_column(log, "action"), values=exposures)
    if shown.all():
        raise InputError(
            f"data.exposures {list(exposures)} are the actions of all {len(log):,} events; "
            "leave out those that are positive"
        )
    return log.select(~shown), log.select(shown)


def labels(log: Interactions, name: str) -> np.ndarray:
    """Float32 labels of the events of a column."""
    column = log.events.get(name)
    if not isinstance(column, np.ndarray) or column.dtype.kind not in "iuf":
        arrays = {n: c for n, c in log.events.items() if isinstance(c, np.ndarray)}
        numbers = [n for n, c in arrays.items() if c.dtype.kind in "iuf"]
        raise InputError(
            f"data.label {name!r} is no column of numbers among the events of "
            f"{log.source}; there are: {', '.join(numbers) or 'none'}"
        )
    if not np.isfinite(column).all():
        raise InputError(f"data.label {name!r}: some events have no label")
    if log.weight is not None:
        raise InputError("data.label and data.weight exclude each other; drop one")
    if log.shown is not None and log.time is None:
        raise InputError(
            "data.label makes exposures examples, which needs times to tell them from "
            "later ones; name the column in data.time, or drop data.exposures"
        )
    return column.astype(np.float32)


def check_weights(low: float, high: float, *, column: str, source: str) -> None:
    """Raise InputError where weights of training examples, which run from `low` to
    `high`, cannot weigh anything; `column` is what they are called, if they are."""
    named = f"data.weight={column}" if column else "the weights"
    told = f"{source}: {named} of the training examples"
    if low == high == 0:
        raise InputError(
            f"{told} are all 0, so there is nothing to train on; leave the weights out, "
            "or bring others"
        )
    least, most = LARGEST_WEIGHT
    if not (low >= 0 and least <= high <= most):  # NaN too
        raise InputError(
            f"{told} run from {low:g} to {high:g}; they must be at least 0, and the "
            f"largest {least:g} to {most:g}, or sums of a batch are lost to rounding. "
            "Only their ratios matter: scale the column"
        )


def event_column(log: Interactions, name: str) -> np.ndarray:
    column = log.weight if name == "weight" else log.events.get(name)
    if not isinstance(column, np.ndarray):
        field = "actions or data.exposures" if name == "action" else f"min_{name}"
        there = ["weight"] * (log.weight is not None) + sorted(log.events)
        raise InputError(
            f"data.{field} needs a {name!r} column of events; the log from "
            f"{log.source or 'nowhere named'} has {', '.join(there) or 'none'}. In "
            f"Parquet or CSV, --config.data.{name}=COLUMN names it"
        )
    return column


def is_one_of(column: np.ndarray, *, values: Sequence[str | int]) -> np.ndarray:
    """Mask of rows; a value that no row has raises, for it is most often a typo."""
    masks = [column == as_kind(value, column=column) for value in values]
    for value, mask in zip(values, masks):
        if not mask.any():
            there = ", ".join(str(name) for name in np.unique(column)[:20])
            raise InputError(f"no event has the action {value!r}; there are {there}")
    return np.logical_or.reduce(masks)


def as_kind(value: str | int, *, column: np.ndarray) -> np.generic | None:
    """'4' as 4 where the column holds integers, 4 as '4' where it holds strings."""
    try:
        return column.dtype.type(value)
    except (ValueError, OverflowError):
        return None


def check_usable(log: Interactions, *, min_events: int = 3) -> None:
    """Raises where leave-one-out has nothing to do: it needs users with an event each
    to train, validate and test on, and others to compare them with."""
    counts = np.bincount(log.user)
    if (counts > 0).sum() < 2:
        raise InputError(
            f"all {len(log):,} events of {log.source or 'the log'} are one user's: is "
            "the user column the right one?"
        )
    if counts.max() < min_events:
        raise InputError(
            f"no user of {log.source or 'the log'} has {min_events} events (the most "
            f"is {counts.max()}): leave-one-out needs one each to train, validate and "
            "test; loosen the filters or use another protocol"
        )
