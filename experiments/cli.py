"""What the commands share: a config by name, its overrides checked, plain errors."""

import importlib.machinery
import importlib.util
import json
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable

import jax
from absl import app, flags
from ml_collections import config_flags

from recall_jax import config as config_lib
from recall_jax.config import Experiment
from recall_jax.fit import Diverged
from recall_jax.types import InputError

CONFIGS = pathlib.Path(__file__).parent / "configs"
DEFAULT = "dssm_synthetic"


def config_names() -> list[str]:
    """The experiments there are: the files of the configs folder."""
    return sorted(path.stem for path in CONFIGS.glob("[a-z]*.py"))


def config_path(name: str) -> pathlib.Path:
    """The file of a config given by name or by path."""
    if name.endswith((".py", ".json")) or os.sep in name:
        if not pathlib.Path(name).is_file():
            raise InputError(f"--config: there is no file {name}")
        return pathlib.Path(name)
    if name not in config_names():
        raise InputError(
            f"--config: there is no config {name!r}"
            + config_lib.nearest(name, config_names())
        )
    return CONFIGS / f"{name}.py"


def load_config(name: str) -> Experiment:
    """The experiment of a config's file, or of the config.json that a run wrote."""
    path = config_path(name)
    try:
        config = _read_json(path) if path.suffix == ".json" else _read_python(path)
    except InputError:
        raise
    except Exception as problem:  # a config is a program: anything can go wrong in it
        said = f"{type(problem).__name__}: {problem}"
        raise InputError(f"--config: {path} could not be read: {said}") from problem
    if not isinstance(config, Experiment):
        kind = type(config).__name__
        raise InputError(f"--config: {path} gives a {kind}, not an Experiment")
    return config


def _read_json(path: pathlib.Path) -> Experiment:
    return config_lib.from_dict(json.loads(path.read_text("utf-8")))


def _read_python(path: pathlib.Path) -> Experiment:
    spec = importlib.util.spec_from_loader(
        path.stem, importlib.machinery.SourceFileLoader(path.stem, str(path))
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"--config: {path} has no function get_config()")
    return module.get_config()


def parse(argv: list[str]) -> list[str]:
    """Define --config and its overrides and parse the command line into flags.FLAGS;
    what is no flag comes back.

    A list may be given as a,b; of a flag given twice the last one counts. Raises
    InputError for whatever is wrong.
    """
    name, overrides, rest = DEFAULT, {}, []
    arguments = iter(argv)
    for argument in arguments:
        match = re.fullmatch(r"--?config(?:\.([^=]*))?(?:=(.*))?", argument, re.DOTALL)
        if not match:
            rest.append(argument)
            continue
        field, value = match.groups()
        value = next(arguments, "") if value is None else value
        if field is None:
            name = value
        else:
            overrides[field] = value
    config = load_config(name)
    literals = [
        f"--config.{field}={config_lib.as_literal(config, field, value)}"
        for field, value in overrides.items()
    ]
    argv = [rest[0], *literals, *rest[1:]]
    app.define_help_flags()
    try:
        config_flags.DEFINE_config_dataclass("config", config, sys_argv=argv)
        return flags.FLAGS(argv)
    except flags.Error as problem:
        raise InputError(str(problem)) from problem


def start(main: Callable[[list[str]], None]) -> None:
    """Run a command; a mistake of the user's is one plain line and exit status 2."""
    # Which accelerators JAX did not find is no news to somebody without any.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    try:
        argv = parse(sys.argv)
        if len(argv) > 1:
            raise InputError(f"what is {argv[1]!r}? Options start with --")
        main(argv)
    except (InputError, Diverged, FloatingPointError, OSError) as problem:
        _stop(problem)
    except jax.errors.JaxRuntimeError as problem:
        if "RESOURCE_EXHAUSTED" not in str(problem):
            raise
        _stop(f"out of memory; lower a size, such as train.batch_size ({problem})")
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr)
        sys.exit(130)


def _stop(problem: Exception | str) -> None:
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)
