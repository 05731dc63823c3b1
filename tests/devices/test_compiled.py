"""Compiled programs are kept where they are taken back, and nowhere else."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from recall_jax.devices import compiled

KEPT = """
import jax, jax.numpy as jnp, pathlib, sys
from recall_jax.devices import compiled
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.numpy.zeros(3) + 1  # JAX has compiled something before
compiled.keep(pathlib.Path(sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))
print(hits.count("/jax/compilation_cache/cache_hits"))
"""


@pytest.fixture
def cpu_info(tmp_path) -> pathlib.Path:
    path = tmp_path / "cpuinfo"
    path.write_text("model name\t: A Processor\nflags\t\t: sse avx2\n")
    return path


def kept(cpu_info, tmp_path) -> tuple[int, list[pathlib.Path]]:
    """Hits of a new process, and the entries that there are after it."""
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", KEPT, str(cpu_info)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return int(done.stdout), sorted(tmp_path.glob("recall_jax/compiled/*/*-cache"))


def test_a_second_process_takes_what_the_first_kept(cpu_info, tmp_path):
    hits, entries = kept(cpu_info, tmp_path)
    assert hits == 0 and entries
    half = entries[0].with_name("jit_half-0000-cache")  # of a process that was killed
    half.write_bytes(b"half")
    os.utime(half, (0, 0))
    hits, again = kept(cpu_info, tmp_path)
    assert hits > 0 and again == entries


def test_nothing_is_kept_where_it_is_not_taken_back(cpu_info, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    compiled.keep(cpu_info)
    assert jax.config.jax_compilation_cache_dir == before, "tests have a cache already"
    cpu_info.write_text("model name : A Processor\nflags : sse avx2 avx512f\n")
    jax.config.update("jax_compilation_cache_dir", None)
    compiled.keep(cpu_info)
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", before)
    assert not (tmp_path / "recall_jax").exists()
