"""A run trained, and what it prints when it is finished: its table, how it was measured, where it lies."""

import pathlib
from typing import Any

from experiments.common import results as results_lib
from recall_jax.run import experiment as experiment_lib
from recall_jax.run.config import Experiment
from recall_jax.training import log


def train(config: Experiment, workdir: pathlib.Path) -> dict[str, Any]:
    """Train and evaluate in `workdir`, resuming what is there, and show the results;
    returns results.json."""
    results = experiment_lib.train(config, workdir).results
    show(results, workdir)
    return results


def show(results: dict[str, Any], workdir: pathlib.Path) -> None:
    """The table of results and how it was measured, then details, each under a line on
    what to read in it, and where everything lies."""
    print(_figures(results))
    print(
        f"protocol   {results['protocol']}\n"
        f"           {results['candidates']}, seen items {results['seen']}, ties in score "
        "count against the model; +- is half a 95 % bootstrap interval over users"
    )
    if l2 := results.get("ease_l2"):
        print(f"           ease with l2 {l2:g}, the best on validation")
    print(
        "\nindexes    what each costs to build and to search, and loses against exact"
    )
    print(_indexes(results))
    if results["segments"]:
        print(
            "\nsegments   who and what is served well: light, medium, heavy are thirds of "
            "the users by length of\n           history; head, torso and tail are items "
            "with a third of the training events each, new\n           items have none; a "
            "user counts where they have a target, by their targets there"
        )
        print(_segments(results))
    if results["lists"]:
        print(
            "\nlists      what is shown. coverage: share of the catalogue in somebody's "
            "list; popularity rank: mean\n           over what is listed, 0 the most "
            "popular; gini: how unevenly items are listed, 0 evenly;\n           row "
            "targets: lists of exactly what was to be found"
        )
        print(_lists(results))
    if links := results.get("link_auc"):
        print(
            f"\nlinks      auc {links['auc']:.4f}, by popularity "
            f"{results['link_auc_popularity']['auc']:.4f}: {links['edges']:,} removed "
            "edges against as many random pairs without one, by the inner product of "
            "the items' vectors"
        )
    if conversions := results.get("conversions"):
        print(f"\nbooked     {_conversions(conversions)}")
    print()
    speed, seconds = results["examples_per_second"], results["seconds"]
    if speed:
        print(f"speed      {speed:,.0f} training examples/s on {results['device']}")
    if taken := results.get("test_pass_seconds"):
        print(
            f"evaluation {taken:.2f} s for one pass over the test part by "
            f"{results['index']}, an epoch of training {results['epoch_seconds']:.2f} s"
        )
    print("seconds    " + ", ".join(f"{k} {v:.1f}" for k, v in seconds.items()))
    print(
        f"written    {workdir}/results.json, config.json, metrics.jsonl, checkpoints/,"
    )
    print(f"           vocabularies.json; tensorboard --logdir={workdir}")


def _conversions(conversions: dict[str, Any]) -> str:
    """How well the items of a session tell what it converted, in a line."""
    line = f"{conversions['conversions']:,} conversions held out"
    if not (mean := conversions["all"]):
        return f"{line}, none with another item before it"
    line += f", {mean['pairs']:,} pairs of a click and one: rank {mean['rank']:.3f}"
    if "rank_in_market" in mean:
        line += f", in the market {mean['rank_in_market']:.3f}"
    return f"{line} (0 first, 1 last)"


def _figures(results: dict[str, Any]) -> str:
    """Baselines, then the model's rows."""
    labels = {name: name.replace("_", " ") for name in results["baselines"]}
    labels["test"] = f"{results['config']}, test"
    if results["index"] != "exact":
        labels["test"] += f", through {results['index']}"
    labels |= {name: f"  the same through {name}" for name in results["indexes"]}
    del labels[results["index"]]
    labels["test_ties_shuffled"] = "  trained and tested, ties shuffled"
    labels["test_refit"] = "  refitted on all of train"
    for name in results_lib.hidden_rows(results):
        row_name = {"test_new": results["config"]}.get(name, name.removesuffix("_new"))
        labels[name] = f"  new items, {row_name.replace('_', ' ')}"
    labels["valid"] = "  on validation"
    rows = results_lib.rows(results)
    table = [
        {"": label} | _cells(rows[name])
        for name, label in labels.items()
        if name in rows
    ]
    return log.as_table(table, ["", *results["test"]])


def _cells(row: results_lib.Row) -> dict[str, str]:
    return {
        metric: _cell(mean, row.intervals, metric) for metric, mean in row.means.items()
    }


def _indexes(results: dict[str, Any]) -> str:
    """How long each index took, and what it costs against exact."""
    table = [
        {
            "index": f"{name}, test" if name == results["index"] else name,
            "build s": _seconds(row.get("build_seconds")),
            "search s": _seconds(row.get("search_seconds")),
            "queries/s": f"{row['queries_per_second']:,.0f}",
        }
        | {
            f"{metric} vs exact": _gap(gap)
            for metric, gap in row.get("versus_exact", {}).items()
        }
        for name, row in results["indexes"].items()
    ]
    return log.as_table(table, list(dict.fromkeys(k for row in table for k in row)))


def _seconds(spent: float | None) -> str:
    return "" if spent is None else f"{spent:.3f}"


def _gap(gap: dict[str, Any]) -> str:
    """-0.0021 (-0.7%); 0 where all users have the same."""
    if gap["absolute"] == 0 and not any(gap["interval"]):
        return "0"
    relative = "" if gap["relative"] is None else f" ({gap['relative']:+.1%})"
    return f"{gap['absolute']:+.4f}{relative}"


def _segments(results: dict[str, Any]) -> str:
    """The model in each segment, and in its first metric the best baseline there."""
    first, *_ = results["test"]
    table = []
    for group in results["segments"].values():
        for name, segment in group.items():
            rest = {
                row: means[first]
                for row, means in segment["rows"].items()
                if row not in ("test", "oracle")
            }
            best = max(rest, key=rest.get)
            row = results_lib.Row(
                segment["rows"]["test"], segment["intervals"].get("test", {})
            )
            table.append(
                {
                    "segment": name,
                    "of": segment.get("told"),
                    "queries": f"{segment['queries']:,}"
                    if "queries" in segment
                    else "",
                    **_cells(row),
                    f"best baseline, {first}": f"{rest[best]:.4f} {best}",
                }
            )
    columns = list(dict.fromkeys(name for row in table for name in row))
    return log.as_table(table, columns)


def _lists(results: dict[str, Any]) -> str:
    """What the lists are made of, beside what was to be found."""
    k = results["lists"]["k"]
    table = [
        {
            "": {"test": results["config"]}.get(name, name.replace("_", " ")),
            f"coverage@{k}": row["coverage"],
            "popularity rank": f"{row['popularity_rank']:,.0f}",
            "gini": row["gini"],
        }
        for name, row in results["lists"]["rows"].items()
    ]
    return log.as_table(table, list(table[0]))


def _cell(mean: float, intervals: dict[str, list[float]], metric: str) -> str:
    if metric not in intervals:
        return f"{mean:.4f}"
    low, high = intervals[metric]
    return f"{mean:.4f} +-{(high - low) / 2:.4f}"
