"""Your own log that is larger than memory: shards of Parquet or CSV, prepared on disk and
read in windows."""

import dataclasses

from recall_jax.data.sources import logs
from recall_jax.types import InputError, bounded, check_fields

PROTOCOLS = ("leave_one_out", "temporal")
UNHEEDED = (
    "prepared",
    "window_examples",
    "chunk_examples",
    "measured_users",
    "context",
)
"""Fields that do not change what is laid out."""


@dataclasses.dataclass
class Config(logs.Config):
    """As `logs.Config`, of Parquet alone, and how it is read in training.

    Windows are laid out in advance: about three are held at a time, at some 12 bytes an
    example and 8 a user. Chunks are read from front to back. While the arrays are made,
    they take up to 40 bytes an event of disk, later 4 (8 with weights).
    """

    prepared: str = ""  # folder of the mapped arrays; '': PATH.prepared
    window_examples: int = bounded(1 << 21, 1)  # shuffled together
    chunk_examples: int = bounded(1 << 13, 1)  # neighbours in a window
    measured_users: int = bounded(10_000, 0)  # of each part, drawn once; 0: all


REFUSED = {
    "ties": "the order of ties is that of the files",
    "min_user_events": "dropping what is rare takes the whole log again and again; filter "
    "it before it is written to shards",
    "min_item_events": "dropping what is rare takes the whole log again and again; filter "
    "it before it is written to shards",
    "label": "labelled events and exposures are not streamed",
    "exposures": "labelled events and exposures are not streamed; leave them out with "
    "data.actions",
    "hidden_share": "items are hidden from training in memory alone",
    "examples_per_user": "every training event is an example",
    "tokens": "searched words are not streamed",
    "session": "sessions are not streamed",
    "events": "further columns of events are not streamed",
}
"""Fields that a streamed log must leave at their defaults, and why."""


def check(config: Config) -> None:
    """Raise InputError for what cannot be streamed, before anything is read."""
    check_fields(config, "--config.data")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in REFUSED and value != field.default:
            raise InputError(
                f"data.{field.name}={value} is not for a streamed log: "
                f"{REFUSED[field.name]}. Set it to its default, or read the log into "
                "memory, with --config=dssm_logs"
            )
    if config.protocol not in PROTOCOLS:
        raise InputError(
            f"data.protocol={config.protocol} is not for a streamed log; there are: "
            f"{', '.join(PROTOCOLS)}. Others read the log into memory: --config=dssm_logs"
        )
    needs = {
        "actions": "action",
        "min_rating": "rating",
        "min_dwell": "dwell",
        "min_weight": "weight",
    }
    for field, column in needs.items():
        if getattr(config, field) and not getattr(config, column):
            raise InputError(
                f"data.{field} needs a column; name it with --config.data.{column}"
            )
    if config.user == config.item:
        raise InputError(f"data.user and data.item are one column, {config.user!r}")
    if config.protocol == "temporal":
        _check_temporal(config)


def _check_temporal(config: Config) -> None:
    if not config.time:
        raise InputError(
            "protocol temporal needs a time column; name it with --config.data.time"
        )
    valid, test = config.valid_share, config.test_share
    if not (0 < valid and 0 < test and valid + test < 1):
        raise InputError(
            f"data.valid_share {valid} and data.test_share {test} must be positive and leave "
            "something to train on"
        )
