"""An index in a folder: its arrays, or ScaNN's own files, and a manifest."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recall_jax import files
from recall_jax.types import InputError

AGAIN = "build the index again and save it"
SEALED = {"what": "index", "form": 2}


class Saved(NamedTuple):
    """A verified index: its manifest and its folder."""

    manifest: dict[str, Any]
    folder: Path

    def array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", allow_pickle=False)

    def ids(self) -> np.ndarray | None:
        return self.array("ids") if "ids.npy" in self.manifest["files"] else None


def write(
    folder: Path,
    record: Mapping[str, Any],
    *,
    arrays: Mapping[str, np.ndarray | None],
    more: Callable[[Path], None] | None = None,
) -> None:
    """Write `arrays`, but those that are None, and what `more(folder)` writes.

    Takes the place of an index in `folder`; raises InputError if anything else is there.
    """
    folder = Path(folder).absolute()
    files.check_replaceable(folder, what="index")
    with files.building(folder, what="index") as place:
        for name, array in arrays.items():
            if array is not None:
                np.save(place / f"{name}.npy", array, allow_pickle=False)
        if more is not None:
            more(place)
        files.seal(place, record, **SEALED)


def kind_of(folder: Path) -> str:
    """The name of the kind of a saved index."""
    return _manifest(files.settled(Path(folder)))["kind"]


def read(folder: Path, *, kind: str) -> Saved:
    """An index of that kind. Raises InputError, naming the file, if it is not whole."""
    folder = files.settled(Path(folder))
    manifest = _manifest(folder)
    if manifest["kind"] != kind:
        raise InputError(f"{folder} holds an index {manifest['kind']!r}, not {kind!r}")
    names = {path.name for path in folder.iterdir()} - {files.MANIFEST, ".lock"}
    if strangers := names - manifest["files"].keys():
        # ScaNN would read one of the right name, a pickle even.
        raise InputError(
            f"{folder / min(strangers)} is no file of this index; remove it"
        )
    files.check_files(folder, manifest, again=AGAIN)
    return Saved(manifest, folder)


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = files.read_manifest(folder, **SEALED, again=AGAIN)
    path = folder / files.MANIFEST
    for name in ("kind", "similarity"):
        if not isinstance(manifest.get(name), str):
            raise InputError(f"{path} is damaged: no valid {name} in it; {AGAIN}")
    for name in manifest["files"]:
        if Path(name).name != name or name.endswith((".pkl", ".pickle")):
            raise InputError(f"{path} is damaged: {name!r} is no file of an index")
    return manifest
