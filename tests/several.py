"""Real processes that form one run, for tests."""

import os
import pathlib
import socket
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
FEW_THREADS = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "NPROC": "2",
    "RECALL_DATA_DIR": "",
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
}
JOIN = """
import sys
from recall_jax.devices import processes
port, process = sys.argv.pop(1), int(sys.argv.pop(1))
processes.join(f"127.0.0.1:{port}", 2, process)
"""


class Ended(NamedTuple):
    status: int
    output: str
    errors: str


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(*command, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """Python with these arguments."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | FEW_THREADS | (environment or {}),
    )


def start_pair(code: str, *arguments) -> list[subprocess.Popen]:
    """A program in both of two processes that have joined; `process` tells which."""
    port = free_port()
    return [start("-c", JOIN + code, port, process, *arguments) for process in (0, 1)]


def start_runs(*arguments, second=(), programs=None) -> list[subprocess.Popen]:
    """experiments.run in two processes; the second has some arguments more."""
    place = f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"
    command = "-m", "experiments.run", "--distributed", *place, *arguments
    return [
        start(*command, f"--process_id={process}", *more, environment=programs)
        for process, more in enumerate(((), second))
    ]


def ended(pair: list[subprocess.Popen], *, seconds: float = 120) -> list[Ended]:
    """What each has left, killed if it has not ended in time."""
    left = []
    for process in pair:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            errors += f"\nnot ended after {seconds} seconds"
        left.append(Ended(process.returncode, output, errors))
    return left


def finish(pair: list[subprocess.Popen]) -> list[Ended]:
    """Both must succeed."""
    left = ended(pair, seconds=500)
    assert all(process.status == 0 for process in left), [x.errors for x in left]
    return left
