"""The slow, obvious versions: float64 NumPy loops written from the formulae; in JAX
where a test takes their gradient."""

import jax
import jax.numpy as jnp
import numpy as np


def softmax_loss(positive, negative, where=None):
    """logsumexp(p, n) - p, one example after the other."""
    values = []
    for j, p in enumerate(np.asarray(positive, np.float64)):
        row = np.asarray(negative[j], np.float64)
        if where is not None:
            row = row[np.asarray(where[j])]
        every = np.concatenate([[p], row])
        top = every.max()
        values.append(top + np.log(np.exp(every - top).sum()) - p)
    return np.array(values)


def bpr_loss(positive, negative, where=None):
    """mean_j softplus(n_j - p), j over the unmasked."""
    values = []
    for p, row in examples(positive, negative, where):
        values.append(mean([np.logaddexp(0, n - p) for n in row]))
    return np.array(values)


def hinge_loss(positive, negative, where=None, *, margin):
    """mean_j max(0, margin + n_j - p), j over the unmasked."""
    values = []
    for p, row in examples(positive, negative, where):
        values.append(mean([max(0.0, margin + n - p) for n in row]))
    return np.array(values)


def cosine_contrastive_loss(positive, negative, where=None, *, margin, negative_weight):
    """1 - p + w mean_j max(0, n_j - margin), j over the unmasked."""
    values = []
    for p, row in examples(positive, negative, where):
        pushed = mean([max(0.0, n - margin) for n in row])
        values.append(1 - p + negative_weight * pushed)
    return np.array(values)


def gbce_loss(positive, negative, where=None, *, num_items, calibration):
    """-beta log sigma(p) - sum_j log sigma(-n_j), j over the unmasked, with beta =
    a (t (1 - 1/a) + 1/a) and a = n / (V - 1) of all the negatives, masked or not."""
    rate = np.shape(negative)[-1] / (num_items - 1)
    beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    values = []
    for p, row in examples(positive, negative, where):
        pushed = [-log_sigma(-n) for n in row]
        values.append(-beta * log_sigma(p) + sum(pushed))
    return np.array(values)


def logistic_loss(scores, labels):
    """-y log sigma(s) - (1 - y) log(1 - sigma(s))."""
    s, y = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    return y * np.logaddexp(0, -s) + (1 - y) * np.logaddexp(0, s)


def squared_loss(scores, labels):
    """(s - y)^2, one pair after the other."""
    pairs = zip(np.ravel(scores), np.ravel(labels), strict=True)
    values = [(float(s) - float(y)) ** 2 for s, y in pairs]
    return np.reshape(values, np.shape(scores))


def examples(positive, negative, where=None):
    """Each example's positive and its negatives that count, in float64."""
    for j, p in enumerate(np.asarray(positive, np.float64)):
        row = np.asarray(negative[j], np.float64)
        yield p, row if where is None else row[np.asarray(where[j])]


def mean(values):
    """0 where there are none."""
    return sum(values) / len(values) if len(values) else 0.0


def log_sigma(x):
    """log(1 / (1 + exp(-x)))."""
    return -np.logaddexp(0, -x)


def slopes(function, x, *, step=1e-4):
    """The gradient of a scalar function by central differences, entry by entry."""
    x = np.array(x, np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = (function(above) - function(below)) / (2 * step)
    return gradient


def adam(rows, gradients, *, rate, b1=0.9, b2=0.999, eps=1e-8):
    """Rows after a list of gradients, every row moving each time."""
    rows = np.asarray(rows, np.float64).copy()
    mean, square = np.zeros_like(rows), np.zeros_like(rows)
    for t, g in enumerate(gradients, 1):
        mean = b1 * mean + (1 - b1) * g
        square = b2 * square + (1 - b2) * g**2
        rows -= rate * (mean / (1 - b1**t)) / (np.sqrt(square / (1 - b2**t)) + eps)
    return rows


def pair_loss(center, context, negative, *, negative_weight=1.0):
    """-log sigma(z_c . h) - w sum_n log sigma(-z_n . h), a value a pair, in JAX."""
    log_sigma = jax.nn.log_sigmoid
    pulled = log_sigma(jnp.sum(center * context, axis=-1))
    pushed = log_sigma(-jnp.einsum("...nd,...d->...n", negative, center))
    return -pulled - negative_weight * pushed.sum(axis=-1)
