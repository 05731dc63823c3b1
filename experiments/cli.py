"""What the commands share: a config by name, its overrides checked, plain errors."""

import importlib.util
import logging
import os
import pathlib
import sys
from collections.abc import Callable

from absl import app

from recall_jax import config as config_lib
from recall_jax.checkpoint import SaveError
from recall_jax.fit import Diverged
from recall_jax.types import InputError

CONFIGS = pathlib.Path(__file__).parent / "configs"


def config_names() -> list[str]:
    """The experiments there are: the files of the configs folder."""
    return sorted(path.stem for path in CONFIGS.glob("[a-z]*.py"))


def config_path(name: str) -> pathlib.Path:
    """The file of a config given by name or by path."""
    if name.endswith(".py") or os.sep in name:
        if not pathlib.Path(name).is_file():
            raise InputError(f"--config: there is no file {name}")
        return pathlib.Path(name)
    if name not in config_names():
        raise InputError(
            f"--config: there is no config {name!r}"
            + config_lib.nearest(name, config_names())
        )
    return CONFIGS / f"{name}.py"


def load_config(name: str) -> config_lib.Experiment:
    """The experiment of a config file, as it stands there."""
    path = config_path(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"{path} has no function get_config()")
    return module.get_config()


def checked_arguments(argv: list[str]) -> list[str]:
    """The command line with the config's name made a path, its overrides checked
    before anything else reads them."""
    checked, name, overrides = [], None, []
    rest = iter(argv)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        flag = flag.replace("--", "-", 1)
        if flag == "-config":
            name = value if equals else next(rest, "")
            argument = f"--config={config_path(name)}"
        elif flag.startswith("-config."):
            overrides.append(flag.removeprefix("-config."))
        checked.append(argument)
    if overrides:
        loaded = load_config(name or DEFAULT)
        for path in overrides:
            config_lib.check_field(loaded, path)
    return checked


DEFAULT = "dssm_synthetic"


def start(main: Callable[[list[str]], None]) -> None:
    """Run a command; a mistake of the user's is one plain line and exit status 2."""

    def plain(argv: list[str]) -> None:
        if len(argv) > 1:
            raise InputError(f"what is {argv[1]!r}? Options start with --")
        main(argv)

    # Which accelerators JAX did not find is no news to somebody without any.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    try:
        app.run(plain, argv=checked_arguments(sys.argv))
    except (InputError, SaveError, Diverged) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr)
        sys.exit(130)
