"""What a run folder says of its run: config.json, vocabularies.json, data.json,
results.json; and whether another run may go on there."""

import json
import pathlib
from typing import Any

from recall_jax import files, schema
from recall_jax.data.prepared import Data
from recall_jax.run import config as config_lib
from recall_jax.run.config import Experiment
from recall_jax.types import InputError


def refuse_another(config: Experiment, workdir: pathlib.Path) -> None:
    """Raise InputError if the folder holds a run of another config."""
    path = workdir / "config.json"
    if not path.exists():
        return
    differing = list(differences(read_json(path), config_lib.as_dict(config)))
    if differing:
        raise InputError(
            f"{workdir} holds a run of another config ({'; '.join(differing[:5])}); "
            "name another folder with --workdir (of a table: --runs)"
        )


def differences(other: Any, here: Any, *, path: str = ""):
    if isinstance(other, dict) and isinstance(here, dict):
        for name in sorted(other.keys() | here.keys()):
            yield from differences(
                other.get(name), here.get(name), path=f"{path}.{name}".strip(".")
            )
    elif other != here:
        yield f"{path}: {other!r} there, {here!r} asked"


def check_same_data(data: Data, workdir: pathlib.Path) -> None:
    """Raise InputError where a run was trained on other data."""
    if (workdir / "data.json").exists():
        check_sha256(data.fingerprint(), workdir, source=data.source)


def check_sha256(now: str, workdir: pathlib.Path, *, source: str) -> None:
    """As `check_same_data`, by the checksum that the data of `source` have now."""
    path = workdir / "data.json"
    if path.exists() and read_json(path)["sha256"] != now:
        raise InputError(
            f"{workdir} was trained on other data than {source} holds now, or than is "
            "read from it now (equal rows, kinds of features, parts of seconds); bring "
            "the old data back, or train in another folder, with --workdir (of a table: "
            "--runs)"
        )


def write_description(config: Experiment, data: Data, workdir: pathlib.Path) -> None:
    """What a model is trained by and on, before the first step: config.json,
    vocabularies.json, data.json. A run does not go on with other data."""
    check_same_data(data, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", config_lib.as_dict(config))
    files.write_atomically(
        workdir / "vocabularies.json", schema.dump_vocabularies(data.vocabularies)
    )
    described = {
        "source": data.source,
        "protocol": data.protocol,
        "events": len(data.items),
        "sha256": data.fingerprint(),
    }
    write_json(workdir / "data.json", described)


def read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as problem:
        raise InputError(
            f"{path} is damaged ({problem}); bring a copy back, or remove it to have it "
            "written again"
        ) from problem


def write_json(path: pathlib.Path, content: Any) -> None:
    files.write_atomically(path, json.dumps(content, indent=1) + "\n")


NEEDED = {
    "protocol",
    "seen",
    "candidates",
    "test",
    "index",
    "indexes",
    "baselines",
    "intervals",
    "segments",
    "lists",
    "curves",
    "seconds",
    "num_params",
}


def read_results(path: pathlib.Path) -> dict[str, Any]:
    """A results.json. Raises InputError for a damaged one and for one of another
    version."""
    results = read_json(path)
    if not isinstance(results, dict):
        raise InputError(
            f"{path} holds no results; remove it to have them measured again"
        )
    if lacking := NEEDED - results.keys():
        raise InputError(
            f"{path} has no {', '.join(sorted(lacking))}: another version wrote it; "
            "remove it to have it measured again"
        )
    return results
