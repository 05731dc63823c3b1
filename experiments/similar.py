"""The items nearest to one in a trained run's vectors, for people to judge.

    python -m experiments.similar --run=runs/item2vec_ml1m --item="toy story (1995)"
    python -m experiments.similar --run=runs/eges_ml1m --item=2571 --num=20

--item is a raw id, or a title or a part of one that only one title has; a raw id comes
first, then a whole title, and case does not count. Nearness is the cosine of the vectors
that the run's best checkpoint serves. Works for every model; nothing is trained or
written.
"""

import difflib

import numpy as np
from absl import flags

from experiments.common import cli
from recall_jax.evaluate import measure
from recall_jax.index import search
from recall_jax.run import open as open_lib
from recall_jax.run.restored import LoadedRun
from recall_jax.training import log as log_lib
from recall_jax.types import InputError, unknown

SHOWN = 10  # of several items that match, or of those nearest to a name


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    if options.run is None or options.item is None:
        raise InputError("name a run's folder with --run and an item with --item")
    run = open_lib.open_run(options.run).loaded
    row = find(options.item, ids=run.ids, titles=run.titles)
    print(f"item       {_named(row, ids=run.ids, titles=run.titles)}")
    print(similar(run, row, num=options.num, index=options.index))


def find(text: str, *, ids: np.ndarray, titles: np.ndarray | None) -> int:
    """The row that a text names. Raises InputError where that is none, or several."""
    wanted = text.casefold()
    folded = [] if titles is None else [title.casefold() for title in titles.tolist()]
    for matches in (
        np.flatnonzero(ids == text),
        np.flatnonzero([title == wanted for title in folded]),
        np.flatnonzero([wanted in title for title in folded]),
    ):
        if len(matches) == 1:
            return int(matches[0])
        if len(matches):
            named = [_named(row, ids=ids, titles=titles) for row in matches[:SHOWN]]
            raise InputError(
                f"--item={text!r} is {len(matches):,} items, among them: "
                f"{'; '.join(named)}. Give an id"
            )
    names = {title: titles[row] for row, title in enumerate(folded)}
    names |= {name: name for name in ids.tolist()}
    close = difflib.get_close_matches(wanted, list(names), n=SHOWN, cutoff=0.3)
    raise InputError(
        f"--item={text!r} is no id and in no title of the run's {len(ids):,} items; "
        f"nearest: {'; '.join(log_lib.brief(names[name]) for name in close) or 'none'}"
    )


def _named(row: int, *, ids: np.ndarray, titles: np.ndarray | None) -> str:
    title = "" if titles is None else log_lib.brief(titles[row])
    return f"{ids[row]}, {title}" if title else str(ids[row])


def similar(run: LoadedRun, row: int, *, num: int, index: str) -> str:
    """The table of the `num` nearest items but itself."""
    if num < 1:
        raise InputError(f"--num is {num}; it must be at least 1")
    if index not in measure.INDEXES:
        raise unknown("--index", index, measure.INDEXES)
    if len(run.ids) == 1:
        raise InputError(f"{run.ids[row]} is the run's only item: none is like it")
    if not run.vectors[row].any():
        raise InputError(
            f"the model has no vector for item {run.ids[row]}, which has "
            f"{run.data.popularity[row + 1]:,} training events"
        )
    itself = search.Exclude(np.array([0, 1]), np.array([row], np.int32))
    try:
        neighbours = (
            measure.INDEXES[index]
            .build(run.vectors)
            .search(run.vectors[[row]], min(num, len(run.ids) - 1), itself)
        )
    except search.MissingPackage as problem:
        raise InputError(str(problem)) from problem
    rows = [
        {
            "rank": str(rank),
            "id": run.ids[other],
            "title": "" if run.titles is None else log_lib.brief(run.titles[other]),
            "cosine": f"{score:.4f}",
            "events": f"{run.data.popularity[other + 1]:,}",
        }
        for rank, (other, score) in enumerate(
            zip(neighbours.ids[0], neighbours.scores[0]), 1
        )
        if other >= 0
    ]
    columns = ["rank", "id", "title", "cosine", "events"]
    if run.titles is None:
        columns.remove("title")
    return log_lib.as_table(rows, columns)


def define_flags() -> None:
    flags.DEFINE_string("run", None, "folder of a trained run")
    flags.DEFINE_string("item", None, "raw id, title, or a part of a title")
    flags.DEFINE_integer("num", 10, "how many items to show")
    flags.DEFINE_string("index", "exact", "or approx, scann")


if __name__ == "__main__":
    define_flags()
    cli.start(main, parse=cli.parse_plain)
