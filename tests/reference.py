"""The slow, obvious versions: float64 NumPy loops written from the formulae."""

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


def logistic_loss(scores, labels):
    """-y log sigma(s) - (1 - y) log(1 - sigma(s))."""
    s, y = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    return y * np.logaddexp(0, -s) + (1 - y) * np.logaddexp(0, s)


def adam(rows, gradients, *, rate, b1=0.9, b2=0.999, eps=1e-8):
    """Rows after a list of gradients, every row moving each time."""
    rows = np.asarray(rows, np.float64).copy()
    mean, square = np.zeros_like(rows), np.zeros_like(rows)
    for t, g in enumerate(gradients, 1):
        mean = b1 * mean + (1 - b1) * g
        square = b2 * square + (1 - b2) * g**2
        rows -= rate * (mean / (1 - b1**t)) / (np.sqrt(square / (1 - b2**t)) + eps)
    return rows
