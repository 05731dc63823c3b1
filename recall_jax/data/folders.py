"""Folders of prepared logs: each written once, whole or not at all, and found again.

PATH.prepared/0f3c.../ holds one way of laying out a log (protocol, filters, columns)."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

from recall_jax import files
from recall_jax.data import partition
from recall_jax.data.sources import shards, stream
from recall_jax.data.sources.stream import UNHEEDED, Config
from recall_jax.devices import processes
from recall_jax.types import InputError, MissingData

SEALED = {"what": "prepared log", "form": 3}


def ensure(config: Config, *, min_history: int) -> pathlib.Path:
    """The folder of a config's arrays, written unless it is there already.

    It is made anew where the shards have changed: another name, size or time of writing
    of any file, as a build tool has it. Their content is not read to find out, which
    would take as long as the preparation; a copy that keeps the times keeps the folder.
    Of several processes the first writes it.
    """
    stream.check(config)
    path = processes.of_first(lambda: str(_ensure(config, min_history=min_history)))
    folder = pathlib.Path(path)
    visible = processes.appears(folder / files.MANIFEST)
    processes.check_alike("file system", "" if visible else f"{folder} is not on it")
    return folder


def _ensure(config: Config, *, min_history: int) -> pathlib.Path:
    place, made_of = _place(config), _files(config)
    wanted = _wanted(config, min_history=min_history)
    folder = place / _key(wanted)
    if _manifest(folder).get("made_of") == made_of:
        return folder
    with files.lock(place, what="folder of prepared arrays"):
        if _manifest(folder).get("made_of") == made_of:  # by who had the lock before
            return folder
        if _manifest(folder):
            print(f"prepare    {config.path} has changed since {folder} was made")
        print(f"prepare    {config.path} as mapped arrays in {folder}", flush=True)
        for left in place.glob(".*.building"):
            shutil.rmtree(left)
        with files.building(folder, what="folder of prepared arrays") as building:
            fields = partition.write(config, building, min_history=min_history)
            if _files(config) != made_of:
                raise InputError(
                    f"{config.path} changed while it was read; start again when it is "
                    "whole"
                )
            record = {"settings": wanted["settings"], "made_of": made_of, **fields}
            # Not hashed: as long as the preparation, and it can be made again.
            files.seal(building, record, **SEALED, hashed=False)
    return folder


def fingerprint_of(config: Config, *, min_history: int) -> str:
    """`prepared.Data.fingerprint` of the log. Raises MissingData where there is no log or
    it was never prepared, InputError where its files have changed since, if only in the
    time of writing."""
    stream.check(config)
    made_of = _files(config)
    folder = _place(config) / _key(_wanted(config, min_history=min_history))
    manifest = _manifest(folder)
    if not manifest:
        raise MissingData(f"{config.path} is not prepared, in {folder}")
    if manifest["made_of"] != made_of:
        raise InputError(
            f"{config.path}: its files have changed since it was prepared, in size or in "
            "the time of writing; a new run, with another --workdir, prepares it again"
        )
    return manifest["sha256"]


def _wanted(config: Config, *, min_history: int) -> dict[str, Any]:
    settings = _settings(config, min_history=min_history)
    return {"format": SEALED["form"], "settings": settings}


def _key(wanted: dict[str, Any]) -> str:
    text = json.dumps(wanted, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _place(config: Config) -> pathlib.Path:
    if config.prepared:
        return pathlib.Path(config.prepared).expanduser()
    if not (place := pathlib.Path(config.path).expanduser().resolve()).exists():
        shards.find_shards(config.path)  # says so if there is nothing at all
        raise InputError(
            f"data.path {config.path} is a pattern; name the folder of the prepared "
            "arrays with --config.data.prepared"
        )
    return place.with_name(place.name + ".prepared")


def _settings(config: Config, *, min_history: int) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    heeded = {name: x for name, x in fields.items() if name not in UNHEEDED}
    path = os.path.abspath(os.path.expanduser(config.path))
    return heeded | {"path": path, "min_history": min_history}


def _files(config: Config) -> list[list]:
    """Name, size and time of writing of every file that is read."""
    paths = shards.find_shards(config.path)
    if shards.is_text(paths[0]):
        raise InputError(
            f"{paths[0]} is text, and a streamed log is read by parts, which takes "
            "Parquet: polars.scan_csv(...).sink_parquet(...) writes it"
        )
    for side in ("user_features", "item_features"):
        if path := getattr(config, side):
            paths += shards.find_shards(path)
    stats = [(str(path), path.stat()) for path in paths]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _manifest(folder: pathlib.Path) -> dict[str, Any]:
    """{} where there is none, none of this version, or where files are gone or cut."""
    try:
        manifest = files.read_manifest(folder, **SEALED, again="", hashed=False)
        files.check_files(folder, manifest, again="")
    except (OSError, InputError):
        return {}
    return manifest
