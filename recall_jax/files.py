"""Files and folders written whole or not at all, sealed by a manifest, and locked.

An export, an index and a prepared log are folders of files with a `manifest.json`, which
says what they are and has the size of each file, and its SHA-256. A folder is made beside
its place (`building`) and put there by two renames: whoever asks for it (`settled`) finds
the old one or the new one, whole, at any moment.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

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
def lock(workdir: Path, *, what: str = "run folder", shown: Path | None = None):
    """Hold a folder for this process; the kernel lets go when the process dies.

    Raises InputError, naming the holder and the folder, or `shown` in its place, if
    another process has it. Advisory: it keeps out only those who ask. In a multi-process
    run process 0 asks.
    """
    path = Path(workdir) / ".lock"
    try:
        file = _held(path)
    except BlockingIOError:
        holder = ""
        with contextlib.suppress(OSError):  # it may end just now
            holder = path.read_text()
        raise InputError(
            f"{what} {shown or workdir} is in use by process {holder or '?'}; "
            "wait for it, stop it, or choose another folder"
        ) from None
    except (FileExistsError, NotADirectoryError) as problem:
        raise InputError(f"{workdir} cannot be a folder: {problem}") from problem
    with file:
        file.truncate(0)
        print(os.getpid(), "on", os.uname().nodename, end="", file=file, flush=True)
        yield


def _held(path: Path) -> TextIO:
    """The file, locked. Raises BlockingIOError where another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # it has just been moved away
            file = open(path, "a+")  # noqa: SIM115, the caller closes it
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()


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


MANIFEST = "manifest.json"


@contextlib.contextmanager
def building(folder: Path, *, what: str, kept: tuple[str, ...] = ()) -> Iterator[Path]:
    """A locked folder to write in, which takes the place of `folder` when the block ends.

    Where the block fails, `folder` stays as it was. What was written goes too, unless
    there are names of `kept` files, which the next attempt finds there.
    """
    folder = folder.resolve()  # of a link, what it stands for
    place = folder.with_name(f".{folder.name}.building")
    with lock(place, what=what, shown=folder):
        before = replaced(folder)
        if before.exists() and not folder.exists():  # a kill between the two renames
            os.rename(before, folder)
        shutil.rmtree(before, ignore_errors=True)
        _clear(place, kept=(".lock", *kept))
        try:
            yield place
        except BaseException:
            if not kept:
                shutil.rmtree(place, ignore_errors=True)
            raise
        if folder.exists():
            os.rename(folder, before)
        os.rename(place, folder)
        # Only now: without it in place, another process would begin there.
        (folder / ".lock").unlink()
        sync(folder.parent)
        shutil.rmtree(before, ignore_errors=True)


def _clear(place: Path, *, kept: tuple[str, ...]) -> None:
    """Remove all of a folder but its `kept` entries."""
    for path in place.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def replaced(folder: Path) -> Path:
    """Where a folder stands for the moment in which a newer one takes its place."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.replaced")


def settled(folder: Path) -> Path:
    """The folder, or what it replaces where a kill fell between the two renames."""
    before = replaced(folder)
    return before if before.exists() and not folder.exists() else folder


def seal(
    place: Path,
    record: Mapping[str, Any],
    *,
    what: str,
    form: int,
    hashed: bool = True,
    besides: tuple[str, ...] = (),
) -> dict[str, int]:
    """Write the manifest of a folder that is complete; gives the bytes of each file.

    `what` names its kind, `form` the version of its format, `record` all else that it
    says. Files are on disk before the manifest names them; unless they are `hashed`, as
    those that can be made again need not be, it has their sizes alone and nothing waits.
    Entries named in `besides` are no part of it.
    """
    entries = {}
    for path in sorted(place.rglob("*")):
        if path.is_dir() or path.name in (".lock", MANIFEST, *besides):
            continue
        entry = {"bytes": path.stat().st_size}
        if hashed:
            sync(path)
            entry["sha256"] = sha256_of(path)
        entries[path.relative_to(place).as_posix()] = entry
    head = {"what": what, "format": form}
    text = json.dumps(
        {**head, **record, "files": entries}, ensure_ascii=False, indent=1
    )
    write_atomically(place / MANIFEST, text)
    return {name: entry["bytes"] for name, entry in entries.items()}


def read_manifest(
    folder: Path, *, what: str, form: int, again: str, hashed: bool = True
) -> dict[str, Any]:
    """The manifest of a folder of that kind and format, its files not looked at. Raises
    InputError for anything else; `again` is the remedy."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} holds no {what}: it has no {MANIFEST}; {again}")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except ValueError as problem:
        raise InputError(f"{path} is damaged ({problem}); {again}") from problem
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is damaged: it holds no object; {again}")
    if (other := manifest.get("what", what)) != what:
        raise InputError(f"{folder} holds no {what}: its {MANIFEST} says {other!r}")
    if manifest.get("format") != form:
        raise InputError(
            f"{folder}: this {what} has format {manifest.get('format')}, and this version "
            f"of recall_jax reads format {form}; {again}, or use the version that wrote it"
        )
    entries = manifest.get("files")
    if not isinstance(entries, dict):
        raise InputError(f"{path} is damaged: no valid files in it; {again}")
    kinds = {"bytes": int, "sha256": str} if hashed else {"bytes": int}
    for name, entry in entries.items():
        outside = Path(name).is_absolute() or ".." in Path(name).parts
        entry = entry if isinstance(entry, dict) else {}
        if outside or not all(isinstance(entry.get(x), kinds[x]) for x in kinds):
            raise InputError(f"{path} is damaged: {name!r} is no file of it; {again}")
    return manifest


def check_files(
    folder: Path,
    manifest: Mapping[str, Any],
    *,
    again: str,
    meaning: Mapping[str, str] | None = None,
) -> None:
    """Raise InputError unless every file is as it was written. `meaning` says what a
    change in some of them does; these are looked at first."""
    meaning = meaning or {}
    for name in sorted(manifest["files"], key=lambda name: name not in meaning):
        path, wanted = folder / name, manifest["files"][name]
        if not path.is_file():
            raise InputError(f"{path} is missing; {again}")
        why = f", {meaning[name]}" if name in meaning else ""
        size = path.stat().st_size
        if size != wanted["bytes"]:
            raise InputError(
                f"{path} has {size} bytes of {wanted['bytes']}{why}; {again}, or bring a "
                "whole copy"
            )
        if "sha256" in wanted and wanted["sha256"] != sha256_of(path):
            raise InputError(
                f"{path} is not as it was written, its SHA-256 differs{why}; {again}, or "
                "bring a copy back"
            )


def check_replaceable(folder: Path, *, what: str) -> None:
    """Raise InputError for a folder, or a file, that is neither empty nor of that kind
    alone: what else stands there would be removed."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    manifest = {}
    with contextlib.suppress(OSError, ValueError):
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    entries = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(entries, dict) or manifest.get("what", what) != what:
        raise InputError(
            f"{folder} holds something that is no {what}, or a damaged one, and would be "
            "replaced; remove it, or name another folder"
        )
    own = {MANIFEST, ".lock", *(Path(name).parts[0] for name in entries)}
    if strangers := sorted({path.name for path in folder.iterdir()} - own):
        raise InputError(
            f"{folder} holds {strangers[0]}, which is no file of the {what} there and "
            "would be removed with it; take it away, or name another folder"
        )
