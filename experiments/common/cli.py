"""What the commands share: a config by name, its overrides checked, plain errors."""

import difflib
import importlib.machinery
import importlib.util
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax
from absl import app, flags
from ml_collections import config_flags

from recall_jax.devices import compiled
from recall_jax.run import config as config_lib
from recall_jax.run.config import Experiment
from recall_jax.training.loop import Diverged
from recall_jax.types import InputError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
DEFAULT = "dssm_synthetic"
ENTRY = "NAME or NAME:field=value:field=value, a list in brackets: model.hidden=[64,32]"


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
        near = difflib.get_close_matches(name, config_names(), n=3, cutoff=0)
        raise InputError(
            f"--config: there is no config {name!r}; the nearest are {', '.join(near)}; "
            "--config=help lists all"
        )
    return CONFIGS / f"{name}.py"


def catalogue() -> str:
    """Every config by name, with the first line of its docstring."""
    width = max(map(len, config_names()))
    lines = []
    for name in config_names():  # read as text: no mistake in one hides the others
        text = config_path(name).read_text("utf-8")
        first = re.match(r'"""([^\n"]*)', text)
        lines.append(f"{name:{width}}  {first[1] if first else ''}".rstrip())
    return "\n".join(lines)


def load_config(name: str) -> Experiment:
    """The experiment of a config's file, or of the config.json that a run wrote."""
    path = config_path(name)
    if path.suffix == ".json":
        return config_lib.read(path)
    try:
        config = _read_python(path)
    except InputError:
        raise
    except Exception as problem:  # a config is a program: anything can go wrong in it
        said = f"{type(problem).__name__}: {problem}"
        raise InputError(f"--config: {path} could not be read: {said}") from problem
    if not isinstance(config, Experiment):
        kind = type(config).__name__
        raise InputError(f"--config: {path} gives a {kind}, not an Experiment")
    return config


def _read_python(path: pathlib.Path) -> Experiment:
    module = read_module(path)
    if not hasattr(module, "get_config"):
        raise InputError(f"--config: {path} has no function get_config()")
    return module.get_config()


def read_module(path: pathlib.Path) -> ModuleType:
    """A Python file run as a module, wherever it lies."""
    spec = importlib.util.spec_from_loader(
        path.stem, importlib.machinery.SourceFileLoader(path.stem, str(path))
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_sweep(name: str) -> list[str]:
    """What `get_sweep()` of a config's file names, each as --over takes it; nothing
    where it has none. Raises InputError where it fails or gives no list of strings."""
    path = config_path(name)
    if path.suffix != ".py" or not hasattr(module := read_module(path), "get_sweep"):
        return []
    try:
        overs = module.get_sweep()
    except Exception as problem:  # a config is a program: anything can go wrong in it
        said = f"{type(problem).__name__}: {problem}"
        raise InputError(f"--config: get_sweep() of {path} failed: {said}") from problem
    if not (
        isinstance(overs, (list, tuple)) and all(isinstance(x, str) for x in overs)
    ):
        raise InputError(
            f"--config: get_sweep() of {path} gives {overs!r:.60}; it must give a list of "
            "strings, each as --over takes it: ['loss.temperature=0.1,0.2']"
        )
    return list(overs)


class Entry(NamedTuple):
    """One of several configs: `own` are the overrides of its entry alone, `overrides`
    those and what holds for all, field -> value as given."""

    name: str
    own: dict[str, str]
    overrides: dict[str, str]
    config: Experiment

    @property
    def label(self) -> str:
        """The entry as --configs takes it."""
        return ":".join(
            [self.name, *(f"{k}={_in_entry(v)}" for k, v in self.own.items())]
        )


def _in_entry(value: str) -> str:
    return f"[{value}]" if "," in value else value


def parse(argv: list[str]) -> list[str]:
    """Define --config and its overrides and parse the command line into flags.FLAGS;
    what is no flag comes back.

    A list may be given as a,b; of a flag given twice the last one counts. Raises
    InputError for whatever is wrong.
    """
    name, overrides, rest = split_overrides(argv)
    config = load_config(DEFAULT if name is None else name)
    argv = [rest[0], *_literals(config, overrides), *rest[1:]]
    app.define_help_flags()
    try:
        config_flags.DEFINE_config_dataclass("config", config, sys_argv=argv)
        return flags.FLAGS(argv)
    except flags.Error as problem:
        raise InputError(str(problem)) from problem


def parse_many(argv: list[str]) -> list[str]:
    """As `parse`, of a command that defined the multi_string flag --configs:
    flags.FLAGS.configs becomes a list of `Entry`, --config.field=value goes to all."""
    name, shared, rest = split_overrides(argv)
    if name is not None:
        raise InputError("--config names one config; list them with --configs=A,B")
    app.define_help_flags()
    try:
        argv = flags.FLAGS(rest)
    except flags.Error as problem:
        raise InputError(str(problem)) from problem
    # A comma inside of brackets belongs to a list.
    pieces = re.split(r",(?![^\[]*\])", ",".join(flags.FLAGS.configs or []))
    entries = [read_entry(piece, shared=shared) for piece in pieces if piece]
    if not entries:
        raise InputError("--configs is empty; list configs, as in --configs=mf_ml1m")
    flags.FLAGS.configs = entries
    return argv


def parse_entry(argv: list[str]) -> list[str]:
    """As `parse`, of a command that defined the string flag --config: flags.FLAGS.config
    becomes an `Entry` without overrides of its own."""
    name, shared, rest = split_overrides(argv)
    name = DEFAULT if name is None else name
    app.define_help_flags()
    try:
        argv = flags.FLAGS(rest)
    except flags.Error as problem:
        raise InputError(str(problem)) from problem
    config = _overridden(load_config(name), shared)
    flags.FLAGS.config = Entry(name, {}, shared, config)
    return argv


def with_own(entry: Entry, own: dict[str, str]) -> Entry:
    """The entry with overrides of its own, which win."""
    overrides = entry.overrides | own
    config = _overridden(load_config(entry.name), overrides)
    return Entry(entry.name, own, overrides, config)


def parse_plain(argv: list[str]) -> list[str]:
    """As `parse`, of a command without a config."""
    app.define_help_flags()
    try:
        return flags.FLAGS(argv)
    except flags.Error as problem:
        raise InputError(str(problem)) from problem


def read_entry(text: str, *, shared: dict[str, str]) -> Entry:
    """One entry of --configs; a field given twice has its last value. Raises InputError."""
    name, colon, rest = text.partition(":")
    own = {}
    for part in re.split(r":(?=[\w.]+=)", rest) if colon else ():
        field, equals, value = part.partition("=")
        if not equals:
            raise InputError(
                f"--configs: {part!r} of {text} is no override; it is {ENTRY}"
            )
        own[field] = re.sub(r"^\[(.*)\]$", r"\1", value)
    try:
        config = load_config(name)
        return Entry(name, own, shared | own, _overridden(config, shared | own))
    except InputError as problem:
        hint = "" if name in config_names() else f". An entry is {ENTRY}"
        raise InputError(f"--configs={text}: {problem}{hint}") from problem


def _overridden(config: Experiment, overrides: dict[str, str]) -> Experiment:
    """The config with its overrides, which are parsed as flags of no command are."""
    literals, values = ["", *_literals(config, overrides)], flags.FlagValues()
    try:
        config_flags.DEFINE_config_dataclass(
            "config", config, flag_values=values, sys_argv=literals
        )
        values(literals)
    except flags.Error as problem:
        raise InputError(str(problem)) from problem
    return values.config


def split_overrides(argv: list[str]) -> tuple[str | None, dict[str, str], list[str]]:
    """What --config names, its overrides by field, and all other arguments. With
    --config=help prints the configs there are, and leaves."""
    name, overrides, rest = None, {}, []
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
    if name == "help":
        print(catalogue())
        raise SystemExit(0)
    return name, overrides, rest


def _literals(config: Experiment, overrides: dict[str, str]) -> list[str]:
    return [
        f"--config.{field}={config_lib.as_literal(config, field, value)}"
        for field, value in overrides.items()
    ]


def start(
    main: Callable[[list[str]], None],
    *,
    parse: Callable[[list[str]], list[str]] = parse,
) -> None:
    """Run a command; a mistake of the user's is one plain line and exit status 2."""
    # Which accelerators JAX did not find is no news to somebody without any.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    try:
        argv = parse(sys.argv)
        if len(argv) > 1:
            raise InputError(f"what is {argv[1]!r}? Options start with --")
        compiled.keep()
        main(argv)
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr)
        sys.exit(130)
    except Exception as problem:
        if (line := error_line(problem)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


def error_line(problem: Exception) -> str | None:
    """A line for what its reader can mend; None for a mistake of ours."""
    if isinstance(problem, (InputError, Diverged, FloatingPointError, OSError)):
        return str(problem)
    if not isinstance(problem, jax.errors.JaxRuntimeError):
        return None
    if "RESOURCE_EXHAUSTED" not in str(problem):
        return None
    return f"out of memory; lower a size, such as train.batch_size ({problem})"
