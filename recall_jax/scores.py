"""From vectors to finished logits: temperature, log-q correction, masks.

Every function returns (positive [b], negative [b, n], where [b, n]): what the losses
take. A logit is s / temperature - strength * log_q, the correction outside the
temperature's reach (Yi et al. 2019). log_q None leaves it out.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Logits(NamedTuple):
    positive: Float[Array, "b"]
    negative: Float[Array, "b n"]
    where: Bool[Array, "b n"]


def finish(
    similarity: Float[Array, "*b n"],
    log_q: Float[Array, "n"] | None,
    *,
    temperature: Float[Array, ""],
    strength: Float[Array, ""],
) -> Float[Array, "*b n"]:
    """similarity / temperature - strength * log_q."""
    logits = similarity / temperature
    if log_q is None:
        return logits
    return logits - strength * jnp.broadcast_to(log_q, logits.shape)


def in_batch_scores(
    query: Float[Array, "b d"],
    item: Float[Array, "b d"],
    *,
    item_id: Int[Array, "b"],
    log_q: Float[Array, "b"] | None,
    temperature: Float[Array, ""],
    strength: Float[Array, ""],
) -> Logits:
    """The other rows' positives are the negatives, except those that are the same item
    (accidental hits): they contribute exactly 0."""
    hypers = {"temperature": temperature, "strength": strength}
    positive = finish(jnp.sum(query * item, -1), log_q, **hypers)
    negative = finish(query @ item.T, log_q, **hypers)
    return Logits(positive, negative, item_id[:, None] != item_id[None, :])


def sampled_scores(
    query: Float[Array, "b d"],
    positive: Float[Array, "b d"],
    negative: Float[Array, "n d"],
    *,
    positive_id: Int[Array, "b"],
    negative_id: Int[Array, "n"],
    positive_log_q: Float[Array, "b"] | None,
    negative_log_q: Float[Array, "n"] | None,
    temperature: Float[Array, ""],
    strength: Float[Array, ""],
) -> Logits:
    """n drawn items are every example's negatives, except where one is its positive.

    With negative_id all items of the catalogue and no log q this is the full softmax.
    """
    hypers = {"temperature": temperature, "strength": strength}
    p = finish(jnp.sum(query * positive, -1), positive_log_q, **hypers)
    n = finish(query @ negative.T, negative_log_q, **hypers)
    return Logits(p, n, positive_id[:, None] != negative_id[None, :])
