"""Compiled programs kept from one process to the next, by JAX's persistent cache."""

import hashlib
import importlib.util
import os
import pathlib
import platform
import re
import time

import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

MOST_BYTES = 1 << 30
A_MINUTE = 60.0  # after which nobody is still writing
REFUSES = "avx512f"
"""On processors that have it, XLA rejects what it has written itself, with error lines
(jax issue 38445)."""


def keep(cpu_info: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> None:
    """Keep what is compiled from now on, and take what another process kept.

    In ~/.cache/recall_jax/compiled, a folder for each processor and version of jaxlib, of 1 GiB
    at most. Nothing happens where JAX has a cache already (JAX_COMPILATION_CACHE_DIR) or
    shall have none (JAX_ENABLE_COMPILATION_CACHE=false), where the processor's entries
    are not taken back, or where the folder cannot be written.
    """
    text = cpu_info.read_text() if cpu_info.exists() else ""
    lines = r"^(?:model name|CPU part|flags|Features)\s*:\s*(.+)$"
    found = sorted(set(re.findall(lines, text, re.MULTILINE)))
    if not jax.config.jax_enable_compilation_cache or any(REFUSES in x for x in found):
        return
    if jax.config.jax_compilation_cache_dir:
        return
    if importlib.util.find_spec("filelock") is None:  # without it JAX sets no bound
        return
    name = " ".join(found) or f"{platform.machine()} {platform.processor()}"
    key = hashlib.sha256(name.encode()).hexdigest()[:8]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "recall_jax" / "compiled" / f"{key}-jaxlib-{jaxlib.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_halves(folder)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # JAX decides once, at its first compilation


def remove_halves(folder: pathlib.Path) -> None:
    """Remove entries that a killed process left without the time of their last use, over
    which JAX would stumble at every new entry."""
    for entry in folder.glob("*-cache"):
        written = time.time() - entry.stat().st_mtime
        used = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
        if written > A_MINUTE and not used.exists():
            entry.unlink(missing_ok=True)
