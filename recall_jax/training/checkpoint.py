"""Save and restore a training state: each checkpoint is whole or absent.

    folder/latest/000012-step-4800/   for resuming, the last two
    folder/best/000009-step-3600/     for evaluation and export, one
        state/         the arrays, written by Orbax; one process packs small ones (`pack`)
        record.json    progress; shape and type of each leaf; SHA-256 of each file

A checkpoint is made in a hidden folder, forced to disk, and only then renamed; what it
replaces is removed after that. So whatever interrupts a save (a kill, a full disk), the
checkpoints before it are still there. The first number counts saves: the newest
checkpoint is the one saved last, also where a resumed run passes a step again.
"""

import functools
import json
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from recall_jax import files
from recall_jax.devices import processes
from recall_jax.types import InputError

KEPT = {"latest": 2, "best": 1}


class SaveError(OSError):
    """A checkpoint could not be written; those before it are untouched."""


def save(folder: Path, state: Any, *, kind: str, step: int, progress: dict) -> None:
    """Write `state` (a tree of arrays; of one process, NumPy's too) and `progress` (a
    JSON object) as one checkpoint.

    On return it is complete and on disk; checkpoints of the same step and of later ones
    are gone: they belong to a run that was cut off. Only the holder of the run's `lock`
    may save. All processes of a multi-process run call it, on one shared file system.
    Raises SaveError where the disk is full.
    """
    parent, leaves = _parent(folder, kind), _leaves(state)
    record = {"step": int(step), "progress": progress, "packed": {}}
    record["leaves"] = _described(leaves)
    # Orbax refuses arrays without elements; their shape in the record is all of them.
    arrays = {name: leaf for name, leaf in leaves.items() if leaf.size}
    if processes.count() == 1:
        arrays, record["packed"] = pack(arrays)
    json.dumps(record)  # what JSON cannot hold fails here, before anything is written
    building = parent / f".building-{step}"
    for stage in (
        functools.partial(_begin, folder, building),
        functools.partial(_write_arrays, building / "state", arrays),
        functools.partial(_join_arrays, building / "state"),
        functools.partial(_publish, building, record),
    ):
        _in_all(stage, building, step=step)


def _in_all(stage: Callable[[], None], building: Path, *, step: int) -> None:
    """A part of a save in every process; where it fails in one, it fails in all."""
    reason, cause = None, None
    try:
        stage()
    except (OSError, ValueError) as problem:  # TensorStore's full disk is a ValueError
        reason, cause = _reason(problem), problem
    reasons = [said for said in processes.gathered(reason) if said]
    if reasons:
        if processes.is_first():
            shutil.rmtree(building, ignore_errors=True)
        raise SaveError(
            f"step {step} could not be saved: {reasons[0]}. The checkpoints in "
            f"{building.parent} are intact: make room, then start again to resume"
        ) from cause


def _reason(problem: Exception) -> str:
    code = re.search(r"os_error_code='(\d+)'", str(problem))
    plain = getattr(problem, "strerror", None) or str(problem)
    return os.strerror(int(code[1])) if code else plain


def restore(folder: Path, like: Any, *, kind: str) -> tuple[Any, dict] | None:
    """The newest good checkpoint as (state, progress), or None if there is none at all.

    `like` is a state of the wanted shapes, of arrays or jax.ShapeDtypeStruct; every leaf
    comes back on the devices of its leaf in `like`, whatever devices it was saved from.
    A damaged checkpoint is passed over with a warning. Raises InputError if a leaf's
    shape or type differs, or if there are checkpoints and all are damaged.
    """
    return _restored(folder, like, kind=kind, place=_placed)


def restore_on_host(folder: Path, like: Any, *, kind: str) -> tuple[Any, dict] | None:
    """As `restore`, of shapes that are tied to no device; each leaf is NumPy's, so that
    what is larger than one device can be split over several."""
    return _restored(folder, like, kind=kind, place=lambda value, _: np.asarray(value))


def _restored(
    folder: Path, like: Any, *, kind: str, place: Callable
) -> tuple[Any, dict] | None:
    parent = _parent(folder, kind)
    leaves = _described(_leaves(like))
    newest = processes.of_first(lambda: _newest_whole(parent, leaves))
    if newest is None:
        return None
    name, record = newest
    packs = record["packed"]  # none of several processes: each leaf by itself
    state = _read_arrays(parent / name / "state", like, packs=packs, place=place)
    return state, record["progress"]


def exists(folder: Path, *, kind: str) -> bool:
    """Whether there are checkpoints, damaged ones among them."""
    return processes.of_first(lambda: bool(_newest_first(_parent(folder, kind))))


def outline(array: jax.Array) -> jax.ShapeDtypeStruct:
    """What `restore` needs to know of an array."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=_sharding(array))


def latest_step(folder: Path) -> int | None:
    """Step of the newest `latest` checkpoint, read off its name; None without one."""
    return next(map(_step, _newest_first(_parent(folder, "latest"))), None)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed saves left half written. For the holder of the `lock` only."""
    for kind in KEPT:
        for path in _parent(folder, kind).glob(".*"):
            shutil.rmtree(path, ignore_errors=True)


def _parent(folder: Path, kind: str) -> Path:
    if kind not in KEPT:
        raise InputError(f"kind is one of {', '.join(KEPT)}, not {kind!r}")
    return Path(folder).absolute() / kind


def _newest_first(parent: Path) -> list[Path]:
    return sorted(parent.glob("[0-9]*-step-*[0-9]"), reverse=True)


def _newest_whole(parent: Path, leaves: dict[str, str]) -> tuple[str, dict] | None:
    """Name and record of the newest good checkpoint, which must hold these leaves."""
    damage = None
    for path in _newest_first(parent):
        try:
            record = _verified_record(path)
        except (OSError, ValueError) as problem:
            damage = f"{path} is damaged ({problem})"
            warnings.warn(f"{damage}; trying the checkpoint before it", stacklevel=5)
            continue
        _check_same_leaves(record["leaves"], leaves, path)
        return path.name, record
    if damage:
        raise InputError(
            f"no checkpoint in {parent} is whole: {damage}; bring a copy back, or remove "
            "the folder to begin again"
        )
    return None


def _step(path: Path) -> int:
    return int(path.name.split("-")[-1])


def _begin(folder: Path, building: Path) -> None:
    if processes.is_first():
        clear_leftovers(folder)
        (building / "state").mkdir(parents=True)


def _publish(building: Path, record: dict) -> None:
    if not processes.is_first():
        return
    parent, step = building.parent, record["step"]
    hashes = {}
    for path in building.rglob("*"):
        files.sync(path)
        if path.is_file():
            hashes[str(path.relative_to(building))] = files.sha256_of(path)
    files.write_atomically(
        building / "record.json", json.dumps(record | {"files": hashes})
    )
    others = _newest_first(parent)
    serial = int(others[0].name.split("-")[0]) + 1 if others else 0
    os.replace(building, parent / f"{serial:06d}-step-{step}")
    files.sync(parent)
    earlier = [path for path in others if _step(path) < step]
    for path in set(others) - set(earlier[: KEPT[parent.name] - 1]):
        shutil.rmtree(path, ignore_errors=True)  # one too many does no harm


def _leaves(state: Any) -> dict[str, Any]:
    """Leaves by name, such as state.params['item'][0]."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(state)
    leaves = {f"state{jax.tree_util.keystr(path)}": leaf for path, leaf in pairs}
    for name, leaf in leaves.items():
        array = isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))
        if not array or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise InputError(
                f"{name} is {leaf!r:.60}; it must be a plain jax.Array (jnp.asarray, "
                "or jax.random.key_data for a key)"
            )
    return leaves


def _described(leaves: dict[str, Any]) -> dict[str, str]:
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in leaves.items()}


def _check_same_leaves(saved: dict, expected: dict, path: Path) -> None:
    for name in [*expected, *saved]:
        ours, theirs = expected.get(name, "absent"), saved.get(name, "absent")
        if ours != theirs:
            raise InputError(
                f"{path} is a checkpoint of another config: {name} is {theirs} there and "
                f"{ours} here; use the config it was written with, or another folder"
            )


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """The parts of the arrays that this process has."""
    ocp, epath, handler = _orbax()
    handler.save(epath.Path(path), args=ocp.args.PyTreeSave(arrays))


def _join_arrays(path: Path) -> None:
    """Make one store of the parts of all processes."""
    if processes.is_first():
        _, epath, handler = _orbax()
        handler.finalize(epath.Path(path))


def _read_arrays(
    path: Path, like: Any, *, packs: dict[str, list[str]], place: Callable
) -> Any:
    ocp, epath, handler = _orbax()
    leaves = _leaves(like)
    inside = {name for held in packs.values() for name in held}
    alone = {name: x for name, x in leaves.items() if x.size and name not in inside}
    how = {name: _restore_args(x, ocp) for name, x in alone.items()}
    how |= {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in packs}
    args = ocp.args.PyTreeRestore(item=dict.fromkeys(how, 0), restore_args=how)
    arrays = handler.restore(epath.Path(path), args=args)
    shapes = {name: x.shape for name, x in leaves.items()}
    arrays = unpack(Packed(arrays, packs), shapes)
    for name in leaves.keys() - arrays.keys():
        arrays[name] = np.zeros(leaves[name].shape, leaves[name].dtype)
    placed = [place(arrays[name], _sharding(x)) for name, x in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def _placed(value: Any, sharding: jax.sharding.Sharding | None) -> jax.Array:
    if isinstance(value, jax.Array):
        return value
    if sharding is None:
        return jax.device_put(value)
    return processes.placed(value, sharding)


def _restore_args(leaf: Any, ocp: Any) -> Any:
    kind = jax.Array if _sharding(leaf) else np.ndarray
    return ocp.ArrayRestoreArgs(restore_type=kind, sharding=_sharding(leaf))


def _sharding(leaf: Any) -> jax.sharding.Sharding | None:
    """None for an array tied to no device: tying it would compile its users again."""
    return leaf.sharding if getattr(leaf, "committed", True) else None


@functools.cache
def _orbax() -> tuple[Any, Any, Any]:
    """Orbax, its kind of path, and its writer of trees, its log dropped: what matters is
    raised. Not its Checkpointer, where others would wait for a process that failed."""
    import absl.logging  # before anyone asks for its logger: it makes its own kind
    import orbax.checkpoint as ocp
    from etils import epath  # Orbax's own

    for logger in absl.logging.get_absl_logger(), logging.getLogger("asyncio"):
        logger.addFilter(_not_from_orbax)
    sys.unraisablehook = functools.partial(_quiet_hook, sys.unraisablehook)
    # Float tables shrink by 7 % when compressed, and take four times as long.
    return ocp, epath, ocp.PyTreeCheckpointHandler(use_compression=False)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    said = f"{record.pathname} {record.msg}"
    return "/orbax/" not in said and "ocdbt" not in said


def _quiet_hook(hook: Callable, problem: Any) -> None:
    """Drop what TensorStore's threads say of writes that end after one has failed: by
    then Orbax has closed its loop. The failure itself is raised."""
    if str(problem.exc_value) != "Event loop is closed":
        hook(problem)


def _verified_record(path: Path) -> dict:
    record = json.loads((path / "record.json").read_text(encoding="utf-8"))
    for name, sha256 in record["files"].items():
        if files.sha256_of(path / name) != sha256:
            raise ValueError(f"{name} is not as it was written")
    return record


SMALL = 1 << 22  # bytes of an array that is packed


class Packed(NamedTuple):
    """Arrays by name, and of those that hold others the names of what they hold."""

    arrays: dict[str, Any]
    names: dict[str, list[str]]


def pack(arrays: dict[str, Any]) -> Packed:
    """The arrays, the small ones of each type as one on the host, in their order; all of
    them must be this process's."""
    names: dict[str, list[str]] = {}
    for name, array in arrays.items():
        if array.size * array.dtype.itemsize <= SMALL:
            names.setdefault(f"packed {array.dtype}", []).append(name)
    small = {name for held in names.values() for name in held}
    left = {name: array for name, array in arrays.items() if name not in small}
    packs = {
        pack: np.concatenate([np.asarray(arrays[name]).ravel() for name in held])
        for pack, held in names.items()
    }
    return Packed(left | packs, names)


def unpack(packed: Packed, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The arrays by name, given the shape of each; those that were packed are copies."""
    arrays = dict(packed.arrays)
    for pack, held in packed.names.items():
        whole, start = arrays.pop(pack), 0
        for name in held:
            stop = start + int(np.prod(shapes[name], dtype=np.int64))
            arrays[name] = np.array(whole[start:stop]).reshape(shapes[name])
            start = stop
    return arrays
