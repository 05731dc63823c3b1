"""results.json, read, and its rows."""

from typing import Any, NamedTuple


class Row(NamedTuple):
    """Figures of some queries: means and 95 % intervals by metric."""

    means: dict[str, float]
    intervals: dict[str, list[float]]
    queries: int | None = None  # where they are a segment's


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
        name: Row(metrics, results["intervals"].get(name, {}))
        for name, metrics in means.items()
        if metrics
    }
    return whole | segment_rows(results)


NOT_OF_LISTS = "link_auc", "market_auc", "booked_"
"""How the names of what `further` gives begin."""


def further(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Figures that are not of ranked lists, of the rows test and popularity: the AUC of
    removed links, and of sessions that converted the booked item's mean reciprocal rank,
    its relative rank (0 the first) and the order within a market."""
    links = {"test": "link_auc", "popularity": "link_auc_popularity"}
    by_row = {
        row: {"link_auc": results[name]["auc"]}
        for row, name in links.items()
        if results.get(name)
    }
    if conversions := results.get("conversions"):
        for row, figures in (
            ("test", conversions),
            ("popularity", conversions["popularity"]),
        ):
            booked = {
                f"booked_{name}": value
                for name, value in figures["all"].items()
                if not name.startswith("pairs")
            }
            if within := figures.get("ordering_in_market"):
                booked["market_auc"] = within["auc"]
            by_row[row] = by_row.get(row, {}) | booked
    return by_row


def curves(results: dict[str, Any]) -> dict[str, Row]:
    """Hit rate, recall and NDCG at several k, of the model ("test") and the baselines."""
    return {
        name: Row(curve["metrics"], curve["intervals"])
        for name, curve in results["curves"].items()
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
