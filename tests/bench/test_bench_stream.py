"""The bench of streaming runs, on sizes that say nothing about speed."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.bench import stream

pytest.importorskip("polars", reason="shards are read with polars")


def test_generated_shards_are_the_same_again_and_few_items_have_most_events(tmp_path):
    stream.generate(tmp_path / "a", events=5_000, users=100, items=50)
    stream.generate(tmp_path / "b", events=5_000, users=100, items=50)
    rows = [stream.shards.import_polars().read_parquet(tmp_path / x) for x in "ab"]
    assert rows[0].equals(rows[1]) and len(rows[0]) == 5_000
    assert rows[0]["time"].is_sorted() and rows[0]["user"].n_unique() == 100
    count = np.sort(rows[0]["item"].value_counts()["count"].to_numpy())[::-1]
    assert count[:5].sum() > 0.4 * count.sum() and len(count) > 40


@pytest.mark.slow
def test_it_compares_windows_with_memory_each_in_its_own_process(kept_programs):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.stream", "--smoke"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["events"] == 20_000 and 15_000 < results["examples"] < 20_000
    assert results["stream_over_resident"] > 0 and 0.1 < results["peak_resident_gb"] < 4
