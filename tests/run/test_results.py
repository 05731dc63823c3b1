"""The rows of a run: every index beside the exact one, segments, what lists are made of."""

import dataclasses
import types

import numpy as np
import pytest
from conftest import make_log
from flax import nnx

from experiments.common import results as results_lib
from experiments.common import summary
from recall_jax.data import log
from recall_jax.evaluate import baselines, encode, measure, metrics
from recall_jax.evaluate.measure import EvaluateConfig, Result
from recall_jax.index import search as search_lib
from recall_jax.models import dssm
from recall_jax.models import graph as graph_lib
from recall_jax.run import data as data_lib
from recall_jax.run import experiment as experiment_lib
from recall_jax.run import results as run_results
from recall_jax.run.config import Experiment
from recall_jax.types import InputError

SETTINGS = EvaluateConfig(
    metrics=("hr@3", "recall@5"), select_by="hr@3", indexes=(), batch_size=7
)


class HalfBlind:
    """An index that finds none of the odd rows."""

    @staticmethod
    def build(vectors):
        exact = search_lib.Exact.build(vectors)

        def search(queries, k, exclude=None):
            ids, scores = exact.search(queries, exact.vectors.num, exclude)
            gone = ids % 2 == 1
            order = np.argsort(gone, axis=1, kind="stable")[:, :k]
            ids = np.where(gone, -1, ids)
            scores = np.where(gone, -np.inf, scores)
            return search_lib.Found(
                *(np.take_along_axis(x, order, axis=1) for x in (ids, scores))
            )

        return types.SimpleNamespace(search=search)


class Absent:
    @staticmethod
    def build(vectors):
        raise search_lib.MissingPackage("it is not installed: pip install it")


class Source(log.Config):
    """The random log of the tests."""

    def load(self):
        return make_log()


def experiment(**settings) -> Experiment:
    return Experiment(
        name="untrained",
        data=Source(),
        model=dssm.Config(history_length=5, id_width=4, width=4, hidden=()),
        evaluate=dataclasses.replace(SETTINGS, **settings),
    )


def measured(config) -> dict:
    """Figures of a model as it was initialised."""
    prepared = data_lib.read(config)
    model, tables = config.model.make(prepared.data.schema, nnx.Rngs(0))
    graph, *params = graph_lib.make_graph(model, tables)
    encoder = encode.make_towers(graph)
    return run_results.measure_rows(config, prepared, encoder, params)


@pytest.fixture(scope="module")
def exact() -> dict:
    return measured(experiment())


def random_vectors(data) -> encode.Vectors:
    rng = np.random.default_rng(0)
    return encode.Vectors(
        rng.normal(size=(data.dataset.num_items, 4)).astype(np.float32),
        rng.normal(size=(len(data.test), 4)).astype(np.float32),
    )


# Indexes.


def result_of(**values) -> Result:
    return Result(
        {name: np.array(value, np.float64) for name, value in values.items()},
        lists=None,
        seconds=1.0,
        ranks=None,
    )


def test_what_an_index_costs_is_the_difference_of_the_same_users():
    exact = result_of(hr=[1, 0, 1, 0], mrr=[0, 0, 0, 0])
    differences = run_results.versus(
        result_of(hr=[1, 0, 0, 0], mrr=[0, 0, 0, 1]), exact
    )
    assert (
        differences["hr"]["absolute"] == -0.25 and differences["hr"]["relative"] == -0.5
    )
    assert (
        differences["mrr"]["absolute"] == 0.25
        and differences["mrr"]["relative"] is None
    )
    low, high = differences["hr"]["interval"]
    assert low < -0.25 < high <= 0  # no user gains, whoever is drawn


@pytest.mark.parametrize(
    ("index", "indexes", "wanted"),
    [
        ("exact", (), ["exact"]),
        ("exact", ("approx",), ["exact", "approx"]),
        ("approx", ("approx", "exact"), ["approx", "exact"]),
        ("scann", ("approx", "approx"), ["scann", "exact", "approx"]),
    ],
)
def test_exact_stands_beside_every_index_and_none_twice(
    data, monkeypatch, index, indexes, wanted
):
    monkeypatch.setitem(measure.INDEXES, "scann", HalfBlind)
    config = dataclasses.replace(SETTINGS, index=index, indexes=indexes)
    vectors = random_vectors(data)
    searched = run_results.through_indexes(vectors, data=data, config=config)
    assert list(searched) == wanted
    rows = run_results.as_indexes(searched)
    assert all(
        ("versus_exact" in row) == (name != "exact") for name, row in rows.items()
    )
    for row in rows.values():
        assert row["queries_per_second"] * row["search_seconds"] == pytest.approx(30)
    if index == "scann":
        gap = rows["scann"]["versus_exact"]["recall@5"]["absolute"]
        both = (
            rows["scann"]["metrics"]["recall@5"],
            rows["exact"]["metrics"]["recall@5"],
        )
        assert gap == pytest.approx(both[0] - both[1]) and gap < 0
    if "approx" in rows:  # on a CPU it misses nothing
        assert rows["approx"]["metrics"] == rows["exact"]["metrics"]


def test_a_row_beside_is_left_out_where_its_package_is_missing(
    data, monkeypatch, capsys
):
    monkeypatch.setitem(measure.INDEXES, "scann", Absent)
    config = dataclasses.replace(SETTINGS, indexes=("scann",))
    vectors = random_vectors(data)
    searched = run_results.through_indexes(vectors, data=data, config=config)
    assert list(searched) == ["exact"]
    assert "no row through scann: it is not installed" in capsys.readouterr().out


def test_the_test_row_is_not_left_out_but_refused_before_training(data, monkeypatch):
    monkeypatch.setitem(measure.INDEXES, "scann", Absent)
    config = dataclasses.replace(SETTINGS, index="scann")
    with pytest.raises(
        InputError, match=r"pip install it; or set evaluate\.index=exact"
    ):
        measure.check(config, data)
    measure.check(dataclasses.replace(SETTINGS, indexes=("scann",)), data)


def test_the_test_row_goes_through_the_index_chosen_and_validation_does_not(
    exact, monkeypatch, capsys, tmp_path
):
    monkeypatch.setitem(measure.INDEXES, "scann", HalfBlind)
    rows = measured(experiment(index="scann"))
    assert rows["index"] == "scann"
    assert rows["valid"] == exact["valid"] and rows["baselines"] == exact["baselines"]
    assert rows["test"] == rows["indexes"]["scann"]["metrics"] != exact["test"]
    assert rows["indexes"]["exact"]["metrics"] == exact["test"]
    assert rows["intervals"]["exact"] == exact["intervals"]["test"]
    # Segments and lists are those of the test row.
    assert rows["lists"]["rows"]["test"]["coverage"] == 0.5  # 10 of 20 items
    results = {
        **rows,
        "config": "untrained",
        "protocol": "",
        "seen": "removed",
        "test_ties_shuffled": None,
        "test_refit": None,
        "examples_per_second": 0,
        "epoch_seconds": 1.0,
        "seconds": {},
    }
    summary.show(results, tmp_path)
    printed = capsys.readouterr().out
    for phrase in (
        "untrained, test, through scann",
        "  the same through exact",
        "| scann, test |",
        f"{rows['indexes']['scann']['versus_exact']['recall@5']['absolute']:+.4f} (-",
    ):
        assert phrase in printed
    assert "through scann |" in printed and "the same through scann" not in printed


def test_a_second_model_goes_through_the_same_index(data, monkeypatch):
    arguments = {}
    monkeypatch.setattr(
        measure, "measure_model", lambda *given, **named: arguments.update(named)
    )
    fitted = types.SimpleNamespace(
        state=types.SimpleNamespace(tables=0, dense=0, statistics=0)
    )
    experiment_lib._measure_test(experiment(index="approx"), data, None, fitted)
    assert arguments["index"] == "approx" and arguments["part"] is data.test


# Segments and lists.


def test_segments_of_a_grouping_average_to_the_whole(exact):
    """For every row, each user once; the figure of the whole is that of its parts."""
    for group in exact["segments"].values():
        assert sum(segment["queries"] for segment in group.values()) == 30
        for row in ("test", "popularity", "bigram", "item_knn", "ease"):
            total = sum(s["queries"] * s["rows"][row]["hr@3"] for s in group.values())
            whole = exact["baselines"].get(row, exact["test"])
            assert total / 30 == pytest.approx(whole["hr@3"])
    (light, *_) = exact["segments"]["activity"].values()
    assert light["queries"] < run_results.FEWEST and not light["intervals"]


def test_a_segment_of_enough_users_has_intervals(monkeypatch, exact):
    monkeypatch.setattr(run_results, "FEWEST", 1)
    segments = measured(experiment())["segments"]
    light = segments["activity"]["light"]
    assert light["rows"] == exact["segments"]["activity"]["light"]["rows"]
    low, high = light["intervals"]["popularity"]["hr@3"]
    assert low <= light["rows"]["popularity"]["hr@3"] <= high


def test_lists_are_told_beside_what_was_to_be_found(exact):
    data = data_lib.read(experiment()).data
    assert exact["lists"]["k"] == 5
    rows = exact["lists"]["rows"]
    assert rows.keys() == {"targets", "test", *exact["baselines"]}
    wanted = data.items[data.test.start] - 1
    assert rows["targets"]["coverage"] == len(np.unique(wanted)) / 20
    assert rows["targets"]["popularity_rank"] == pytest.approx(wanted.mean())
    # What is popular is listed first, whoever asks.
    assert min(rows, key=lambda name: rows[name]["popularity_rank"]) == "popularity"
    assert 0 < rows["test"]["gini"] < rows["popularity"]["gini"] < 1


def test_curves_run_from_one_to_the_cut_off_and_agree_with_the_metrics(exact):
    curves = results_lib.curves(exact)
    assert curves.keys() == {"test", "popularity", "bigram", "item_knn", "ease"}
    sizes = 1, 2, 5  # the metrics' largest k is 5: no list is searched for a curve
    for name, row in curves.items():
        kinds = run_results.CURVE_KINDS
        assert list(row.means) == [f"{kind}@{k}" for kind in kinds for k in sizes]
        assert row.means["recall@5"] == results_lib.rows(exact)[name].means["recall@5"]
        rising = [row.means[f"hr@{k}"] for k in sizes]
        assert rising == sorted(rising) and rising[0] < rising[-1]
        # With one target each; and the first place is not discounted.
        assert [row.means[f"recall@{k}"] for k in sizes] == rising
        assert row.means["ndcg@1"] == row.means["hr@1"]
        low, high = row.intervals["hr@5"]
        assert low <= row.means["hr@5"] <= high


def test_rows_of_segments_stand_beside_the_others(exact):
    base = {**exact, "test_ties_shuffled": None, "test_refit": None}
    rows = results_lib.rows(base)
    assert (
        rows["test_head"].queries == base["segments"]["popularity"]["head"]["queries"]
    )
    assert metrics.parse(next(iter(rows["popularity_tail"].means))) == ("hr", 3)


def test_links_and_booked_items_are_metrics_of_a_table():
    booked = {"pairs": 7, "mrr": 0.2, "rank_in_market": 0.4, "pairs_in_market": 5}
    results = {
        "link_auc": {"auc": 0.8, "edges": 3},
        "link_auc_popularity": {"auc": 0.7, "edges": 3},
        "conversions": {
            "all": booked,
            "ordering_in_market": {"pairs": 2, "auc": 0.6},
            "popularity": {"all": {"pairs": 7, "mrr": 0.1}},
        },
    }
    assert results_lib.further(results) == {
        "test": {
            "link_auc": 0.8,
            "booked_mrr": 0.2,
            "booked_rank_in_market": 0.4,
            "market_auc": 0.6,
        },
        "popularity": {"link_auc": 0.7, "booked_mrr": 0.1},
    }
    assert results_lib.further({"link_auc": None, "conversions": None}) == {}


# Validation and test.


def test_each_part_has_its_own_figures():
    """Of an untrained model, the same as each part measured by itself."""
    config = experiment(metrics=("mrr@5",), select_by="mrr@5")
    rows, data = measured(config), data_lib.read(config).data
    model, tables = config.model.make(data.schema, nnx.Rngs(0))
    graph, *params = graph_lib.make_graph(model, tables)
    encoder = encode.make_towers(graph)
    for name, part in (("valid", data.valid), ("test", data.test)):
        alone = measure.measure_model(
            encoder, params, data=data, part=part, config=config.evaluate, index="exact"
        )
        assert rows[name] == alone.means()
    assert rows["valid"] != rows["test"]


def test_baselines_have_the_figures_of_the_test_part(exact):
    data = data_lib.read(experiment()).data
    for name in ("popularity", "bigram"):
        search = getattr(baselines, name)(data, data.test)
        alone = measure.measure_search(
            search, data=data, part=data.test, config=SETTINGS
        )
        assert exact["baselines"][name] == alone.means()


def test_baselines_are_kept_for_the_same_data_measured_alike(data):
    config, calls = experiment(), []
    other = dataclasses.replace(data, items=data.items[::-1].copy())

    def ask(config=config, data=data, of="rows"):
        return run_results._once(
            lambda: calls.append(of) or len(calls), config=config, data=data, of=of
        )

    with run_results.baselines_kept():
        assert [ask(), ask()] == [1, 1]
        assert [ask(data=other), ask(data=other)] == [2, 2]
        assert ask(experiment(seen="kept")) == 3
        assert ask(of="others") == 4
        assert ask() == 1
    assert ask() == 5
