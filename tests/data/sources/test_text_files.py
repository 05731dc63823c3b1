"""Text files: the rows that Python's csv finds, whatever is asked of them; a line where
something is wrong."""

import csv
import gzip
import io
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_jax.data.sources import text_files
from recall_jax.types import InputError

pytest.importorskip("polars", reason="text files are parsed with polars")


def write(path: pathlib.Path, text: str | bytes) -> text_files.File:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return text_files.File(path, ",")


def rows(file: text_files.File, names: list[str] | None = None) -> list[tuple]:
    return text_files.read(file, names=names or text_files.header(file)).rows()


def by_python(text: str) -> list[tuple]:
    """Rows as Python's csv has them; short ones filled up, '' and blank lines None."""
    header, *read = csv.reader(io.StringIO(text, newline=""))
    padded = [row + [""] * (len(header) - len(row)) for row in read]
    return [tuple(field or None for field in row) for row in padded]


TITLES = ["plain", 'TV 32"', 'Monitor 27" wide', 'say "hi"', "a 'b'", '5" and 6"']


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("block", [1 << 26, 256])
def test_stray_quotes_lose_no_row_whatever_is_asked_for(
    tmp_path, monkeypatch, block, end
):
    monkeypatch.setattr(text_files, "BLOCK", block)
    lines = [f"u{j},{j},{TITLES[j % len(TITLES)]}" for j in range(300)]
    text = end.join(["user,item,title", *lines]) + end
    file = write(tmp_path / "log.csv", text)
    assert rows(file) == by_python(text)
    assert rows(file, ["user"]) == [(f"u{j}",) for j in range(300)]


FIELDS = st.text(st.sampled_from(list('ab1 ",\n\r|é')), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(FIELDS, min_size=3, max_size=3), min_size=1, max_size=25),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([16, 64, 1 << 26]),
)
def test_whatever_pythons_csv_writes_comes_back(tmp_path_factory, table, end, block):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["x", "y", "z"], *table])
    file = write(tmp_path_factory.mktemp("csv") / "log.csv", text.getvalue())
    before, text_files.BLOCK, text_files.PIECE = text_files.BLOCK, block, 8
    try:
        actual = rows(file)
    finally:
        text_files.BLOCK, text_files.PIECE = before, 1 << 20
    wanted = by_python(text.getvalue())
    while wanted and not any(wanted[-1]) and len(wanted) > len(actual):
        wanted.pop()  # lines at the end that hold nothing
    assert actual == wanted


LINE = st.text(st.sampled_from(list('ab1 "')), max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(LINE, LINE, LINE), min_size=1, max_size=25))
def test_odd_quotes_are_read_as_python_reads_them_or_refused(tmp_path_factory, table):
    text = "x,y,z\n" + "".join(",".join(row) + "\n" for row in table)
    file = write(tmp_path_factory.mktemp("csv") / "log.csv", text)
    try:
        actual = rows(file)
    except InputError as problem:
        assert ", line " in str(problem)
        return
    wanted = by_python(text)
    assert actual == wanted[: len(actual)]
    assert not any(map(any, wanted[len(actual) :]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "log.csv could not be read: it is empty"),
        ("a,b\n1,2\n3,4,5\n", r"line 3 has 3 fields, and there are 2 columns"),
        ('a,b\n1,"x\n2,y\n', r"line 2: a field begins with a quote .* run to line 3"),
        ('a,b\n1,"x\n2,y"z\n3,w\n', r"line 2: a field begins with a quote"),
        ('a,b\n1,"say \\"hi\\", you"\n', r"line 2: a quote .* behind a backslash"),
        (b"a,b\n1,x\n2,\xe9\n", r"line 3: byte 0xe9 is not UTF-8"),
        (b"a,b\n1,x\n2,\0\n", r"line 3 holds a zero byte"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-be"), "UTF-16"),
        ("a,b\n1,2\n\ufeff3,4\n", "line 3 holds a byte order mark"),
        ("a,a\n1,2\n", "several columns 'a'"),
        (b"PAR1....", "is a Parquet file; its name should end in .parquet"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "is compressed by gzip"),
        (b"PK\x03\x04....", "a spreadsheet"),
        ("version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, text, said):
    file = write(tmp_path / "log.csv", text)
    with pytest.raises(InputError, match=said):
        rows(file)


def test_the_number_of_rows_is_that_of_the_file_whatever_columns_are_asked_for(
    tmp_path,
):
    text = "user,item,note\n1,a,\n2,b,\n,,Total\n\n\n"
    file = write(tmp_path / "log.csv", text)
    counts = {name: len(rows(file, [name])) for name in ("user", "item", "note")}
    assert counts == {"user": 3, "item": 3, "note": 3}
    blank = write(tmp_path / "blank.csv", "user,note\n1,\n2,\n\n\n")
    assert len(rows(blank, ["note"])) == len(rows(blank, ["user"])) == 2


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_quote_that_is_open_at_the_end_is_refused(tmp_path, end):
    file = write(tmp_path / "log.csv", f'a,b\n1,2\n3,"7{end}')
    with pytest.raises(InputError, match="line 3: a field begins with a quote"):
        rows(file)


def test_old_line_ends_blank_lines_and_missing_fields(tmp_path):
    assert rows(write(tmp_path / "a.csv", "a,b\r1,2\r3,4\r")) == [
        ("1", "2"),
        ("3", "4"),
    ]
    text = "\n\na,b\n1,2\n\n3\n\n\n"
    assert rows(write(tmp_path / "b.csv", text)) == [
        ("1", "2"),
        (None, None),
        ("3", None),
    ]


def test_a_gzip_of_several_members_is_read_whole_and_a_torn_one_is_refused(tmp_path):
    packed = gzip.compress(b"a,b\n1,2\n") + gzip.compress(b'3,4"\n')
    file = write(tmp_path / "log.csv.gz", packed)
    assert rows(file) == [("1", "2"), ("3", '4"')]
    with pytest.raises(InputError, match="not a whole gzip file"):
        rows(write(tmp_path / "torn.csv.gz", packed[:-6]))
