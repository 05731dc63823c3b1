"""An export and the run that it was made of recommend the same."""

import numpy as np
import pytest
from marks import slow
from test_recommend import command, one_epoch, rows_of

import recall_jax
from experiments.common import cli, summary
from recall_jax.run import open as open_lib


@pytest.mark.parametrize("name", ["youtubednn_synthetic", slow("eges_synthetic")])
def test_an_export_recommends_what_its_run_does(
    name, symbolic_shapes, one_platform, tmp_path
):
    folder = tmp_path / "run"
    summary.train(one_epoch(cli.load_config(name)), folder)
    run_ = open_lib.open_run(folder)
    ours = run_.recommender
    run_.export(tmp_path / "out")
    theirs = recall_jax.load(tmp_path / "out")
    users, items = (run_.data.vocabularies[x].ids for x in ("user", "item"))
    requests = [
        {"user": users[0]},
        {"user": users[-1], "seen": "kept"},
        {"user": users[3], "history": items[[4, 2, 9]]},
        {"user": "nobody", "history": items[:30]},
        {"user": "nobody"},
    ]
    if "region" in ours.served.features:
        region = run_.loaded.data.vocabularies["region"].ids[1]
        word = run_.loaded.data.vocabularies["searched"].ids[0]
        requests.append({"features": {"region": region, "searched": [word, "xyz"]}})
        requests.append({"user": users[5], "features": {"region": region}})
    for request in requests:
        one, two = ours.recommend(**request), theirs.recommend(**request)
        np.testing.assert_array_equal(one.ids, two.ids)
        np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)
        assert (one.by, one.seen, one.read) == (two.by, two.seen, two.read)
        np.testing.assert_array_equal(one.history, two.history)
    np.testing.assert_array_equal(
        ours.similar(items[1]).ids, theirs.similar(items[1]).ids
    )
    flags = f"--user={users[0]}", "--k=3"
    printed = command(f"--export={tmp_path / 'out'}", *flags)[1]
    assert f"model      {name}, export {tmp_path / 'out'}\n" in printed
    assert rows_of(printed) == rows_of(command(f"--run={folder}", *flags)[1])
