"""What a finished run prints: its table, how it was measured, where it lies."""

import pathlib
from typing import Any

from recall_jax import logs


def show(results: dict[str, Any], workdir: pathlib.Path) -> None:
    """The table of results, how it was measured, and where everything lies."""
    rows = {name.replace("_", " "): name for name in results["baselines"]}
    means = {**results["baselines"], "test": results["test"]}
    rows[f"{results['config']}, test"] = "test"
    if results["scann"]:
        rows["  the same through scann"], means["scann"] = "scann", results["scann"]
    if results["test_ties_shuffled"]:
        rows["  trained and tested, ties shuffled"] = "test_ties_shuffled"
        means["test_ties_shuffled"] = results["test_ties_shuffled"]
    if results["test_refit"]:
        rows["  refitted on all of train"] = "test_refit"
        means["test_refit"] = results["test_refit"]
    if new := results.get("new_items"):
        means |= new
        for name in new:
            told = {"test_new": results["config"]}.get(name, name.removesuffix("_new"))
            rows[f"  new items, {told.replace('_', ' ')}"] = name
    rows["  on validation"], means["valid"] = "valid", results["valid"]
    rates = {"test": results["queries_per_second"]}
    rates |= {"scann": (results["scann"] or {}).get("queries_per_second")}
    table = [
        {"": label}
        | {
            metric: _cell(means[row][metric], results["intervals"].get(row, {}), metric)
            for metric in results["test"]
        }
        | ({"queries/s": f"{rates[row]:,.0f}"} if row in rates else {})
        for label, row in rows.items()
    ]
    print(logs.table(table, ["", *results["test"], "queries/s"]))
    if links := results.get("link_auc"):
        print(
            f"links      auc {links['auc']:.4f}, by popularity "
            f"{results['link_auc_popularity']['auc']:.4f}: {links['edges']:,} removed "
            "edges against as many random pairs without one, by the inner product of "
            "the items' vectors"
        )
    print(f"protocol   {results['protocol']}")
    print(
        f"           whole catalogue ranked, seen items {results['seen']}, ties in score "
        "count against the model; +- is half a 95 % bootstrap interval over users"
    )
    if l2 := results.get("ease_l2"):
        print(f"           ease with l2 {l2:g}, the best on validation")
    if found := results.get("conversions"):
        print(f"booked     {_conversions(found)}")
    speed, seconds = results["examples_per_second"], results["seconds"]
    if speed:
        print(f"speed      {speed:,.0f} training examples/s on {results['device']}")
    print("seconds    " + ", ".join(f"{k} {v:.1f}" for k, v in seconds.items()))
    print(
        f"written    {workdir}/results.json, config.json, metrics.jsonl, checkpoints/,"
    )
    print(f"           vocabularies.json; tensorboard --logdir={workdir}")


def _conversions(found: dict[str, Any]) -> str:
    """How well the items of a session tell what it converted, in a line."""
    told = f"{found['conversions']:,} conversions held out"
    if not (mean := found["all"]):
        return f"{told}, none with another item before it"
    told += f", {mean['pairs']:,} pairs of a click and one: rank {mean['rank']:.3f}"
    if "rank_in_market" in mean:
        told += f", in the market {mean['rank_in_market']:.3f}"
    return f"{told} (0 first, 1 last)"


def _cell(mean: float, intervals: dict[str, list[float]], metric: str) -> str:
    if metric not in intervals:
        return f"{mean:.4f}"
    low, high = intervals[metric]
    return f"{mean:.4f} +-{(high - low) / 2:.4f}"
