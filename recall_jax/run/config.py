"""An experiment as nested dataclasses, and as the JSON from which it can run again."""

import dataclasses
import importlib
import json
import pathlib
import shlex
from typing import Any, get_args, get_origin

from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.losses import objective
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig
from recall_jax.types import SEED, InputError, bounded, check_fields, nearest


@dataclasses.dataclass
class Experiment:
    """Everything that decides a run's figures. `data` is a source's Config with
    `load()` and the fields of `log.Config`, `model` a model's with
    `make(schema, rngs)`, `history_length`, `min_history` and `every_position`, whether
    its queries are of every position of a history."""

    name: str
    data: Any
    model: Any
    seed: int = bounded(0, *SEED)
    negatives: NegativesConfig = dataclasses.field(default_factory=NegativesConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


def as_dict(config: Any) -> Any:
    """Plain dicts, lists and numbers; a dataclass notes its type under "type"."""
    if not dataclasses.is_dataclass(config):
        return list(config) if isinstance(config, tuple) else config
    kind = type(config)
    fields = {
        field.name: as_dict(getattr(config, field.name))
        for field in dataclasses.fields(config)
    }
    return {"type": f"{kind.__module__}:{kind.__qualname__}", **fields}


def as_flags(config: Any, *, path: str = "--config") -> list[str]:
    """Every field as the flag that would set it, quoted for a shell."""
    if dataclasses.is_dataclass(config):
        return [
            line
            for field in dataclasses.fields(config)
            for line in as_flags(
                getattr(config, field.name), path=f"{path}.{field.name}"
            )
        ]
    if isinstance(config, tuple) and not any("," in str(value) for value in config):
        config = ",".join(map(str, config))
    return [shlex.quote(f"{path}={config}")]


def changed_flags(config: Experiment) -> list[str]:
    """Of `as_flags` those that differ from the defaults of the same source and model;
    all where one of these has fields without a default."""
    try:
        default = Experiment("", type(config.data)(), type(config.model)())
    except TypeError:
        return as_flags(config)
    unchanged = set(as_flags(default))
    return [flag for flag in as_flags(config) if flag not in unchanged]


def as_literal(config: Any, path: str, value: str) -> str:
    """What to hand on for `value` of the field at `path`: a,b as ('a', 'b').

    Raises InputError where `path` ("model.width") names no field, or a group of them.
    """
    kind = find_field(config, path).type
    if get_origin(kind) is not tuple or value.startswith(("(", "[", "'", '"')):
        return value
    parts = [part for part in value.split(",") if part]
    return str(tuple(parts)) if get_args(kind)[0] is str or not parts else value


def from_dict(content: Any) -> Any:
    """The config that `as_dict` wrote.

    Raises InputError for a type outside recall_jax and for fields this version lacks.
    """
    if not isinstance(content, dict):
        return tuple(content) if isinstance(content, list) else content
    fields = dict(content)
    module, _, name = fields.pop("type", "").partition(":")
    if module.split(".")[0] != "recall_jax":
        raise InputError(f"a config names the type {module}:{name}, not of recall_jax")
    kind = getattr(importlib.import_module(module), name)
    field_names = [field.name for field in dataclasses.fields(kind)]
    for field in fields:
        if field not in field_names:
            raise InputError(
                f"{name} has no field {field!r}{nearest(field, sorted(field_names))}"
            )
    return kind(**{field: from_dict(value) for field, value in fields.items()})


def read(path: pathlib.Path) -> Experiment:
    """The experiment of a config.json. Raises InputError for what is none."""
    try:
        config = from_dict(json.loads(path.read_text("utf-8")))
    except Exception as problem:  # whatever a damaged file, or another version, holds
        kind = "" if isinstance(problem, InputError) else f"{type(problem).__name__}: "
        raise InputError(f"{path} could not be read: {kind}{problem}") from problem
    if not isinstance(config, Experiment):
        raise InputError(f"{path} gives a {type(config).__name__}, not an Experiment")
    return config


def find_field(config: Any, path: str) -> dataclasses.Field:
    """The field at `path` ("model.width"); InputError if there is none, or a group."""
    walked = "config"
    for name in path.split("."):
        if not dataclasses.is_dataclass(config):
            raise InputError(f"--{walked} is a value, it has no field {name!r}")
        fields = {field.name: field for field in dataclasses.fields(config)}
        if name not in fields:
            hint = nearest(name, sorted(fields))
            raise InputError(f"--{walked} has no field {name!r}{hint}")
        walked, config = f"{walked}.{name}", getattr(config, name)
    if dataclasses.is_dataclass(config):
        raise InputError(f"--{walked} is a group of fields; name one of them")
    return fields[name]


CUT_FROM_TRAIN = ("given", "file_order")  # protocols whose validation can train too


def check(config: Experiment) -> None:
    """Raise InputError where a value is not of its field's type or out of its range."""
    check_fields(config, "--config")
    objective.make_objective(config.loss, config.negatives)
    _check_parts(config)


def _check_parts(config: Experiment) -> None:
    """Raise InputError where one group of fields asks what another does not give."""
    if config.train.refit == "all" and config.data.protocol not in CUT_FROM_TRAIN:
        raise InputError(
            "train.refit=all is for data.protocol=given and file_order, where validation "
            f"is cut from train; under {config.data.protocol} set train.refit=none"
        )
    labelled = config.negatives.kind == config.negatives.own == "none"
    if labelled and not config.data.label:
        raise InputError(
            "negatives.kind=none trains on labels alone; name the event column that "
            "holds them in data.label"
        )
    if config.data.label and not labelled:
        raise InputError(
            f"data.label={config.data.label} makes events of every label examples, with "
            "exposures among them, which sampled negatives would take for positives; set "
            "negatives.kind=none, or data.label to nothing"
        )
