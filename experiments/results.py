"""results.json, read: as this version writes it, whichever version wrote the file."""

from typing import Any, NamedTuple

from recall_jax import evaluate


class Row(NamedTuple):
    """Figures of some queries: means and 95 % intervals by metric."""

    means: dict[str, float]
    intervals: dict[str, list[float]]
    queries: int | None = None  # where they are a segment's


def upgraded(results: dict[str, Any]) -> dict[str, Any]:
    """`results` with what older versions lacked or named otherwise."""
    ranked = evaluate.ranked(evaluate.EvaluateConfig())
    lacking = {"index": "exact", "lists": {}, "curves": {}, "candidates": ranked}
    results = lacking | results
    scann, rate = results.pop("scann", None), results.pop("queries_per_second", None)
    new = results.pop("new_items", None)
    if "indexes" not in results:
        exact = {**results["test"], "queries_per_second": rate}
        rows = {"exact": exact} | ({"scann": scann} if scann else {})
        results["indexes"] = {name: _index(row) for name, row in rows.items()}
    if "segments" not in results:
        results["segments"] = {"popularity": {"new": _new(new, results)}} if new else {}
    return results


def _index(row: dict[str, float]) -> dict[str, Any]:
    figures = {name: value for name, value in row.items() if "@" in name}
    return {"metrics": figures, "queries_per_second": row.get("queries_per_second")}


def _new(rows: dict[str, dict[str, float]], results: dict[str, Any]) -> dict[str, Any]:
    found = results["intervals"]
    return {
        "rows": {name.removesuffix("_new"): means for name, means in rows.items()},
        "intervals": {
            name.removesuffix("_new"): found[name] for name in rows if name in found
        },
    }


def rows(results: dict[str, Any]) -> dict[str, Row]:
    """Every row of figures by name: a baseline, test, valid, an index beside that of
    test, test_ties_shuffled, test_refit; and each in each segment, as test_head."""
    names = "test", "valid", "test_ties_shuffled", "test_refit"
    means = results["baselines"] | {name: results.get(name) for name in names}
    means |= {
        name: row["metrics"]
        for name, row in results["indexes"].items()
        if name != results["index"]
    }
    whole = {
        name: Row(found, results["intervals"].get(name, {}))
        for name, found in means.items()
        if found
    }
    return whole | segment_rows(results)


NOT_OF_LISTS = "link_auc", "market_auc", "booked_"
"""How the names of what `further` gives begin."""


def further(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Figures that are not of ranked lists, of the rows test and popularity: the AUC of
    removed links, and of sessions that converted the booked item's mean reciprocal rank,
    its relative rank (0 the first) and the order within a market."""
    links = {"test": "link_auc", "popularity": "link_auc_popularity"}
    made = {
        row: {"link_auc": results[name]["auc"]}
        for row, name in links.items()
        if results.get(name)
    }
    if found := results.get("conversions"):
        for row, figures in (("test", found), ("popularity", found["popularity"])):
            booked = {
                f"booked_{name}": value
                for name, value in figures["all"].items()
                if not name.startswith("pairs")
            }
            if within := figures.get("ordering_in_market"):
                booked["market_auc"] = within["auc"]
            made[row] = made.get(row, {}) | booked
    return made


def curves(results: dict[str, Any]) -> dict[str, Row]:
    """Hit rate, recall and NDCG at several k, of the model ("test") and the baselines;
    none of a run that an older version measured."""
    return {
        name: Row(found["metrics"], found["intervals"])
        for name, found in results["curves"].items()
    }


def segment_rows(results: dict[str, Any]) -> dict[str, Row]:
    """The rows of every segment, by names like test_head."""
    return {
        f"{row}_{name}": Row(
            means, segment["intervals"].get(row, {}), segment.get("queries")
        )
        for group in results["segments"].values()
        for name, segment in group.items()
        for row, means in segment["rows"].items()
    }


def hidden_rows(results: dict[str, Any]) -> list[str]:
    """Names of the rows of new items where items were hidden from training; elsewhere
    new items are few, and their segment says enough."""
    new = results["segments"].get("popularity", {}).get("new", {"rows": {}})
    return [f"{row}_new" for row in new["rows"]] if "chance" in new["rows"] else []
