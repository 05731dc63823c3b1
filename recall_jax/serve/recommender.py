"""Who should be shown what: lists for a user or for somebody new, items like an item.

    recommender = recall_jax.load("exported/dssm_ml1m")
    recommender.recommend(user=42, k=10).ids
    recommender.recommend(history=[260, 1196], features={"gender": "F"}).titles
    recommender.similar(260, k=5).ids

A `Recommender` is made of what a model serves (`Served`), which an export gives
(`load`), or a restored run. What a list was made of, and what was not understood, stands
beside it in plain words. Where the model knows nothing of who asks, the list is the most
popular items, and says so.
"""

import dataclasses
import difflib
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recall_jax import schema
from recall_jax.index import search
from recall_jax.types import InputError, unknown

SEEN = ("auto", "removed", "kept")
TOLD = 5  # unknown ids named in a note
VALUES = 12  # known ones of a feature

Given = Mapping[str, Any]
"""Query features by name: of a categorical one a list of raw values as its vocabulary
has them, of a dense one a float, of a text a string."""


class Feature(NamedTuple):
    """What a request may say of a user. Without a vocabulary, a number or a text."""

    kind: str  # "categorical", "dense", "text"
    several: bool = False  # values at a time
    vocabulary: schema.Vocabulary | None = None


@dataclasses.dataclass(frozen=True)
class Served:
    """What a trained model serves; rows of items are in the order of catalogue ids 1..V,
    and a user is his catalogue id, 0 if he has none."""

    name: str  # of the model and its checkpoint, for people
    item_ids: np.ndarray  # [V] raw ids
    item_vectors: np.ndarray  # [V, d]
    titles: np.ndarray | None  # [V]
    popularity: np.ndarray  # [V] training events
    user_ids: np.ndarray  # [U] raw ids
    trained_users: int  # the first of them, whose ids mean something
    history: Callable[[int], np.ndarray]  # a user's items, catalogue ids, oldest first
    history_length: int  # how many of the last are read; 0: none
    reads_user: bool  # his id
    features: Mapping[str, Feature]  # that the query tower reads
    unread: frozenset[str]  # other columns of users that there are
    seen: str  # "removed" or "kept": what the protocol does with items of the history
    encode: Callable[[int, np.ndarray, Given], np.ndarray]
    """The vector [d] of a user with a history (catalogue ids); given features stand in
    for his own."""


class Listed(NamedTuple):
    """Items, best first."""

    ids: np.ndarray  # [k] raw ids
    titles: np.ndarray | None  # [k]
    scores: np.ndarray  # [k] float32


class Recommended(NamedTuple):
    """Items, best first, and what they were chosen by."""

    ids: np.ndarray  # [k] raw ids; fewer where no more are left
    titles: np.ndarray | None  # [k]
    scores: np.ndarray  # [k] inner products; training events where by is "popularity"
    by: str  # "model" or "popularity"
    history: np.ndarray  # raw ids, the oldest first
    history_titles: np.ndarray | None
    read: int  # how many of the last of the history the model reads
    seen: str  # "removed" or "kept": items of the history
    notes: tuple[str, ...]  # what was not understood, and what was done


class Recommender:
    """`build` makes the index (`index.search`); for another than the exact one, pass its."""

    def __init__(
        self,
        served: Served,
        *,
        build: Callable[[np.ndarray], search.Index] = search.Exact.build,
    ):
        self.served = served
        self._build = build
        self._index = build(served.item_vectors)
        self._item_of = _numbered(served.item_ids)
        self._user_of = _numbered(served.user_ids)

    def recommend(
        self,
        user: Any = None,
        history: Sequence[Any] | None = None,
        features: Mapping[str, Any] | None = None,
        k: int = 10,
        seen: str = "auto",
    ) -> Recommended:
        """The k best items for a user by raw id, or for somebody new by what he met (raw
        ids, the oldest first) and by features (raw values; lists of several).

        A known user's history is all that he met, and his features are the data's,
        unless given. `seen` says whether items of the history are "removed", "kept", or,
        by "auto", as the model was evaluated. Raises InputError for k below 1 and for a
        feature that there is not; what else is unknown is left out, with a note.
        """
        notes: list[str] = []
        _check(k, seen, choices=SEEN)
        seen = self.served.seen if seen == "auto" else seen
        given, telling = self._given(features or {}, notes)
        row = self._user(user, notes)
        met = self._history(row, history, notes)
        vector = None
        if reason := self._knows_nothing(row, met, telling):
            notes.append(f"{reason}: these are the most popular items")
        else:
            vector = self.served.encode(row, met, given)
            if not np.any(vector):
                vector = None
                cause = "the model gives this history a vector of zeros"
                notes.append(f"{cause}: these are the most popular items")
        gone = np.unique(met) - 1 if seen == "removed" else np.zeros(0, np.int64)
        rows, scores = self._best(vector, k, gone=gone.astype(np.int32), notes=notes)
        read = min(len(met), self.served.history_length) if vector is not None else 0
        by = "popularity" if vector is None else "model"
        return Recommended(
            *self._listed(rows, scores),
            by,
            *self._listed(met - 1, met)[:2],
            read,
            seen,
            tuple(notes),
        )

    def similar(self, item: Any, k: int = 10) -> Listed:
        """The k items nearest to one by the cosine of their vectors, without itself.
        Raises InputError for a raw id that there is not, and for an item without a
        vector."""
        _check(k)
        row = self._item_of.get(str(item), 0) - 1
        if row < 0:
            raise InputError(f"there is no item {item!r}" + _near(item, self._item_of))
        if not self._unit[row].any():
            raise InputError(f"the model has no vector for item {item!r}")
        k = min(k, len(self._unit) - 1)
        if not k:
            return self._listed(np.zeros(0, int), np.zeros(0, np.float32))
        itself = search.Exclude(np.array([0, 1]), np.array([row], np.int32))
        answer = self._unit_index.search(self._unit[[row]], k, itself)
        return self._listed(answer.ids[0], answer.scores[0])

    @functools.cached_property
    def _unit(self) -> np.ndarray:
        vectors = np.asarray(self.served.item_vectors, np.float32)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(length, 1e-12)

    @functools.cached_property
    def _unit_index(self) -> search.Index:
        return self._build(self._unit)

    def _user(self, user: Any, notes: list[str]) -> int:
        if user is None:
            return 0
        row = self._user_of.get(str(user), 0)
        if not row:
            notes.append(
                f"user {user!r} is not in the data, where ids are as "
                f"{self.served.user_ids[0]!s}: his id says nothing"
            )
        elif row > self.served.trained_users and self.served.reads_user:
            notes.append(f"user {user!r} has no training events: his id says nothing")
        return row

    def _history(
        self, row: int, history: Sequence[Any] | None, notes: list[str]
    ) -> np.ndarray:
        """Catalogue ids int32 of what was met."""
        if history is None:
            own = self.served.history(row) if row else np.zeros(0, np.int32)
            return np.asarray(own, np.int32)
        ids = np.array([self._item_of.get(str(x), 0) for x in history], np.int32)
        if strangers := [str(x) for x, item_id in zip(history, ids) if not item_id]:
            more = f" and {len(strangers) - TOLD} more" if len(strangers) > TOLD else ""
            notes.append(
                f"{len(strangers)} of {len(ids)} items of the history are unknown and "
                f"left out: {', '.join(strangers[:TOLD])}{more}"
            )
        if not len(ids):
            notes.append("the history is empty")
        elif ids.any() and not self.served.history_length:
            note = "the model reads no history"
            notes.append(note + "; what was met is only removed, or kept")
        return ids[ids > 0]

    def _given(
        self, features: Mapping[str, Any], notes: list[str]
    ) -> tuple[dict[str, Any], bool]:
        """Features as `Served.encode` takes them, and whether any tells something."""
        given, telling = {}, False
        for name, value in features.items():
            if name in self.served.unread:
                notes.append(f"the model does not read {name}; it changes nothing")
                continue
            if name not in self.served.features:
                names = [*self.served.features, *sorted(self.served.unread)]
                raise InputError(
                    f"users have no feature {name!r}" + _near(name, names, all_of=True)
                )
            feature = self.served.features[name]
            given[name], strangers = _as_given(name, value, feature)
            if strangers:
                notes.append(_unknown_values(name, strangers, feature))
            filled = given[name] not in ([], "")
            count = len(given[name]) if feature.kind == "categorical" else 1
            telling |= filled and len(strangers) < count
        return given, telling

    def _knows_nothing(self, row: int, met: np.ndarray, telling: bool) -> str | None:
        """Why the model has nothing to go by; None where it has."""
        served = self.served
        if served.reads_user and 0 < row <= served.trained_users:
            return None
        if (served.history_length and len(met)) or telling or (row and served.features):
            return None
        reads = ["the user's id"] * served.reads_user
        reads += ["his history"] * bool(served.history_length) + list(served.features)
        return f"the model reads {', '.join(reads)}, and knows none of that here"

    def _best(
        self, vector: np.ndarray | None, k: int, *, gone: np.ndarray, notes: list[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores of the best; without a vector, of the most popular."""
        num = len(self.served.item_ids)
        left = num - len(gone)
        if k > left:
            notes.append(f"only {left:,} items are left to list, of {k:,} asked for")
        if vector is None:
            count = self.served.popularity.astype(np.float32)
            rows = np.argsort(-count, kind="stable")
            rows = rows[~np.isin(rows, gone)][:k]
            return rows, count[rows]
        exclude = search.Exclude(np.array([0, len(gone)]), gone)
        answer = self._index.search(np.asarray(vector)[None, :], min(k, num), exclude)
        valid = answer.ids[0] >= 0
        return answer.ids[0][valid], answer.scores[0][valid]

    def _listed(self, rows: np.ndarray, scores: np.ndarray) -> Listed:
        titles = self.served.titles
        titles = None if titles is None else titles[rows]
        return Listed(self.served.item_ids[rows], titles, scores)


def _check(k: int, seen: str = "auto", *, choices: Sequence[str] = SEEN) -> None:
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"k is {k}; it must be a whole number, at least 1")
    if seen not in choices:
        raise unknown("seen", seen, choices)


def _numbered(ids: np.ndarray) -> dict[str, int]:
    """Raw ids as text -> catalogue id."""
    return {str(name): j for j, name in enumerate(ids.tolist(), 1)}


def _near(name: Any, names, *, all_of: bool = False) -> str:
    """The nearest of the known names, or all of a few; for the end of an error."""
    close = difflib.get_close_matches(str(name), list(names), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    if all_of:
        hint += f"{' There' if close else '; there'} are: {', '.join(names) or 'none'}"
    return hint


def _unknown_values(name: str, values: list[Any], feature: Feature) -> str:
    known_values = feature.vocabulary.ids[: feature.vocabulary.known]
    examples = ", ".join(map(str, known_values[:VALUES])) + ", ..." * (
        len(known_values) > VALUES
    )
    return (
        f"{name}: no user in training had {', '.join(map(repr, values))}, which the model "
        f"takes for unknown; there are: {examples}"
    )


def _as_given(name: str, value: Any, feature: Feature) -> tuple[Any, list[Any]]:
    """A feature's value as `Served.encode` takes it, and what of it is unknown."""
    if feature.kind == "text":
        return str(value), []
    if feature.kind == "dense":
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise InputError(f"the feature {name} is a number, not {value!r}")
        return number, []
    values = [value] if np.ndim(value) == 0 else list(value)
    if len(values) > 1 and not feature.several:
        raise InputError(f"the feature {name} has one value, not {values!r}")
    known_values = {
        str(x): x for x in feature.vocabulary.ids[: feature.vocabulary.known].tolist()
    }
    strangers = [x for x in values if str(x) not in known_values]
    return [known_values.get(str(x), x) for x in values], strangers


def load(folder: pathlib.Path | str) -> Recommender:
    """Of an export's folder. Raises InputError where there is none, or a damaged one."""
    from recall_jax.serve import reader

    exported = reader.load(folder)
    name = f"{exported.specification['model']}, export {folder}"
    return Recommender(from_export(exported, name=name))


def from_export(exported: Any, *, name: str) -> Served:
    """What an `reader.Exported` serves."""
    columns = exported.specification["towers"]["query"]["columns"]
    own = {c["name"]: c for c in columns if c["of"] == "query" and c["name"] != "user"}
    lengths = [c["shape"][1] for c in columns if c["of"] == "history"]

    def encode(user: int, history: np.ndarray, given: Given) -> np.ndarray:
        row = exported.new_columns("query", [given])
        if user:
            stored = exported.user_columns.items()
            row |= {x: rows[[user]] for x, rows in stored if x not in given}
        return exported.query(exported.with_history(row, [history]))[0]

    return Served(
        name=name,
        item_ids=exported.item_ids,
        item_vectors=exported.item_vectors,
        titles=exported.titles,
        popularity=exported.popularity[1:],
        user_ids=exported.user_ids,
        trained_users=exported.vocabularies["user"].known,
        history=exported.history,
        history_length=max(lengths, default=0),
        reads_user=any(c["of"] == "query" and c["name"] == "user" for c in columns),
        features={x: _feature(c, exported.vocabularies) for x, c in own.items()},
        unread=frozenset(set(exported.vocabularies) - set(own) - {"user", "item"}),
        seen=exported.specification.get("seen", "removed"),
        encode=encode,
    )


def _feature(column: Mapping[str, Any], vocabularies) -> Feature:
    if column["kind"] in ("dense", "text"):
        return Feature(column["kind"])
    several = len(column["shape"]) > 1
    return Feature("categorical", several, vocabularies[column["vocabulary"]])
