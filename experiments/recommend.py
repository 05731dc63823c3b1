"""What a trained run would show a user, or somebody new.

    python -m experiments.recommend --run=runs/dssm_ml1m --user=42
    python -m experiments.recommend --run=runs/dssm_ml1m --history=260,1196,1210 --k=20
    python -m experiments.recommend --run=runs/dssm_ml1m --features=gender=F,age=25
    python -m experiments.recommend --export=exported/dssm_ml1m --user=42

--user, and --history, the oldest first, are raw ids; --features are raw values, of
several in one field as tags=a|b. A known user's history is all of his events, those of
training, validation and test, unless --history gives another. Items of the history are
removed or kept as the run was evaluated, or as --seen says. Whatever the model knows
nothing of is left out with a note, and where it knows nothing at all, the most popular
items are listed. Nothing is trained or written.
"""

from typing import Any

from absl import flags

from experiments.common import cli
from recall_jax.run import open as open_lib
from recall_jax.serve import recommender as recommender_lib
from recall_jax.training import log
from recall_jax.types import InputError

SHOWN = 10  # items of a history


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    if (options.run is None) == (options.export is None):
        raise InputError(
            "name a run's folder with --run, or the folder of an export with --export"
        )
    if options.user is None and options.history is None and not options.features:
        raise InputError(
            "say who asks: --user=ID, --history=ID,ID or --features=NAME=VALUE"
        )
    if options.k < 1:
        raise InputError(f"--k is {options.k}; it must be at least 1")
    pairs = as_pairs(options.features)
    if options.export is not None:
        recommender = recommender_lib.load(options.export)
    else:
        recommender = open_lib.open_run(options.run).recommender
    history = options.history
    answer = recommender.recommend(
        user=options.user,
        history=None if history is None else [x.strip() for x in history if x.strip()],
        features=split_values(pairs, recommender.served),
        k=options.k,
        seen=options.seen,
    )
    print(
        as_text(
            answer, recommender.served, user=options.user, given=history is not None
        )
    )


def as_pairs(entries: list[str]) -> dict[str, str]:
    """Raises InputError for what is not name=value."""
    pairs = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name.strip():
            raise InputError(
                f"--features: {entry!r} is no feature; it is NAME=VALUE, several as "
                "--features=gender=F,age=25"
            )
        pairs[name.strip()] = value.strip()
    return pairs


def split_values(
    pairs: dict[str, str], served: recommender_lib.Served
) -> dict[str, Any]:
    """The values of fields that take several, apart."""
    several = {name for name, feature in served.features.items() if feature.several}
    return {
        name: list(filter(None, value.split("|"))) if name in several else value
        for name, value in pairs.items()
    }


def as_text(
    answer: recommender_lib.Recommended,
    served: recommender_lib.Served,
    *,
    user: str | None,
    given: bool,
) -> str:
    """What is printed."""
    lines = [f"model      {served.name}"]
    if user is not None:
        lines.append(f"user       {user}")
    lines += _history(answer, own=not given)
    lines.append(f"seen       items of the history are {answer.seen}")
    by = {
        "model": "the inner product of the user's and the item's vector",
        "popularity": "training events, the same for everybody",
    }
    lines.append(f"score      {by[answer.by]}")
    lines += [f"note       {note}" for note in answer.notes]
    form = "{:.4f}" if answer.by == "model" else "{:,.0f}"
    rows = [
        {"rank": str(rank), "id": str(name), "score": form.format(score)}
        for rank, (name, score) in enumerate(zip(answer.ids, answer.scores), 1)
    ]
    columns = ["rank", "id", "score"]
    if answer.titles is not None:
        columns.insert(2, "title")
        titles = map(log.brief, answer.titles)
        rows = [{**row, "title": x} for row, x in zip(rows, titles)]
    return "\n".join(
        [*lines, "", log.as_table(rows, columns) if rows else "no item is left"]
    )


def _history(answer: recommender_lib.Recommended, *, own: bool) -> list[str]:
    """How many items, whose, how many are read, and the last of them, the last first."""
    number = len(answer.history)
    whose = "all of his events, of training, validation and test" if own else "as given"
    whose = f", {whose}" if number else ""
    much = "all" if answer.read == number else f"the last {answer.read:,}"
    read = f"; the model reads {much}" if answer.read else ""
    lines = [
        f"history    {number:,} items{whose}{read}{', last first:' if number else ''}"
    ]
    for at in range(number - 1, max(number - 1 - SHOWN, -1), -1):
        titles = answer.history_titles
        title = "" if titles is None else log.brief(titles[at])
        lines.append(f"           {answer.history[at]}{', ' * bool(title)}{title}")
    if number > SHOWN:
        lines.append(f"           and {number - SHOWN:,} before them")
    return lines


def define_flags() -> None:
    flags.DEFINE_string("run", None, "folder of a trained run")
    flags.DEFINE_string("export", None, "folder of an export, instead of a run")
    flags.DEFINE_string("user", None, "raw id")
    flags.DEFINE_list("history", None, "raw ids of items, the oldest first")
    flags.DEFINE_list(
        "features", [], "NAME=VALUE of somebody new, or instead of his own"
    )
    flags.DEFINE_integer("k", 10, "how many items")
    flags.DEFINE_enum("seen", "auto", recommender_lib.SEEN, "items of the history")


if __name__ == "__main__":
    define_flags()
    cli.start(main, parse=cli.parse_plain)
