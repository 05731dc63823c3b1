"""The protocol `file_order`, behind a published table on MovieLens 1M (FunRec).

Rows stand as in the file and no time is read. The file keeps a hidden order of items
within users, which the last item alone predicts better than any model that was
published: figures under this protocol compare tables, not models.
"""

import dataclasses

import numpy as np

from recall_jax.data import interactions
from recall_jax.data.interactions import Interactions, Split
from recall_jax.types import InputError

MIN_ROWS = 10  # of a user; who has fewer is dropped
METRICS = tuple(f"{kind}@{k}" for k in (5, 10) for kind in ("hr", "ndcg", "precision"))
"""What the published table shows."""
WINDOW = 200  # examples next to the test one that are taken, less the farthest of them
TOLD = (
    "rows as they stand in the file, a user's last row tests (an artificial order: "
    "compares tables, not models)"
)


def split(log: Interactions, *, config: interactions.Config) -> Split:
    """Each user's last row tests; the examples are of the WINDOW rows before it.

    With data.valid_share above 0 the row before the last validates, one a user whatever
    the share; with 0 it trains. Rows before the window are never predicted, but are
    history and count as training events. Raises InputError for filters, ties and shares
    that the protocol does not have, and where nobody has MIN_ROWS rows.
    """
    _check(config)
    log = _of_long_users(log)
    count = np.bincount(log.user, minlength=len(log.users))
    start = np.concatenate([[0], np.cumsum(count)])
    test = start[1:] - (count > 0)
    # A first row has no history, so that it is no example.
    farthest = np.maximum(start[:-1] + 1, test - WINDOW)
    told = "the row before it validates" if config.valid_share else "the rest trains"
    return Split(
        log,
        start,
        valid=test - (count > 0) * (config.valid_share > 0),
        test=test,
        protocol=f"file_order, {TOLD}; {told}",
        first=np.minimum(farthest + 1, test),
        keeps_seen=True,
    )


def _of_long_users(log: Interactions) -> Interactions:
    """The rows of users with MIN_ROWS of them, by user, then place in the file, without
    times: by them they are in no order."""
    count = np.bincount(log.user, minlength=len(log.users))
    rows = np.flatnonzero(count[log.user] >= MIN_ROWS)
    if not len(rows):
        raise InputError(
            f"{log.source}: no user has {MIN_ROWS} rows (the most is {count.max()}), which "
            "protocol file_order asks of each; choose leave_one_out with "
            "--config.data.protocol"
        )
    rows = rows[np.argsort(log.user[rows], kind="stable")]
    return dataclasses.replace(log.select(rows), time=None)


def _check(config: interactions.Config) -> None:
    if config.min_user_events or config.min_item_events:
        raise InputError(
            "data.min_user_events and data.min_item_events are not of protocol "
            f"file_order, which takes the log whole but for users with fewer than "
            f"{MIN_ROWS} rows; set them to 0"
        )
    if config.ties != "file":
        raise InputError(
            f"data.ties={config.ties} is of events in one second, and protocol "
            "file_order reads no times; set data.ties=file"
        )
    if not 0 <= config.valid_share < 1:
        raise InputError(
            f"data.valid_share is {config.valid_share}; it must be at least 0 and below "
            "1, and above 0 the row before a user's last validates"
        )
