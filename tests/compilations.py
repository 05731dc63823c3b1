"""How often JAX compiles."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass
class Compilations:
    """So far. A program from JAX's compilation cache counts as one."""

    count: int = 0


@contextlib.contextmanager
def counted() -> Iterator[Compilations]:
    """The compilations of this process while the context is open; small ones count too:
    the first jnp.zeros(3) is one."""
    seen = Compilations()

    def listen(event: str, seconds: float, **details: Any) -> None:
        seen.count += event == EVENT

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
