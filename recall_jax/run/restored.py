"""A run's chosen model restored, as what encodes, and as what recommends."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recall_jax import schema
from recall_jax.data import columns as columns_lib
from recall_jax.data.arrays import Events
from recall_jax.data.log import Entities, Interactions
from recall_jax.data.prepared import Data
from recall_jax.devices import mesh
from recall_jax.evaluate import encode, measure
from recall_jax.run import build as build_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run.config import Experiment
from recall_jax.serve import recommender
from recall_jax.training import checkpoint
from recall_jax.training import step as step_lib
from recall_jax.types import Columns, InputError


class Restored(NamedTuple):
    """A run's model as it was chosen."""

    encoder: encode.Towers
    params: Any
    step: int  # of the checkpoint


def restore(config: Experiment, data: Data, workdir: pathlib.Path) -> Restored:
    """The encoder and the chosen parameters of a run, nothing trained or written.

    Raises InputError where nothing is chosen yet, or where the data are not the run's.
    """
    if not (workdir / "data.json").exists():
        raise InputError(f"{workdir} holds no run: it has no data.json")
    folder_lib.check_same_data(data, workdir)
    size = config.train.batch_size * data.dataset.span
    built = build_lib.make(config, data, batch_size=size, placement=mesh.outlined)
    like = built.state._replace(slots={})
    snapshot = checkpoint.restore(workdir / "checkpoints", like, kind="best")
    if snapshot is None:
        raise InputError(
            f"{workdir} has no model yet; one is there after the first validation"
        )
    encoder, state = build_lib.make_encoder(config, built), snapshot[0]
    return Restored(encoder, step_lib.params_of(state), int(state.step))


class LoadedRun(NamedTuple):
    """A trained run and the names of its items; all in order of catalogue id."""

    config: Experiment
    data: Data
    ids: np.ndarray  # [V] of str
    titles: np.ndarray | None  # [V] of Python's str
    vectors: np.ndarray  # [V, d] of length 1, or 0
    served: np.ndarray  # [V, d] as the model serves them
    restored: Restored
    users: Entities  # of the log, in its own order (data.user_codes)
    items: Entities  # the same (data.item_codes)


def load(
    config: Experiment, log: Interactions, data: Data, restored: Restored
) -> LoadedRun:
    """A run of which these are the parts."""
    size = config.evaluate.batch_size
    served = encode.encode_items(*restored[:2], data=data, batch_size=size)
    served = np.asarray(served)
    length = np.linalg.norm(served, axis=1, keepdims=True)
    return LoadedRun(
        config,
        data,
        data.vocabularies["item"].ids.astype(str),
        titles_of(log, data),
        served / np.maximum(length, 1e-12),
        served,
        restored,
        log.users,
        log.items,
    )


def titles_of(log: Interactions, data: Data) -> np.ndarray | None:
    """[V] of Python's str, in order of catalogue id; None where items have none."""
    titles = log.items.text.get("title")
    return None if titles is None else titles[data.item_codes].astype(object)


def served(run: LoadedRun, workdir: pathlib.Path) -> recommender.Served:
    """What the run's chosen checkpoint serves."""
    data, query = run.data, jax.jit(Events.query)
    offered = {c.name: c for c in data.schema.query}
    read = reads(run)
    own = {
        name: _feature(column, run)
        for name, column in offered.items()
        if name in read and not _is_made(column)
    }
    encode = functools.partial(
        _encode, run=run, query=query, columns={name: offered[name] for name in own}
    )
    basic_names = {name for name, column in offered.items() if _is_made(column)}
    removed = measure.removes_seen(run.config.evaluate, data)
    return recommender.Served(
        name=f"{run.config.name}, step {run.restored.step:,} of {workdir}",
        item_ids=data.vocabularies["item"].ids,
        item_vectors=run.served,
        titles=run.titles,
        popularity=data.popularity[1:],
        user_ids=data.vocabularies["user"].ids,
        trained_users=data.dataset.known_users,
        history=lambda user: data.items[data.offsets[user] : data.offsets[user + 1]],
        history_length=data.dataset.history_length if "history" in read else 0,
        reads_user="user" in read,
        features=own,
        unread=frozenset(set(offered) - read - basic_names),
        seen="removed" if removed else "kept",
        encode=encode,
    )


def reads(run: LoadedRun) -> set[str]:
    """The query columns that the model reads: those it cannot do without."""
    encoder, params, _ = run.restored
    dataset, one = run.data.dataset, jnp.zeros(1, jnp.int32)
    columns = jax.eval_shape(lambda: dataset.query(one, one))
    names = set()
    for name in columns:
        rest = {other: x for other, x in columns.items() if other != name}
        try:
            jax.eval_shape(encoder.columns, params, dataset, rest)
        except KeyError:
            names.add(name)
    return names


def _is_made(column: schema.Column) -> bool:
    """Of the id, the history, the time; a feature may have such a name where there are
    none."""
    is_history = column.name == "history" and column.kind == "sequence"
    return is_history or column.name == "user" or column.kind == "age"


def _feature(column: schema.Column, run: LoadedRun) -> recommender.Feature:
    if column.kind == "text":
        return recommender.Feature("text")
    if not column.has_ids:
        return recommender.Feature("dense")
    vocabulary = run.data.vocabularies[column.vocabulary]
    return recommender.Feature("categorical", column.width > 0, vocabulary)


def _encode(
    user: int,
    history: np.ndarray,
    given: recommender.Given,
    *,
    run: LoadedRun,
    query,
    columns: dict[str, schema.Column],
) -> np.ndarray:
    """The vector of a user as of the end of his events, with another history or other
    features where these are given; of user 0, whose id and features are unknown."""
    encoder, params, _ = run.restored
    dataset = run.data.dataset
    now = run.data.offsets[user + 1] if user else 0
    row: Columns = query(dataset, np.array([user], np.int32), np.array([now], np.int32))
    if not user:
        row["user"] = jnp.array([dataset.known_users + 1], jnp.int32)
    if length := dataset.history_length:
        last = np.asarray(history, np.int32)[-length:]
        row["history"] = np.pad(last, (length - len(last), 0))[None, :]
    for name, value in given.items():
        row[name] = _as_column(value, columns[name], run=run)[None, ...]
    return np.asarray(encoder.columns(params, dataset, row)[0])


def _as_column(value, column: schema.Column, *, run: LoadedRun) -> np.ndarray:
    """A feature that was given, as the query tower reads it."""
    if not column.has_ids:
        return np.float32((value - column.mean) / column.scale)
    if column.kind == "text":
        ids = columns_lib.trigram_ids([value], buckets=column.rows - 2).values
    else:
        vocabulary = run.data.vocabularies[column.vocabulary]
        ids = vocabulary.lookup(vocabulary.encode(value))
    if not column.width:
        return ids[0] if len(ids) else np.int32(0)
    if column.kind == "sequence":  # the last of them, padded on the left
        kept = ids[-column.width :]
        return np.pad(kept, (column.width - len(kept), 0))
    kept = ids[: column.width]
    return np.pad(kept, (0, column.width - len(kept)))
