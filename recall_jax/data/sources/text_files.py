"""CSV and TSV files as columns of strings, row by row as Python's csv module has them.

polars parses, a block at a time, with all columns there are. It is trusted with a block
where every quote opens or closes a field, and where it finds as many rows as there are
lines outside quotes. Whatever it is not trusted with, Python's csv reads.
"""

import contextlib
import csv
import gzip
import io
import pathlib
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from recall_jax.types import InputError

if TYPE_CHECKING:
    import polars as pl

BLOCK = 1 << 24  # bytes that polars parses at a time
PIECE = 1 << 20  # those that Python does
QUOTE, NEWLINE, RETURN = b'"\n\r'
MARK = b"\xef\xbb\xbf"  # that begins a UTF-8 file of some programs
UTF_16 = "is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
NO_TEXT = {  # how a file begins that is not plain text, and what it is
    b"PAR1": "is a Parquet file; its name should end in .parquet",
    b"\x1f\x8b": "is compressed by gzip; its name should end in .csv.gz or .tsv.gz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it first",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; save its table as CSV",
    b"version https://git-lfs": "is a pointer of Git LFS; git lfs pull brings the file",
    b"<!DOCTYPE": "is a web page",
    b"<html": "is a web page",
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
}


class File(NamedTuple):
    """A text file, and what stands between its fields."""

    path: pathlib.Path
    separator: str


def header(file: File) -> list[str]:
    """Names of the columns: the first line that is not blank."""
    with _opened(file) as stream:
        return _header(file, stream)


def read(file: File, *, names: list[str]) -> "pl.DataFrame":
    """The columns `names`, strings; None where a field is empty or not there.

    Blank lines at the end are left out, others are rows of None. Raises InputError, with
    the line, for what is not UTF-8, has more fields than there are columns, or holds a
    quote that nothing closes.
    """
    import polars

    frames, blank = [], 0  # rows at the end that hold nothing in any column
    with _opened(file) as stream:
        columns = _header(file, stream)
        for frame in _frames(file, stream, columns=columns):
            end = _blank_end(frame)
            blank = end + blank if end == len(frame) else end
            frames.append(frame.select(names))
    frames = frames or [polars.DataFrame(schema=dict.fromkeys(names, polars.String))]
    rows = polars.concat(frames).with_columns(polars.all().replace("", None))
    return rows.head(len(rows) - blank)


def _blank_end(frame: "pl.DataFrame") -> int:
    """How many rows at its end hold nothing."""
    import polars

    holds = polars.all().is_not_null() & (polars.all() != "")
    size = 1
    while True:
        filled = frame.tail(size).select(polars.any_horizontal(holds)).to_series()
        if filled.any() or size >= len(frame):
            return filled.reverse().arg_max() if filled.any() else len(frame)
        size *= 2


class _Stream:
    """The bytes of a file in order: what is read and not yet taken."""

    def __init__(self, file: BinaryIO):
        self.file, self.buffer, self.ended = file, b"", False
        self.lines = 0  # that were taken

    def fill(self, size: int) -> None:
        """Hold `size` bytes, or all that are left."""
        while len(self.buffer) < size and not self.ended:
            block = self.file.read(size - len(self.buffer))
            self.buffer, self.ended = self.buffer + block, not block

    def take(self, size: int) -> bytes:
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        self.lines += taken.count(b"\n")
        return taken

    def take_lines(self) -> bytes:
        """Some whole lines, b"" at the end. They end in \\n, \\r\\n or \\r."""
        size = PIECE
        while True:
            self.fill(size + 1)
            if self.ended and len(self.buffer) <= size:
                return self.take(len(self.buffer))
            cut = self.buffer.rfind(b"\n", 0, size) + 1
            if cut := cut or self.buffer.rfind(b"\r", 0, size) + 1:
                return self.take(cut + self.buffer.startswith(b"\n", cut))
            size *= 2


@contextlib.contextmanager
def _opened(file: File) -> Iterator[_Stream]:
    """The file's bytes, unpacked; what is wrong with them as InputError."""
    open_file = gzip.open if file.path.name.lower().endswith(".gz") else open
    try:
        with open_file(file.path, "rb") as stream:
            yield _Stream(stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{file.path} is not a whole gzip file ({error}); write or copy it again"
        ) from error
    except OSError as error:
        said = error.strerror or error
        raise InputError(f"{file.path} could not be read: {said}") from error


def _header(file: File, stream: _Stream) -> list[str]:
    stream.fill(PIECE)
    check_kind(file.path, stream.buffer)
    stream.buffer = stream.buffer.removeprefix(MARK)
    stream.take(len(stream.buffer) - len(stream.buffer.lstrip(b"\r\n")))
    rows = _Rows(file, stream)
    names = next(rows.records(), None)
    if names is None:
        raise InputError(f"{file.path} could not be read: it is empty")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{file.path} has several columns {twice[0]!r}; rename all but one"
        )
    rows.give_back()
    return names


def check_kind(path: pathlib.Path, start: bytes) -> None:
    """Raise InputError for what is plainly no text, by how it begins."""
    for first, problem in NO_TEXT.items():
        if start.startswith(first):
            raise InputError(f"{path} {problem}")


def _frames(
    file: File, stream: _Stream, *, columns: list[str]
) -> Iterator["pl.DataFrame"]:
    """All rows after the header, all columns."""
    while True:
        stream.fill(BLOCK)
        if not stream.buffer:
            return
        cut, rows = _whole_rows(stream, separator=file.separator)
        block, frame = stream.buffer[:cut], None
        if rows:
            frame = _parsed(block, columns=columns, separator=file.separator)
        if frame is not None and len(frame) == rows:
            stream.take(cut)
            yield frame
        else:
            yield _by_python(file, stream, columns=columns)


# By polars.


def _whole_rows(stream: _Stream, *, separator: str) -> tuple[int, int]:
    """How many bytes of the buffer are whole rows that polars can be trusted with, and
    how many rows; 0, 0 where it cannot."""
    data = stream.buffer
    cut = len(data) if stream.ended else data.rfind(b"\n") + 1
    if (
        b"\0" in data
        or MARK in data
        or data.count(b"\r", 0, cut) != data.count(b"\r\n", 0, cut)
    ):
        return 0, 0
    if data.find(b'"', 0, cut) < 0:
        return cut, data.count(b"\n", 0, cut) + (data[cut - 1 : cut] != b"\n")
    letters = np.frombuffer(data, np.uint8)[:cut]
    quotes, ends = np.flatnonzero(letters == QUOTE), np.flatnonzero(letters == NEWLINE)
    outside = ends[np.searchsorted(quotes, ends) % 2 == 0]
    if not stream.ended:
        cut = int(outside[-1]) + 1 if len(outside) else 0
        quotes = quotes[quotes < cut]
    if not cut or len(quotes) % 2:
        return 0, 0
    apart = [ord(separator), QUOTE, NEWLINE, RETURN]
    edge = np.array([NEWLINE], np.uint8)
    around = np.concatenate([edge, letters, edge])
    before, after = around[quotes[0::2]], around[quotes[1::2] + 2]
    if not (np.isin(before, apart) & np.isin(after, apart)).all():
        return 0, 0
    return cut, len(outside) + (data[cut - 1 : cut] != b"\n")


def _parsed(
    block: bytes, *, columns: list[str], separator: str
) -> "pl.DataFrame | None":
    """None where polars cannot parse it."""
    import polars

    kinds = polars.exceptions
    try:
        return polars.read_csv(
            block,
            has_header=False,
            schema=dict.fromkeys(columns, polars.String),
            separator=separator,
        )
    except (kinds.PolarsError, kinds.PanicException):
        return None


# By Python's csv.


class _Rows:
    """Rows by Python's csv, and the lines that they were made of."""

    def __init__(self, file: File, stream: _Stream):
        csv.field_size_limit(1 << 30)
        self.file, self.stream = file, stream
        self.piece: Iterator[str] = iter(())  # lines taken from the stream
        self.left = 0  # of them
        self.taken: list[str] = []  # lines of a row
        self.line = stream.lines  # lines of the rows before it

    def give_back(self) -> None:
        """Put lines back that no row was made of."""
        lines = "".join(self.piece).encode()
        self.stream.buffer = lines + self.stream.buffer
        self.stream.lines -= lines.count(b"\n")

    def _lines(self) -> Iterator[str]:
        while True:
            if not self.left:
                first = self.stream.lines
                lines = _decoded(self.file, self.stream.take_lines(), line=first)
                if not lines:
                    return
                self.piece, self.left = iter(lines), len(lines)
            line = next(self.piece)
            self.left -= 1
            self.taken.append(line)
            yield line

    def records(self) -> Iterator[list[str]]:
        for row in csv.reader(self._lines(), delimiter=self.file.separator):
            self._check(row)
            self.line += len(self.taken)
            self.taken.clear()
            yield row

    def _check(self, row: list[str]) -> None:
        """Raise InputError where quotes do not close as they were meant to: they would
        swallow lines, or hold other fields than somebody wrote."""
        escaped = any('\\"' in line for line in self.taken)
        breaks = any("\n" in field or "\r" in field for field in row)
        at_end = not self.taken[-1].endswith(("\n", "\r"))
        if not (escaped or breaks or at_end):
            return
        try:
            list(csv.reader(self.taken, delimiter=self.file.separator, strict=True))
        except csv.Error as error:
            first, last = self.line + 1, self.line + len(self.taken)
            here = f"{self.file.path}, line {first}"
            if escaped:
                raise InputError(
                    f"{here}: a quote within a field stands behind a backslash; write "
                    "it twice instead (Spark: .option('escape', '\"'))"
                ) from error
            raise InputError(
                f"{here}: a field begins with a quote that is not closed as CSV has it, "
                f"and would run to line {last}; put the whole field in quotes, and "
                "write a quote within it twice"
            ) from error


def _decoded(file: File, piece: bytes, *, line: int) -> list[str]:
    """Lines of a piece of the file that follows `line` others."""
    try:
        text = piece.decode()
    except UnicodeDecodeError as error:
        at = line + piece.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file.path}, line {at}: byte {piece[error.start]:#x} is not UTF-8; save "
            "the file as UTF-8 (of western Windows: iconv -f CP1252 -t UTF-8)"
        ) from error
    if MARK in piece:
        at = line + piece.count(b"\n", 0, piece.index(MARK)) + 1
        raise InputError(
            f"{file.path}, line {at} holds a byte order mark, as where files were put one "
            "behind the other; take it out, and a second line of column names too"
        )
    if "\0" in text:
        at = line + text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{file.path}, line {at} holds a zero byte: the file is damaged, or UTF-16, "
            "to be saved as UTF-8 (iconv -f UTF-16 -t UTF-8)"
        )
    return list(io.StringIO(text, newline=""))


def _by_python(file: File, stream: _Stream, *, columns: list[str]) -> "pl.DataFrame":
    """The rows of about a block, which may be some bytes more."""
    import polars

    rows, table, stop = _Rows(file, stream), [], len(stream.buffer)
    for row in rows.records():
        if len(row) > len(columns):
            raise InputError(
                f"{file.path}, line {rows.line} has {len(row)} fields, and there are "
                f"{len(columns)} columns; put a field that holds {file.separator!r} in "
                "quotes"
            )
        table.append(row + [None] * (len(columns) - len(row)))
        stop -= sum(map(len, row))
        if stop < 0 and not rows.left:
            break
    schema = dict.fromkeys(columns, polars.String)
    return polars.DataFrame(table, schema=schema, orient="row")
