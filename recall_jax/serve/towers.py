"""A trained model split into its two towers: programs of jax.export, each with the
weights and the columns that it reads."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.extend import core

from recall_jax.data.arrays import Events
from recall_jax.data.prepared import Data
from recall_jax.evaluate import encode
from recall_jax.models.graph import Graph
from recall_jax.schema import Column
from recall_jax.types import Columns, InputError

PLATFORMS = ("cpu", "cuda", "tpu")
BLOCK = 65_536  # users whose columns are gathered at a time


class ExportSource(NamedTuple):
    """A trained model and what belongs to it; `params` as an encoder takes them."""

    encoder: encode.Towers
    params: Any
    data: Data
    name: str  # of its config
    titles: np.ndarray | None = None  # [V] in order of catalogue id
    seen: str = "removed"  # what lists do with items that a user met, or "kept"


class Tower(NamedTuple):
    """A tower apart. `gather` takes a data set and what names its rows (items: catalogue
    ids; queries: users and the positions where their histories end) to columns."""

    program: bytes  # (weights, columns) -> vectors float32 [b, d], for any b
    weights: dict[str, jax.Array]
    columns: list[dict[str, Any]]  # their specification, in the order of their names
    width: int  # d
    gather: Callable[..., Columns]


def split_towers(graph: Graph, params: Any, data: Data) -> dict[str, Tower]:
    """The towers "query" and "item" of a trained model, as they are used.

    The query tower of a model of items reads the columns of its history's items: the ids
    as `history`, a feature x as `history_x`.
    """
    model = graph.model(*params)
    on_items = hasattr(model, "user_vector")
    gathers = {
        "query": functools.partial(query_columns, on_items=on_items),
        "item": Events.item,
    }
    functions = {
        "query": _query_of_items if on_items else _query,
        "item": _served_item if hasattr(model, "item_vector") else _item,
    }
    return {
        side: _export(
            _on_weights(functions[side], graph=graph, params=params),
            weights=_named(params),
            gather=gathers[side],
            data=data,
            side=side,
            # Such a query tower reads no column of users, whatever those are called.
            own=() if on_items and side == "query" else getattr(data.schema, side),
        )
        for side in ("query", "item")
    }


def query_columns(
    dataset: Events, user: jax.Array, position: jax.Array, *, on_items: bool
) -> Columns:
    """What a query tower may read of users [b] whose histories end at positions [b]."""
    if not on_items:
        return dataset.query(user, position)
    ids = dataset.past(user, position, length=dataset.history_length)
    columns = dataset.item(ids)
    features = {f"history_{name}": c for name, c in columns.items() if name != "item"}
    return {"history": columns["item"], **features}


def history_ends(data: Data, users: np.ndarray) -> np.ndarray:
    """Where each user's whole history ends, what was held out for tests included."""
    return data.offsets[users + 1].astype(np.int32)


def _query(model, columns: Columns) -> jax.Array:
    vectors = model.query(columns)
    return vectors[:, -1] if vectors.ndim == 3 else vectors  # the last position's


def _query_of_items(model, columns: Columns) -> jax.Array:
    ids = columns["history"]
    items = {name.removeprefix("history_"): c for name, c in columns.items()}
    items["item"] = items.pop("history")
    return model.user_vector(model.item_vector(items), ids != 0)


def _item(model, columns: Columns) -> jax.Array:
    return model.item(columns)


def _served_item(model, columns: Columns) -> jax.Array:
    return model.item_vector(columns)


def _named(params: Any) -> dict[str, jax.Array]:
    """Weights by where they stand among a model's parameters."""
    kinds = ("tables", "dense", "statistics")
    leaves = jax.tree_util.tree_flatten_with_path(dict(zip(kinds, params)))[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in leaves
    }


def _on_weights(function: Callable, *, graph: Graph, params: Any) -> Callable:
    """`function` of a model as one of named weights; those that are not given are not
    read."""
    kinds = ("tables", "dense", "statistics")
    structure, leaves = jax.tree.structure(dict(zip(kinds, params))), _named(params)
    shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}

    @jax.default_matmul_precision("highest")
    def run(weights: dict[str, jax.Array], columns: Columns) -> jax.Array:
        leaves = [
            weights[name] if name in weights else jnp.zeros(*shape)
            for name, shape in shapes.items()
        ]
        state = jax.tree.unflatten(structure, leaves)
        model = graph.model(*(state[kind] for kind in kinds))
        return function(model, columns).astype(jnp.float32)

    return run


def _export(
    function: Callable,
    *,
    weights: dict[str, jax.Array],
    gather: Callable[..., Columns],
    data: Data,
    side: str,
    own: Sequence[Column],
) -> Tower:
    one = jax.ShapeDtypeStruct((1,), np.int32)
    rows = (one,) if side == "item" else (one, one)
    shapes = jax.eval_shape(gather, data.dataset, *rows)
    read_weights, read_columns = _read(function, weights, shapes)
    weights = {name: weights[name] for name in sorted(read_weights)}
    if wrong := [name for name, x in weights.items() if x.dtype.kind not in "fiu"]:
        raise InputError(f"the weight {wrong[0]} is of a type that NumPy cannot store")
    (b,) = jax_export.symbolic_shape("b")
    columns = {
        name: jax.ShapeDtypeStruct((b, *shapes[name].shape[1:]), shapes[name].dtype)
        for name in sorted(read_columns)
    }
    like = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in weights.items()}
    with _without_source():
        exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(
            like, columns
        )
    try:
        program = bytes(exported.serialize())
    except ImportError as problem:
        raise InputError(
            "jax writes its exported programs with flatbuffers; install it: pip install "
            "flatbuffers"
        ) from problem
    specified = [
        _specified(name, columns[name], data=data, side=side, own=own)
        for name in columns
    ]
    width = exported.out_avals[0].shape[-1]
    return Tower(program, weights, specified, width, gather)


@contextlib.contextmanager
def _without_source():
    """Programs lowered inside name no file and no line: they hold none of a machine's
    paths, and are the same wherever they are made."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _read(function: Callable, weights, columns) -> tuple[set[str], set[str]]:
    """Names of the weights and the columns that the result depends on."""
    jaxpr = jax.make_jaxpr(function)(weights, columns).jaxpr
    live = {x for x in jaxpr.outvars if isinstance(x, core.Var)}
    for equation in reversed(jaxpr.eqns):
        if live.intersection(equation.outvars):
            live.update(x for x in equation.invars if isinstance(x, core.Var))
    # JAX passes the values of a dict in the order of its keys.
    used = [x in live for x in jaxpr.invars]
    names, other = sorted(weights), sorted(columns)
    read = {name for name, use in zip(names, used) if use}
    return read, {name for name, use in zip(other, used[len(names) :]) if use}


def _specified(
    name: str,
    shape: jax.ShapeDtypeStruct,
    *,
    data: Data,
    side: str,
    own: Sequence[Column],
) -> dict[str, Any]:
    """A column's entry in the specification; `own` are those of the side that it may be.

    `of` says where its values come from: "query" or "item", a feature of the user or of
    the item; "history", the item column `column` at each item of the history; "now", 0.
    """
    own = {column.name: column for column in own}
    items = {column.name: column for column in data.schema.item}
    of, source = side, name
    if name not in own:  # of a history's items
        of, source = "history", name.removeprefix("history_")
    is_history = name not in own or own[name].kind == "sequence"
    if side == "query" and name == "history" and is_history:
        of, source = "history", "item"
    column = items[source] if of == "history" else own[name]
    entry = {
        "name": name,
        "dtype": str(shape.dtype),
        "shape": ["b", *shape.shape[1:]],
        "kind": _kind(column),
        "of": "now" if column.kind == "age" else of,
        "column": source,
        "vocabulary": column.vocabulary if _has_vocabulary(column) else None,
    }
    if column.has_ids:
        sequence = of == "history" or column.kind == "sequence"
        padded = {"padding": 0, "padding_side": "left" if sequence else "right"}
        return entry | padded | {"unknown": column.rows - 1}
    return entry | {"mean": column.mean, "scale": column.scale}


def _has_vocabulary(column: Column) -> bool:
    """Not of a text: the ids of its trigrams are made by hashing."""
    return column.has_ids and column.kind != "text"


def _kind(column: Column) -> str:
    """Of values: one id or several ("categorical"), ids in their order ("sequence"),
    hashed trigrams ("text"), a number ("dense"), the age of an example ("age")."""
    if column.kind != "feature":
        return column.kind
    return "categorical" if column.has_ids else "dense"


def write_programs(folder: pathlib.Path, split: dict[str, Tower]) -> dict[str, Any]:
    """Files of both towers, and their entry in the specification."""
    (folder / "weights").mkdir()
    names = sorted({name for tower in split.values() for name in tower.weights})
    # A name may hold that of a column, which need not be one of a file.
    files = {name: f"weights/{j}.npy" for j, name in enumerate(names)}
    for side, tower in split.items():
        (folder / f"{side}.jax").write_bytes(tower.program)
        for name, weight in tower.weights.items():
            path = folder / files[name]
            if not path.exists():  # both towers may read it
                np.save(path, np.asarray(weight), allow_pickle=False)
    return {
        side: {
            "program": f"{side}.jax",
            "arguments": "({weight name: array}, {column name: array [b, ...]})",
            "weights": [
                {
                    "name": name,
                    "file": files[name],
                    "dtype": str(weight.dtype),
                    "shape": list(weight.shape),
                }
                for name, weight in tower.weights.items()
            ],
            "columns": tower.columns,
            "width": tower.width,
        }
        for side, tower in split.items()
    }


def write_columns(
    folder: pathlib.Path, split: dict[str, Tower], data: Data
) -> dict[str, dict[str, str]]:
    """What the towers read of each user and item, by catalogue id, row 0 padding; their
    files by side and name, for the specification."""
    (folder / "columns").mkdir()
    query = split["query"].columns
    of_users = [column["name"] for column in query if column["of"] == "query"]
    of_items = {column["column"] for column in query if column["of"] == "history"}
    of_items |= {column["name"] for column in split["item"].columns}
    columns = {
        "query": _user_rows(data, of_users, gather=split["query"].gather),
        "item": data.dataset.item(jnp.arange(data.dataset.num_items + 1)),
    }
    files = {
        side: {name: f"columns/{side}-{j}.npy" for j, name in enumerate(names)}
        for side, names in (("query", of_users), ("item", sorted(of_items)))
    }
    for side, named in files.items():
        for name, file in named.items():
            array = np.asarray(columns[side][name])
            np.save(folder / file, array, allow_pickle=False)
    return files


def _user_rows(data: Data, names: list[str], *, gather: Callable) -> dict:
    """These columns of all users as of the end of their histories."""
    users = np.arange(1, len(data.user_codes) + 1, dtype=np.int32)
    if not names:
        return {}

    @jax.jit
    def read(dataset, users, position):
        columns = gather(dataset, users, position)
        return {name: columns[name] for name in names}

    blocks = [
        read(data.dataset, block, history_ends(data, block))
        for block in np.split(users, range(BLOCK, len(users), BLOCK))
    ]
    return {
        name: np.concatenate(
            [np.zeros_like(blocks[0][name][:1]), *(block[name] for block in blocks)]
        )
        for name in names
    }
