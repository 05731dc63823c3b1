"""The contestants of `experiments.bench.peers`: where each lives, and talking to it."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.bench.contestants import session
from recall_jax.types import InputError

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[2]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library, its program here, what its environment holds, and its ways to train,
    the plainest first."""

    program: str
    packages: tuple[str, ...]
    forms: tuple[str, ...]


# jax is ours, so that no difference is XLA's.
PEERS = {
    "keras_rs": Peer(
        "in_keras_rs.py",
        ("keras-rs==0.4.0", "keras==3.15.1", "jax==0.10.2", "numpy>=2"),
        ("embedding", "distributed", "scan"),
    ),
    "torch": Peer("in_torch.py", ("torch==2.13.0", "numpy>=2"), ("eager", "compiled")),
    "torch_rechub": Peer(
        "in_torch_rechub.py",
        ("torch-rechub==0.9.0", "torch==2.13.0"),
        ("in_batch", "workers"),
    ),
}


def python_of(envs: pathlib.Path, name: str) -> pathlib.Path:
    """The interpreter of a peer's environment, whether or not it is there."""
    return envs / name / "bin" / "python"


def is_installed(envs: pathlib.Path, name: str) -> bool:
    """Whether an environment holds a peer, by its first package's metadata."""
    package, _, version = PEERS[name].packages[0].partition("==")
    folder = f"{package.replace('-', '_')}-{version}*.dist-info"
    return python_of(envs, name).exists() and any(
        (envs / name / "lib").glob(f"python*/site-packages/{folder}")
    )


def install_commands(envs: pathlib.Path, name: str) -> list[list[str]]:
    """What makes an environment, then fills it."""
    python = str(python_of(envs, name))
    packages = PEERS[name].packages
    return [
        [sys.executable, "-m", "venv", str(envs / name)],
        [python, "-m", "pip", "install", "--quiet", *packages],
    ]


def install(envs: pathlib.Path, name: str) -> None:
    """Make a peer's environment. Raises InputError with what pip said."""
    for command in install_commands(envs, name):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise InputError(
                f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}; remove "
                f"{envs / name} and try again, or leave it out with --peers"
            )


def command_of(envs: pathlib.Path, name: str) -> tuple[str, ...]:
    """What starts a contestant, without its job: a peer, or "recall_jax", ours."""
    if name == "recall_jax":
        return sys.executable, "-m", "experiments.bench.contestants.in_recall_jax"
    return str(python_of(envs, name)), str(FOLDER / PEERS[name].program)


class Failed(RuntimeError):
    """A contestant stopped; the end of what it wrote to stderr."""


class Talk:
    """A running contestant."""

    def __init__(self, process: subprocess.Popen, folder: pathlib.Path):
        self._process, self._folder = process, folder
        self.described = self._answer()  # threads, versions

    def train(self, steps: int) -> dict[str, float]:
        """Seconds, examples and mean loss of so many steps."""
        return self._ask({"train": steps})

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Of users 1..num_users and of items 1..num_items."""
        path = str(self._folder / "vectors.npz")
        self._ask({"vectors": path})
        with np.load(path) as file:
            return file["user"], file["item"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # then it has no answer either
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        said = (self._folder / "stderr.txt").read_text(errors="replace")
        raise Failed(said.strip()[-500:] or f"exit status {self._process.returncode}")


@contextlib.contextmanager
def started(command: tuple[str, ...], job: session.Job) -> Iterator[Talk]:
    """A contestant with its job, ended on leaving. Raises Failed if it does not start."""
    with (
        tempfile.TemporaryDirectory() as name,
        open(f"{name}/stderr.txt", "w") as stderr,
    ):
        session.write_job(job, name)
        threads = dict.fromkeys(THREADS, str(job.threads))
        process = subprocess.Popen(
            [*command, name],
            env={**os.environ, **threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
        )
        try:
            yield Talk(process, pathlib.Path(name))
        finally:
            process.kill()
            process.communicate()
