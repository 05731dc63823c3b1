"""From a group of runs to its charts: what each shows, how it is read, and in words."""

import collections
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.common import drawing, groups, plots, results, series, summaries
from experiments.common.groups import Group, Variant
from experiments.common.plots import Line, Panel
from recall_jax.evaluate import metrics as metrics_lib
from recall_jax.types import InputError

MOST_ROWS = 40  # configs in the overview
SEEDS = "from the lowest to the highest seed"
USERS = "the 95 % bootstrap interval over users, mean over seeds"


class Chart(NamedTuple):
    """`draw` makes the figure in a theme; `alt` says in words what it shows."""

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[drawing.Theme], Any]


class Shown(NamedTuple):
    """What all charts of a group have in common: its configs with figures by falling
    metric `by`, their colours, and its baselines."""

    group: Group
    by: str
    metrics: list[str]  # `by`, and one of how much is found
    slots: dict[str, int]  # by an entry's label; the others stay grey
    finished: list[Variant]

    def slot(self, variant: Variant) -> int | None:
        return self.slots.get(variant.entry.label)

    def label(self, variant: Variant) -> str:
        return self.group.label(variant.entry)

    @property
    def colored(self) -> list[Variant]:
        return [variant for variant in self.finished if self.slot(variant) is not None]

    def levels(self, metric: str) -> list[drawing.Level]:
        """Baselines, of the group's first finished run."""
        cell = self.group.finished[0].cells[0]
        baselines = {
            name: summaries.means(cell, name) for name in summaries.baselines(cell)
        }
        return [
            drawing.Level(_told(name), means[metric])
            for name, means in baselines.items()
            if metric in means
        ]


def make(group: Group, *, by: str = "") -> list[Chart]:
    """Every chart that the group's runs have something for. Raises InputError for a
    metric `by` that no run has."""
    shown = _shown(group, by=by)
    charts: list[Chart | None] = [_learning(shown)]
    if shown.finished:
        charts += [
            _overview(shown),
            *map(functools.partial(_sweep, shown), groups.sweeps(group)),
        ]
        charts += [_curves(shown), _segments(shown), _time(shown)]
    return [chart for chart in charts if chart]


def _shown(group: Group, *, by: str) -> Shown:
    finished = group.finished
    if not finished:
        slots = {
            v.entry.label: j for j, v in enumerate(group.variants[: drawing.SLOTS])
        }
        return Shown(group, by, [], slots, [])
    counts = collections.Counter(  # by how many configs have them
        metric for v in finished for metric in summaries.metrics_of(v.cells[0])
    )
    by = by or finished[0].entry.config.evaluate.select_by
    if by not in counts:
        raise InputError(
            f"--by={by}: {group.source} was measured by {', '.join(counts)}"
        )
    recall_metrics = [
        name for name in counts if name.startswith(("recall@", "hr@")) and name != by
    ]
    wide = sorted(recall_metrics, key=lambda m: (-counts[m], -metrics_lib.parse(m)[1]))
    ranked = sorted(finished, key=lambda v: -series.mean(v.cells, "test", by))
    best = {variant.entry.label for variant in ranked[: drawing.SLOTS]}
    done = {variant.entry.label for variant in finished}
    labels = [variant.entry.label for variant in group.variants]
    names = [label for label in labels if label in best]
    names += [label for label in labels if label not in done]
    slots = {label: j for j, label in enumerate(names[: drawing.SLOTS])}
    return Shown(group, by, [by, *wide[:1]], slots, ranked)


def _told(name: str) -> str:
    return name.replace("_", " ")


def _values(points: Iterable[tuple[str, float]]) -> str:
    """a 0.1234, b 0.2345 and so on, for who does not see the chart."""
    texts = [f"{label or 'all'} {value:.4f}" for label, value in points]
    rest = f" and {len(texts) - 8} more" if len(texts) > 8 else ""
    return ", ".join(texts[:8]) + rest


def _of_group(shown: Shown) -> str:
    counts = sorted({len(variant.cells) for variant in shown.finished})
    seeds = "1 seed each" if counts == [1] else f"{' or '.join(map(str, counts))} seeds"
    group = shown.group
    lists = f"{group.ranked}, seen items {group.seen}"
    return f"Protocol: {group.protocol}; {lists}; {seeds}."


def _grey(shown: Shown, variants: Sequence[Variant]) -> str:
    left = sum(shown.slot(variant) is None for variant in variants)
    return f" Grey and unnamed: the other {left} configs." if left else ""


def _apart(shown: Shown) -> str:
    cells = [cell for variant in shown.finished for cell in variant.cells]
    left = sum(groups.num_together(cell) > 1 for cell in cells)
    note = " Left out, their seconds being shares of a group's: runs trained together"
    return f"{note} ({left})." if left else ""


# The charts.


def _overview(shown: Shown) -> Chart:
    kept = shown.finished[:MOST_ROWS]
    of = functools.partial(series.of_metrics, metrics=shown.metrics)
    rows = [(shown.label(v), shown.slot(v), of(v.cells, "test")) for v in kept]
    cell = shown.group.finished[0].cells[0]
    compared = [
        (_told(name), None, of([cell], name)) for name in summaries.baselines(cell)
    ]
    best = (
        (label, at[shown.by].mean)
        for label, _, at in [*rows, *compared]
        if shown.by in at
    )
    left = len(shown.finished) - len(kept)
    cut = f" The best {len(kept)} of {len(shown.finished)} configs." if left else ""
    return Chart(
        "overview",
        f"All configs, {' and '.join(shown.metrics)}",
        f"Marker: mean over seeds, of a baseline (upright stroke) its figure. Thick bar: "
        f"{SEEDS}. Thin line: {USERS}. Configs by falling {shown.by}.{cut} "
        + _of_group(shown),
        f"{shown.by} on test: {_values(best)}",
        functools.partial(plots.overview, rows, compared, shown.metrics),
    )


def _learning(shown: Shown) -> Chart | None:
    group = shown.group
    logged = [line for v in group.variants for log in v.logs for line in log]
    valid = {name for line in logged for name in line if name.startswith("valid_")}
    by = shown.by or group.variants[0].entry.config.evaluate.select_by
    columns = [("loss", "training loss")]
    if f"valid_{by}" in valid:
        columns.append((f"valid_{by}", f"{by}, validation"))
    panels = []
    for column, y in columns:
        traces = [_trace(shown, variant, column) for variant in group.variants]
        traces = [trace for trace in traces if trace.seeds or trace.dashed]
        panels += [(y, traces)] if traces else []
    if not panels:
        return None
    traces = panels[-1][1]
    last = ((t.label, curve[1][-1]) for t in traces for curve in [*t.seeds, *t.dashed])
    return Chart(
        "learning",
        "Learning curves",
        "Thin: each seed; thick, with markers: their mean as far as all of them go; ring: "
        "the checkpoint that validation chose; dashed: a run without results. Losses "
        "compare where loss, temperature and negatives are the same; baselines are "
        f"measured on test alone.{_grey(shown, group.variants)} "
        + (_of_group(shown) if shown.finished else f"Protocol: {group.protocol}."),
        f"{panels[-1][0]} at the last epoch of each run: {_values(last)}",
        functools.partial(plots.learning, panels),
    )


def _trace(shown: Shown, variant: Variant, column: str) -> plots.Trace:
    label, seeds, dashed, ends = shown.label(variant), [], [], set()
    for cell, log in zip(variant.cells, variant.logs, strict=True):
        lines = [line for line in log if line.get(column) is not None]
        if not lines:
            continue
        epochs = {line["step"]: line.get("epoch", line["step"]) for line in lines}
        chosen = epochs.get(cell.results.get("best_step")) if cell.results else None
        curve = list(epochs.values()), [line[column] for line in lines], chosen
        (seeds if cell.results else dashed).append(curve)
        ends.add(groups.state(cell))
    if dashed and not seeds:
        label += f" ({', '.join(sorted(ends))})"
    return plots.Trace(label, shown.slot(variant), seeds, dashed)


def _sweep(shown: Shown, sweep: groups.Sweep) -> Chart | None:
    panels = []
    for metric in shown.metrics:
        lines = []
        for number, (label, members) in enumerate(sweep.lines.items()):
            points = [
                series.point(series.rows_of(v.cells), metric, x=x) for x, v in members
            ]
            slot = number if number < drawing.SLOTS else None
            lines.append(Line(label, slot, [at for at in points if at]))
        lines = [line for line in lines if line.points]
        if lines:
            panels.append(Panel(f"{metric}, test", lines, shown.levels(metric)))
    if not panels:
        return None
    ticks = _places(panels)
    scale = "log" if ticks[0] > 0 and ticks[-1] / ticks[0] >= 5 else "linear"
    values = (
        (f"{line.label} {at.x:g}", at.mean)
        for line in panels[0].lines
        for at in line.points
    )
    left = len(sweep.lines) - drawing.SLOTS
    grey = f" Grey and unnamed: the other {left} lines." if left > 0 else ""
    return Chart(
        f"sweep-{sweep.name}-{sweep.field}",
        f"{sweep.name}: {sweep.field}",
        f"Line: mean over seeds; band: {SEEDS}; upright bars: {USERS}. Dashed: baselines; "
        f"an arrow marks one beyond the axis, which does not begin at 0.{grey} "
        + _of_group(shown),
        f"{panels[0].y}, by {sweep.field}: {_values(values)}",
        functools.partial(
            plots.over_x,
            panels,
            plots.Axis(sweep.field, scale, ticks if len(ticks) <= 12 else ()),
        ),
    )


def _places(panels: Iterable[Panel]) -> tuple[float, ...]:
    """Where on the x axis there are points."""
    lines = [line for panel in panels for line in panel.lines]
    return tuple(sorted({at.x for line in lines for at in line.points}))


def _curves(shown: Shown) -> Chart | None:
    cell = shown.group.finished[0].cells[0]
    of_baselines = results.curves(cell.results)
    measured = [row for v in shown.finished for row in series.curve_rows(v.cells)]
    kinds = series.curve_kinds(measured)
    panels = []
    for kind in kinds:
        lines = [
            Line(
                shown.label(v),
                shown.slot(v),
                series.curve(series.curve_rows(v.cells), kind),
            )
            for v in shown.finished
        ]
        references = [
            Line(_told(name), None, series.curve([row], kind))
            for name, row in of_baselines.items()
            if name != "test"
        ]
        lines = [line for line in lines if line.points]
        if lines:
            y = {"hr": "hit rate at k", "ndcg": "ndcg at k"}.get(kind, f"{kind} at k")
            references = [line for line in references if line.points]
            panels.append(Panel(f"{y}, test", lines, [], references, 0.0))
    if not panels:
        return None
    sizes = _places(panels)
    names = [panel.y.partition(" at")[0] for panel in panels]
    names_text = (
        " and ".join([", ".join(names[:-1]), names[-1]]) if names[1:] else names[0]
    )
    one = " With one target for each user, recall is the hit rate." * (
        "hr" not in kinds
    )
    last = ((line.label, line.points[-1].mean) for line in panels[0].lines)
    return Chart(
        "curves",
        f"{names_text.capitalize()} at several k",
        f"Line: mean over seeds; band: {SEEDS}; upright bars: {USERS}. Dashed, grey: "
        f"baselines.{one}{_grey(shown, shown.finished)} " + _of_group(shown),
        f"{panels[0].y} at k = {sizes[-1]:g}: {_values(last)}",
        functools.partial(
            plots.over_x, panels, plots.Axis("k, length of the list", "log", sizes)
        ),
    )


def _segments(shown: Shown) -> Chart | None:
    cell = shown.group.finished[0].cells[0]
    variants = shown.colored
    panels, descriptions = [], []
    for grouping, members in cell.results["segments"].items():
        of = functools.partial(series.in_segments, members=members, metric=shown.by)
        lines = [
            Line(shown.label(v), shown.slot(v), of(v.cells, "test")) for v in variants
        ]
        lines += [
            Line(_told(name), None, of([cell], name))
            for name in summaries.baselines(cell)
        ]
        names = [
            f"{name}\n{segment['queries']:,} users" if "queries" in segment else name
            for name, segment in members.items()
        ]
        lines = [line for line in lines if line.points]
        if not lines:
            continue
        panels.append((grouping, names, lines))
        descriptions += [
            f"{name}: {s['told']}" for name, s in members.items() if s.get("told")
        ]
    if not panels:
        return None
    first = panels[0][2][0]
    names = [name.partition("\n")[0] for name in panels[0][1]]
    values = ((names[int(at.x)], at.mean) for at in first.points)
    left = len(shown.finished) - len(variants)
    cut = f" The best {len(variants)} of {len(shown.finished)} configs." if left else ""
    return Chart(
        "segments",
        f"Segments, {shown.by}",
        f"Marker: mean over seeds; upright line: {USERS} (none below 30 users). Grey: "
        f"baselines. Users by length of history, and by how popular what they look for is; "
        f"only targets of the segment count. {'; '.join(descriptions)}.{cut} "
        + _of_group(shown),
        f"{shown.by} of {first.label}: {_values(values)}",
        functools.partial(plots.segments, panels, f"{shown.by}, test"),
    )


def _time(shown: Shown) -> Chart | None:
    devices: dict[str, list[Line]] = {}
    drawn = []
    for variant in shown.finished:
        on = series.over_seconds(variant.cells, shown.by)
        drawn += [variant] if on else []
        for device, points in on.items():
            line = Line(shown.label(variant), shown.slot(variant), points)
            devices.setdefault(device, []).append(line)
    if not drawn:
        return None
    panels = [(f"on {device}", lines) for device, lines in sorted(devices.items())]
    seconds = [at.x for _, lines in panels for line in lines for at in line.points]
    wide = min(seconds) > 0 and max(seconds) / min(seconds) > 10
    axis = plots.Axis(
        "seconds of training, without compilation", "log" if wide else "linear"
    )
    values = (
        (
            f"{line.label}, {np.mean([at.x for at in line.points]):.1f} s,",
            np.mean([at.mean for at in line.points]),
        )
        for _, lines in panels
        for line in lines
    )
    return Chart(
        "time",
        f"Time against quality, {shown.by}",
        f"Small: each seed; large: their mean. Dashed: baselines; an arrow marks one beyond "
        "the axis, which does not begin at 0. Times compare on one machine that does "
        f"nothing else; each device has axes of its own.{_apart(shown)}"
        f"{_grey(shown, drawn)} " + _of_group(shown),
        f"Seconds of training and {shown.by}: {_values(values)}",
        functools.partial(
            plots.against_time,
            panels,
            shown.levels(shown.by),
            axis,
            f"{shown.by}, test",
        ),
    )
