"""Vectors of any number whose rows are split over the devices."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from recall_jax.devices import mesh as mesh_lib
from recall_jax.devices import processes


class Rows(NamedTuple):
    """The rows of an array [num, d], as many on each device, with rows that mean nothing
    behind the last; on one device the array itself."""

    array: Float[Array, "n d"]
    num: int

    @property
    def mesh(self) -> Mesh | None:
        """That of the devices which have them; None for one."""
        where = self.array.sharding
        return where.mesh if where.num_devices > 1 else None

    def everywhere(self) -> Float[Array, "num d"]:
        """The array [num, d], whole on every device."""
        if self.mesh is None:
            return self.array
        with mesh_lib.use(self.mesh):
            return _first(self.array, num=self.num)

    def on_host(self) -> Float[np.ndarray, "num d"]:
        """The array [num, d] on the host."""
        return processes.to_host(self.array)[: self.num]


@functools.partial(jax.jit, static_argnames="num")
def _first(array, *, num):
    return jax.lax.with_sharding_constraint(array[:num], mesh_lib.WHOLE)


def split_rows(x: Float[Array | np.ndarray, "num d"]) -> Rows:
    """An array of the host, or one that every device has."""
    devices = mesh_lib.num_devices()
    if devices == 1:
        return Rows(jnp.asarray(x), len(x))
    pad = jnp.pad if isinstance(x, jax.Array) else np.pad
    return Rows(mesh_lib.share(pad(x, ((0, -len(x) % devices), (0, 0)))), len(x))
