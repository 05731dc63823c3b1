"""Copied rows and second visits, in memory and streamed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.data import duplicates, prepare, prepared
from recall_jax.data import split as split_lib
from recall_jax.data.log import Entities, Interactions
from recall_jax.data.sources import logs, stream
from recall_jax.evaluate import measure
from recall_jax.types import InputError

pl = pytest.importorskip("polars", reason="logs are read with polars")

AT = 1_700_000_000
USERS, ITEMS = 20, 30


def events(seed: int = 0) -> list[tuple]:
    """User, item and time of a log in which nobody meets an item again."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(USERS * ITEMS)[:400].tolist()
    return [(p // ITEMS, p % ITEMS, AT + 7 * j) for j, p in enumerate(pairs)]


def read(folder, rows, **options):
    """The log as data in memory, and as a streamed log."""
    names = ["user", "item", "time", "action"][: len(rows[0])]
    path = folder / "log.parquet"
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(path)
    columns = {name: name for name in names if name in ("time", "action")}
    config = logs.Config(str(path), **columns, **options)
    split = split_lib.by_protocol(config.load(), config=config)
    streamed = stream.Config(str(path), **columns, **options)
    return (
        prepare.in_memory(split, history_length=5, min_history=1),
        prepared.open_data(streamed, history_length=5, min_history=1),
    )


def report_line(data) -> str:
    (line,) = [x for x in data.report if x.startswith("equal rows")]
    return line


def removes(data) -> bool:
    return measure.removes_seen(measure.EvaluateConfig(), data)


def both(folder, rows, **options):
    """Data in memory, after seeing that the streamed ones are equal."""
    memory, streamed = read(folder, rows, **options)
    np.testing.assert_array_equal(memory.items, streamed.items)
    np.testing.assert_array_equal(memory.offsets, streamed.offsets)
    np.testing.assert_array_equal(memory.popularity, streamed.popularity)
    assert memory.repeats == streamed.repeats
    assert report_line(memory) == report_line(streamed)
    return memory


@pytest.mark.parametrize("copies", [1, 400])
def test_copies_are_dropped_where_nobody_meets_an_item_again(tmp_path, copies):
    plain = both(tmp_path, events())
    data = both(tmp_path, events() + events()[:copies])
    np.testing.assert_array_equal(data.items, plain.items)
    assert removes(data) and data.repeats == 0
    rows = 400 + copies
    assert report_line(data).startswith(
        f"equal rows {copies} of {rows} in user, item and time"
    )
    assert f": {copies} dropped (data.duplicates=auto" in report_line(data)
    assert report_line(plain) == "equal rows none of 400 in user, item and time"


def test_they_can_be_kept_and_then_seen_items_stay(tmp_path):
    data = both(tmp_path, [*events(), events()[0]], duplicates="kept")
    assert len(data.items) == 401 and data.repeats == 1 and not removes(data)
    done, why = measure.seen_items(measure.EvaluateConfig(), data)
    assert done == "kept"
    assert why.startswith(
        "1 of 401 events (0.25%) are of an item that their user has met"
    )


def test_where_second_visits_are_common_copies_stay_unless_asked(tmp_path):
    again = [(user, item, time + 3) for user, item, time in events()[:40]]
    rows = [*events(), *again, *events()[:4]]
    data = both(tmp_path, rows)
    assert len(data.items) == 444 and data.repeats == 44
    assert ": kept (data.duplicates=auto; 9.0% of all repeat an item" in report_line(
        data
    )
    assert any("set --config.data.duplicates=dropped" in x for x in data.report)
    dropped = both(tmp_path, rows, duplicates="dropped")
    assert len(dropped.items) == 440 and dropped.repeats == 40


def test_repeats_drops_all_but_the_first_visit_in_time(tmp_path):
    rows = [(user, item, time + 10_000) for user, item, time in events()[:40]]
    data = both(tmp_path, [*rows, *events(), events()[0]], duplicates="repeats")
    np.testing.assert_array_equal(data.items, both(tmp_path, events()).items)
    assert removes(data)


def test_an_action_tells_two_events_apart(tmp_path):
    rows = [(*event, "click") for event in events()]
    rows += [(*event, "buy") for event in events()[:3]]
    data = both(tmp_path, [*rows, rows[0]], duplicates="dropped")
    assert len(data.items) == 403 and "equal rows 1 of 404" in report_line(data)


def test_a_clock_of_milliseconds_tells_copies_from_visits(tmp_path):
    rows = [
        (user, item, AT * 1000 + 10 * j) for j, (user, item, _) in enumerate(events())
    ]
    plain = both(tmp_path, rows, time_format="ms")
    data = both(tmp_path, [*rows, *rows[::20]], time_format="ms")
    np.testing.assert_array_equal(data.items, plain.items)
    assert "equal rows 20 of 420 in user, item and time: 20 dropped" in report_line(
        data
    )


def test_without_times_or_with_one_for_all_many_copies_stay(tmp_path):
    rows = [row[:2] for row in events()]
    data = both(tmp_path, [*rows, *rows[:100]])
    assert len(data.items) == 500
    assert "no times tell copies from second visits" in report_line(data)
    few = both(tmp_path, [*rows, *rows[:3]])
    assert len(few.items) == 400
    same = [(user, item, AT) for user, item in rows]
    assert len(both(tmp_path, [*same, *same[:100]]).items) == 500


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(InputError, match="there are: auto, kept, dropped, repeats"):
        read(tmp_path, events(), duplicates="no")


CODES = st.lists(
    st.tuples(*[st.integers(-3, 3) for _ in range(3)]), min_size=1, max_size=60
)


@pytest.mark.parametrize("copied", [[0], [0, 0, 7], [999], []])
def test_few_copies_among_many_rows_are_found(copied):
    user, item = np.divmod(np.arange(1000), 30)
    of = np.append(np.arange(1000), copied).astype(int)
    expected = [False] * 1000 + [True] * len(copied)
    assert duplicates.is_copy([user[of], item[of]]).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(CODES)
def test_a_copy_is_a_row_that_came_before(rows):
    columns = [np.array(column, np.int32) for column in zip(*rows, strict=True)]
    seen, expected = set(), []
    for row in rows:
        expected.append(row in seen)
        seen.add(row)
    assert duplicates.is_copy(columns).tolist() == expected


ROWS = st.lists(
    st.tuples(*[st.integers(0, 3) for _ in range(5)]), min_size=1, max_size=60
)


@pytest.mark.parametrize(("block", "size"), [(3, 4), (1 << 16, 4), (7, 1 << 31)])
@settings(max_examples=100, deadline=None)
@given(rows=ROWS, num_columns=st.integers(2, 5))
def test_rows_are_counted_as_a_reader_would(block, size, rows, num_columns):
    rows = [row[:num_columns] for row in rows]
    columns = [np.array(x) for x in zip(*rows, strict=True)]
    columns += [None] * (5 - num_columns)
    ids = Entities(np.broadcast_to(0, (size,)))  # so many take no memory
    log = Interactions(
        user=columns[0].astype(np.int32),
        item=columns[1].astype(np.int32),
        users=ids,
        items=ids,
        time=columns[2],
        nanoseconds=columns[3],
        events={} if num_columns < 5 else {"action": columns[4]},
    )
    pairs, moments = {row[:2] for row in rows}, {(*row[:1], *row[2:4]) for row in rows}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", block)
        mask, count = duplicates.count_of(log)
        together = log.select(np.argsort(log.user, kind="stable"))
        repeats = duplicates.repeats(together.user, together.item, num_items=size)
    assert mask.tolist() == [row in rows[:place] for place, row in enumerate(rows)]
    assert count.equal == len(rows) - len(set(rows))
    assert count.equal + count.again == repeats == len(rows) - len(pairs)
    often = 2 * len(moments) >= len(set(rows)) or not count.equal
    assert count.timed == (num_columns > 2 and often)
