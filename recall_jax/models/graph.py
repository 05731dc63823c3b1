"""A model as pure functions of its parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from recall_jax.schema import Table
from recall_jax.tables.rows import TableParam
from recall_jax.types import Key, Model


class Graph(NamedTuple):
    """A model's definition apart from its state, for training and for use."""

    train: nnx.GraphDef
    use: nnx.GraphDef
    random: Any  # the state of dropout's streams, overwritten each step
    tables: tuple[Table, ...]
    capacity: dict[str, int] | None = None  # of tables over devices (`exchange`)

    def model(self, tables: dict[str, Array], dense: Any, statistics: Any) -> Model:
        """The model as it is used: no dropout, batch norm by its running statistics."""
        return nnx.merge(self.use, _nest(tables), dense, statistics, self.random)

    def training_model(
        self, tables: dict[str, Array], dense: Any, statistics: Any, *, key: Key
    ) -> Model:
        """The model as it is trained: dropout draws from `key`, batch norm goes by the
        batch and moves its running statistics, which `statistics_of` reads."""
        leaves, treedef = jax.tree.flatten(self.random)
        fresh = [
            jax.random.fold_in(key, j)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros_like(leaf)
            for j, leaf in enumerate(leaves)
        ]
        random = jax.tree.unflatten(treedef, fresh)
        return nnx.merge(self.train, _nest(tables), dense, statistics, random)


def _nest(tables: dict[str, Array]) -> dict:
    return {"tables": {name: {"table": table} for name, table in tables.items()}}


def statistics_of(model: Model) -> Any:
    """The running statistics as a training model has left them."""
    return jax.lax.stop_gradient(nnx.as_pure(nnx.state(model, nnx.BatchStat)))


class ModelParts(NamedTuple):
    """A fresh model apart: its graph, and the state that training changes."""

    graph: Graph
    tables: dict[str, Float[Array, "64 rows d"]]
    dense: Any
    statistics: Any


def make_graph(model: nnx.Module, tables: tuple[Table, ...]) -> ModelParts:
    """The graph and the parameters of a fresh model."""
    model.train()
    # No "...": a kind of state that nobody here would update must not slip in.
    train, *states = nnx.split(
        model, TableParam, nnx.Param, nnx.BatchStat, nnx.RngState
    )
    nested, dense, statistics, random = map(nnx.as_pure, states)
    model.eval()
    use = nnx.graphdef(model)
    rows = {name: leaf["table"] for name, leaf in nested["tables"].items()}
    return ModelParts(Graph(train, use, random, tables), rows, dense, statistics)
