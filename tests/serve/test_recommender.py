"""A recommender on plain arrays: who gets what, and what is said about it."""

import dataclasses
import sys
import types

import numpy as np
import pytest

import recall_jax
from recall_jax import schema
from recall_jax.serve import recommender as recommender_lib
from recall_jax.types import InputError

VECTORS = np.array([[1, 0], [0.8, 0.6], [0, 1], [-2, 0], [0, 0]], np.float32)
HISTORIES = [[], [1, 2], [3]]  # by catalogue id of the user
GENDER = recommender_lib.Feature(
    "categorical", False, schema.Vocabulary(np.array(["F", "M", "?"]), 2)
)
AGE = recommender_lib.Feature(
    "categorical", False, schema.Vocabulary(np.array([25, 18]), known=2)
)
TAGS = recommender_lib.Feature(
    "categorical", True, schema.Vocabulary(np.array(["x", "y"]), 2)
)


def make(calls=None, **changes) -> recommender_lib.Recommender:
    """Items a to e; user u1 met a and b, u2 (no training events) met c. The vector is
    the sum of the history's, and (0, 1) for anybody of whom a feature was given."""
    calls = [] if calls is None else calls

    def encode(user, history, given):
        calls.append((user, list(history), dict(given)))
        own = np.array([0, 1], np.float32) * bool(given)
        return VECTORS[history - 1].sum(axis=0) + own + [0, 0.5 * (user == 1)]

    served = recommender_lib.Served(
        name="a model",
        item_ids=np.array(["a", "b", "c", "d", "e"]),
        item_vectors=VECTORS,
        titles=np.array(["A", "B", "C", "D", "E"]),
        popularity=np.array([9, 5, 5, 1, 0]),
        user_ids=np.array(["u1", "u2"]),
        trained_users=1,
        history=lambda user: np.array(HISTORIES[user], np.int32),
        history_length=3,
        reads_user=True,
        features={
            "gender": GENDER,
            "age": AGE,
            "tags": TAGS,
            "income": recommender_lib.Feature("dense"),
            "about": recommender_lib.Feature("text"),
        },
        unread=frozenset({"zip"}),
        seen="removed",
        encode=encode,
    )
    return recommender_lib.Recommender(dataclasses.replace(served, **changes))


def test_a_known_user_is_asked_with_all_that_he_met_which_is_removed():
    calls = []
    got = make(calls).recommend(user="u1", k=2)
    assert calls == [(1, [1, 2], {})]
    assert got.ids.tolist() == ["c", "e"] and got.titles.tolist() == ["C", "E"]
    np.testing.assert_allclose(got.scores, [1.1, 0])
    assert (got.by, got.seen, got.read, got.notes) == ("model", "removed", 2, ())
    assert got.history.tolist() == ["a", "b"] and got.history_titles.tolist() == [
        "A",
        "B",
    ]


def test_a_history_that_is_given_stands_in_for_his_own_and_is_what_is_removed():
    calls = []
    got = make(calls).recommend(user="u1", history=["c"], k=9)
    assert calls == [(1, [3], {})]
    assert got.ids.tolist() == ["b", "a", "d", "e"]
    assert got.notes == ("only 4 items are left to list, of 9 asked for",)


@pytest.mark.parametrize(
    ("seen", "first"), [("auto", "c"), ("removed", "c"), ("kept", "b")]
)
def test_seen_items_are_removed_or_kept(seen, first):
    got = make().recommend(history=["a", "b"], features={"gender": "F"}, k=1, seen=seen)
    assert got.ids.tolist() == [first]
    assert got.seen == ("kept" if seen == "kept" else "removed")
    assert make(seen="kept").recommend(user="u1", k=1).seen == "kept"


def test_unknown_items_of_a_history_are_named_and_left_out():
    calls = []
    strange = [f"z{j}" for j in range(7)]
    got = make(calls).recommend(history=["a", *strange, "a"])
    assert calls[0][1] == [1, 1] and got.history.tolist() == ["a", "a"]
    assert got.notes[0] == (
        "7 of 9 items of the history are unknown and left out: z0, z1, z2, z3, z4 and "
        "2 more"
    )
    assert "a" not in got.ids


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({}, "knows none of that"),
        ({"user": "nobody"}, "'nobody' is not in the data, where ids are as u1"),
        ({"history": []}, "the history is empty"),
        ({"history": ["z"]}, "1 of 1 items of the history are unknown"),
        ({"features": {"gender": "F?"}}, "gender: no user in training had 'F?', which"),
        ({"features": {"gender": "?"}}, "takes for unknown; there are: F, M"),
        ({"features": {"zip": "1"}}, "the model does not read zip; it changes nothing"),
        ({"features": {"tags": []}}, "knows none of that"),
        ({"features": {"about": ""}}, "knows none of that"),
    ],
)
def test_of_whom_nothing_is_known_gets_the_popular_items_and_is_told(request_, said):
    calls = []
    got = make(calls).recommend(**request_, k=3)
    assert not calls and got.by == "popularity" and got.read == 0
    assert got.ids.tolist() == ["a", "b", "c"] and got.scores.tolist() == [9, 5, 5]
    assert said in "; ".join(got.notes)
    assert got.notes[-1].endswith(
        "knows none of that here: these are the most popular items"
    )


def test_popular_items_leave_out_what_was_met_where_the_model_reads_no_history():
    got = make(history_length=0).recommend(history=["b"], k=2)
    assert got.by == "popularity" and got.ids.tolist() == ["a", "c"]
    assert "the model reads no history; what was met is only removed" in got.notes[0]
    kept = make(history_length=0).recommend(history=["b"], k=2, seen="kept")
    assert kept.ids.tolist() == ["a", "b"]


def test_a_user_without_training_events_is_asked_by_his_history_not_by_his_id():
    calls = []
    got = make(calls).recommend(user="u2")
    assert calls == [(2, [3], {})] and got.by == "model"
    assert "user 'u2' has no training events: his id says nothing" in got.notes
    alone = make(history_length=0, features={}).recommend(user="u2")
    assert alone.by == "popularity" and "c" not in alone.ids


def test_a_vector_of_zeros_gives_the_popular_items():
    got = make().recommend(history=["e"], k=1)
    assert got.by == "popularity" and got.ids.tolist() == ["a"]
    assert got.notes == (
        "the model gives this history a vector of zeros: these are the most popular items",
    )


def test_features_come_as_the_vocabulary_has_them():
    calls = []
    given = {
        "gender": "F",
        "age": "18",
        "tags": ("y", "w"),
        "income": "2.5",
        "about": "me",
    }
    got = make(calls).recommend(features=given, k=1)
    assert calls == [
        (
            0,
            [],
            {
                "gender": ["F"],
                "age": [18],
                "tags": ["y", "w"],
                "income": 2.5,
                "about": "me",
            },
        )
    ]
    assert got.by == "model" and got.ids.tolist() == ["c"]
    (note,) = got.notes
    assert note.startswith("tags: no user in training had 'w', which the model takes")
    assert note.endswith("there are: x, y")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"k": 0}, "k is 0; it must be a whole number, at least 1"),
        ({"seen": "gone"}, "unknown seen 'gone'; there are: auto, removed, kept"),
        ({"features": {"xxx": "F"}}, "no feature 'xxx'; there are: gender, age"),
        (
            {"features": {"gendr": "F"}},
            "no feature 'gendr'; did you mean gender.* There are: gender, age, tags, inc",
        ),
        ({"features": {"gender": ["F", "M"]}}, "the feature gender has one value"),
        (
            {"features": {"income": "much"}},
            "the feature income is a number, not 'much'",
        ),
        ({"features": {"income": "nan"}}, "the feature income is a number, not 'nan'"),
    ],
)
def test_what_cannot_be_is_refused(request_, said):
    with pytest.raises(InputError, match=said):
        make().recommend(**request_)


def test_ids_are_found_as_text_and_as_numbers():
    numbers = make(item_ids=np.arange(10, 15), user_ids=np.array([7, 8]))
    for user, item in ((7, 12), ("7", "12"), (np.int64(7), np.int64(12))):
        got = numbers.recommend(user=user, history=[item])
        assert not got.notes or "left to list" in got.notes[0]
        assert got.history.tolist() == [12]
        assert numbers.similar(item, k=1).ids.tolist() == [11]


def test_similar_items_are_those_of_the_largest_cosine_without_itself():
    got = make().similar("a", k=3)
    assert got.ids.tolist() == ["b", "c", "e"]
    np.testing.assert_allclose(got.scores, [0.8, 0, 0], atol=1e-6)
    assert make().similar("d", k=99).scores.tolist()[-1] == -1
    assert len(make().similar("d", k=99).ids) == 4
    alone = make(item_ids=np.array(["a"]), item_vectors=VECTORS[:1], titles=None)
    assert len(alone.similar("a").ids) == 0


def test_a_long_vector_makes_no_item_more_similar():
    """By the inner product with a the long c would come first."""
    vectors = np.array([[1, 0], [1, 0.1], [5, 5], [-2, 0], [0, 0]], np.float32)
    assert make(item_vectors=vectors).similar("a", k=2).ids.tolist() == ["b", "c"]


def test_an_item_that_is_not_there_or_has_no_vector_is_refused():
    many = make(item_ids=np.array(["anna", "berta", "carla", "dora", "emma"]))
    with pytest.raises(InputError, match="no item 'berti'; did you mean berta"):
        many.similar("berti")
    with pytest.raises(InputError, match="the model has no vector for item 'e'"):
        make().similar("e")
    with pytest.raises(InputError, match="k is 0"):
        make().similar("a", k=0)


def exported(**specification):
    """A stand-in of `reader.Exported` that records what its tower is asked."""
    gender = {
        "name": "gender",
        "of": "query",
        "kind": "categorical",
        "vocabulary": "gender",
    }
    columns = [
        {"name": "user", "of": "query", "kind": "categorical", "vocabulary": "user"},
        gender | {"shape": ["b"]},
        {"name": "history", "of": "history", "kind": "sequence", "shape": ["b", 4]},
    ]
    calls = []

    def query(columns):
        calls.append(columns)
        return np.array([[0.0, 1.0]], np.float32)

    return types.SimpleNamespace(
        specification={"model": "mf", "towers": {"query": {"columns": columns}}}
        | specification,
        vocabularies={
            "gender": GENDER.vocabulary,
            "user": schema.Vocabulary(np.array(["u1", "u2"]), 1),
            "zip": schema.Vocabulary(np.array(["1"]), 1),
        },
        query=query,
        asked=calls,
        item_ids=np.array(["a", "b", "c", "d", "e"]),
        item_vectors=VECTORS,
        titles=None,
        popularity=np.array([0, 9, 5, 5, 1, 0]),
        user_ids=np.array(["u1", "u2"]),
        user_columns={"user": np.array([0, 1, 2]), "gender": np.array([0, 2, 1])},
        history=lambda user: np.array(HISTORIES[user], np.int32),
        new_columns=lambda side, rows: {
            "user": np.array([2]),
            "gender": np.array([{"F": 1, "M": 2}.get((x.get("gender") or [""])[0], 0)])
            if (x := rows[0]) is not None
            else None,
        },
        with_history=lambda columns, histories: columns | {"history": histories[0]},
    )


def test_an_export_serves_known_users_by_their_columns_and_new_ones_by_theirs():
    source = exported()
    recommender = recommender_lib.Recommender(
        recommender_lib.from_export(source, name="here")
    )
    got = recommender.recommend(user="u1", k=1)
    assert got.ids.tolist() == ["c"] and got.titles is None and got.read == 2
    recommender.recommend(user="u1", features={"gender": "F"}, history=["d"])
    recommender.recommend(features={"gender": "F"})
    seen = [
        (int(x["user"][0]), int(x["gender"][0]), x["history"].tolist())
        for x in source.asked
    ]
    assert seen == [(1, 2, [1, 2]), (1, 1, [4]), (2, 1, [])]
    kept = recommender_lib.from_export(exported(seen="kept"), name="here")
    assert kept.seen == "kept" and kept.history_length == 4
    assert kept.reads_user and set(kept.features) == {"gender"}
    assert kept.unread == {"zip"}
    assert kept.popularity.tolist() == [9, 5, 5, 1, 0], "without that of padding"


def test_load_is_the_recommender_of_an_exports_folder(monkeypatch):
    stub = types.ModuleType("recall_jax.serve.reader")
    stub.load = lambda folder: exported() if folder == "here" else None
    monkeypatch.setitem(sys.modules, "recall_jax.serve.reader", stub)
    monkeypatch.setattr(recall_jax.serve, "reader", stub, raising=False)
    recommender = recall_jax.load("here")
    assert recommender.served.name == "mf, export here"
    assert recommender.recommend(user="u1", k=1).ids.tolist() == ["c"]
