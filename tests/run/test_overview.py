"""What a run says of its log before it trains."""

import dataclasses

import numpy as np
import pytest

from experiments.configs import dssm_logs, dssm_stream
from recall_jax.run import data as data_lib
from recall_jax.run import overview

pl = pytest.importorskip("polars", reason="logs are read with polars")

AT = 1_700_000_000


def described(folder, capsys, *, name: str, later: int = 0) -> list[str]:
    """The lines of a run on a log of which one row stands twice, or comes again so many
    seconds later."""
    rows = 400
    pairs = np.random.default_rng(0).permutation(600)[:rows]
    frame = pl.DataFrame(
        {"user": pairs // 30, "item": pairs % 30, "t": AT + 7 * np.arange(rows)}
    )
    frame = pl.concat([frame, frame.head(1).with_columns(pl.col("t") + later)])
    frame.write_parquet(folder / "log.parquet")
    items = {"item": np.arange(40), "price": np.arange(40) + 0.5}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    config = (dssm_logs if name == "dssm_logs" else dssm_stream).get_config()
    path, features = folder / "log.parquet", folder / "items.parquet"
    data = dataclasses.replace(
        config.data, path=str(path), time="t", item_features=str(features)
    )
    config = dataclasses.replace(config, data=data)
    overview.show(config, data_lib.read(config).data)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", ["dssm_logs", "dssm_stream"])
def test_a_line_each_on_what_was_read(tmp_path, capsys, name):
    lines = described(tmp_path, capsys, name=name)
    for start in (
        f"files      1 file, 401 rows: {tmp_path}/log.parquet",
        "equal rows 1 of 401 in user, item and time: 1 dropped (data.duplicates=auto",
        "times      2023-11-14 22:13:20 to 2023-11-14 22:59:53 UTC, in whole seconds",
        "user ids   0.00% of rows are empty or null-like",
        "item ids   0.00% of rows are empty or null-like",
        "features   30 of 30 items (100.0%) have a row among the 40 of",
        "feature    item 'price': numbers, 30 values, 0.0% missing",
        "counts     20 users, 30 items, 400 events; ",
        "protocol   leave_one_out, ties in file order (0% of test items share",
        "seen items removed: no user meets an item again",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, start


@pytest.mark.parametrize("name", ["dssm_logs", "dssm_stream"])
def test_why_seen_items_stay_and_what_to_do(tmp_path, capsys, name):
    lines = described(tmp_path, capsys, name=name, later=10_000)
    at = lines.index(
        "seen items kept: 1 of 401 events (0.25%) are of an item that their user has met "
        "before"
    )
    assert lines[at + 1].startswith(
        "note       so few may be a mistake; --config.data.dup"
    )
