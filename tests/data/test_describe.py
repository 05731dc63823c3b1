"""What is told of a log before training: every line right, and a remedy in each note."""

import numpy as np
import pytest

from recall_jax.data import describe, split
from recall_jax.data.log import Bag, Entities
from recall_jax.data.sources import logs

DAY = 86_400
AT = 1_700_000_000


def spans(*seconds: int, nanoseconds=None) -> list[str]:
    return describe.Span().add(np.array(seconds), nanoseconds).lines()


@pytest.mark.parametrize(
    ("seconds", "first"),
    [
        (
            (AT, AT + 60),
            "times      2023-11-14 22:13:20 to 2023-11-14 22:14:20 UTC, in whole seconds",
        ),
        (
            (0, 19_000 * DAY),
            "times      1970-01-01 00:00:00 to 2022-01-08 00:00:00 UTC, in whole days",
        ),
        (
            (-86_400, AT),
            "times      1969-12-31 00:00:00 to 2023-11-14 22:13:20 UTC, in whole seconds",
        ),
    ],
)
def test_the_span_of_time_is_in_plain_dates(seconds, first):
    assert spans(*seconds)[0] == first


def test_parts_of_seconds_are_said():
    assert spans(AT, AT + 1, nanoseconds=np.ones(2, np.int32))[0].endswith(
        "parts of seconds"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ((AT, AT), "all events have one time"),
        ((45_000, 45_100), "before 1973, as of a clock that starts at 0"),
        ((0, 0, AT), "2 of 3 times lie before 1973"),
        ((AT, 4_000_000_000), "lies in the future"),
    ],
)
def test_odd_times_are_noted_with_a_remedy(seconds, said):
    (note,) = [x for x in spans(*seconds) if x.startswith("note")]
    assert said in note
    remedies = ("data.time", "ISO 8601", "leave those rows out", "data.time_format")
    assert any(remedy in note for remedy in remedies)


def test_a_log_without_times_says_what_its_order_is():
    (line,) = describe.Span().add(None, None).lines()
    assert line == "times      none: the order of rows is the order of events"


@pytest.mark.parametrize("word", ["NULL", "nan", "\\N", "None", "NA", " null "])
def test_null_like_ids_are_said_with_their_share(word):
    raw, count = np.array([word, "b", "c", "d"]), np.array([5, 5, 5, 5])
    line, note = describe.ids(raw, count, side="user")
    assert line == "user ids   25.00% of rows are empty or null-like"
    assert note.startswith(
        f"note       25.0% of rows have the user {word!r}, which looks"
    )
    assert note.endswith("leave those rows out")


def test_ids_of_numbers_are_none_of_these():
    assert describe.ids(np.arange(4), np.ones(4, int), side="item") == [
        "item ids   0.00% of rows are empty or null-like"
    ]


@pytest.mark.parametrize(
    ("one", "two"),
    [("Anna", "anna"), ("b ", "b"), ("é", "e\u0301"), ("'x'", "x"), ("y\u200b", "y")],
)
def test_ids_that_may_be_one_are_named(one, two):
    *_, note = describe.ids(np.array([one, two, "z"]), np.ones(3, int), side="item")
    assert "1 item ids differ from another only by" in note
    assert repr(one) in note and repr(two) in note and note.endswith("write them alike")


def test_a_user_with_much_of_the_log_is_named():
    count = np.append(np.full(30, 10), 200)
    lines = describe.ids(np.arange(31), count, side="user")
    assert "user 30 has 40% of all events" in lines[-1]
    assert len(describe.ids(np.arange(31), count, side="item")) == 1


def test_features_are_told_by_kind_values_and_what_is_missing():
    columns = {
        "price": np.array([1.5, np.nan, 2.0, 9.0], np.float32),
        "color": np.array(["red", "", "red", "blue"]),
        "tags": Bag(np.array(["a", "b", "a"]), np.array([0, 2, 2, 3, 3])),
        "same": np.array(["x", "x", "x", "x"]),
    }
    text = {"title": np.array(["one", "", "three", "four"], object)}
    entities = Entities(np.arange(4), columns, text)
    present = np.array([True, True, True, False])  # the last has no event
    lines = describe.features(entities, present, side="item")
    start = "feature    "
    same = "note       'color' is the same in each item; leave it out with "
    assert lines[:4] == [
        f"{start}item 'price': numbers, 2 values, 33.3% missing",
        f"{start}item 'color': categories, 1 values, 33.3% missing",
        f"{same}--config.data.item_columns",
        f"{start}item 'tags': several values each, 2 values, 33.3% missing",
    ]
    assert lines[-1] == f"{start}item 'title': text, 33.3% missing"
    assert sum(x.startswith("note") for x in lines) == 2


def test_a_category_that_is_another_in_each_row_is_noted():
    entities = Entities(np.arange(30), {"sku": np.array([f"s{j}" for j in range(30)])})
    *_, note = describe.features(entities, np.ones(30, bool), side="item")
    assert "'sku' is another in each item" in note and "data.item_columns" in note


def test_what_filters_and_the_core_drop_is_said(tmp_path):
    rows = [(u, i) for u in range(6) for i in range(u + 1)] + [(9, 99)]
    text = "user,item,kind\n" + "".join(
        f"{u},{i},{'view' if i == 0 else 'buy'}\n" for u, i in rows
    )
    (tmp_path / "log.csv").write_text(text)
    config = logs.Config(
        str(tmp_path / "log.csv"), action="kind", actions=("buy",), min_user_events=3
    )
    log = split.by_protocol(config.load(), config=config).log
    assert "dropped    6 of 22 rows by filters of positives" in log.report
    (core,) = [x for x in log.report if "fewer than" in x]
    assert core.startswith(
        "dropped    4 of 16 events, of users or items with fewer than 3"
    )
