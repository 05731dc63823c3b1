"""What the negatives of a step remember for the next: in the training state."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recall_jax import frequency
from recall_jax.negatives import NegativesConfig
from recall_jax.types import InputError


class Queue(NamedTuple):
    """Cross-batch memory (Wang et al. 2020): recent item vectors, oldest overwritten."""

    vector: Float[Array, "n d"]
    item: Int[Array, "n"]  # catalogue ids; 0: not filled yet
    user: Int[Array, "n"]
    at: Int[Array, ""]  # where the next goes


class State(NamedTuple):
    """What the negatives remember between steps, in the training state."""

    estimator: frequency.Gaps | frequency.Sketch | None = None
    queue: Queue | None = None
    index: Float[Array, "V d"] | None = None  # item vectors as of the last refresh


def init_state(
    config: NegativesConfig, *, batch_size: int, num_items: int, width: int
) -> State:
    """The state before the first step; `width` is that of the vectors."""
    estimator = queue = index = None
    if config.frequency != "exact":
        make = {"gaps": frequency.init_gaps, "sketch": frequency.init_sketch}
        estimator = make[config.frequency](
            num_hashes=config.num_hashes, width=config.hash_width
        )
    if config.kind == "queue":
        if config.num < batch_size:
            raise InputError(
                f"negatives.num {config.num}, the length of the queue, must be at least "
                f"the {batch_size} examples of a batch; raise it, or lower "
                "train.batch_size"
            )
        zeros = jnp.zeros(config.num, jnp.int32)
        vectors = jnp.zeros((config.num, width))
        queue = Queue(vectors, zeros, zeros + 0, jnp.zeros((), jnp.int32))
    if config.own == "semi_hard":
        index = jnp.zeros((num_items, width))
    return State(estimator, queue, index)
