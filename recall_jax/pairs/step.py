"""One training step of an item-to-item model on blocks of pairs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recall_jax.devices import mesh
from recall_jax.models.graph import Graph
from recall_jax.models.itemwise import PairsConfig
from recall_jax.pairs import corpus, skipgram
from recall_jax.pairs.corpus import Block, PairData
from recall_jax.tables import lookup
from recall_jax.training import step as step_lib
from recall_jax.training.step import Optimizer, TrainState
from recall_jax.types import Columns, Hypers

Step = Callable[
    [TrainState, Hypers, PairData, Int[Array, "g"]], tuple[TrainState, Columns]
]


def make_step(graph: Graph, *, config: PairsConfig, optimizer: Optimizer) -> Step:
    """A pure (state, hypers, source, rows) -> (state, metrics), as `step.make_step`'s.

    The model has `item(columns)`, h of the items' own columns, and `context(columns)`, z
    of the column "context". A table of it may read the items' ids under a name of its
    own, which no column of the data has.
    """

    def step(state: TrainState, hypers: Hypers, source: PairData, example):
        block, model_key = _draw(config, state, source, example)
        columns = columns_of(config, block, source=source, graph=graph)
        looked = step_lib.look_up(state, columns, graph=graph)

        def loss_of(params):
            rows, dense, _ = params
            model = graph.training_model(rows, dense, state.statistics, key=model_key)
            total, count = total_loss(config, model, looked.columns, block=block)
            return total / jnp.maximum(count, 1.0)

        params = (looked.rows, state.dense, state.loss)
        loss, gradients = jax.value_and_grad(loss_of)(params)
        state, norm = step_lib.apply_gradients(
            state,
            gradients,
            looked=looked,
            hypers=hypers,
            optimizer=optimizer,
            graph=graph,
        )
        metrics = {"loss": loss, "gradient_norm": norm}
        return state, metrics | lookup.rounds(looked)

    return step


def make_reader(graph: Graph, *, config: PairsConfig) -> step_lib.Reader:
    """The columns that `make_step`'s step reads tables by."""

    def columns(state: TrainState, source: PairData, example):
        block, _ = _draw(config, state, source, example)
        return columns_of(config, block, source=source, graph=graph)

    return columns


def _draw(config: PairsConfig, state: TrainState, source: PairData, example):
    """The blocks of a step, and the key of the model's own draws."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    draw_key, model_key = jax.random.split(key)
    block = corpus.draw(config, source, example, draw_key)
    return mesh.by_device_rows(block), model_key


def columns_of(
    config: PairsConfig, block: Block, *, source: PairData, graph: Graph
) -> Columns:
    """What the model reads: the columns of the items that have input vectors, and the
    ids of all that have context vectors, end to end."""
    item, context = block.center, block.context
    if config.objective == "cbow":
        item, context = context, item
    targets = [context.ravel(), block.negative.ravel()]
    targets += [x.ravel() for x in (block.booked, block.market) if x is not None]
    unknown_id = source.dataset.known_items + 1
    columns = mesh.by_device_rows(source.dataset.item(item))
    joined = mesh.join(targets, groups=mesh.num_devices())
    columns["context"] = jnp.minimum(joined, unknown_id)
    names = {name for table in graph.tables for name in table.reads}
    return {name: columns.get(name, columns["item"]) for name in names}


def total_loss(
    config: PairsConfig, model: Any, columns: Columns, *, block: Block
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The weighted sum of all terms, and the number of pairs (of predictions, in CBOW)."""
    item, target = model.item(columns), model.context(columns)
    cbow = config.objective == "cbow"
    context = block.center if cbow else block.context
    sizes = [context.size, block.negative.size]
    sizes += [x.size for x in (block.booked, block.market) if x is not None]
    context_vector, negative, *more = mesh.cut(target, sizes, groups=mesh.num_devices())
    context_vector = context_vector.reshape(*context.shape, -1)
    negative = negative.reshape(*block.negative.shape, -1)
    loss_inputs = {"pairs": block.pairs, "num_negatives": config.num_negatives}
    if cbow:
        count = jnp.sum(block.pairs.any(axis=-1), dtype=jnp.float32)
        loss = skipgram.cbow_block_loss(item, context_vector, negative, **loss_inputs)
        return loss, count
    total = skipgram.block_loss(item, context_vector, negative, **loss_inputs)
    more = iter(more)
    is_token = block.center > 0
    if block.booked is not None:
        booked = next(more).reshape(item.shape)
        where = is_token & (block.booked > 0) & (block.booked != block.center)
        term = skipgram.global_context_loss(item, booked, where=where)
        total += config.global_context * term
    if block.market is not None:
        market = next(more).reshape(*block.market.shape, -1)
        where = is_token[..., None] & block.in_market
        where &= block.market != block.center[..., None]
        term = skipgram.same_market_loss(item, market, where=where)
        total += config.market_weight * term
    return total, jnp.sum(block.pairs, dtype=jnp.float32)
