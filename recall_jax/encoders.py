"""Sequences as vectors: what stands at [..., m, d] where [..., m] to [..., d].

Masked positions count as absent, so padding on either side changes nothing; where all
are masked the vector is zero. Each encoder is made as `Encoder(d, rngs=rngs)`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float


def masked_softmax(
    logits: Float[Array, "*#b m"], where: Bool[Array, "*b m"]
) -> Float[Array, "*b m"]:
    """Softmax over the unmasked of m; zeros where all are masked."""
    logits = jnp.where(where, logits, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    weight = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0.0))
    total = weight.sum(-1, keepdims=True)
    return weight / jnp.where(total > 0, total, 1.0)


class AttentionPool(nnx.Module):
    """The mean of x weighed by softmax(q . tanh(W x + b)), the query q learned
    (Yang et al. 2016, Hierarchical attention networks)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(width, width, rngs=rngs)
        self.query = nnx.Linear(width, 1, use_bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*b m d"], where: Bool[Array, "*b m"]
    ) -> Float[Array, "*b d"]:
        logits = self.query(jnp.tanh(self.hidden(x)))[..., 0]
        return jnp.einsum("...md,...m->...d", x, masked_softmax(logits, where))


class GRU(nnx.Module):
    """The last state of a gated recurrent unit (Cho et al. 2014), from a zero state:

        z, r = sigmoid(W x + U h + b), c = tanh(W x + b + r * (U h)),
        h = z * h + (1 - z) * c, each with a W, U and b of its own.

    The reset gate r is applied behind the product with U, so that one product serves
    all three. Masked steps leave the state as it is, wherever they stand.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.inputs = nnx.Linear(width, 3 * width, rngs=rngs)
        self.states = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*b m d"], where: Bool[Array, "*b m"]
    ) -> Float[Array, "*b d"]:
        kernel = self.states.kernel[...]

        def step(h, at):
            inputs, there = at
            keep, reset, new = jnp.split(inputs, 3, axis=-1)
            keep_h, reset_h, new_h = jnp.split(h @ kernel, 3, axis=-1)
            keep = jax.nn.sigmoid(keep + keep_h)
            new = jnp.tanh(new + jax.nn.sigmoid(reset + reset_h) * new_h)
            return jnp.where(there, keep * h + (1 - keep) * new, h), None

        inputs = jnp.moveaxis(self.inputs(x), -2, 0)
        there = jnp.moveaxis(where, -1, 0)[..., None]
        start = jnp.zeros((*x.shape[:-2], x.shape[-1]), inputs.dtype)
        return jax.lax.scan(step, start, (inputs, there))[0]


class CNN(nnx.Module):
    """tanh(W [x before, x, x after] + b) at each position, of that the largest value in
    each coordinate (CDSSM, Shen et al. 2014).

    Beyond the ends, and at masked positions between them, a window sees zeros.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.window = nnx.Linear(3 * width, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*b m d"], where: Bool[Array, "*b m"]
    ) -> Float[Array, "*b d"]:
        where = where[..., None]
        x = jnp.where(where, x, 0)
        beyond = jnp.zeros_like(x[..., :1, :])
        before = jnp.concatenate([beyond, x[..., :-1, :]], axis=-2)
        after = jnp.concatenate([x[..., 1:, :], beyond], axis=-2)
        seen = jnp.tanh(self.window(jnp.concatenate([before, x, after], axis=-1)))
        # No tanh is below -1, so a masked position is never the largest.
        largest = jnp.where(where, seen, -2).max(axis=-2)
        return jnp.where(where.any(axis=-2), largest, 0)


ENCODERS: dict[str, Callable[..., nnx.Module]] = {
    "attention": AttentionPool,
    "gru": GRU,
    "cnn": CNN,
}
