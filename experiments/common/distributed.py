"""A command as one of several processes that train one model.

    srun python -m experiments.run --config=dssm_ml1m --distributed
    python -m experiments.run --distributed --coordinator=10.0.0.1:9876
        --num_processes=2 --process_id=0     # and the same with 1, elsewhere

SLURM, Kubernetes, TPU pods and Open MPI are recognised; elsewhere three flags say it.
"""

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from absl import flags

from experiments.common import cli
from recall_jax.devices import processes
from recall_jax.types import InputError

PLACE = ("coordinator", "num_processes", "process_id")
GIVEN = "--coordinator=HOST:PORT --num_processes=N --process_id=I"


def define_flags() -> None:
    flags.DEFINE_boolean("distributed", False, "one of several processes of a run")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, same in all")
    flags.DEFINE_integer("num_processes", None, "how many there are, same in all")
    flags.DEFINE_integer("process_id", None, "which this is, from 0")


class Place(NamedTuple):
    """Where a process stands; all None where the cluster says it."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None


def place() -> Place | None:
    """What the flags say; None without --distributed. Raises InputError where they do
    not fit together."""
    given = Place(*(flags.FLAGS[name].value for name in PLACE))
    named = [f"--{name}" for name, value in zip(PLACE, given) if value is not None]
    if not flags.FLAGS.distributed:
        if named:
            raise InputError(f"{', '.join(named)} says nothing without --distributed")
        return None
    if not named:
        return given
    if len(named) < len(PLACE):
        raise InputError(
            f"--distributed with {', '.join(named)}: give all of {GIVEN}, or none in a "
            "cluster that JAX knows"
        )
    _check(given)
    return given


def _check(given: Place) -> None:
    host_port = re.fullmatch(r".+:(\d+)", given.coordinator)
    if not (host_port and 0 < int(host_port[1]) < 1 << 16):
        raise InputError(
            f"--coordinator={given.coordinator} is no HOST:PORT, as in 10.0.0.1:9876"
        )
    if given.num_processes < 1:
        raise InputError(f"--num_processes={given.num_processes} must be at least 1")
    if not 0 <= given.process_id < given.num_processes:
        raise InputError(
            f"--process_id={given.process_id} must be one of 0 to "
            f"{given.num_processes - 1}, below --num_processes"
        )


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """With --distributed what runs inside is one run of all processes, of which the
    first speaks; without it nothing changes."""
    if (where := place()) is None:
        yield
        return
    processes.join(*where)
    with processes.together(cli.error_line), contextlib.ExitStack() as quiet:
        if not processes.is_first():
            nowhere = quiet.enter_context(open("/dev/null", "w"))
            quiet.enter_context(contextlib.redirect_stdout(nowhere))
            quiet.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        yield
