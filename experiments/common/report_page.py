"""A report as one HTML page: its style, its pictures and its tables within it.

Nothing is fetched: a policy in the page forbids it. Everything that comes from a run is
escaped.
"""

import base64
import collections
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from experiments.common import cells as cells_lib
from experiments.common import cli, groups, tabulate
from experiments.common.charts import Chart
from experiments.common.groups import Group

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --muted: #5f6368; --line: #dcdfe3;
  --surface: #ffffff; --raised: #f5f6f8; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --muted: #a5abb3;
  --line: #3a3f46; --surface: #16191d; --raised: #1f2429; --link: #7db8f0; } }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--surface); font: 16px/1.5 system-ui, sans-serif; }
p, dl, figure, .read { max-width: 60rem; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 3rem; font-size: 1.3rem;
  padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { margin-top: 2.2rem; font-size: 1.05rem; }
h1, h2, h3, p, dd, figcaption { overflow-wrap: anywhere; }
a { color: var(--link); } nav ul { padding-left: 1.2rem; } nav > ul { padding-left: 0; list-style: none; } nav ul ul { columns: 2; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1rem; }
dt { color: var(--muted); } dd { margin: 0; }
figure { margin: 0.5rem 0 0; } picture { display: block; overflow-x: auto; }
img { display: block; width: 100%; min-width: 36rem; max-width: 56.25rem; height: auto; }
figcaption, .read { margin: 0.4rem 0 0; color: var(--muted); font-size: 0.875rem; }
.read { padding-left: 1.1rem; }
.scroll { overflow: auto; max-height: 80vh; border: 1px solid var(--line); }
.scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: separate; border-spacing: 0; font-size: 0.8125rem; min-width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; }
.number { text-align: right; }
thead th { position: sticky; top: 0; z-index: 1; background: var(--raised);
  white-space: normal; vertical-align: bottom; }
thead th:first-child { left: 0; z-index: 2; }
tbody th { position: sticky; left: 0; font-weight: normal; white-space: pre;
  background: var(--surface); }
tbody th.long { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) { thead th:first-child, tbody th { position: static; } }
tbody tr:last-child > * { border-bottom: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.7rem; background: var(--raised); font-size: 0.85rem; }
"""
LEFT = "state", "device", "folder", "why"  # columns of words
TIES = {"file": "in file order", "both": "in file order; and shuffled"}


class Picture(NamedTuple):
    """A chart drawn twice, as PNG."""

    chart: Chart
    light: bytes
    dark: bytes


class Section(NamedTuple):
    """A group of runs on the page: its pictures, and its tables as of `summarize`."""

    group: Group
    pictures: list[Picture]
    summaries: list[dict[str, Any]]


def render(title: str, *, command: str, sections: Sequence[Section]) -> str:
    """The page."""
    bodies = [_section(section, number) for number, section in enumerate(sections, 1)]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(_counts(sections))}</p>
<pre><code>{escape(command)}</code></pre>
</header>
{_contents(sections)}
<main>
{"".join(bodies)}</main>
</body>
</html>
"""


def _counts(sections: Sequence[Section]) -> str:
    cells = [cell for section in sections for cell in section.group.cells]
    states = collections.Counter(map(groups.state, cells))
    parts = [_plural(states.pop("finished", 0), "finished run")]
    parts += [f"{count:,} {name}" for name, count in sorted(states.items())]
    text = f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else parts[0]
    if len(sections) == 1:
        return f"{text}, on one data set under one protocol."
    return (
        f"{text}, in {len(sections)} groups. Figures compare within a group alone: "
        "another has other data, or another protocol."
    )


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _heading(group: Group) -> str:
    events = "" if group.events is None else f", {group.events:,} events"
    return f"{group.source}{events}: {group.protocol.partition(',')[0]}"


def _contents(sections: Sequence[Section]) -> str:
    lines = []
    for number, section in enumerate(sections, 1):
        inner = [(f"g{number}-table", "Table")] if section.group.finished else []
        inner += [
            (f"g{number}-{place}", picture.chart.title)
            for place, picture in enumerate(section.pictures, 1)
        ]
        inner.append((f"g{number}-runs", "Runs"))
        links = "".join(
            f'<li><a href="#{anchor}">{escape(title)}</a></li>\n'
            for anchor, title in inner
        )
        head = f"{number}. {escape(_heading(section.group))}"
        lines.append(f'<li><a href="#g{number}">{head}</a>\n<ul>\n{links}</ul></li>\n')
    listed = "".join(lines)
    return f'<nav aria-label="Contents">\n<ul>\n{listed}</ul>\n</nav>'


def _section(section: Section, number: int) -> str:
    group, anchor = section.group, f"g{number}"
    parts = [_described(group)]
    if group.finished:
        parts.append(f'<h3 id="{anchor}-table">Table</h3>\n')
        parts += [_table(one, label=_heading(group)) for one in section.summaries]
    for place, picture in enumerate(section.pictures, 1):
        parts.append(_figure(picture, f"{anchor}-{place}"))
    parts.append(f'<h3 id="{anchor}-runs">Runs</h3>\n{_runs(group)}')
    return (
        f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">'
        f"{number}. {escape(_heading(group))}</h2>\n{''.join(parts)}</section>\n"
    )


def _described(group: Group) -> str:
    """How everything in the section was measured."""
    pairs = [
        ("Protocol", group.protocol),
        ("Lists", group.ranked),
        ("Seen items", group.seen),
        ("Ties in time", TIES.get(group.ties, group.ties)),
        ("Ties in score", "count against the model"),
    ]
    devices = {c.results["device"] for v in group.finished for c in v.cells}
    if devices:
        pairs.append(("Devices", ", ".join(sorted(devices))))
    if group.num_fingerprints > 1:
        fingerprints = (
            f"{group.num_fingerprints} fingerprints: features or examples differ"
        )
        pairs.append(("Data", fingerprints))
    rows = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>\n" for k, v in pairs)
    return f"<dl>\n{rows}</dl>\n"


def _figure(picture: Picture, anchor: str) -> str:
    chart = picture.chart
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(content).decode()}"
        for content in (picture.light, picture.dark)
    )
    width, height = _size(picture.light)
    return f"""<h3 id="{anchor}">{escape(chart.title)}</h3>
<figure>
<picture>
<source media="(prefers-color-scheme: dark)" srcset="{dark}">
<img src="{light}" width="{width}" height="{height}" alt="{escape(chart.alt)}">
</picture>
<figcaption>{escape(chart.caption)}</figcaption>
</figure>
"""


def _size(png: bytes) -> tuple[int, int]:
    """Width and height, which a PNG has in its first chunk."""
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def _table(summary: dict[str, Any], *, label: str) -> str:
    columns = tabulate.columns(summary)
    rows = [tabulate.shown_row(row, group=summary) for row in summary["rows"]]
    table = _grid(columns, rows, label=f"Figures on test, {label}")
    if not summary["metrics"]:
        return f"<p>No figures yet:</p>\n{table}"
    items = "".join(f"<li>{escape(line)}</li>\n" for line in tabulate.legend(summary))
    return f'{table}<ul class="read">\n{items}</ul>\n'


def _grid(columns: Sequence[str], rows: Sequence[dict[str, str]], *, label: str) -> str:
    """A table whose first column names the rows; figures stand to the right."""
    first, *rest = columns
    style = {name: "" if name in LEFT else ' class="number"' for name in rest}
    head = "".join(f'<th scope="col"{style[name]}>{escape(name)}</th>' for name in rest)
    body = ""
    for row in rows:
        name = escape(row[first])
        cells = "".join(f"<td{style[c]}>{escape(row.get(c, ''))}</td>" for c in rest)
        long = ' class="long"' if len(row[first]) > 48 else ""
        body += f'<tr><th scope="row"{long}>{name}</th>{cells}</tr>\n'
    corner = escape(first) or "config"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">\n'
        f'<table>\n<thead><tr><th scope="col">{corner}</th>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )


def _runs(group: Group) -> str:
    """How far each run came, where and how long, and its folder."""
    rows = []
    for variant in group.variants:
        for cell, log in zip(variant.cells, variant.logs, strict=True):
            rows.append({"config": group.label(variant.entry)} | _run(cell, log))
    columns = ["config", "seed", "state", "epochs", "steps", "chosen step"]
    columns += ["seconds of training", "seconds in all", "device", "folder"]
    columns += ["why"] if any("why" in row for row in rows) else []
    table = _grid(columns, rows, label=f"Runs, {_heading(group)}")
    note = (
        "A run again: python -m experiments.run --config=FOLDER/config.json "
        "--workdir=NEW. Training is timed without compilation."
    )
    for run in group.repeated:
        note += f" Left out, since another run has its config and seed: {run.workdir}."
    return f'{table}<p class="read">{escape(note)}</p>\n'


def _run(cell: cells_lib.Cell, log: list[dict[str, Any]]) -> dict[str, str]:
    last = log[-1] if log else {}
    row = {"folder": str(cell.workdir), "seed": str(cell.seed)}
    row |= {"state": groups.state(cell)}
    if cell.stopped or cell.problem:
        row["why"] = cell.stopped or cli.error_line(cell.problem)
    row |= {"epochs": f"{last['epoch']:g}"} if "epoch" in last else {}
    row |= {"steps": f"{last['step']:,}"} if last else {}
    if results := cell.results:
        row |= {"chosen step": f"{results['best_step']:,}", "device": results["device"]}
        row["seconds in all"] = f"{sum(results['seconds'].values()):,.1f}"
        row["seconds of training"] = f"{results['seconds'].get('train', 0.0):,.1f}"
        if (num := groups.num_together(cell)) > 1:
            row["seconds of training"] += f", share of {num} together"
    return row
