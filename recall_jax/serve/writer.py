"""Write an export: towers, vectors and what serving needs, verified, then put in place.

Everything is made in a hidden folder beside the wanted one and loaded from there; only
what agrees with the trained model takes the place of an older export, which is intact
until then. A killed export goes on where it stopped.
"""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recall_jax import files as files_lib
from recall_jax import schema
from recall_jax.data.prepared import Data
from recall_jax.evaluate import encode as encode_lib
from recall_jax.serve import reader, towers, vectors
from recall_jax.serve.towers import ExportSource, Tower
from recall_jax.types import InputError

VERIFIED = 1024  # users and items that are compared with the trained model
TOLERANCE = 1e-5  # of a number, or of a larger one its share


@dataclasses.dataclass
class Config:
    """How a run is written."""

    dtype: str = "float32"  # vectors.DTYPES
    batch_size: int = 4096  # users and items encoded at a time
    users: bool = True  # vectors of users too


class Report(NamedTuple):
    """What was written."""

    folder: pathlib.Path
    specification: dict[str, Any]
    bytes: dict[str, int]  # by file
    written: dict[str, vectors.Written]  # by kind of vectors
    seconds: dict[str, float]
    completed: int  # items whose vector is made of other items'


def write(run: ExportSource, folder: pathlib.Path | str, *, config: Config) -> Report:
    """Export a run into a folder, in place of an older export.

    Items whose features and whose tower are those of the older export keep its vectors.
    Raises InputError where the folder holds something else, where another process
    exports to it, or where what was written is not what the trained model computes.
    """
    folder = pathlib.Path(folder).absolute()
    check(folder, config)
    kinds = ("items", "users") if config.users else ("items",)
    progress = tuple(f"{kind}.progress.json" for kind in kinds)
    vectors_ = [f"{kind}{end}" for kind in kinds for end in (".npy", "_scale.npy")]
    # Of a killed export the vectors alone may be gone on with.
    kept = (*vectors_, *progress)
    with files_lib.building(folder, what="folder of an export", kept=kept) as building:
        report = _build(run, building, config=config, old=folder, besides=progress)
        for name in progress:
            (building / name).unlink(missing_ok=True)
    return report._replace(folder=folder)


def described(report: Report) -> str:
    """What was written, how fast, and what can be done with it."""
    lines = [f"export     {report.folder}"]
    for side, tower in report.specification["towers"].items():
        reads = ", ".join(column["name"] for column in tower["columns"])
        lines.append(f"{side:<10} tower reads {reads}")
    for name, form in report.specification["vectors"].items():
        done, seconds = report.written[name], max(report.seconds[name], 1e-9)
        size = sum(
            report.bytes.get(f"{name}{end}", 0) for end in (".npy", "_scale.npy")
        )
        parquet = report.bytes[f"{name}.parquet"]
        lines.append(
            f"{name:<10} {form['rows']:,} x {form['width']} {form['dtype']}, "
            f"{size / 1e6:,.1f} MB ({parquet / 1e6:,.1f} as Parquet): {done.computed:,} "
            f"computed, {done.reused:,} of the older export, {done.resumed:,} of a "
            f"killed one; {seconds:.1f} s, {done.computed / seconds:,.0f} {name}/s"
        )
    if report.completed:
        lines.append(
            f"items      {report.completed:,} have the mean of other items' vectors: "
            "items.npy has it, the item tower alone cannot give it"
        )
    if "users" in report.written:
        lines.append(
            "users      at the end of their whole history, test events included"
        )
    lines += [
        "verified   towers and vectors, read back, against the trained model",
        "next       recall_jax.serve.reader.load(folder) gives towers, vectors and raw ids",
        "           into Faiss, Milvus or a key-value store: recall_jax/serve/export.md",
    ]
    return "\n".join(lines)


def check(folder: pathlib.Path, config: Config) -> None:
    """Raise InputError for a format that there is not, and for a folder of other things."""
    vectors.check_dtype(config.dtype)
    if not isinstance(config.batch_size, int) or config.batch_size < 1:
        raise InputError(
            f"--batch_size is {config.batch_size}; it must be a whole number, at least 1"
        )
    files_lib.check_replaceable(folder, what="export")


class _Kind(NamedTuple):
    """Vectors of one kind: `compute` takes rows [n], counted from 0, to vectors."""

    name: str
    side: str
    ids: np.ndarray  # raw
    compute: Callable[[np.ndarray], np.ndarray]


def _build(
    run: ExportSource,
    building: pathlib.Path,
    *,
    config: Config,
    old: pathlib.Path,
    besides: tuple[str, ...],
) -> Report:
    """Everything but the last rename; files named in `besides` are not of the export."""
    split = towers.split_towers(run.encoder.graph, run.params, run.data)
    specification = _specification(run)
    specification["towers"] = towers.write_programs(building, split)
    specification["columns"] = towers.write_columns(building, split, run.data)
    _write_catalogue(building, run)
    _write_json(building / "specification.json", specification)
    check_towers(building, specification, run, split)
    items, completed = _items(building, run, split, batch_size=config.batch_size)
    kinds = [items]
    if config.users:
        kinds.append(_users(building, run, split, batch_size=config.batch_size))
    written, seconds = {}, {}
    for kind in kinds:
        begin = time.perf_counter()
        earlier = old if kind is items and run.encoder.complete is None else None
        written[kind.name] = _write_vectors(
            building, kind, specification, dtype=config.dtype, old=earlier
        )
        seconds[kind.name] = time.perf_counter() - begin
    _write_json(building / "specification.json", specification)
    record = {"jax": jax.__version__}
    sizes = files_lib.seal(building, record, **reader.SEALED, besides=besides)
    check_export(reader.load(building), run, dtype=config.dtype)
    return Report(building, specification, sizes, written, seconds, completed)


def _specification(run: ExportSource) -> dict[str, Any]:
    """What tells a program how to use the files; see `reader`."""
    return {
        "format": reader.SEALED["form"],
        "model": run.name,
        "score": "inner product",
        "seen": run.seen,
        "platforms": list(towers.PLATFORMS),
        "vectors": {},
    }


def _write_catalogue(building: pathlib.Path, run: ExportSource) -> None:
    """What a list of recommendations needs beside vectors."""
    (building / "vocabularies.json").write_text(
        schema.dump_vocabularies(run.data.vocabularies), "utf-8"
    )
    if run.titles is not None:
        _write_json(building / "titles.json", run.titles.tolist())
    arrays = {
        "popularity": run.data.popularity,
        "histories": run.data.items,
        "history_offsets": run.data.offsets,
    }
    for name, array in arrays.items():
        np.save(building / f"{name}.npy", array, allow_pickle=False)


def _write_json(path: pathlib.Path, content: Any) -> None:
    files_lib.write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1))


def _compute(
    building: pathlib.Path,
    tower: Tower,
    run: ExportSource,
    *,
    side: str,
    batch_size: int,
) -> Callable[..., np.ndarray]:
    """The exported tower, read back, over any number of the data's rows, each array of
    `rows` what `Tower.gather` takes."""
    program = reader.read_program(building / f"{side}.jax")
    names = [column["name"] for column in tower.columns]

    @jax.jit
    def encode(weights, dataset, *rows):
        columns = tower.gather(dataset, *rows)
        return program.call(weights, {name: columns[name] for name in names})

    def compute(*rows: np.ndarray) -> np.ndarray:
        outputs, size = [], min(batch_size, len(rows[0]))
        for start in range(0, len(rows[0]), size):
            block = [row[start : start + size] for row in rows]
            block = [np.pad(row, (0, size - len(row))) for row in block]
            outputs.append(encode(tower.weights, run.data.dataset, *block))
        return np.concatenate(outputs)[: len(rows[0])]

    return compute


def _items(
    building: pathlib.Path,
    run: ExportSource,
    split: dict[str, Tower],
    *,
    batch_size: int,
) -> tuple[_Kind, int]:
    """The catalogue's vectors as they are served, and how many of them are made of other
    items' (`encode.Towers.complete`): those the item tower alone cannot give."""
    tower, ids = split["item"], run.data.vocabularies["item"].ids
    by_id = _compute(building, tower, run, side="item", batch_size=batch_size)
    if run.encoder.complete is None:
        return _Kind("items", "item", ids, lambda rows: by_id(_ids(rows))), 0
    own = by_id(_ids(np.arange(len(ids))))
    served = np.asarray(run.encoder.complete(jnp.asarray(own), run.data))
    completed = int((served != own).any(axis=1).sum())
    return _Kind("items", "item", ids, lambda rows: served[rows]), completed


def _users(
    building: pathlib.Path,
    run: ExportSource,
    split: dict[str, Tower],
    *,
    batch_size: int,
) -> _Kind:
    encode = _compute(
        building, split["query"], run, side="query", batch_size=batch_size
    )

    def compute(rows: np.ndarray) -> np.ndarray:
        users = _ids(rows)
        return encode(users, towers.history_ends(run.data, users))

    return _Kind("users", "query", run.data.vocabularies["user"].ids, compute)


def _ids(rows: np.ndarray) -> np.ndarray:
    """Catalogue ids."""
    return (rows + 1).astype(np.int32)


def _write_vectors(
    building: pathlib.Path,
    kind: _Kind,
    specification: dict[str, Any],
    *,
    dtype: str,
    old: pathlib.Path | None,
) -> vectors.Written:
    """The files of a kind, and its entry in the specification."""
    tower = specification["towers"][kind.side]
    form = vectors.Form(dtype, len(kind.ids), tower["width"])
    files = [tower["program"], *(weight["file"] for weight in tower["weights"])]
    key = _key(building, files, dtype)
    # The order of rows, and all that a tower may read of users and items.
    more = [f"{name}.npy" for name in ("histories", "history_offsets", "popularity")]
    for stored in specification["columns"].values():
        more += stored.values()
    specification["vectors"][kind.name] = dataclasses.asdict(form) | {"tower": key}
    written = vectors.write(
        building,
        kind.name,
        kind.compute,
        form=form,
        key=_key(building, ["vocabularies.json", *more], key),
        old=None if old is None else _old(old, building, specification, kind),
    )
    vectors.write_parquet(building, kind.name, kind.ids, form=form)
    return written


def _key(building: pathlib.Path, files: list[str], more: str) -> str:
    """What names the content of files."""
    parts = [
        more,
        *(f"{file} {files_lib.sha256_of(building / file)}" for file in files),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _old(
    folder: pathlib.Path,
    building: pathlib.Path,
    specification: dict[str, Any],
    kind: _Kind,
) -> vectors.Old | None:
    """The vectors of an older export that the same tower made of the same columns; None
    where there is none, or a damaged one."""
    try:
        reader.read_manifest(folder)
    except InputError:
        return None
    before = reader.read_json(folder / "specification.json")
    form = before["vectors"][kind.name]
    if form["tower"] != specification["vectors"][kind.name]["tower"]:
        return None
    ids = schema.load_vocabularies(folder / "vocabularies.json")[kind.side].ids
    row = {raw: j for j, raw in enumerate(ids.tolist())}
    source = np.array([row.get(raw, -1) for raw in kind.ids.tolist()])
    files, earlier = (x["columns"][kind.side] for x in (specification, before))
    for column in specification["towers"][kind.side]["columns"]:
        name = column["name"]  # there too: the tower is the same
        new = reader.read_array(building / files[name])[1:]
        was = reader.read_array(folder / earlier[name])[1:]
        if new.shape[1:] != was.shape[1:]:
            return None
        differ = new != was[source]
        source[differ.reshape(len(differ), -1).any(axis=1)] = -1
    stored = np.load(folder / f"{kind.name}.npy", mmap_mode="r", allow_pickle=False)
    return vectors.Old(stored, vectors.read_scale(folder, kind.name), source)


def check_towers(
    building: pathlib.Path,
    specification: dict[str, Any],
    run: ExportSource,
    split: dict[str, Tower],
) -> None:
    """Raise InputError before anything long where a tower, read back, is not the model's."""
    for side, tower in split.items():
        rows = _some(run.data, side)
        call = reader.read_tower(building, specification, side=side)
        given = tower.gather(run.data.dataset, *rows)
        _compare(
            call(given), _trained(run, side, rows), what=f"the exported {side} tower"
        )


def check_export(exported: reader.Exported, run: ExportSource, *, dtype: str) -> None:
    """Raise InputError where the towers, on the columns that were saved, or the stored
    vectors are not what the trained model serves."""
    (items,), (users, ends) = _some(run.data, "item"), _some(run.data, "query")
    columns = {name: rows[items] for name, rows in exported.item_columns.items()}
    item, query = _trained(run, "item", (items,)), _trained(run, "query", (users, ends))
    _compare(exported.item(columns), item, what="the exported item tower")
    given = exported.known_user_columns(users)
    _compare(exported.query(given), query, what="the exported query tower")
    if run.encoder.complete is not None:
        served = encode_lib.encode_items(
            run.encoder, run.params, data=run.data, batch_size=VERIFIED
        )
        item = np.asarray(served)[items - 1]
    stored = exported.item_vectors[items - 1]
    _compare(stored, item, what="items.npy", dtype=dtype)
    if exported.user_vectors is not None:
        stored = exported.user_vectors[users - 1]
        _compare(stored, query, what="users.npy", dtype=dtype)


def _some(data: Data, side: str) -> tuple[np.ndarray, ...]:
    """Items, or users and where their histories end, from all over the catalogue."""
    num = data.dataset.num_items if side == "item" else len(data.user_codes)
    ids = np.unique(np.linspace(1, num, min(num, VERIFIED)).astype(np.int32))
    return (ids,) if side == "item" else (ids, towers.history_ends(data, ids))


def _trained(run: ExportSource, side: str, rows: tuple[np.ndarray, ...]) -> np.ndarray:
    encode = run.encoder.item if side == "item" else run.encoder.query
    return np.asarray(encode(run.params, run.data.dataset, *rows))


def _compare(
    actual: np.ndarray, wanted: np.ndarray, *, what: str, dtype: str = "float32"
) -> None:
    allowed = TOLERANCE * np.maximum(np.abs(wanted), 1)
    apart = np.abs(actual - wanted)
    wrong = ~(apart <= allowed + vectors.tolerance(wanted, dtype=dtype))  # NaN too
    if wrong.any():
        raise InputError(
            f"{what} is up to {np.nanmax(apart):.2g} from the trained model's vectors, "
            f"in {wrong.any(axis=1).mean():.0%} of {len(wrong):,} rows; nothing was "
            "replaced"
        )
