"""What tests tell JAX and XLA: eight devices of one CPU, and to compile quickly."""

import os
import subprocess
import sys

EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
QUICKER = "--xla_cpu_use_fusion_emitters=false"  # compiles a third faster
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
"""Busy cores may keep one of eight devices from the others for longer than XLA's 40 s,
after which it aborts the process."""


def set_once() -> None:
    """Into the environment, before JAX is imported; whoever is begun by a process that
    has done so, as the workers of pytest-xdist are, has the flags already."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Most of a test's seconds are compilation. The README's main command, which
    # continuous integration runs too, is optimised as ever.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if EIGHT_DEVICES in os.environ.get("XLA_FLAGS", ""):
        return
    add_flag(EIGHT_DEVICES)
    more = [PATIENT] if "slow" in sys.argv else [PATIENT, QUICKER]
    if is_known(" ".join(more)):  # slow tests compile as users do
        add_flag(" ".join(more))


def add_flag(flag: str) -> None:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def is_known(flags: str) -> bool:
    """Whether this XLA has the flags; a process given one that it lacks would abort."""
    tried = os.environ | {"XLA_FLAGS": flags}
    devices = [sys.executable, "-c", "import jax; jax.devices()"]
    process = subprocess.run(devices, env=tried, capture_output=True, check=False)
    return process.returncode == 0
