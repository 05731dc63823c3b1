"""The table of a study: rows by factor, each compared with its base on the same seeds."""

import dataclasses
import json
import pathlib
import shlex
import string
from collections.abc import Sequence
from typing import Any

from experiments.common import cells as cells_lib
from experiments.common import summaries, tabulate
from experiments.common.cells import Cell
from experiments.common.study import Block, Setting, Study
from recall_jax import files
from recall_jax.training import log

Cells = dict[str, list[Cell]]  # the seeds of a config, by its folder's name


def by_config(cells: Sequence[Cell]) -> Cells:
    by_folder: Cells = {}
    for cell in cells:
        by_folder.setdefault(cells_lib.folder_name(cell.entry), []).append(cell)
    return by_folder


def as_written(study: Study) -> dict[str, Any]:
    """What figures are of; what was found changes none."""
    content = dataclasses.asdict(study)
    del content["finding"]
    return json.loads(json.dumps(content))


def summarize(study: Study, blocks: Sequence[Block], cells: Cells) -> dict[str, Any]:
    """Rows of every block, and what they were measured by.

    `measured` is a list of what figures must share to be compared; a row's "measured" is
    its letter there. Below the first row of each stand its baselines. Differences are
    paired by seed within a block, also where the protocol is what is varied.
    """
    measured: list[tuple] = []
    done = [cell for members in cells.values() for cell in members if cell.results]
    metrics = dict.fromkeys(m for cell in done for m in summaries.metrics_of(cell))
    if study.by in metrics:
        metrics = {study.by: None, **metrics}
    parts = [
        {
            "factor": block.factor,
            "rows": [
                row
                for setting in block.settings
                for row in _rows(setting, block, cells, measured, by=study.by)
            ],
        }
        for block in blocks
    ]
    return {
        "study": as_written(study),
        "metrics": list(metrics),
        "compared_by": study.by,
        "measured": [dict(zip(summaries.MEASURED, key)) for key in measured],
        "devices": sorted({cell.results["device"] for cell in done}),
        "runs": sum(map(len, cells.values())),
        "finished": len(done),
        "blocks": parts,
    }


def _rows(
    setting: Setting, block: Block, cells: Cells, measured: list[tuple], *, by: str
) -> list[dict[str, Any]]:
    """Of a setting: its own, further ones, those of new items; and baselines where
    nothing before was measured so."""
    members = cells[cells_lib.folder_name(setting.entry)]
    first = cells[cells_lib.folder_name(block.base.entry)]
    comparison = {"first": first, "by": by}
    rows = [summaries.make_row(members, "test", label=setting.label, **comparison)]
    rows += [
        summaries.make_row(members, name, label=row_label, **comparison)
        for name, row_label in summaries.FURTHER.items()
        if any(summaries.means(cell, name) for cell in members)
    ]
    new = {name for cell in members for name in summaries.new_items(cell)}
    if "test_new" in new:
        label = f"{setting.label}, new items"
        rows.append(summaries.make_row(members, "test_new", label=label, **comparison))
    done = [cell for cell in members if cell.results]
    for cell in done[:1]:
        key = summaries.key_of(cell)
        if key not in measured:
            measured.append(key)
            rows += _baselines(cell)
        letter = _letter(measured.index(key))
        rows = [row | {"measured": letter} for row in rows]
    return rows


def _baselines(cell: Cell) -> list[dict[str, Any]]:
    names = summaries.baselines(cell)
    names += [name for name in summaries.new_items(cell) if name != "test_new"]
    return [
        summaries.make_row([cell], name, label=f"  {_plain(name)}") for name in names
    ]


def _plain(name: str) -> str:
    new = name.endswith("_new")
    return name.removesuffix("_new").replace("_", " ") + ", new items" * new


def _letter(index: int) -> str:
    """A, B, ... Z, A1, ..."""
    turn, index = divmod(index, 26)
    return string.ascii_uppercase[index] + (str(turn) if turn else "")


def as_text(summary: dict[str, Any]) -> str:
    """The table, how it is read, and what failed."""
    metrics, parts = summary["metrics"], summary["blocks"]
    several = len(summary["measured"]) > 1
    shown = []
    for part in parts:
        if part["factor"]:
            shown.append({"": f"**{part['factor']}**"})
        for row in part["rows"]:
            cells = tabulate.shown_row(row, group=summary)
            shown.append(cells | {"measured": row.get("measured", "")})
    columns = ["", "seeds"]
    if metrics:
        versus = tabulate.versus_column(summary)
        columns = ["", metrics[0], "+-", versus, *metrics[1:], "seconds", "parameters"]
        columns += ["seeds", *(["measured"] if several else [])]
    rows = [
        row | {"label": f"{part['factor']}: {row['label']}".removeprefix(": ")}
        for part in parts
        for row in part["rows"]
    ]
    lines = [*_legend(summary, several=several), *tabulate.problems(rows)]
    return "\n".join([log.as_table(shown, columns), "", *lines]).rstrip()


def _legend(summary: dict[str, Any], *, several: bool) -> list[str]:
    lines = []
    for index, how in enumerate(summary["measured"]):
        source = how["source"].partition(", /")[0]  # folders are a machine's own
        description = (
            f"{source}, {how['events']:,} events; {how['protocol']}; "
            f"{how['candidates']}, seen items {how['seen']}, ties in score count against "
            "the model"
        )
        lines.append(f"{_letter(index)}: {description}" if several else description)
    if summary["metrics"]:
        lines.append(
            "mean over seeds (standard deviation over seeds); +- is half the 95 % "
            f"bootstrap interval over users of {summary['metrics'][0]}, mean over seeds"
        )
        lines.append(
            f"vs first: difference in {summary['compared_by']} to the base (of a factor "
            "with a base of its own, to that) on the same seeds, mean +- half its 95 % "
            "interval (Student's t over seeds)"
        )
        where = ", ".join(summary["devices"])
        lines.append(f"seconds of training, mean over seeds; on {where}")
    lines.append(f"budget of every setting: `{summary['study']['budget']}`")
    return [f"- {line}" for line in lines]


def commands(summary: dict[str, Any]) -> str:
    """One run of each row."""
    labels = {
        row["command"]: f"{part['factor']}: {row['label']}".removeprefix(": ")
        for part in summary["blocks"]
        for row in part["rows"]
        if "command" in row
    }
    return "\n\n".join(
        f"{label}\n\n```sh\n{line}\n```" for line, label in labels.items()
    )


def heading(study: Study, *, finding: str) -> str:
    """What is asked, by whom, what was expected and what came out."""
    return "\n\n".join(
        [
            f"{study.question} ({study.paper})",
            f"*Expected.* {study.expected}",
            f"*Found.* {finding}",
        ]
    )


def write(
    study: Study,
    blocks: Sequence[Block],
    cells: Sequence[Cell],
    *,
    folder: pathlib.Path,
    command: Sequence[str],
) -> dict[str, Any]:
    """ablation.md, ablation.csv and ablation.json of what is finished by now."""
    command_line = shlex.join(command)
    summary = summarize(study, blocks, by_config(cells)) | {"command": command_line}
    parts = [
        f"# {folder.name}",
        heading(study, finding=study.finding or "not yet measured"),
        f"```sh\n{command_line}\n```",
        as_text(summary),
        "## A run of each row",
        commands(summary),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(parts)
    files.write_atomically(folder / "ablation.md", text + "\n")
    files.write_atomically(folder / "ablation.csv", tabulate.as_csv(cells))
    content = json.dumps(summary, indent=1)
    files.write_atomically(folder / "ablation.json", content + "\n")
    return summary
