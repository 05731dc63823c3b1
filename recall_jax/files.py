"""Files and folders that are the old ones or the new ones at any moment, never half, and
locks on folders; and a saved index, whole or absent:

    folder/record.json       what it is; size and SHA-256 of each file of the data
    folder/data-1a2b3c4d/    vectors.npy, ids.npy, ScaNN's own files

The data of a save has a folder of its own, and the record names it. The record is
replaced at one moment after the data is on disk, so that a save cut off at any point
leaves the index that was there.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recall_jax.types import InputError


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that is the old one or the new one at any moment, never half."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def lock(workdir: Path, *, what: str = "run folder"):
    """Hold a run folder, or what else it is, for this process; the kernel lets go when the process dies.

    Raises InputError, naming the holder, if another process has it. Advisory: it keeps
    out only those who ask. In a multi-process run process 0 asks.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"{what} {workdir} is in use by process {file.read() or '?'}; wait "
                "for it, stop it, or choose another folder"
            ) from None
        file.truncate(0)
        print(os.getpid(), "on", os.uname().nodename, end="", file=file, flush=True)
        yield


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# A saved index.

FORMAT = "recall_jax index"
VERSION = 1


class Saved(NamedTuple):
    """A verified index: its record and the folder of its data."""

    record: dict[str, Any]
    data: Path

    def array(self, name: str) -> np.ndarray:
        return np.load(self.data / f"{name}.npy", allow_pickle=False)

    def ids(self) -> np.ndarray | None:
        return self.array("ids") if "ids.npy" in self.record["files"] else None


def save(
    folder: Path,
    record: Mapping[str, Any],
    *,
    arrays: Mapping[str, np.ndarray | None],
    more: Callable[[Path], None] | None = None,
) -> None:
    """Write `arrays`, but those that are None, and what `more(data folder)` writes.

    Takes the place of an index in `folder`; raises InputError if anything else is there.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        read_record(folder)  # not ours: not overwritten
    data = folder / f"data-{uuid.uuid4().hex[:8]}"
    try:
        data.mkdir(parents=True)
        for name, array in arrays.items():
            if array is not None:
                np.save(data / f"{name}.npy", array, allow_pickle=False)
        if more is not None:
            more(data)
        files = {path.name: _seal(path) for path in sorted(data.iterdir())}
        _seal(data)
        head = {"format": FORMAT, "version": VERSION, "data": data.name, "files": files}
        text = json.dumps(head | dict(record), indent=1)
        write_atomically(folder / "record.json", text)
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
    for other in folder.glob("data-*"):
        if other != data:
            shutil.rmtree(other, ignore_errors=True)  # one too many does no harm


def read(folder: Path, *, kind: str) -> Saved:
    """An index of that kind. Raises InputError, naming the file, if it is not whole."""
    folder = Path(folder)
    record = read_record(folder)
    if record["kind"] != kind:
        raise InputError(f"{folder} holds an index {record['kind']!r}, not {kind!r}")
    data = folder / record["data"]
    strangers = {path.name for path in data.glob("*")} - record["files"].keys()
    if strangers:  # ScaNN would read one of the right name, a pickle even
        raise InputError(f"{data / min(strangers)} is no file of this index; remove it")
    for name, wanted in record["files"].items():
        path = data / name
        if not path.is_file():
            raise InputError(f"{path} is missing; build the index again and save it")
        size = path.stat().st_size
        if size != wanted["size"]:
            raise InputError(
                f"{path} has {size} bytes of {wanted['size']}; build the index again "
                "and save it, or bring a whole copy"
            )
        if sha256_of(path) != wanted["sha256"]:
            raise InputError(
                f"{path} is not as it was written: its SHA-256 differs; build the index "
                "again and save it, or bring a whole copy"
            )
    return Saved(record, data)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of an index of this version. Raises InputError for anything else."""
    path = Path(folder) / "record.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no index: it has no record.json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise InputError(
            f"{path} is damaged ({problem}); build the index again and save it"
        ) from problem
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path} is not the record of an index of recall_jax")
    if record.get("version") != VERSION:
        raise InputError(
            f"{path} has version {record.get('version')}, this package reads version "
            f"{VERSION}; build the index again and save it"
        )
    _check_fields(record, path=path)
    return record


def _check_fields(record, *, path):
    """A record names files of its own folder, none of them a pickle."""
    kinds = {"kind": str, "data": str, "files": dict, "similarity": str}
    wrong = [name for name in kinds if not isinstance(record.get(name), kinds[name])]
    if wrong:
        raise InputError(f"{path} is damaged: no valid {', '.join(wrong)} in it")
    for name, entry in record["files"].items():
        plain = Path(name).name == name and not name.endswith((".pkl", ".pickle"))
        if not plain or not isinstance(entry, dict) or {*entry} != {"size", "sha256"}:
            raise InputError(f"{path} is damaged: {name!r} is no file of an index")
    if Path(record["data"]).name != record["data"]:
        raise InputError(f"{path} is damaged: {record['data']!r} is no folder of it")


def _seal(path: Path) -> dict[str, Any]:
    """Force a file or folder to disk; a file's size and hash."""
    sync(path)
    if path.is_dir():
        return {}
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}
