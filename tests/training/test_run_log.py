"""What a run writes while it runs, and what of it a resumed run keeps."""

import doctest
import io
import json
import re
import sys

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recall_jax.training import log as log_lib


def lines(workdir) -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def events(workdir) -> list[tuple[str, int, float]]:
    """The scalars that TensorBoard shows: a new start hides what it purges."""
    from tensorboardX.proto.event_pb2 import Event

    shown = []
    files = sorted((workdir / "tensorboard").iterdir(), key=lambda file: file.suffix)
    for file in files:
        for record in read_records(file):
            event = Event.FromString(record)
            if event.HasField("session_log"):
                shown = [entry for entry in shown if entry[1] < event.step]
            shown += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return shown


def read_records(file) -> list[bytes]:
    """TFRecord: length (8 bytes), its CRC (4), the data, its CRC (4)."""
    data, records = file.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        records.append(data[12 : 12 + length])
        data = data[16 + length :]
    return records


def test_a_line_holds_plain_finite_numbers(tmp_path):
    with log_lib.RunLog(tmp_path) as log:
        values = {"loss": jnp.bfloat16(0.5), "seen": np.int64(3), "rate": 2.5}
        log.write(jnp.int32(4), values | {"bad": jnp.nan, "worse": -jnp.inf})
        assert lines(tmp_path) == [  # there before the log is closed
            {"step": 4, "loss": 0.5, "seen": 3, "rate": 2.5, "bad": None, "worse": None}
        ]


def test_a_resumed_run_drops_what_it_will_do_again(tmp_path):
    with log_lib.RunLog(tmp_path) as log:
        for step in (0, 10, 20, 30):
            log.write(step, {"loss": step / 10})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')  # killed here
    with log_lib.RunLog(tmp_path, after=10) as log:
        assert [line["step"] for line in lines(tmp_path)] == [0, 10]
        log.write(20, {"loss": 7})
    assert [line["loss"] for line in lines(tmp_path)] == [0, 1, 7]
    assert events(tmp_path) == [("loss", 0, 0.0), ("loss", 10, 1.0), ("loss", 20, 7.0)]


def test_a_new_run_begins_anew(tmp_path):
    for loss in (1, 2):
        with log_lib.RunLog(tmp_path) as log:
            log.write(0, {"hr@10": loss, "bad": jnp.nan})
    assert lines(tmp_path) == [{"step": 0, "hr@10": 2, "bad": None}]
    assert events(tmp_path) == [("hr@10", 0, 2.0)]


def test_events_are_on_disk_before_the_log_is_closed(tmp_path):
    with log_lib.RunLog(tmp_path) as log:
        log.write(1, {"loss": 0.25})
        assert events(tmp_path) == [("loss", 1, 0.25)]


def test_without_tensorboardx_a_run_goes_on_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    log_lib._tensorboardx.cache_clear()
    try:
        with pytest.warns(UserWarning, match="pip install tensorboardX") as warned:
            write_twice(tmp_path)
    finally:
        log_lib._tensorboardx.cache_clear()
    assert len(warned) == 1
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def write_twice(workdir) -> None:
    for step in (1, 2):
        with log_lib.RunLog(workdir, after=step - 1) as log:
            log.write(step, {"loss": 0.5})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_loss_speed_and_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(log_lib, "BAR_SECONDS", 0.0)
    with log_lib.progress(4000, initial=1000, description="epoch 2") as advance:
        advance(500, loss=jnp.float32(0.75))
        advance(500, loss=0.5, validation="valid ndcg@10 0.1000")
    last = sys.stderr.getvalue().split("\r")[-1]
    shape = (
        r"epoch 2:  50%.* 2.00k/4.00k \[.*<.*ex/s, loss 0.5000, valid ndcg@10 0.1000\]"
    )
    assert re.match(shape, last), last


def test_off_a_terminal_a_plain_line_comes_now_and_then(capsys, monkeypatch):
    with log_lib.progress(3000, initial=1000, description="epoch 2") as advance:
        for _ in range(100):
            advance(10, loss=0.5)
    (line,) = capsys.readouterr().err.splitlines()
    shape = r"epoch 2: 2,000 of 3,000 examples, loss 0.5000, [\d,]+ examples/s, 0:00:00"
    assert re.match(shape, line), line

    monkeypatch.setattr(log_lib, "LINE_SECONDS", 0.0)
    with log_lib.progress(20) as advance:
        advance(10, loss=0.5)
        advance(10, loss=0.5)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_loss_is_not_fetched_unless_shown(capsys):
    class Loss:
        fetched = 0

        def __array__(self, dtype=None, copy=None):
            Loss.fetched += 1
            return np.float32(0.5)

        def __float__(self):
            Loss.fetched += 1
            return 0.5

    with log_lib.progress(1000) as advance:
        for _ in range(100):
            advance(10, loss=Loss())
    assert Loss.fetched == 1


def test_one_shape_compiles_once_and_a_new_shape_once_more():
    step = jax.jit(lambda x: jnp.tanh(x) @ x)
    short, long = ([np.full(n, i, np.float32) for i in range(10)] for n in (4, 5))
    with compilations.counted() as seen:
        for x in short:
            step(x)
        assert seen.count == 1
        for x in long:
            step(x)
    assert seen.count == 2
    step(np.zeros(6, np.float32))
    assert seen.count == 2


def test_a_table_sets_numbers_to_the_right():
    rows = [
        {"model": "dssm", "recall": 0.30156, "steps": 12, "spread": "0.30 ± 0.01"},
        {"model": "a|b", "recall": np.float32(0.5), "spread": ".2"},
    ]
    assert log_lib.as_table(
        rows, ["model", "recall", "steps", "spread"]
    ).splitlines() == [
        "| model | recall | steps |      spread |",
        "| :---- | -----: | ----: | ----------: |",
        "| dssm  | 0.3016 |    12 | 0.30 ± 0.01 |",
        r"| a\|b  | 0.5000 |       |          .2 |",
    ]


def test_floats_keep_the_digits_that_matter():
    values = [1e-5, 382_000.4, float("nan"), 0.0, -12.5]
    cells = [line.strip("| ") for line in column_of(values)]
    assert cells == ["1.0e-05", "382,000", "nan", "0.0000", "-12.5000"]


def column_of(values) -> list[str]:
    return log_lib.as_table([{"x": value} for value in values], ["x"]).splitlines()[2:]


def test_examples_in_docstrings_are_right():
    assert doctest.testmod(log_lib).attempted and not doctest.testmod(log_lib).failed
