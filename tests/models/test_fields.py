"""How towers read texts and histories by encoders."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_log
from flax import nnx
from marks import slow_but

from recall_jax.data import log as log_lib
from recall_jax.data import prepare
from recall_jax.data import split as split_lib
from recall_jax.losses import negatives
from recall_jax.models import dssm, layers, tower, youtubednn
from recall_jax.run import build as build_lib
from recall_jax.run.config import Experiment
from recall_jax.tables import layout
from recall_jax.training import step as step_lib
from recall_jax.types import InputError

SMALL = {"history_length": 4, "id_width": 4, "feature_width": 3, "width": 4}
TEXTS = ("mean", "attention", "gru", "cnn")
TITLES = [
    "",
    "Heat",
    "Head",
    "Ran",
    "Ran (1985)",
    "Хвост",
    "霸王别姬",
    "deaths a e",
] * 3


@pytest.fixture(scope="module")
def data():
    log = make_log()
    log = dataclasses.replace(
        log,
        users=dataclasses.replace(
            log.users, text={"motto": np.array(["Be bold"] * 30)}
        ),
        items=dataclasses.replace(log.items, text={"title": np.array(TITLES[:20])}),
    )
    split = split_lib.by_protocol(log, config=log_lib.Config())
    return prepare.in_memory(
        split,
        history_length=4,
        min_history=1,
        config=log_lib.Config(text_buckets=500),
    )


def build(module, data, **changes):
    config = dataclasses.replace(module.Config(**SMALL), **changes)
    return config.make(data.schema, nnx.Rngs(0))


def rows_of(data, *titles: str) -> np.ndarray:
    """The first item with each title."""
    codes = [TITLES.index(title) for title in titles]
    return 1 + np.array([np.flatnonzero(data.item_codes == code)[0] for code in codes])


@pytest.mark.parametrize("module", [dssm, youtubednn])
def test_a_text_is_read_only_where_it_is_named(data, module):
    _, tables = build(module, data)
    assert not {"title", "motto"} & {table.name for table in tables}
    _, tables = build(module, data, query=("history", "motto"))
    assert "motto" in {table.name for table in tables}


@pytest.mark.parametrize(
    "side", slow_but(("item_fields",), ("query_tower", "item_fields"))
)
def test_gates_weigh_the_fields_of_both_towers(data, side):
    model, _ = build(dssm, data, gates="senet")
    plain, _ = build(dssm, data)
    assert plain.item_fields.gates is None is plain.query_tower.fields.gates
    fields = model.item_fields if side == "item_fields" else model.query_tower.fields
    columns = data.dataset.item(jnp.arange(1, 9))
    if side == "query_tower":
        columns = data.dataset.batch(jnp.arange(8)).query
    before = fields.parts(columns, model.tables)
    fields.gates.excite.bias[...] = jnp.arange(len(before), dtype=jnp.float32)
    weights = 2 * jax.nn.sigmoid(fields.gates.excite.bias[...])
    for j, after in enumerate(fields.parts(columns, model.tables)):
        np.testing.assert_allclose(after, before[j] * weights[j], rtol=1e-5)


def test_an_id_is_dropped_whole_in_training_and_never_scaled(data):
    model, _ = build(dssm, data, item=("item", "price"), id_dropout=0.5, init_scale=1.0)
    items = data.dataset.item(jnp.tile(jnp.arange(1, 15), 20))
    whole = np.asarray(model.tables["item"](items["item"]))
    model.eval()
    used, price = model.item_fields.parts(items, model.tables)
    np.testing.assert_array_equal(used, whole)
    model.train()
    trained, again = model.item_fields.parts(items, model.tables)
    np.testing.assert_array_equal(again, price)
    gone = ~np.any(np.asarray(trained), axis=-1)
    np.testing.assert_array_equal(trained, np.where(gone[:, None], 0, whole))
    assert 0.4 < gone.mean() < 0.6
    with pytest.raises(InputError, match='"item" is not among price'):
        build(dssm, data, item=("price",), id_dropout=0.5)


@pytest.mark.parametrize("text", slow_but(("gru",), TEXTS))
def test_a_tower_tells_titles_apart_and_knows_equal_ones(data, text):
    model, tables = build(dssm, data, item=("title",), text=text, init_scale=1.0)
    assert [(t.rows, t.width) for t in tables if t.name == "title"] == [(502, 3)]
    items = data.dataset.item(
        rows_of(data, "Heat", "Head", "Ran", "Ran (1985)", "Хвост")
    )
    vectors = np.asarray(model.item(items))
    gaps = np.abs(vectors[:, None] - vectors[None]).max(-1)
    assert (gaps[~np.eye(5, dtype=bool)] > 1e-3).all()
    twins = np.flatnonzero(data.item_codes % 8 == 1) + 1
    same = np.asarray(model.item(data.dataset.item(twins)))
    assert len(twins) == 3 and np.ptp(same, axis=0).max() < 1e-6


def test_only_an_encoder_sees_the_order_of_a_title(data):
    for text in TEXTS:
        model, _ = build(dssm, data, item=("title",), text=text, init_scale=1.0)
        ids = data.dataset.item(rows_of(data, "deaths a e"))["title"]
        length = int((ids > 0).sum())
        turned = ids.at[:, :length].set(ids[:, :length][:, ::-1])
        one, two = (model.item({"title": title}) for title in (ids, turned))
        assert np.allclose(one, two, atol=1e-5) == (text in ("mean", "attention"))


@pytest.mark.parametrize("text", slow_but(("cnn",), TEXTS))
def test_an_item_without_a_title_is_finite_in_value_and_gradient(data, text):
    model, _ = build(dssm, data, item=("title",), text=text, item_hidden=())
    (nameless,) = rows_of(data, "")
    items = data.dataset.item(jnp.array([nameless, 0]))
    (part,) = model.item_fields.parts(items, model.tables)
    assert part.shape == (2, 3) and (part == 0).all()
    graph, state, rest = nnx.split(model, nnx.Param, ...)

    def total(state):
        return (nnx.merge(graph, state, rest).item(items) + 1).sum()

    value, gradient = jax.value_and_grad(total)(nnx.as_pure(state))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("text", slow_but(("attention",), TEXTS))
def test_a_model_trains_on_texts_and_on_every_kind_of_history(data, text):
    config = Experiment(
        name="texts",
        data=log_lib.Config(),
        model=dssm.Config(
            **SMALL,
            text=text,
            query=("history", "motto"),
            item=("item", "title"),
            history=layers.HistoryPool.KINDS,
        ),
        negatives=negatives.NegativesConfig(kind="uniform", num=4),
    )
    built = build_lib.make(config, data, batch_size=16)
    step = jax.jit(
        step_lib.make_step(
            built.graph, objective=built.objective, optimizer=built.optimizer
        )
    )
    hypers = step_lib.make_hypers(
        config.optim, config.loss, config.negatives, num_steps=2
    )
    source = negatives.make_source(data, config.negatives)
    state = built.state
    for start in (0, 16):
        state, metrics = step(state, hypers, source, jnp.arange(start, start + 16))
        assert np.isfinite(metrics["loss"])
    before, after = ((s.tables, s.dense) for s in (built.state, state))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert all(jax.tree.leaves(moved)), moved
    for name in ("title", "motto"):
        rows = layout.whole(state.tables[name])
        (table,) = (x for x in built.graph.tables if x.name == name)
        assert (rows[0] == 0).all() and (rows[table.rows - 1 :] == 0).all()


def test_parts_are_in_order_and_as_wide_as_told(data):
    names = ("price", "title", "item", "tags")
    columns = data.schema.pick(names, side="item")
    config = dssm.Config(**SMALL, text="gru")
    model, _ = build(dssm, data, item=names, text="gru")
    fields = tower.Fields(config, columns, rngs=nnx.Rngs(0))
    items = data.dataset.item(jnp.arange(1, 6))
    parts = fields.parts(items, model.tables)
    assert fields.widths == tuple(part.shape[-1] for part in parts) == (1, 3, 4, 3)
    np.testing.assert_array_equal(parts[0][:, 0], items["price"])
    title = model.tables["title"](items["title"])
    np.testing.assert_array_equal(parts[1], fields.pools[1](title, items["title"] > 0))
    np.testing.assert_array_equal(parts[2], model.tables["item"](items["item"]))
    np.testing.assert_array_equal(
        fields(items, model.tables), np.concatenate(parts, axis=-1)
    )


def test_a_history_by_several_kinds_is_as_wide_as_all_of_them(data):
    history = ("mean", "gru", "cnn")
    model, _ = build(youtubednn, data, query=("gender", "history"), history=history)
    assert model.query_tower.fields.widths == (12, 3)
    full = {"history": jnp.array([[0, 1, 2, 3]]), "gender": jnp.array([1])}
    turned = full | {"history": jnp.array([[0, 3, 2, 1]])}
    assert not np.allclose(model.query(full), model.query(turned))


@pytest.mark.parametrize("module", [dssm, youtubednn])
def test_unknown_kinds_are_named_with_the_choices(data, module):
    with pytest.raises(
        InputError, match="model.text 'bert'; there are: mean, attention"
    ):
        build(module, data, text="bert")
    with pytest.raises(InputError, match="model.history 'lstm'; .* recency, attention"):
        build(module, data, history=("mean", "lstm"))
