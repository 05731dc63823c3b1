"""Flags of XLA for tests, to be set before jax is imported."""

import os
import subprocess
import sys

QUICKER = "--xla_cpu_use_fusion_emitters=false"  # compiles a third faster


def add_flag(flag: str) -> None:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def is_known(flag: str) -> bool:
    """Whether this XLA has the flag; a process given one that it lacks would abort."""
    tried = os.environ | {"XLA_FLAGS": flag}
    devices = [sys.executable, "-c", "import jax; jax.devices()"]
    found = subprocess.run(devices, env=tried, capture_output=True, check=False)
    return found.returncode == 0
