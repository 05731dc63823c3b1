"""The settings of a sweep by what they reached on validation: its tables."""

import collections
import json
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common import cells as cells_lib
from experiments.common import summaries, tabulate
from experiments.common.cells import Cell
from recall_jax import files
from recall_jax.training import log


def ranked(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row a setting, the best on validation first; means over its finished seeds."""
    rows, metric = [], _metric(cells)
    for label, members in cells_lib.by_label(cells).items():
        done = [cell for cell in members if cell.results]
        values = [cell.results["valid"][metric] for cell in done]
        names = summaries.metrics_of(done[0]) if done else []
        rows.append(
            {
                "setting": label,
                "own": members[0].entry.own,
                "valid": float(np.mean(values)) if done else None,
                "valid_sd": float(np.std(values, ddof=1)) if len(done) > 1 else None,
                "test": {name: _mean(done, name) for name in names},
                "finished": len(done),
                "seeds": len(members),
                "outcomes": {str(c.seed): c.outcome for c in members},
                "command": members[0].command,
            }
        )
    # A mean over fewer seeds than others have says less, whatever it is.
    return sorted(rows, key=lambda row: (-row["finished"], -(row["valid"] or 0.0)))


def _metric(cells: Sequence[Cell]) -> str:
    return cells[0].config.evaluate.select_by


def _mean(cells: Sequence[Cell], metric: str) -> float:
    return float(np.mean([summaries.means(cell, "test")[metric] for cell in cells]))


def as_text(cells: Sequence[Cell]) -> str:
    """The ranking, the best setting, and the comparison with baselines."""
    rows, metric = ranked(cells), _metric(cells)
    shown = [
        {
            **row["own"],
            f"valid {metric}": row["valid"],
            "sd": row["valid_sd"],
            f"test {metric}": row["test"].get(metric),
            "seeds": _told(row),
        }
        for row in rows
    ]
    lines = [log.as_table(shown, list(shown[0]))]
    if rows[0]["finished"]:
        best = rows[0]
        lines.append(
            f"best on validation: {best['setting']}, {metric} {best['valid']:.4f}; on "
            f"test {best['test'][metric]:.4f}. Validation chose it, so only its test "
            "figure stands for the sweep."
        )
        lines.append(f"```sh\n{best['command']}\n```")
    groups = summaries.summarize(cells, by=metric)
    return "\n\n".join([*lines, tabulate.as_text(groups)])


def _told(row: dict[str, Any]) -> str:
    """5; or of which 5 how many: 3 of 5, 2 diverged."""
    counts = collections.Counter(row["outcomes"].values())
    done = counts.pop("finished", 0)
    if not counts:
        return str(done)
    others = [f"{count} {name}" for name, count in sorted(counts.items())]
    return ", ".join([f"{done} of {row['seeds']}", *others])


def write(cells: Sequence[Cell], folder: pathlib.Path) -> None:
    """sweep.md, sweep.csv and sweep.json of what is finished by now."""
    command = shlex.join(["python", "-m", "experiments.sweep", *sys.argv[1:]])
    text = f"```sh\n{command}\n```\n\n{as_text(cells)}\n"
    rows = ranked(cells)
    content = {
        "command": command,
        "best": rows[0]["setting"] if rows[0]["finished"] else None,
        "settings": rows,
        "groups": summaries.summarize(cells, by=_metric(cells)),
    }
    files.write_atomically(folder / "sweep.md", text)
    files.write_atomically(folder / "sweep.csv", tabulate.as_csv(cells))
    files.write_atomically(folder / "sweep.json", json.dumps(content, indent=1) + "\n")
