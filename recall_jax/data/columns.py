"""Feature columns of users and items as arrays by catalogue id, with vocabularies."""

import warnings

import numpy as np

from recall_jax import features
from recall_jax.data import interactions
from recall_jax.data import text as text_lib
from recall_jax.data.interactions import Bag

MAX_BAG = 16  # values of a multi-valued feature that are kept; more are warned of
MAX_TRIGRAMS = 64  # the same for a text: one for each letter


def inverse(codes: np.ndarray, *, num: int) -> np.ndarray:
    """Catalogue id (from 1) of each code; 0 where it has none."""
    ids = np.zeros(num, np.int32)
    ids[codes] = np.arange(1, len(codes) + 1, dtype=np.int32)
    return ids


def feature_columns(
    entities: interactions.Entities,
    *,
    codes: np.ndarray,
    weight: np.ndarray,
    text_buckets: int,
) -> tuple[dict, tuple[features.Column, ...], dict[str, features.Vocabulary]]:
    """Arrays by catalogue id (row 0 padding), their schema and vocabularies.

    `weight` [m] counts each entity's training events: it orders the vocabularies and
    normalises dense features. A text's trigrams are hashed into `text_buckets`, so it
    has no vocabulary to keep; 0 leaves texts out.
    """
    arrays, columns, vocabularies = {}, [], {}
    for name, values in entities.columns.items():
        if isinstance(values, Bag) or values.dtype.kind != "f":
            rows, vocabulary = _id_column(values, name=name, codes=codes, weight=weight)
            vocabularies[name] = vocabulary
            width = 0 if rows.ndim == 1 else rows.shape[1]
            columns.append(features.Column(name, name, vocabulary.rows, width))
        else:
            mean, scale = _standard(values, weight=weight)
            scaled = (values[codes].astype(np.float64) - mean) / scale
            rows = np.nan_to_num(np.concatenate([[0.0], scaled])).astype(np.float32)
            columns.append(features.Column(name, "", 0, 0, mean=mean, scale=scale))
        arrays[name] = rows
    for name, texts in entities.text.items() if text_buckets else ():
        rows = _text_column(texts[codes], name=name, buckets=text_buckets)
        arrays[name] = rows
        # As in any table: padding, the buckets, an unknown row, which no trigram reads.
        columns.append(
            features.Column(name, name, text_buckets + 2, rows.shape[1], kind="text")
        )
    return arrays, tuple(columns), vocabularies


def _id_column(
    values: np.ndarray | Bag, *, name: str, codes: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, features.Vocabulary]:
    """Look-up ids [V + 1] or [V + 1, m] and the vocabulary of a categorical column."""
    bag = values
    if not isinstance(values, Bag):
        bag = Bag(values, np.arange(len(values) + 1))
    value_codes, distinct = interactions.factorize(bag.values)
    seen = np.repeat(weight, np.diff(bag.offsets))
    count = np.bincount(value_codes, weights=seen, minlength=len(distinct))
    order = np.argsort(-count, kind="stable")
    vocabulary = features.Vocabulary(distinct[order], int(np.count_nonzero(count)))
    inner = vocabulary.lookup(inverse(order, num=len(distinct))[value_codes])
    table = _padded(Bag(inner, bag.offsets), name=name, most=MAX_BAG)
    rows = np.concatenate([np.zeros_like(table[:1]), table[codes]])
    return (rows if isinstance(values, Bag) else rows[:, 0]), vocabulary


def _text_column(texts: np.ndarray, *, name: str, buckets: int) -> np.ndarray:
    """The trigrams of each text, int32 [V + 1, m], 0 behind the last of them."""
    ids = text_lib.trigram_ids(["", *texts.tolist()], buckets=buckets)
    return _padded(ids, name=name, most=MAX_TRIGRAMS)


def _padded(bag: Bag, *, name: str, most: int) -> np.ndarray:
    """The first `most` ids of each row, int32 [rows, m], 0 on the right; m at least 1."""
    lengths = np.diff(bag.offsets)
    longest = int(lengths.max(initial=1))
    if longest > most:
        warnings.warn(
            f"column {name!r} has up to {longest} values; the first {most} are kept",
            stacklevel=2,
        )
    kept = np.minimum(lengths, most)
    table = np.zeros((len(lengths), min(longest, most)), np.int32)
    starts = bag.offsets[:-1]
    filled = np.arange(table.shape[1]) < kept[:, None]
    table[filled] = bag.values[interactions.ranges(starts, starts + kept)]
    return table


def _standard(values: np.ndarray, *, weight: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of a dense feature over its training events; what is
    missing (NaN) takes no part in them, and stands at the mean."""
    weight = np.where(np.isfinite(values), weight, 0).astype(np.float64)
    total = max(weight.sum(), 1.0)
    filled = np.nan_to_num(values.astype(np.float64))
    mean = (filled * weight).sum() / total
    spread = np.sqrt(((filled - mean) ** 2 * weight).sum() / total)
    return float(mean), float(spread) if spread > 0 else 1.0
