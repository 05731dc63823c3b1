"""An experiment as nested dataclasses, and as the JSON from which it can run again."""

import dataclasses
import difflib
import importlib
import json
import math
import pathlib
import shlex
from collections.abc import Callable
from typing import Any, get_args, get_origin

from recall_jax.evaluate.measure import EvaluateConfig
from recall_jax.losses import objective
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.training.loop import TrainConfig
from recall_jax.training.step import OptimConfig
from recall_jax.types import InputError


@dataclasses.dataclass
class Experiment:
    """Everything that decides a run's figures. `data` is a source's Config with
    `load()` and the fields of `log.Config`, `model` a model's with
    `make(schema, rngs)`, `history_length`, `min_history` and `every_position`, whether
    its queries are of every position of a history."""

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
                f"{name} has no field {field!r}{nearest(field, field_names)}"
            )
    return kind(**{field: from_dict(value) for field, value in fields.items()})


def nearest(name: str, names: list[str]) -> str:
    """What to offer after an unknown name."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    offer = f"did you mean {close[0]!r}? " if close else ""
    return f"; {offer}there are: " + ", ".join(sorted(names))


def read(path: pathlib.Path) -> Experiment:
    """The experiment of a config.json. Raises InputError for what is none."""
    try:
        config = from_dict(json.loads(path.read_text("utf-8")))
    except InputError:
        raise
    except Exception as problem:  # whatever a damaged file, or another version, holds
        said = f"{type(problem).__name__}: {problem}"
        raise InputError(f"{path} could not be read: {said}") from problem
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
            hint = nearest(name, list(fields))
            raise InputError(f"--{walked} has no field {name!r}{hint}")
        walked, config = f"{walked}.{name}", getattr(config, name)
    if dataclasses.is_dataclass(config):
        raise InputError(f"--{walked} is a group of fields; name one of them")
    return fields[name]


AT_LEAST_1 = """
    model.width model.id_width model.feature_width model.hidden model.item_hidden
    negatives.num negatives.num_own negatives.mask_length negatives.refresh_every
    negatives.num_hashes evaluate.batch_size evaluate.num_candidates data.tokens_length model.heads
    model.blocks
"""
AT_LEAST_0 = """
    model.history_length model.min_history model.recency
    model.pairs.removed_seed model.pairs.subsample model.pairs.global_context
    model.pairs.market_weight negatives.strength negatives.hardest negatives.suppress_positives
    negatives.suppress_negatives loss.negative_weight optim.learning_rate optim.tables_lr_scale optim.weight_decay
    train.checkpoint_every data.ties_seed data.valid_seed data.min_user_events
    data.min_item_events data.text_buckets data.examples_per_user data.examples_seed
    data.hidden_seed evaluate.candidates_seed
"""
RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("at least 1", lambda x: x >= 1, AT_LEAST_1),
    ("at least 0", lambda x: x >= 0, AT_LEAST_0),
    ("above 0", lambda x: x > 0, "loss.temperature model.init_scale"),
    ("at least 0 and below 1", lambda x: 0 <= x < 1, "model.dropout model.id_dropout"),
    # Beyond, a power of counts is more than a float64 holds.
    ("from 0 to 10", lambda x: 0 <= x <= 10, "negatives.alpha model.pairs.alpha"),
    # Beyond, a walk waits for steps that are hardly ever taken.
    ("from 0.01 to 100", lambda x: 0.01 <= x <= 100, "model.pairs.p model.pairs.q"),
    ("from 0 to 1", lambda x: 0 <= x <= 1, "loss.calibration negatives.frequency_rate"),
    ("from 0 to 2**32 - 1", lambda x: 0 <= x < 2**32, "seed"),
)
"""What would fail late or in silence, by path; of lists, each entry. A source, a model
and `loop.make_plan` check the rest of their fields."""
LARGEST = 2**31 - 1  # of a number that is no seed: what an array's index holds
FILLED = ("model.history", "evaluate.metrics")  # lists that need an entry
CUT_FROM_TRAIN = ("given", "file_order")  # protocols whose validation can train too


def check(config: Experiment) -> None:
    """Raise InputError where a value is not of its field's type or out of its range."""
    _check_types(config, walked="config")
    values = _flat(config)
    for condition, holds, paths in RANGES:
        for path in paths.split():
            value = values.get(path, ())
            for entry in value if isinstance(value, tuple) else (value,):
                if not holds(entry):
                    raise InputError(
                        f"--config.{path} is {value}; it must be {condition}"
                    )
    for path in FILLED:
        if path in values and not values[path]:
            raise InputError(f"--config.{path} is empty; it needs at least one entry")
    objective.make_objective(config.loss, config.negatives)
    _check_parts(config)


def _check_parts(config: Experiment) -> None:
    """Raise InputError where one group of fields asks what another does not give."""
    if config.train.refit not in ("none", "all"):
        raise InputError(
            f'train.refit must be "none" or "all", not {config.train.refit!r}'
        )
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


def _flat(config: Any, *, path: str = "") -> dict[str, Any]:
    """Every value by its path."""
    if not dataclasses.is_dataclass(config):
        return {path[1:]: config}
    values = {}
    for field in dataclasses.fields(config):
        values |= _flat(getattr(config, field.name), path=f"{path}.{field.name}")
    return values


def _check_types(config: Any, *, walked: str) -> None:
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{walked}.{field.name}"
        if dataclasses.is_dataclass(value):
            _check_types(value, walked=path)
        elif not _fits(value, field.type):
            kind = getattr(field.type, "__name__", field.type)
            kind = field.type if get_args(field.type) else kind
            raise InputError(
                f"--{path} should be {kind}, not {value!r} ({type(value).__name__})"
            )
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"--{path} is {value}; it must be a finite number")
        elif not field.name.endswith("seed"):
            for entry in value if isinstance(value, tuple) else (value,):
                if isinstance(entry, int) and abs(entry) > LARGEST:
                    raise InputError(
                        f"--{path} is {value}; it must be at most {LARGEST}"
                    )


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:  # a group of fields, of a source or a model
        return False
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return isinstance(value, tuple) and all(_fits(entry, inner) for entry in value)
    kind = (int, float) if kind is float else kind
    return isinstance(value, kind)
