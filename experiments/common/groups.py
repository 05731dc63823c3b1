"""Runs found in folders: read, told apart by what differs in their configs, and grouped by
what may be compared. Nothing here trains or writes."""

import collections
import dataclasses
import glob
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from experiments.common import cli, programs
from experiments.common import summaries as summaries_lib
from experiments.common.cells import Cell
from recall_jax.run import config as config_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run.config import Experiment
from recall_jax.types import InputError

NO_DIFFERENCE = "name", "seed"  # fields that tell no two configs apart
NOT_YET = "not told before a run finishes"


class RunFolder(NamedTuple):
    """A run's folder, read. `log` are the lines of metrics.jsonl, a dict each."""

    workdir: pathlib.Path
    config: Experiment
    data: dict[str, Any] | None  # data.json
    results: dict[str, Any] | None  # results.json; None of an unfinished run
    log: list[dict[str, Any]]


class Variant(NamedTuple):
    """One config of a group with its seeds, each a cell of the table and a log."""

    entry: cli.Entry
    cells: list[Cell]
    logs: list[list[dict[str, Any]]]


@dataclasses.dataclass
class Group:
    """Runs that may stand in one table: of one source, protocol, kind of list and
    treatment of ties and seen items. `repeated` are runs whose config and seed another
    one has."""

    source: str
    events: int | None
    protocol: str
    ranked: str
    seen: str
    ties: str
    variants: list[Variant]
    repeated: list[RunFolder]

    @property
    def cells(self) -> list[Cell]:
        return [cell for variant in self.variants for cell in variant.cells]

    @property
    def finished(self) -> list[Variant]:
        """The variants with figures, and of them the runs with figures."""
        kept = []
        for entry, cells, logs in self.variants:
            pairs = [pair for pair in zip(cells, logs, strict=True) if pair[0].results]
            if pairs:
                kept.append(Variant(entry, *map(list, zip(*pairs))))
        return kept

    @property
    def num_fingerprints(self) -> int:
        """Of the data the runs read; more than one where features or examples differ."""
        return len({cell.data["sha256"] for cell in self.cells if cell.data})

    def label(self, entry: cli.Entry) -> str:
        """Short, for plots: what differs, after the name where names differ."""
        fields = {field for variant in self.variants for field in variant.entry.own}
        difference = _told(entry.own, fields)
        if len({variant.entry.name for variant in self.variants}) == 1:
            return difference or entry.name
        return f"{entry.name}, {difference}" if difference else entry.name


def _told(own: dict[str, str], fields: Iterable[str]) -> str:
    """a=1, b=2; a field by the last part of its path where no other ends alike."""
    ends = collections.Counter(field.rpartition(".")[2] for field in fields)
    parts = []
    for field, value in own.items():
        end = field.rpartition(".")[2]
        parts.append(f"{end if ends[end] == 1 else field}={value}")
    return ", ".join(parts)


def state(cell: Cell) -> str:
    """finished, unfinished, or how a sweep ended it, as diverged or stopped."""
    return "unfinished" if cell.outcome == "begun" else cell.outcome


def num_together(cell: Cell) -> int:
    """The runs whose training a finished run's seconds are a share of; 1: its own
    alone."""
    return cell.results.get("together", 1)


def find(given: Sequence[str]) -> list[pathlib.Path]:
    """The run folders in folders or globs, each once. Raises InputError where there is
    none."""
    by_path: dict[pathlib.Path, pathlib.Path] = {}
    for text in given:
        folders = _folders(text)
        runs = [run for folder in folders for run in _below(folder)]
        if not runs:
            raise InputError(
                f"{text} holds no run: no folder in it has a config.json; a run is what "
                "python -m experiments.run and experiments.table write"
            )
        by_path |= {run.resolve(): run for run in runs if run.resolve() not in by_path}
    return list(by_path.values())


def _folders(text: str) -> list[pathlib.Path]:
    path = pathlib.Path(text)
    if path.exists() and not path.is_dir():
        raise InputError(f"{text} is a file; name the folder of a run, or of several")
    if path.is_dir():
        return [path]
    matched = [pathlib.Path(name) for name in sorted(glob.glob(text, recursive=True))]
    if not (folders := [name for name in matched if name.is_dir()]):
        raise InputError(f"there is no folder {text}, and none matches it")
    return folders


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Runs in `folder`; what a run keeps below its own folder is no other run."""
    if (folder / "config.json").is_file():
        yield folder
        return
    for inner in sorted(folder.iterdir()):
        if inner.is_dir():
            yield from _below(inner)


def read(workdir: pathlib.Path) -> RunFolder:
    """Everything that a run wrote but its checkpoints. Raises InputError that names the
    file which is damaged or of another version."""
    data = workdir / "data.json"
    content = _object(data, needed={"source", "protocol", "events", "sha256"})
    path = workdir / "results.json"
    results = folder_lib.read_results(path) if path.exists() else None
    if results and not content:
        raise InputError(f"{workdir} has results.json, but no data.json; bring it back")
    config = config_lib.read(workdir / "config.json")
    _object(workdir / "ended.json", needed={"outcome", "told"})
    return RunFolder(workdir, config, content, results, _log(workdir / "metrics.jsonl"))


def _object(path: pathlib.Path, *, needed: set[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content = folder_lib.read_json(path)
    if not isinstance(content, dict) or needed - content.keys():
        raise InputError(f"{path} should hold {', '.join(sorted(needed))}")
    return content


def _log(path: pathlib.Path) -> list[dict[str, Any]]:
    """Its lines; a last one that is half written, by a run at work, is left out."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
        except ValueError as problem:
            if number == len(lines):
                break
            raise InputError(
                f"{path}, line {number}, is damaged: {problem}"
            ) from problem
        if not isinstance(content, dict) or "step" not in content:
            raise InputError(f"{path}, line {number}, has no step")
        records.append(content)
    return records


def group(runs: Iterable[RunFolder]) -> list[Group]:
    """What may be compared together, in the order of `runs`; those with figures first."""
    runs = list(runs)
    lists_by_key = {_asked(run): _lists(run) for run in runs if run.results}
    members: dict[tuple, list[RunFolder]] = {}
    for run in runs:
        lists = (
            _lists(run)
            if run.results
            else lists_by_key.get(_asked(run), (NOT_YET,) * 2)
        )
        members.setdefault((*_data_of(run), *lists), []).append(run)
    groups = []
    for (source, events, protocol, ties, ranked, seen), own in members.items():
        fields = source, events, protocol, ranked, seen, ties
        groups.append(Group(*fields, *_variants(own)))
    return sorted(groups, key=lambda one: not one.finished)


def _data_of(run: RunFolder) -> tuple[str, int | None, str, str]:
    ties = run.config.data.ties
    if run.data is None:
        kind = type(run.config.data).__module__.rpartition(".")[2]
        return f"{kind}, not read yet", None, run.config.data.protocol, ties
    return *(run.data[name] for name in ("source", "events", "protocol")), ties


def _lists(run: RunFolder) -> tuple[str, str]:
    """What a finished run ranked, and what it did to seen items."""
    return run.results["candidates"], run.results["seen"]


def _asked(run: RunFolder) -> tuple:
    """What decides that, and the data."""
    settings = config_lib.as_dict(run.config.evaluate)
    return *_data_of(run), settings["seen"], settings.get("candidates")


def _variants(runs: Sequence[RunFolder]) -> tuple[list[Variant], list[RunFolder]]:
    """By config, the one that differs least first; and runs whose seed is there."""
    by_label: dict[str, dict[int, tuple[Cell, list]]] = {}
    entries, repeated = {}, []
    for run, entry in sorted(
        zip(runs, _entries(runs), strict=True), key=lambda pair: not pair[0].results
    ):
        entries[entry.label] = entry
        seeds = by_label.setdefault(entry.label, {})
        if run.config.seed in seeds:
            repeated.append(run)
            continue
        cell = Cell(entry, run.config, run.workdir, run.results, run.data)
        programs.read_end(cell)
        seeds[run.config.seed] = cell, run.log
    names = list(dict.fromkeys(run.config.name for run in runs))
    labels = sorted(by_label, key=lambda label: _order(entries[label], names))
    return [_variant(entries[label], by_label[label]) for label in labels], repeated


def _variant(entry: cli.Entry, seeds: dict[int, tuple[Cell, list]]) -> Variant:
    cells, logs = zip(*(seeds[seed] for seed in sorted(seeds)), strict=True)
    return Variant(entry, list(cells), list(logs))


def _order(entry: cli.Entry, names: list[str]) -> tuple:
    values = [(field, *_natural(value)) for field, value in entry.own.items()]
    return names.index(entry.name), len(values), values


def _natural(value: str) -> tuple[float, str]:
    """Numbers by size, and before words."""
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _entries(runs: Sequence[RunFolder]) -> list[cli.Entry]:
    """Of each run its config's name and the fields in which runs of that name differ,
    but for values that more than half of their configs share."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    fields = [flat(run.config) for run in runs]
    for run, own in zip(runs, fields, strict=True):
        by_name.setdefault(run.config.name, []).append(own)
    usual = {name: _usual(configs) for name, configs in by_name.items()}
    entries = []
    for run, own in zip(runs, fields, strict=True):
        shared = usual[run.config.name]
        overrides = {
            field: _text(own[field])
            for field, value in shared.items()
            if field in own and (value is None or value[0] != own[field])
        }
        entries.append(cli.Entry(run.config.name, overrides, overrides, run.config))
    return entries


def flat(config: Experiment) -> dict[str, Any]:
    """Every field's value by its path, as config.json has it, 1.0 as 1; no name, no
    seed."""

    def walk(content: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        for field, value in content.items():
            if isinstance(value, dict):
                yield from walk(value, f"{path}{field}.")
            else:
                whole = isinstance(value, float) and value.is_integer()
                yield f"{path}{field}", int(value) if whole else value

    values = dict(walk(config_lib.as_dict(config), ""))
    return {field: values[field] for field in values if field not in NO_DIFFERENCE}


def _usual(configs: list[dict[str, Any]]) -> dict[str, tuple[Any] | None]:
    """The fields that differ; and of each, in a tuple, the value of more than half of the
    distinct configs, None where no value is that common."""
    distinct = list({json.dumps(own, sort_keys=True): own for own in configs}.values())
    usual = {}
    for field in dict.fromkeys(field for own in distinct for field in own):
        values = [own[field] for own in distinct if field in own]
        counts = collections.Counter(map(json.dumps, values))
        text, most = counts.most_common(1)[0]
        if most < len(distinct):
            common = 2 * most > len(distinct)
            usual[field] = (json.loads(text),) if common else None
    return usual


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


class Sweep(NamedTuple):
    """A field of numbers in which runs of one config differ: its values, rising, and by
    what else differs (a label, "" for nothing) the variant at each value."""

    name: str
    field: str
    lines: dict[str, list[tuple[float, Variant]]]


def sweeps(one: Group) -> list[Sweep]:
    """Of finished runs, a sweep for each field that takes two values or more."""
    by_name: dict[str, list[Variant]] = {}
    for variant in one.finished:
        by_name.setdefault(variant.entry.name, []).append(variant)
    sweeps = []
    for name, variants in by_name.items():
        configs = [flat(variant.entry.config) for variant in variants]
        differing = _usual(configs)
        for field in differing:
            values = [own.get(field) for own in configs]
            if any(
                isinstance(x, bool) or not isinstance(x, int | float) for x in values
            ):
                continue
            lines: dict[str, list[tuple[float, Variant]]] = {}
            for variant, own in zip(variants, configs, strict=True):
                others = {
                    f: _text(own[f]) for f in differing if f != field and f in own
                }
                label = _told(others, differing)
                lines.setdefault(label, []).append((float(own[field]), variant))
            long = {k: sorted(v, key=_value) for k, v in lines.items() if len(v) > 1}
            if long:
                long = {"": next(iter(long.values()))} if len(long) == 1 else long
                sweeps.append(Sweep(name, field, long))
    return sweeps


def _value(at: tuple[float, Variant]) -> float:
    return at[0]


def summaries(one: Group, *, by: str) -> list[dict[str, Any]]:
    """The group's tables, as experiments.table has them: one, and another where runs
    without any figures stand on data of their own."""
    return summaries_lib.summarize(one.cells, by=by)
