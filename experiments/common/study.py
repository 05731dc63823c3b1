"""A study: what a paper claims, what is varied to see it, and with which budget.

A file of experiments/studies, found by listing the folder, says `STUDY = Study(...)`. Its
settings change one thing at a time; `grid` has every combination of them.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from experiments.common import cells, cli
from recall_jax.run import config
from recall_jax.types import InputError, nearest

STUDIES = pathlib.Path(__file__).parents[1] / "studies"


@dataclasses.dataclass(frozen=True)
class Factor:
    """One thing that is varied. `settings` by label are overrides of the base,
    "field=value:field=value", or another entry, "NAME:field=value". `base` is an entry
    like the study's, where the settings mean nothing beside that one; its row, labelled
    `base_label`, stands above theirs."""

    name: str
    settings: dict[str, str]
    base: str = ""
    base_label: str = "base"


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it.

    `budget` are overrides of all settings: how long each trains, what is measured.
    `seconds` is about what a run takes with it on two quiet cores, for --dry. `finding`
    stays empty until it is measured.
    """

    paper: str
    question: str
    expected: str
    base: str  # an entry of experiments.table, NAME:field=value:field=value
    factors: tuple[Factor, ...]
    budget: str
    seconds: float
    seeds: int = 3
    by: str = "ndcg@10"  # the metric of the differences to the base
    finding: str = ""


class Setting(NamedTuple):
    """A row: what it is called, and its config."""

    label: str
    entry: cli.Entry


class Block(NamedTuple):
    """The rows of a factor, and the one that they are compared with: among them where it
    has no row above."""

    factor: str
    base: Setting
    settings: list[Setting]


def names() -> list[str]:
    """The studies there are: the files of the folder."""
    return sorted(path.stem for path in STUDIES.glob("[a-z]*.py"))


def load(name: str) -> Study:
    """A study by name. Raises InputError, with the nearest, if there is none."""
    if name not in names():
        raise InputError(f"there is no study {name!r}" + nearest(name, names()))
    return cli.read_module(STUDIES / f"{name}.py").STUDY


def blocks(study: Study, *, shared: dict[str, str]) -> list[Block]:
    """The base alone, then each factor; `shared` overrides go to every setting."""
    setting = functools.partial(_setting, study=study, shared=shared)
    first = setting("base", base=study.base, text="")
    blocks = [Block("", first, [first])]
    for factor in study.factors:
        settings = [
            setting(label, base=factor.base or study.base, text=text)
            for label, text in factor.settings.items()
        ]
        base = first
        if factor.base:
            base = setting(factor.base_label, base=factor.base, text="")
            settings.insert(0, base)
        blocks.append(Block(factor.name, base, settings))
    return blocks


def grid(study: Study, *, shared: dict[str, str]) -> list[Block]:
    """Every combination of the settings that are overrides of one config, the fewest
    changes first; then the factors of other configs as they are. Of combinations that
    are one config the first stands, and those that mean nothing together are left out."""
    first, *rest = blocks(study, shared=shared)
    combined = [_combines(factor, study) for factor in study.factors]
    factors = [f for f, fits in zip(study.factors, combined, strict=True) if fits]
    settings = {cells.folder_name(first.base.entry): first.base}
    for chosen in _products(factors):
        label = ", ".join(f"{factor}: {label}" for factor, label, _ in chosen)
        text = ":".join(text for *_, text in chosen)
        setting = _setting(
            label, base=study.base, text=text, study=study, shared=shared
        )
        if _means_something(setting.entry):
            settings.setdefault(cells.folder_name(setting.entry), setting)
    others = [b for b, fits in zip(rest, combined, strict=True) if not fits]
    every = list(settings.values())[1:]
    return [first, Block("every combination", first.base, every), *others]


def _combines(factor: Factor, study: Study) -> bool:
    """Whether its settings are overrides of the study's own config."""
    own = _split(factor.base or study.base)[0] == _split(study.base)[0]
    return own and not any(map(_names_config, factor.settings.values()))


def _products(factors: Sequence[Factor]) -> Iterator[tuple[tuple[str, str, str], ...]]:
    """(factor, label, overrides) of one or more factors, the others at their base."""
    for count in range(1, len(factors) + 1):
        for some in itertools.combinations(factors, count):
            yield from itertools.product(*map(_levels, some))


def _levels(factor: Factor) -> Iterator[tuple[str, str, str]]:
    """Its settings; with a base of its own, that one, and on both bases."""
    own = _split(factor.base)[1]
    if own:
        yield factor.name, factor.base_label, own
    for label, text in factor.settings.items():
        if own:
            yield factor.name, label, f"{own}:{text}"
            label = f"{label}, on the study's base"
        yield factor.name, label, text


def _split(entry: str) -> tuple[str, str]:
    """The config's name, and its overrides."""
    name, _, overrides = entry.partition(":")
    return name, overrides


def _means_something(entry: cli.Entry) -> bool:
    try:
        config.check(entry.config)
    except InputError:
        return False
    return True


def _names_config(text: str) -> bool:
    return bool(text) and "=" not in text.split(":")[0]


def _setting(
    label: str, *, base: str, text: str, study: Study, shared: dict[str, str]
) -> Setting:
    """Base, then budget, then the setting's own, then `shared`: the last word counts."""
    if _names_config(text):
        base, text = _split(text)
    last = [f"{field}=[{value}]" for field, value in shared.items()]
    parts = [base, study.budget, text, *last]
    entry = cli.read_entry(":".join(filter(None, parts)), shared={})
    return Setting(label, canonical(entry))


def canonical(entry: cli.Entry) -> cli.Entry:
    """The same config, told by what differs from the named one: however two settings
    say it, one config is one entry, and one run."""
    changed = dict(_changes(cli.load_config(entry.name), entry.config))
    return cli.Entry(entry.name, changed, changed, entry.config)


def _changes(base: Any, here: Any, *, path: str = "") -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(here):
        old, new = getattr(base, field.name), getattr(here, field.name)
        if dataclasses.is_dataclass(new):
            yield from _changes(old, new, path=f"{path}{field.name}.")
        elif old != new:
            text = ",".join(map(str, new)) if isinstance(new, tuple) else str(new)
            yield path + field.name, text


def entries(blocks: Sequence[Block]) -> list[cli.Entry]:
    """Every config once, the base first."""
    every = [setting.entry for block in blocks for setting in block.settings]
    return list({cells.folder_name(entry): entry for entry in every}.values())
