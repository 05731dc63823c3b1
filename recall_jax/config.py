"""An experiment as nested dataclasses, and as the JSON from which it can run again."""

import dataclasses
import difflib
import importlib
from typing import Any, get_origin

from recall_jax.evaluate import EvaluateConfig
from recall_jax.fit import TrainConfig
from recall_jax.objective import LossConfig, NegativesConfig
from recall_jax.train import OptimConfig
from recall_jax.types import InputError


@dataclasses.dataclass
class Experiment:
    """Everything that decides a run's figures. `data` is a source's Config with
    `load()`, `model` a model's with `make(schema, rngs)`."""

    name: str
    data: Any
    model: Any
    seed: int = 0
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
    """Every field as the flag that would set it."""
    if dataclasses.is_dataclass(config):
        return [
            line
            for field in dataclasses.fields(config)
            for line in as_flags(
                getattr(config, field.name), path=f"{path}.{field.name}"
            )
        ]
    return [f"{path}={config}"]


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
    known = [field.name for field in dataclasses.fields(kind)]
    for field in fields:
        if field not in known:
            raise InputError(f"{name} has no field {field!r}{nearest(field, known)}")
    return kind(**{field: from_dict(value) for field, value in fields.items()})


def nearest(name: str, known: list[str]) -> str:
    """What to offer after an unknown name."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    offer = f"did you mean {close[0]!r}? " if close else ""
    return f"; {offer}there are: " + ", ".join(sorted(known))


def check_field(config: Any, path: str) -> None:
    """Raise InputError unless `path` ("model.width") names a field of the config."""
    walked = "config"
    for name in path.split("."):
        if not dataclasses.is_dataclass(config):
            raise InputError(f"--{walked} is a value, it has no field {name!r}")
        known = [field.name for field in dataclasses.fields(config)]
        if name not in known:
            raise InputError(f"--{walked} has no field {name!r}{nearest(name, known)}")
        walked, config = f"{walked}.{name}", getattr(config, name)
    if dataclasses.is_dataclass(config):
        raise InputError(f"--{walked} is a group of fields; name one of them")


def check_types(config: Any, *, walked: str = "config") -> None:
    """Raise InputError where a value is not of its field's type."""
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{walked}.{field.name}"
        if dataclasses.is_dataclass(value):
            check_types(value, walked=path)
            continue
        kind = get_origin(field.type) or field.type
        if kind is float and isinstance(value, int):
            continue
        if isinstance(kind, type) and not isinstance(value, kind):
            raise InputError(
                f"--{path} should be {kind.__name__}, not {value!r} "
                f"({type(value).__name__})"
            )
