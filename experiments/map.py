"""A trained run's items in clusters and on a map, for people to judge.

    python -m experiments.map --run=runs/item2vec_ml1m
    python -m experiments.map --run=runs/dssm_ml1m --color=first_genre --clusters=20

Items are clustered by k-means on the vectors that the run's best checkpoint serves, at
length 1, and drawn on the two principal axes of these vectors; both come again from
--seed. --color names the item column that colours the map (default: the first that is
categorical, of several values the first): the most frequent values by name, the rest
grey. Printed are each cluster's size, its commonest value and the items nearest to its
centre, and how well clusters and values agree, beside what shuffled values have.

Written are PNG, its path given with --to (default: map.png in the run's folder), the
clusters beside it in .csv and every item's place, cluster and value in _items.csv.
"""

import csv
import pathlib
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments.common import cli
from experiments.common import clusters as clusters_lib
from recall_jax.data.log import Bag
from recall_jax.run import open as open_lib
from recall_jax.run.restored import LoadedRun
from recall_jax.training import log
from recall_jax.types import InputError

NEAREST = 5  # items told of a cluster
COLORS = *(f"C{j}" for j in range(10) if j != 7), "#102a83"  # C7 is grey
OTHER = "#d0d0d0"


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    if options.run is None:
        raise InputError("name a run's folder with --run")
    if options.clusters < 1:
        raise InputError(f"--clusters is {options.clusters}; it must be at least 1")
    workdir = pathlib.Path(options.run)
    path = pathlib.Path(options.to) if options.to else workdir / "map.png"
    if path.suffix != ".png":
        raise InputError(f"--to={path} must end in .png, the kind of file it will be")
    pyplot = _pyplot()
    run = open_lib.open_run(workdir).loaded
    values = values_of(run, options.color)
    item_map = make(run, values, num=options.clusters, seed=options.seed)
    described = describe(item_map, run)
    print(as_text(item_map, run, described, seed=options.seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(item_map, path, pyplot=pyplot, title=run.config.name)
    write(item_map, run, described, path)


class Values(NamedTuple):
    """The value of each item in one column; "" where it has none."""

    name: str
    of: np.ndarray  # [V] of str


class Map(NamedTuple):
    """The items that have a vector, `rows` of the catalogue, in clusters and in the
    plane; `near` [k, <= NEAREST] are rows, those nearest to each centre first."""

    rows: np.ndarray  # [n]
    of: np.ndarray  # [n] cluster
    near: list[np.ndarray]
    flat: clusters_lib.Flat
    values: Values  # of these items


def values_of(run: LoadedRun, name: str | None) -> Values:
    """An item column by catalogue id. Raises InputError for one that cannot colour."""
    columns = run.items.columns
    fit = [name for name, column in columns.items() if _is_categorical(column)]
    if not fit:
        raise InputError(
            f"{run.data.source} has no categorical item column to colour by"
        )
    name = fit[0] if name is None else name
    if name not in fit:
        why = "is dense" if name in columns else "is no item column"
        raise InputError(f"--color={name!r} {why}; there are: {', '.join(fit)}")
    column = columns[name]
    if not isinstance(column, Bag):
        return Values(name, column[run.data.item_codes].astype(str))
    begin, end = column.offsets[:-1], column.offsets[1:]
    first = np.append(column.values, "")[np.where(end > begin, begin, -1)].astype(str)
    return Values(name, first[run.data.item_codes])


def _is_categorical(column: np.ndarray | Bag) -> bool:
    return isinstance(column, Bag) or column.dtype.kind != "f"


def make(run: LoadedRun, values: Values, *, num: int, seed: int) -> Map:
    """Raises InputError for more clusters than items with a vector."""
    rows = np.flatnonzero(run.vectors.any(axis=1))
    if num > len(rows):
        raise InputError(
            f"--clusters is {num}, and only {len(rows):,} items have a vector; choose "
            f"1 to {len(rows):,}"
        )
    vectors = run.vectors[rows]
    clusters = clusters_lib.k_means(vectors, num, seed=seed)
    centres, of = np.asarray(clusters.centres), np.asarray(clusters.of)
    near = []
    for cluster, centre in enumerate(centres):
        mine = np.flatnonzero(of == cluster)
        away = np.square(vectors[mine] - centre).sum(axis=1)
        near.append(rows[mine[np.argsort(away, kind="stable")[:NEAREST]]])
    flat = clusters_lib.principal_axes(vectors)
    return Map(rows, of, near, flat, values._replace(of=values.of[rows]))


def describe(item_map: Map, run: LoadedRun) -> list[dict[str, Any]]:
    """A row for each cluster, the largest first."""
    rows = []
    for cluster, near in enumerate(item_map.near):
        value, share = _commonest(item_map.values.of[item_map.of == cluster])
        titles = run.ids if run.titles is None else run.titles
        names = [log.brief(titles[row]) or run.ids[row] for row in near]
        rows.append(
            {
                "cluster": cluster,
                "items": int(np.count_nonzero(item_map.of == cluster)),
                f"commonest {item_map.values.name}": value,
                "share": share,
                "nearest to its centre": "; ".join(names),
                "ids": " ".join(run.ids[near]),
            }
        )
    return rows


def _commonest(values: np.ndarray) -> tuple[str, float]:
    """The commonest value and its share of those that are; "" and 0 without any."""
    names, counts = np.unique(values[values != ""], return_counts=True)
    if not len(names):
        return "", 0.0
    return str(names[counts.argmax()]), float(counts.max() / counts.sum())


def as_text(
    item_map: Map,
    run: LoadedRun,
    described: list[dict[str, Any]],
    *,
    seed: int,
) -> str:
    """What is printed."""
    left, (x, y) = len(run.ids) - len(item_map.rows), item_map.flat.share
    some = item_map.values.of != ""
    left = f", {left:,} without a vector left out" if left else ""
    without = f", {(~some).sum():,} items without one" if not some.all() else ""
    lines = [
        f"run        {run.config.name}, {len(item_map.rows):,} items{left}",
        f"map        the first two principal axes, {x:.1%} and {y:.1%} of the variance",
        f"colour     {item_map.values.name}, {len(np.unique(item_map.values.of[some]))} values"
        + without,
    ]
    columns = [name for name in described[0] if name != "ids"]
    lines += ["", log.as_table([_cells(row) for row in described], columns), ""]
    if not some.any():
        return "\n".join(lines)
    for name, measure in (
        ("purity", clusters_lib.purity),
        ("NMI", clusters_lib.normalized_mutual_information),
    ):
        agreement = clusters_lib.agreement(
            measure, item_map.of[some], item_map.values.of[some], seed=seed
        )
        lines.append(
            f"{name:<10} {agreement.value:.3f} of clusters and {item_map.values.name}; shuffled "
            f"values have {agreement.shuffled:.3f}, at most {agreement.most:.3f}"
        )
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    return {**row, "cluster": str(row["cluster"]), "share": f"{row['share']:.0%}"}


def draw(item_map: Map, path: pathlib.Path, *, pyplot, title: str) -> None:
    """The map as a PNG: a point an item, a number at the middle of each cluster."""
    at, values = item_map.flat.at, item_map.values.of
    names, counts = np.unique(values[values != ""], return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")[: len(COLORS)]]
    figure, axes = pyplot.subplots(figsize=(10, 8))
    size = np.clip(30_000 / len(at), 2, 24)
    groups = [("other", ~np.isin(values, shown), OTHER)]
    groups += [(name, values == name, color) for name, color in zip(shown, COLORS)]
    for name, rows, color in groups:
        label = _plain(f"{log.brief(name)} ({rows.sum():,})")
        axes.scatter(*at[rows].T, s=size, color=color, linewidths=0, label=label)
    for cluster in range(len(item_map.near)):
        middle = at[item_map.of == cluster].mean(axis=0)
        axes.annotate(
            str(cluster),
            middle,
            weight="bold",
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.7},
        )
    axes.legend(
        title=_plain(item_map.values.name), loc="center left", bbox_to_anchor=(1, 0.5)
    )
    x, y = item_map.flat.share
    axes.set(
        xlabel=f"first principal axis ({x:.1%} of the variance)",
        ylabel=f"second ({y:.1%})",
        title=f"{title}: {len(at):,} items, {len(item_map.near)} clusters (numbers)",
    )
    axes.set_aspect("equal")
    # Without the library's version the file is the same wherever its points are.
    figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def _plain(text: str) -> str:
    """As it is: matplotlib takes what stands between dollars for mathematics."""
    return text.replace("$", r"\$")


def _pyplot():
    """matplotlib's, drawing to files alone."""
    try:
        import matplotlib
    except ImportError as problem:
        raise InputError("a map needs matplotlib: pip install matplotlib") from problem
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def write(
    item_map: Map,
    run: LoadedRun,
    described: list[dict[str, Any]],
    path: pathlib.Path,
) -> None:
    """The clusters and the items as CSV beside the PNG."""
    clusters, items = path.with_suffix(".csv"), path.with_name(f"{path.stem}_items.csv")
    _write_csv(clusters, described)
    rows = [
        {
            "id": run.ids[row],
            "title": "" if run.titles is None else run.titles[row],
            "x": f"{x:.6f}",
            "y": f"{y:.6f}",
            "cluster": cluster,
            "value": value,
        }
        for row, cluster, (x, y), value in zip(
            item_map.rows, item_map.of, item_map.flat.at, item_map.values.of
        )
    ]
    _write_csv(items, rows)
    print(f"written    {path}, {clusters.name}, {items.name}")


def _write_csv(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def define_flags() -> None:
    flags.DEFINE_string("run", None, "folder of a trained run")
    flags.DEFINE_string(
        "color", None, "item column; default: the first categorical one"
    )
    flags.DEFINE_integer("clusters", 20, "how many")
    flags.DEFINE_string("to", None, "path of the PNG; default: map.png of the run")
    flags.DEFINE_integer("seed", 0, "of the clusters' starts and the shuffled values")


if __name__ == "__main__":
    define_flags()
    cli.start(main, parse=cli.parse_plain)
