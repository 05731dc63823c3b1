"""Prediction of links: what is held out of the graph, and how a run measures it."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from conftest import make_data
from test_configs import shrunk

from experiments.common import cells, cli, summaries, summary, tabulate
from recall_jax.data.log import Entities, Interactions
from recall_jax.data.sources import movielens
from recall_jax.evaluate import encode
from recall_jax.models.itemwise import PairsConfig
from recall_jax.pairs import corpus as corpus_lib
from recall_jax.pairs.corpus import Links
from recall_jax.run import data as data_lib
from recall_jax.run import restored as restored_lib
from recall_jax.types import InputError

THIRD = {"corpus": "walks", "removed_share": 1 / 3}
GRAPHS = ("transitions", "co_occurrence")


def edges_of(graph) -> set[tuple[int, int]]:
    """Of either direction, the smaller id first."""
    return {tuple(sorted(edge)) for edge in zip(graph.source.tolist(), targets(graph))}


def targets(graph) -> list[int]:
    return np.asarray(graph.target).tolist()


def as_set(ends: np.ndarray) -> set[tuple[int, int]]:
    return {tuple(sorted(pair)) for pair in ends.tolist()}


@pytest.fixture(scope="module")
def sparse():
    """Data of a graph with many pairs that are no edges, some directed both ways."""
    return make_data(users=40, items=60, events=500)


@pytest.mark.parametrize("graph", GRAPHS)
def test_no_removed_edge_is_in_the_graph_that_is_walked_in_either_direction(
    sparse, graph
):
    config = PairsConfig(graph=graph, **THIRD)
    whole = dataclasses.replace(config, removed_share=0.0)
    trained = edges_of(corpus_lib.make_corpus(sparse, config).source.graph)
    every = edges_of(corpus_lib.make_corpus(sparse, whole).source.graph)
    links = corpus_lib.make_links(sparse, config)

    removed, others = as_set(links.removed), as_set(links.non_edges)
    assert removed and not removed & trained
    assert removed | trained == every
    assert len(removed) == len(links.removed) == round(len(every) / 3)
    assert len(others) == len(links.non_edges) == len(removed)
    assert not others & every and all(a != b for a, b in others)


def test_a_direct_step_over_a_removed_edge_is_never_walked(sparse):
    config = PairsConfig(walks_per_item=20, **THIRD)
    corpus = corpus_lib.make_corpus(sparse, config)
    rows = np.arange(corpus.num_rows) * config.walk_length
    block = corpus_lib.draw(
        config, corpus.source, jax.numpy.asarray(rows), jax.random.key(0)
    )
    walked = {
        tuple(sorted(step))
        for walk in np.asarray(block.context).tolist()
        for step in itertools.pairwise(walk)
        if 0 not in step
    }
    assert len(walked) > 100
    assert not walked & as_set(corpus_lib.make_links(sparse, config).removed)


def test_links_are_the_same_each_time_and_others_by_another_seed(sparse):
    def links_of(seed) -> Links:
        return corpus_lib.make_links(sparse, PairsConfig(removed_seed=seed, **THIRD))

    for one, same, other in zip(links_of(1), links_of(1), links_of(2)):
        np.testing.assert_array_equal(one, same)
        assert as_set(one) != as_set(other)


def test_auc_of_links_asks_the_score_for_both_ends_of_each_pair():
    links = Links(np.array([[1, 2], [3, 4]]), np.array([[1, 4], [1, 1]]))
    figures = corpus_lib.link_auc(links, lambda ends: ends.prod(axis=1).astype(float))
    assert figures == {"auc": 0.75, "edges": 2}  # 2 and 12 against 4 and 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"removed_share": 1.0},
            "removed_share is 1.0; it must be at least 0 and below 1",
        ),
        ({"removed_share": -0.1}, "removed_share is -0.1; it must be at least 0"),
        (
            {"removed_share": float("nan")},
            "removed_share is nan; it must be a finite number",
        ),
        ({"corpus": "sequences"}, "only model.pairs.corpus=walks has"),
        ({"removed_seed": -1}, "removed_seed is -1; it must be at least 0"),
        ({"p": float("nan")}, "p is nan; it must be a finite number"),
        ({"removed_share": 1e-9}, "leaves none to predict"),
        ({"removed_share": 1 - 1e-9}, "none to walk on"),
    ],
)
def test_what_cannot_be_removed_is_told_before_training(sparse, changes, message):
    with pytest.raises(InputError, match=message):
        corpus_lib.make_corpus(sparse, PairsConfig(**(THIRD | changes)))


def test_a_graph_with_too_few_pairs_without_an_edge_is_refused_before_training():
    dense = make_data(users=30, items=8, events=220)
    message = "removed_share 0.33.*pairs without an edge asked for.*; lower it"
    with pytest.raises(InputError, match=message):
        corpus_lib.make_corpus(dense, PairsConfig(graph="co_occurrence", **THIRD))


def test_without_removed_edges_there_are_no_links(sparse):
    with pytest.raises(InputError, match="nothing was removed"):
        corpus_lib.make_links(sparse, PairsConfig(corpus="walks"))


# Runs.


def planted() -> Interactions:
    """People who stay among the twelve items of one of eight circles, most of the time
    going on to one of the next three of its circle; all items are as popular."""
    rng = np.random.default_rng(0)
    users, circles, size, length = 240, 8, 12, 12
    steps = rng.integers(1, 4, (users, length))
    steps[:, 0] = rng.integers(size, size=users)
    item = steps.cumsum(axis=1) % size + size * (np.arange(users) % circles)[:, None]
    return Interactions(
        user=np.repeat(np.arange(users), length).astype(np.int32),
        item=item.ravel().astype(np.int32),
        users=Entities(np.arange(users)),
        items=Entities(
            np.arange(circles * size),
            {"genres": rng.integers(3, size=circles * size)},
            {"title": np.array([f"film {j}" for j in range(circles * size)])},
        ),
        time=np.tile(np.arange(length), users).astype(np.int64),
        source="circles",
    )


def links_config(**changes):
    config = cli.load_config("eges_ml1m")
    pairs = dataclasses.replace(config.model.pairs, walk_length=6, **THIRD)
    pairs = dataclasses.replace(pairs, shared_negatives=32, **changes)
    return dataclasses.replace(
        config,
        data=movielens.Config(),
        model=dataclasses.replace(
            config.model, width=16, side=("genres",), pairs=pairs
        ),
        train=dataclasses.replace(config.train, epochs=3, batch_size=16),
        evaluate=dataclasses.replace(config.evaluate, indexes=()),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, kept_programs):
    """Config, folder and results of a run on the planted circles; nobody writes there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(movielens.Config, "load", lambda self: planted())
        workdir, config = tmp_path_factory.mktemp("links"), links_config()
        yield config, workdir, summary.train(config, workdir)


def test_removed_edges_of_a_planted_graph_are_found_and_popularity_does_not(finished):
    _, _, results = finished
    links, popularity = results["link_auc"], results["link_auc_popularity"]
    assert links["auc"] > 0.8 and abs(popularity["auc"] - 0.5) < 0.2
    assert links["edges"] == popularity["edges"] > 50


def test_the_auc_is_of_inner_products_of_the_vectors_that_are_served(finished):
    config, workdir, results = finished
    data = data_lib.read(config).data
    encoder, params, _ = restored_lib.restore(config, data, workdir)
    vectors = encode.encode_items(encoder, params, data=data, batch_size=7)
    links = corpus_lib.make_links(data, config.model.pairs)
    for name, score in {
        "link_auc": np.asarray(vectors) @ np.asarray(vectors).T,
        "link_auc_popularity": np.outer(data.popularity[1:], data.popularity[1:]),
    }.items():
        up, down = (score[ends[:, 0] - 1, ends[:, 1] - 1] for ends in links)
        gaps = up[:, None].astype(float) - down
        by_hand = np.mean((gaps > 0) + 0.5 * (gaps == 0))
        np.testing.assert_allclose(results[name]["auc"], by_hand, atol=2e-3)


def test_a_summary_and_a_table_show_it(finished, capsys):
    config, workdir, results = finished
    summary.show(results, workdir)
    auc, popularity = (
        f"{results[name]['auc']:.4f}" for name in ("link_auc", "link_auc_popularity")
    )
    assert (
        f"links      auc {auc}, by popularity {popularity}: " in capsys.readouterr().out
    )
    data = json.loads((workdir / "data.json").read_text())
    entry = cli.Entry("eges_ml1m", {}, {}, config)
    cell = cells.Cell(entry, config, workdir, results, data)
    header, _, *lines = [
        [part.strip() for part in line.split("|")]
        for line in tabulate.as_text(summaries.summarize([cell])).splitlines()
        if line.startswith("|")
    ]
    shown = {line[1]: line[header.index("link_auc")] for line in lines}
    assert shown["eges_ml1m"] == auc and shown["popularity"] == popularity
    assert shown["item knn"] == ""
    text = tabulate.as_csv([cell])
    assert f",test,link_auc,{results['link_auc']['auc']}" in text


def test_a_run_that_removes_nothing_measures_no_links(tmp_path, capsys):
    results = summary.train(shrunk(cli.load_config("eges_synthetic")), tmp_path)
    assert "link_auc" not in results and "links  " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("loss.temperature", 0.2, "config.loss.temperature says nothing to a model"),
        (
            "negatives.kind",
            "uniform",
            "config.negatives.kind says .* Set it to 'in_batch'",
        ),
        ("model.pairs.window", 0, "model.pairs.window is 0"),
    ],
)
def test_fields_that_pairs_do_not_heed_are_told_before_the_data_is_read(
    path, value, message, monkeypatch
):
    config = cli.load_config("eges_synthetic")
    *groups, field = path.split(".")
    group = config
    for name in groups:
        group = getattr(group, name)
    setattr(group, field, value)
    monkeypatch.setattr(type(config.data), "load", lambda self: pytest.fail("read"))
    with pytest.raises(InputError, match=message):
        data_lib.read(config)
