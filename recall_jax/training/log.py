"""What a run writes while it runs: metrics, progress, tables."""

import contextlib
import contextvars
import datetime
import functools
import importlib.util
import io
import json
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import jax

from recall_jax import files

BAR_SECONDS = 1.0
LINE_SECONDS = 10.0

Show = Callable[[int, str], None]  # examples done; loss and validation in words


class RunLog:
    """metrics.jsonl and TensorBoard events of one run folder; a context manager.

    It opens with what the run wrote up to step `after`, the step of the checkpoint it
    resumes from. Later lines are dropped: that work will be done again. The default
    begins anew. In a multi-process run process 0 alone has one.
    """

    def __init__(self, workdir: Path, *, after: int = -1):
        self._path = Path(workdir) / "metrics.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _drop_lines(self._path, after=after)
        self._events = _open_events(self._path.parent / "tensorboard", after=after)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        if self._events:
            self._events.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line of numbers or scalar arrays; NaN and infinities become null.

        Once it returns, a kill does not lose the line. Arrays are fetched all at once.
        """
        fetched = jax.device_get(dict(values))
        numbers = {name: _finite(value) for name, value in fetched.items()}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": int(step), **numbers}) + "\n")
        if self._events:
            _write_event(self._events, step=int(step), numbers=numbers)


class Advance(Protocol):
    """Counts examples done. `loss` is fetched only when it is shown; `validation` is the
    last one, in words."""

    def __call__(self, examples: int, *, loss: Any, validation: str = "") -> None: ...


_SILENT = contextvars.ContextVar("silent", default=False)


@contextlib.contextmanager
def silent(quiet: bool = True) -> Iterator[None]:
    """With `quiet` nothing is printed within, and no progress shown; warnings are."""
    if not quiet:
        yield
        return
    token = _SILENT.set(True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        _SILENT.reset(token)


@contextlib.contextmanager
def progress(
    total: int, *, initial: int = 0, description: str = "training"
) -> Iterator[Advance]:
    """Show loss, the last validation, examples/s and time left until `total` examples;
    gives an `Advance`.

    A bar on a terminal; elsewhere a plain line every ten seconds and one at the end.
    `initial` examples were done before (by a run resumed) and count for no speed.
    """
    start, period = (_bar, BAR_SECONDS) if _on_terminal() else (_lines, LINE_SECONDS)
    start = _nothing if _SILENT.get() else start
    done, latest, shown = initial, (math.nan, ""), time.monotonic()

    def words() -> str:
        loss, validation = latest
        shown_loss = f"loss {float(jax.device_get(loss)):.4f}"
        return f"{shown_loss}, {validation}" if validation else shown_loss

    with start(total, initial=initial, description=description) as show:

        def advance(examples: int, *, loss: Any, validation: str = "") -> None:
            nonlocal done, latest, shown
            done, latest = done + examples, (loss, validation)
            if done > initial and time.monotonic() - shown >= period:
                show(done, words())
                shown = time.monotonic()

        yield advance
        if done > initial:
            show(done, words())


def brief(text: str, *, most: int = 80) -> str:
    """A text on one line, without its end where it is long.

    >>> brief("Toy  Story\\n(1995)"), brief("abcdef", most=4)
    ('Toy Story (1995)', 'abc…')
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def as_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as a Markdown table that reads well in a terminal too.

    A cell that a row lacks stays empty. A column stands to the right if all its cells
    begin like numbers, as "0.285 +- 0.003" does.

    >>> print(as_table([{"model": "dssm", "hr@10": 0.29}], ["model", "hr@10"]))
    | model |  hr@10 |
    | :---- | -----: |
    | dssm  | 0.2900 |
    """
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    texts = [_column(column) for column in zip(columns, *cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*texts))


def _column(cells: Sequence[str]) -> list[str]:
    head, *body = cells
    width = max(map(len, [*cells, "---"]))
    if all(re.match(r"[-+]?\.?\d|nan$|$", cell) for cell in body):
        return [cell.rjust(width) for cell in [head, "-" * (width - 1) + ":", *body]]
    return [cell.ljust(width) for cell in [head, ":" + "-" * (width - 1), *body]]


def _cell(value: Any) -> str:
    """Floats with four decimals, large ones with none, small ones as 1.0e-05."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        large, small = abs(value) >= 1000, 0 < abs(value) < 1e-3
        return f"{value:,.0f}" if large else f"{value:.1e}" if small else f"{value:.4f}"
    return "" if value is None else str(value).replace("|", "\\|")


def _finite(value: Any) -> float | int | None:
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _drop_lines(path: Path, *, after: int) -> None:
    """Leave the whole lines of steps up to `after`."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    kept = [line + "\n" for line in text.splitlines() if _step(line) <= after]
    if "".join(kept) != text:
        files.write_atomically(path, "".join(kept))


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):  # half written
        return math.inf


def _open_events(folder: Path, *, after: int) -> Any:
    """A writer without queue or thread (SummaryWriter's): what is written is there."""
    if (tensorboardx := _tensorboardx()) is None:
        return None
    folder.mkdir(exist_ok=True)
    name, now = str(folder / "events"), time.time()
    # Without a suffix, files opened within one second would be one file.
    events = tensorboardx.event_file_writer.EventsWriter(name, f".{time.time_ns()}")
    proto = tensorboardx.proto.event_pb2
    start = proto.SessionLog(status=proto.SessionLog.START)  # hides events from step on
    events.write_event(proto.Event(wall_time=now, step=after + 1, session_log=start))
    return events


def _write_event(events: Any, *, step: int, numbers: Mapping[str, Any]) -> None:
    proto = _tensorboardx().proto
    summary = proto.summary_pb2.Summary()
    for name, number in numbers.items():
        if number is not None:
            summary.value.add(tag=name, simple_value=number)
    event = proto.event_pb2.Event(wall_time=time.time(), step=step, summary=summary)
    events.write_event(event)
    events.flush()


@functools.cache  # so that it is said once
def _tensorboardx() -> Any:
    try:
        import tensorboardX
    except ImportError:
        warnings.warn(
            "tensorboardX is not installed: metrics go to metrics.jsonl alone "
            "(pip install tensorboardX)",
            stacklevel=4,
        )
        return None
    return tensorboardX


def _on_terminal() -> bool:
    return sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None


@contextlib.contextmanager
def _bar(total: int, *, initial: int, description: str) -> Iterator[Show]:
    from tqdm import tqdm

    with tqdm(
        total=total, initial=initial, desc=description, unit="ex", unit_scale=True
    ) as bar:

        def show(done: int, words: str) -> None:
            bar.set_postfix_str(words, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

        yield show


@contextlib.contextmanager
def _nothing(total: int, *, initial: int, description: str) -> Iterator[Show]:
    yield lambda done, words: None


@contextlib.contextmanager
def _lines(total: int, *, initial: int, description: str) -> Iterator[Show]:
    began = time.monotonic()

    def show(done: int, words: str) -> None:
        speed = (done - initial) / max(time.monotonic() - began, 1e-9)
        left = datetime.timedelta(seconds=round((total - done) / speed))
        print(
            f"{description}: {done:,} of {total:,} examples, {words}, "
            f"{speed:,.0f} examples/s, {left} left",
            file=sys.stderr,
            flush=True,
        )

    yield show
