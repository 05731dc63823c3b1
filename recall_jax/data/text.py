"""Texts as letter trigrams, hashed: the first layer of DSSM (Huang et al. 2013)."""

import unicodedata
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from recall_jax.data import interactions
from recall_jax.data.interactions import Bag


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
    hashed = Bag(ids[trigram], _offsets(trigrams_of))
    in_order = interactions.take(hashed, word)
    return Bag(in_order.values, in_order.offsets[_offsets(words_of)])


def _coded(rows: list[list[str]]) -> tuple[np.ndarray, list[str]]:
    """All strings of all rows, end to end, as positions in a list of distinct ones."""
    code: dict[str, int] = {}
    codes = [code.setdefault(string, len(code)) for row in rows for string in row]
    return np.array(codes, np.int64), list(code)


def _offsets(rows: Sequence[Sequence]) -> np.ndarray:
    """Where each row begins when all stand end to end, and where the last ends."""
    return np.cumsum([0, *map(len, rows)])
