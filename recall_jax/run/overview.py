"""What a run says before it trains: the fields that were set, its data, its protocol."""

import pathlib
import textwrap

from recall_jax.data.prepared import Data
from recall_jax.devices import mesh
from recall_jax.evaluate import baselines
from recall_jax.evaluate import measure as measure_lib
from recall_jax.losses import negatives
from recall_jax.run import config as config_lib
from recall_jax.run.config import Experiment

FEW = 0.01  # of all events; where no more repeat an item of their user, it is said


def settings(config: Experiment, workdir: pathlib.Path) -> str:
    """The fields that differ from their defaults: FIELD=VALUE of --config.FIELD=VALUE."""
    fields = [
        flag.replace("--config.", "", 1).replace(" ", "\0")  # no line ends in a value
        for flag in config_lib.changed_flags(config)
    ]
    indent = " " * 11
    lines = textwrap.wrap(
        " ".join(fields),
        width=100,
        initial_indent="config     ",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    rest = f"{indent}the rest as by default; all go to {workdir}/config.json"
    return "\n".join([*lines, rest]).replace("\0", " ")


def show(config: Experiment, data: Data) -> None:
    """Tell what a run trains on and how it is measured."""
    users, items = (data.vocabularies[name] for name in ("user", "item"))
    seen, why = measure_lib.seen_items(config.evaluate, data)
    print(f"devices    {mesh.described()}")
    print(f"data       {data.source}")
    for line in data.report:
        print(line)
    print(
        f"counts     {len(users.ids):,} users, {len(items.ids):,} items, "
        f"{len(data.items):,} events; {data.num_examples:,} training examples, "
        f"{len(data.valid):,} users validate, {len(data.test):,} test"
    )
    if len(items.ids) > items.known:
        print(
            f"           {len(items.ids) - items.known:,} items have no training event"
        )
    ranked = measure_lib.ranked(config.evaluate)
    print(f"protocol   {data.protocol}; {ranked}")
    print(f"seen items {seen}: {why}")
    few = 0 < data.repeats <= FEW * len(data.items)
    if few and getattr(config.data, "duplicates", "") == "auto":
        print(
            "note       so few may be a mistake; --config.data.duplicates=repeats drops "
            "all but the first event of a user and an item, and seen items are removed"
        )
    if data.log is not None:
        print(
            "           no rows bigram, item knn, ease: they take the whole log into "
            "memory, and this one is streamed"
        )
    elif not baselines.fits(data):
        print(
            "           no rows item knn, ease: they weigh all pairs of items, and "
            f"{len(items.ids):,} are more than {baselines.MAX_ITEMS:,}"
        )
    if line := negatives.advice(config.negatives):
        print(f"note       {line}")
