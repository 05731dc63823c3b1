"""The command that recommends, and that its vectors are those of the evaluated model."""

import dataclasses
import functools
import shutil

import command_line
import jax
import numpy as np
import pytest
from marks import slow_but
from test_configs import shrunk

from experiments import recommend
from experiments.common import cli, summary
from recall_jax import schema
from recall_jax.data.sources import synthetic
from recall_jax.evaluate import encode, measure
from recall_jax.index import search
from recall_jax.run import open as open_lib
from recall_jax.run import restored as restored_lib
from recall_jax.serve import recommender as recommender_lib
from recall_jax.tables import layout

HISTORY_MODELS = ("dssm", "youtubednn", "sequence", "fm", "item2vec", "eges", "airbnb")
NAMES = [f"{name}_synthetic" for name in HISTORY_MODELS] + ["mf_synthetic_graded"]
QUICK = ["eges_synthetic"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, kept_programs):
    """name -> (folder, loaded run, recommender), each trained once."""
    cache = {}

    def of(name: str):
        if name not in cache:
            folder = tmp_path_factory.mktemp(name)
            summary.train(one_epoch(cli.load_config(name)), folder)
            run_ = open_lib.open_run(folder)
            loaded, recommender = run_.loaded, run_.recommender
            cache[name] = folder, loaded, recommender
        return cache[name]

    return of


def one_epoch(config):
    small = shrunk(config)
    return dataclasses.replace(small, train=dataclasses.replace(small.train, epochs=1))


command = functools.partial(command_line.called, recommend, parse=cli.parse_plain)


def rows_of(printed: str) -> list[list[str]]:
    """Cells of the table's lines below its head."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def searched(data, user: int, position: int) -> dict[str, list[str]]:
    """What the user searched up to there, as a feature."""
    if data.dataset.tokens is None:
        return {}
    ids = data.dataset.searched(np.array([user]), np.array([position]))[0]
    vocabulary = data.vocabularies["searched"]
    words = [*vocabulary.ids[: vocabulary.known].tolist(), "never searched"]
    return {"searched": [words[j - 1] for j in np.asarray(ids) if j]}


@pytest.mark.parametrize("name", slow_but(QUICK, NAMES))
def test_a_history_up_to_the_test_gives_the_list_that_evaluation_ranks(name, trained):
    _, loaded, recommender = trained(name)
    data, config = loaded.data, loaded.config.evaluate
    encoder, params, _ = loaded.restored
    queries = encode.encode_queries(
        encoder, params, data=data, part=data.test, batch_size=config.batch_size
    )
    aim = measure.targets(data, data.test, seen=measure.removes_seen(config, data))
    result = search.Exact.build(loaded.served).search(queries, 8, aim.exclude)
    items, users = data.vocabularies["item"].ids, data.vocabularies["user"].ids
    for row in range(0, len(data.test), 11):
        user, stop = int(data.test.user[row]), int(data.test.start[row])
        met = items[data.items[data.offsets[user] : stop] - 1]
        words = searched(data, user, stop)
        words = words if "searched" in recommender.served.features else {}
        got = recommender.recommend(users[user - 1], met, words, k=8)
        assert got.by == "model"
        np.testing.assert_array_equal(got.ids, items[result.ids[row]])
        np.testing.assert_allclose(got.scores, result.scores[row], atol=1e-6)
        assert not set(got.ids) & set(met)


@pytest.mark.parametrize("name", slow_but(QUICK, NAMES))
def test_a_known_user_is_taken_as_he_is_after_his_last_event(name, trained):
    _, loaded, recommender = trained(name)
    data = loaded.data
    encoder, params, _ = loaded.restored
    users = np.arange(1, len(data.user_codes) + 1, dtype=np.int32)
    stop = data.offsets[2:].astype(np.int32)
    wanted = np.asarray(encoder.query(params, data.dataset, users, stop))
    for user in (1, 7, len(users)):
        events = recommender.served.history(user)
        vector = recommender.served.encode(user, events, {})
        np.testing.assert_allclose(vector, wanted[user - 1], atol=1e-6)
        got = recommender.recommend(data.vocabularies["user"].ids[user - 1], k=3)
        assert len(got.history) == data.offsets[user + 1] - data.offsets[user]


@pytest.mark.parametrize(
    ("name", "user", "history", "features"),
    [
        ("dssm", True, True, {"age", "gender", "region", "device"}),
        (
            "youtubednn",
            True,
            True,
            {"searched", "age", "gender", "region", "device"},
        ),
        ("sequence", False, True, set()),
        ("item2vec", False, True, set()),
        ("eges", False, True, set()),
    ],
)
def test_what_a_model_reads_is_known(name, user, history, features, trained):
    served = trained(f"{name}_synthetic")[2].served
    assert served.reads_user == user and bool(served.history_length) == history
    assert set(served.features) == features
    everything = {"searched", "age", "gender", "region", "device"}
    assert served.unread == everything - features


def test_mf_knows_users_by_their_ids_alone(trained):
    recommender = trained("mf_synthetic_graded")[2]
    served = recommender.served
    assert served.reads_user and not served.history_length and not served.features
    new = recommender.recommend(history=[served.item_ids[0]], k=3)
    assert new.by == "popularity" and served.item_ids[0] not in new.ids


def with_unknown_user(loaded: restored_lib.LoadedRun) -> restored_lib.LoadedRun:
    """The run with an unknown user's row other than that of padding, which is zero."""
    tables, dense, statistics = loaded.restored.params
    unknown = loaded.data.vocabularies["user"].rows - 1
    at = unknown % layout.SHARDS, unknown // layout.SHARDS
    tables = tables | {"user": tables["user"].at[at].set(0.3)}
    chosen = loaded.restored._replace(params=(tables, dense, statistics))
    return loaded._replace(restored=chosen)


def test_somebody_new_is_taken_by_his_features_with_the_unknown_id(trained):
    loaded = with_unknown_user(trained("dssm_synthetic")[1])
    recommender = recommender_lib.Recommender(restored_lib.served(loaded, "here"))
    data = loaded.data
    encoder, params, _ = loaded.restored
    codes = data.vocabularies["gender"]
    gender = codes.ids[1]
    got = recommender.recommend(features={"gender": gender}, k=4)
    columns = jax.jit(type(data.dataset).query)(
        data.dataset, np.zeros(1, np.int32), np.zeros(1, np.int32)
    )
    columns["user"] = np.array([data.dataset.known_users + 1], np.int32)
    columns["gender"] = np.array([2], np.int32)
    vector = encoder.columns(params, data.dataset, columns)
    scores = loaded.served @ np.asarray(vector)[0]
    best = np.argsort(-scores, kind="stable")[:4]
    np.testing.assert_allclose(got.scores, scores[best], atol=1e-6)
    assert got.by == "model"
    np.testing.assert_array_equal(got.ids, data.vocabularies["item"].ids[best])
    other = recommender.recommend(features={"gender": codes.ids[0]}, k=4)
    assert (other.scores != got.scores).any()
    met = recommender.recommend(history=[got.ids[0]], features={"gender": gender})
    assert got.ids[0] not in met.ids and met.scores[0] != got.scores[0]


def test_a_number_is_standardised_as_the_log_was(trained):
    loaded = trained("dssm_synthetic")[1]
    column = schema.Column("income", "", 0, 0, mean=5.0, scale=2.0)
    assert restored_lib._as_column(9.0, column, run=loaded) == 2


def test_the_command_prints_the_history_the_rule_and_the_list(trained):
    folder, loaded, recommender = trained("item2vec_synthetic")
    longest = int(np.diff(loaded.data.offsets[1:]).argmax())
    user = loaded.data.vocabularies["user"].ids[longest]
    status, printed, said = command(f"--run={folder}", f"--user={user}", "--k=4")
    assert status == 0, said
    wanted = recommender.recommend(user, k=4)
    number = len(wanted.history)
    assert f"model      item2vec_synthetic, step {loaded.restored.step}" in printed
    assert (
        f"history    {number} items, all of his events, of training, validation and "
        f"test; the model reads the last {wanted.read}, last first:\n"
        f"           {wanted.history[-1]}, {wanted.history_titles[-1]}\n"
    ) in printed
    assert f"and {number - recommend.SHOWN} before them" in printed
    assert "seen       items of the history are removed" in printed
    assert rows_of(printed) == [
        [str(rank), str(item), title, f"{score:.4f}"]
        for rank, (item, title, score) in enumerate(
            zip(wanted.ids, wanted.titles, wanted.scores), 1
        )
    ]


def test_the_command_takes_a_history_features_and_more_than_there_are(trained):
    folder, loaded, _ = trained("youtubednn_synthetic")
    one, two = loaded.ids[3], loaded.ids[8]
    status, printed, said = command(
        f"--run={folder}",
        f"--history={one}, {two},nothing",
        "--features=gender=x,searched=a|b",
        "--k=900",
        "--seen=kept",
    )
    assert status == 0, said
    assert "history    2 items, as given; the model reads all, last first:" in printed
    assert "1 of 3 items of the history are unknown and left out: nothing" in printed
    assert "gender: no user in training had 'x'" in printed
    assert "searched: no user in training had 'a', 'b'" in printed
    assert f"only {len(loaded.ids)} items are left to list, of 900" in printed
    assert len(rows_of(printed)) == len(loaded.ids)
    assert "items of the history are kept" in printed


def test_the_command_says_that_popular_items_are_all_it_has(trained):
    folder = trained("item2vec_synthetic")[0]
    for flag in ("--user=nobody", "--history=nothing", "--history="):
        status, printed, said = command(f"--run={folder}", flag, "--k=2")
        assert status == 0, said
        assert "score      training events, the same for everybody" in printed
        assert "the model reads his history, and knows none of that here" in printed
        assert [row[0] for row in rows_of(printed)] == ["1", "2"]


def test_what_is_wrong_is_told(trained, tmp_path, monkeypatch):
    folder = trained("dssm_synthetic")[0]

    def refused(*arguments) -> str:
        status, _, said = command(*arguments)
        assert status == 2 and said.startswith("error: ") and said.count("\n") == 1
        return said

    it = f"--run={folder}"
    assert "with --run, or the folder of an export with --export" in refused()
    assert "with --run, or the" in refused(it, f"--export={tmp_path}", "--user=1")
    assert "say who asks: --user=ID" in refused(it)
    assert "--k is 0; it must be at least 1" in refused(it, "--user=1", "--k=0")
    assert "'gender' is no feature; it is NAME=VALUE" in refused(
        it, "--features=gender"
    )
    said = refused(it, "--features=gendre=f")
    assert "users have no feature 'gendre'; did you mean gender?" in said
    assert "seen" in refused(it, "--user=1", "--seen=gone")
    assert "holds no run" in refused(f"--run={tmp_path}", "--user=1")
    shutil.copy(folder / "config.json", tmp_path)
    assert "it has no data.json" in refused(f"--run={tmp_path}", "--user=1")
    load = synthetic.Config.load

    def shorter(self):
        log = load(self)
        return log.select(np.arange(len(log) - 1))

    monkeypatch.setattr(synthetic.Config, "load", shorter)
    assert "was trained on other data" in refused(it, "--user=1")
