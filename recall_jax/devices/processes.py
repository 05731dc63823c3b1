"""Several processes as one run: they join, agree, and end together.

All processes run the same program on the same data, each with its own devices; arrays
are global, over the devices of all. What may differ between machines (a file that is
there or not, a rounding of the host's) is decided by the first process and told to the
others. Words go through JAX's coordination service, arrays through its collectives: the
service waits as long as it must, while a collective on CPUs gives up after 30 seconds.

Whichever process fails ends all of them within seconds: the others look for its word
every second, from a thread of their own, also while they stand in a collective. One that
dies without a word is missed by its heartbeat, and JAX then ends the others.

Without `join` there is one process: the first, which agrees with itself.
"""

import contextlib
import itertools
import json
import os
import re
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed  # the client has no public name
from jax.experimental import multihost_utils

from recall_jax.types import InputError

JOIN_SECONDS = 300  # that the processes may start apart
HEARTBEAT_SECONDS = 60  # without one before a process counts as dead
LISTEN_SECONDS = 5  # after which a wait for a word looks whether it was interrupted
LOOK_SECONDS = 1.0  # between looks for a failure
TELL_SECONDS = 5.0  # that the first process has to tell another's failure
FOLDER_SECONDS = 15.0  # that a network file system may show a new file late
FAILED, TOLD = "recall_jax/failed", "recall_jax/told"
LOST_LINE = (
    "the connection to another process was lost, most likely because it has ended: see "
    "its output. What was saved is whole; the same command resumes"
)
LOST = (
    r"(?s)[A-Z_]+: .*(Gloo|gloo|NCCL|RCCL|closed by peer|oordination)"  # as XLA says it
)

_rounds = itertools.count()
_ending = threading.Lock()  # held by the thread that ends this process


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Join the other processes, before anything touches a device.

    Without arguments JAX asks the cluster: SLURM, Kubernetes, a TPU pod, Open MPI.
    Raises InputError where there is none, or where not all come within five minutes.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for a notice, on which nobody here acts, and not end.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as problem:
        raise InputError(
            f"--distributed: JAX knows no cluster here ({problem}); start under SLURM, "
            "Kubernetes, Open MPI or on a TPU pod, or give all of "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from problem
    except jax.errors.JaxRuntimeError as problem:
        raise InputError(
            f"--distributed: the processes did not come together ({problem:.200}); "
            f"start all of them within {JOIN_SECONDS} seconds, with one --coordinator "
            "that all can reach, one --num_processes, and a --process_id each"
        ) from problem


def count() -> int:
    return distributed.global_state.num_processes


def process_index() -> int:
    return distributed.global_state.process_id


def is_first() -> bool:
    """Whether this is the process that decides, writes and speaks."""
    return process_index() == 0


# Agreeing.


def gathered(value: Any) -> list[Any]:
    """What each process gives, a JSON value, in their order; it waits for all."""
    if count() == 1:
        return [value]
    here = f"recall_jax/{next(_rounds)}"
    _say(f"{here}/{process_index()}", value)
    if is_first():  # it hands them on: one message a process, not one a pair
        _say(f"{here}/all", [_hear(f"{here}/{j}") for j in range(count())])
    return _hear(f"{here}/all")


def of_first(call: Callable[[], Any]) -> Any:
    """What `call`, made in the first process alone, returns there: a JSON value. An
    InputError that it raises is raised in all."""
    if count() == 1:
        return call()
    here = f"recall_jax/{next(_rounds)}"
    if is_first():
        try:
            message = {"value": call()}
        except InputError as problem:
            _say(here, {"refused": str(problem)})
            raise
        _say(here, message)
        return message["value"]
    message = _hear(here)
    if "refused" in message:
        raise InputError(message["refused"])
    return message["value"]


def agreed(value: Any) -> Any:
    """The first process's value, a JSON value, for a decision that all must take alike."""
    return of_first(lambda: value)


def check_alike(what: str, differing: str) -> None:
    """Raise InputError in all processes if any says that it differs from the first: a
    process gives what differs, or an empty text."""
    for process, text in enumerate(gathered(differing)):
        if text:
            raise InputError(
                f"process {process} has another {what} than process 0 ({text}); start "
                "all processes with the same flags, code and data"
            )


def check_shared(folder: Path) -> None:
    """Raise InputError if not all processes see one and the same folder."""
    if count() == 1:
        return
    mark = Path(folder) / f".shared-{agreed(uuid.uuid4().hex)}"
    of_first(lambda: mark.touch())
    saw = gathered(appears(mark))
    of_first(lambda: mark.unlink())
    blind = [process for process, seen in enumerate(saw) if not seen]
    if blind:
        raise InputError(
            f"process {blind[0]} does not see the run folder {folder} of process 0; "
            "name one on a file system that all processes share, with --workdir"
        )


def appears(path: Path) -> bool:
    """Whether a file that another process has written is there, or comes soon."""
    end = time.monotonic() + FOLDER_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
        if path.parent.is_dir():
            os.listdir(path.parent)  # NFS looks again
    return True


def _say(key: str, value: Any) -> None:
    _client().key_value_set(key, json.dumps(value))


def _hear(key: str) -> Any:
    """What was said, or will be: whoever should say it and dies ends this wait too."""
    while True:
        try:
            return _listen(key, seconds=LISTEN_SECONDS)
        except jax.errors.JaxRuntimeError as problem:
            if "DEADLINE_EXCEEDED" not in str(problem):
                raise


def _listen(key: str, *, seconds: float) -> Any:
    return json.loads(_client().blocking_key_value_get(key, int(seconds * 1000)))


def _client() -> Any:
    return distributed.global_state.client


# Arrays.


def placed(value: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """A value that every process holds whole as one global array; each process keeps
    what its devices need, and none asks another. What stands there already stays."""
    if isinstance(value, jax.Array) and value.sharding == sharding:
        return value
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda at: value[at])


def to_host(array: jax.Array) -> np.ndarray:
    """The whole of an array, in every process; all must ask if it is split."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


# Ending.


@contextlib.contextmanager
def together(line_of: Callable[[BaseException], str | None]) -> Iterator[None]:
    """What runs inside ends in all processes or in none.

    If it raises in one of them, all exit with a status that is not zero, whatever they
    stand in, as if killed; the first process says why, in one line. `line_of` gives it, or
    None for a mistake of ours, whose traceback is printed where it was raised.
    """
    if count() == 1:
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(over,), daemon=True)
    watcher.start()
    try:
        yield
        gathered("done")  # nobody leaves, and takes the service along, before
    except (Exception, KeyboardInterrupt, SystemExit) as problem:
        _fail(problem, line_of)
        raise  # not reached
    finally:
        over.set()
        watcher.join()


def _watch(over: threading.Event) -> None:
    while not over.wait(LOOK_SECONDS):
        if failure := _failure():
            with _ending:
                _end(failure)


def _fail(
    problem: BaseException, line_of: Callable[[BaseException], str | None]
) -> NoReturn:
    if not is_first():
        time.sleep(LOOK_SECONDS)  # what fails in all is for the first to tell
    with _ending:
        if not (failure := _failure()):
            failure = {"process": process_index(), **_account(problem, line_of)}
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                _say(FAILED, failure)  # refused if another came first
        _end(_failure() or failure)


def _account(
    problem: BaseException, line_of: Callable[[BaseException], str | None]
) -> dict[str, Any]:
    if isinstance(problem, KeyboardInterrupt):
        return {"status": 130, "line": "stopped; the same command resumes"}
    if line := line_of(problem):
        return {"status": 2, "line": line}
    if re.match(LOST, str(problem)):  # a ValueError or a JaxRuntimeError, by chance
        return {"status": 2, "line": f"{LOST_LINE} ({problem!s:.200})"}
    traceback.print_exception(problem)
    return {"status": 1, "line": f"{type(problem).__name__}: {problem}"}


def _end(failure: dict[str, Any]) -> NoReturn:
    """Exit, past all that would wait for the others; one process has told why."""
    ours = failure["process"] == process_index()
    whose = "" if ours else f"process {failure['process']}: "
    line = f"error: {whose}{failure['line']}"
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service may be gone
        if is_first():
            print(line, file=sys.stderr)
            _say(TOLD, True)
            time.sleep(2 * LOOK_SECONDS)  # the others leave while there is a service
        elif ours and not _heard(TOLD, seconds=TELL_SECONDS):
            print(line, file=sys.stderr)
    for stream in sys.stdout, sys.stderr:
        stream.flush()
    os._exit(failure["status"])


def _heard(key: str, *, seconds: float) -> bool:
    try:
        return _listen(key, seconds=seconds)
    except jax.errors.JaxRuntimeError:
        return False


def _failure() -> dict[str, Any] | None:
    """What the process that failed first has said, if one has."""
    try:
        return json.loads(_client().key_value_try_get(FAILED))
    except jax.errors.JaxRuntimeError:  # none has, or the service is gone
        return None
