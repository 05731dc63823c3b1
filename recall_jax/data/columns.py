"""Feature columns of users and items as arrays by catalogue id, with vocabularies."""

import unicodedata
import warnings
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from recall_jax import schema
from recall_jax.data import log
from recall_jax.data.log import Bag

MAX_BAG = 16  # values of a multi-valued feature that are kept; more are warned of
MAX_TRIGRAMS = 64  # the same for a text: one for each letter


def inverse(codes: np.ndarray, *, num: int) -> np.ndarray:
    """Catalogue id (from 1) of each code; 0 where it has none."""
    ids = np.zeros(num, np.int32)
    ids[codes] = np.arange(1, len(codes) + 1, dtype=np.int32)
    return ids


def feature_columns(
    entities: log.Entities,
    *,
    codes: np.ndarray,
    weight: np.ndarray,
    text_buckets: int,
) -> tuple[dict, tuple[schema.Column, ...], dict[str, schema.Vocabulary]]:
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
            columns.append(schema.Column(name, name, vocabulary.rows, width))
        else:
            mean, scale = _standard(values, weight=weight)
            scaled = (values[codes].astype(np.float64) - mean) / scale
            rows = np.nan_to_num(np.concatenate([[0.0], scaled])).astype(np.float32)
            columns.append(schema.Column(name, "", 0, 0, mean=mean, scale=scale))
        arrays[name] = rows
    for name, texts in entities.text.items() if text_buckets else ():
        rows = _text_column(texts[codes], name=name, buckets=text_buckets)
        arrays[name] = rows
        # As in any table: padding, the buckets, an unknown row, which no trigram reads.
        columns.append(
            schema.Column(name, name, text_buckets + 2, rows.shape[1], kind="text")
        )
    return arrays, tuple(columns), vocabularies


def _id_column(
    values: np.ndarray | Bag, *, name: str, codes: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, schema.Vocabulary]:
    """Look-up ids [V + 1] or [V + 1, m] and the vocabulary of a categorical column."""
    bag = values
    if not isinstance(values, Bag):
        bag = Bag(values, np.arange(len(values) + 1))
    value_codes, distinct = log.factorize(bag.values)
    seen = np.repeat(weight, np.diff(bag.offsets))
    count = np.bincount(value_codes, weights=seen, minlength=len(distinct))
    order = np.argsort(-count, kind="stable")
    vocabulary = schema.Vocabulary(distinct[order], int(np.count_nonzero(count)))
    inner = vocabulary.lookup(inverse(order, num=len(distinct))[value_codes])
    table = _padded(Bag(inner, bag.offsets), name=name, most=MAX_BAG)
    rows = np.concatenate([np.zeros_like(table[:1]), table[codes]])
    return (rows if isinstance(values, Bag) else rows[:, 0]), vocabulary


def _text_column(texts: np.ndarray, *, name: str, buckets: int) -> np.ndarray:
    """The trigrams of each text, int32 [V + 1, m], 0 behind the last of them."""
    ids = trigram_ids(["", *texts.tolist()], buckets=buckets)
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
    table[filled] = bag.values[log.ranges(starts, starts + kept)]
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


def split_words(texts: Iterable[str]) -> list[list[str]]:
    """The words of each text, in lower case: letters, digits and the marks on them.

    Characters are brought to one form (Unicode's NFKC) first, so that an accent is the
    same letter whether it was typed with it or after it; invisible ones are dropped.

    >>> split_words(["Schindler's List (1993)", "Amélie", "?!"])
    [['schindler', 's', 'list', '1993'], ['amélie'], []]
    """
    lowered = [unicodedata.normalize("NFKC", text).lower() for text in texts]
    # Marks have to stay, which "\\w" leaves out: without them Hindi falls apart.
    kept = {ord(c): _within_word(c) for c in set().union(*lowered)}
    return [text.translate(kept).split() for text in lowered]


def _within_word(character: str) -> str | None:
    """The character, None to drop it, a space where it parts words."""
    category = unicodedata.category(character)
    if category == "Cf":  # a soft hyphen, a joiner
        return None
    return character if category[0] in "LNM" else " "


def trigrams(word: str) -> list[str]:
    """Three letters each of the word in its marks, as many as it has letters.

    >>> trigrams("good"), trigrams("a")
    (['#go', 'goo', 'ood', 'od#'], ['#a#'])
    """
    marked = f"#{word}#"
    return [marked[j : j + 3] for j in range(len(word))]


def bucket(trigram: str, *, buckets: int) -> int:
    """1..buckets, the same in every process; trigrams may share one."""
    return 1 + zlib.crc32(trigram.encode()) % buckets


def trigram_ids(texts: Sequence[str], *, buckets: int) -> Bag:
    """The bucket (int32) of every trigram of each text, in the order of the text.

    A trigram that training never met has a bucket like any other.
    """
    words_of = split_words(texts)
    word, words = _coded(words_of)  # both repeat: each is cut up or hashed once
    trigrams_of = [trigrams(word) for word in words]
    trigram, distinct = _coded(trigrams_of)
    ids = np.array([bucket(t, buckets=buckets) for t in distinct], np.int32)
    hashed = Bag(ids[trigram], _text_offsets(trigrams_of))
    in_order = log.take(hashed, word)
    return Bag(in_order.values, in_order.offsets[_text_offsets(words_of)])


def _coded(rows: list[list[str]]) -> tuple[np.ndarray, list[str]]:
    """All strings of all rows, end to end, as positions in a list of distinct ones."""
    code: dict[str, int] = {}
    codes = [code.setdefault(string, len(code)) for row in rows for string in row]
    return np.array(codes, np.int64), list(code)


def _text_offsets(rows: Sequence[Sequence]) -> np.ndarray:
    """Where each row begins when all stand end to end, and where the last ends."""
    return np.cumsum([0, *map(len, rows)])
