"""Figures of a report, each a pure function of what is drawn and of a theme."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from experiments.common import drawing
from experiments.common.drawing import MARKERS, Level, Theme

GREY_MARKERS = "x*<>p1"  # of baselines; a stroke would be lost in its interval


class Point(NamedTuple):
    """A mean over seeds, the lowest and the highest seed, and the 95 % interval over
    users, where there is one."""

    x: float
    mean: float
    low: float
    high: float
    users: tuple[float, float] | None = None


class Line(NamedTuple):
    """Points by rising x; `slot` is its colour, None of one that stays grey, unnamed."""

    label: str
    slot: int | None
    points: list[Point]


class Panel(NamedTuple):
    """Axes of lines; `references` are lines of baselines, drawn grey and named."""

    y: str
    lines: list[Line]
    levels: Sequence[Level] = ()
    references: Sequence[Line] = ()
    floor: float | None = None  # where the y axis begins; None: below the lowest point


class Axis(NamedTuple):
    """What the panels of a figure share."""

    x: str
    scale: str = "linear"  # "log"
    ticks: tuple[float, ...] = ()


class Trace(NamedTuple):
    """Curves of one config over epochs, one for each seed: x, y and where the chosen
    checkpoint is, if it is told. `dashed` holds curves of runs without results."""

    label: str
    slot: int | None
    seeds: list[tuple[list[float], list[float], float | None]]
    dashed: list[tuple[list[float], list[float], float | None]]


def over_x(panels: Sequence[Panel], axis: Axis, theme: Theme):
    """Metrics over a swept value or over k: a mean's line, the seeds' band, the interval
    over users as bars, and baselines."""
    figure, all_axes = drawing.stacked(len(panels), theme)
    for axes, panel in zip(all_axes, panels, strict=True):
        for line in panel.references:
            _reference(axes, line, theme)
        for line in reversed(panel.lines):  # the best comes first, and lies on top
            _line(axes, line, theme)
        axes.set(xscale=axis.scale, ylabel=panel.y)
        if axis.ticks:
            axes.set_xticks(axis.ticks, [f"{tick:g}" for tick in axis.ticks])
            axes.minorticks_off()
        _limit(axes, panel)
        ends = [
            (line, line.points[-1]) for line in panel.lines if line.slot is not None
        ]
        named = [(at.x, at.mean, line.label, line.slot) for line, at in ends]
        named += [
            (line.points[-1].x, line.points[-1].mean, line.label, None)
            for line in panel.references
        ]
        drawing.name_lines(axes, named, panel.levels, theme)
    all_axes[-1].set_xlabel(axis.x)
    return figure


def learning(panels: Sequence[tuple[str, list[Trace]]], theme: Theme):
    """Values over epochs: thin lines of single seeds, a thick one of their mean as far
    as all of them go, a ring at the chosen checkpoint."""
    figure, all_axes = drawing.stacked(len(panels), theme)
    for axes, (y, traces) in zip(all_axes, panels, strict=True):
        named = []
        for trace in traces:
            color = drawing.color_of(trace.slot, theme)
            for x, values, chosen in trace.seeds if trace.slot is not None else ():
                axes.plot(x, values, color=color, lw=0.8, alpha=0.55)
                if chosen in x:
                    at = chosen, values[x.index(chosen)]
                    axes.plot(*at, "o", mfc="none", mec=color, ms=7, mew=1.2)
            for x, values, _ in trace.dashed:
                axes.plot(x, values, color=color, lw=1.3, ls=(0, (4, 2)))
                _dot_alone(axes, x, values, color=color)
            if (mean := _mean(trace.seeds))[0]:
                crowded = trace.slot is None or len(mean[0]) > 30
                marker = None if crowded else MARKERS[trace.slot]
                width = 2.0 if trace.slot is not None else 0.8
                axes.plot(*mean, color=color, lw=width, marker=marker, ms=3.5)
            longest = max([*trace.seeds, *trace.dashed], key=lambda seed: len(seed[0]))
            x, values = mean if mean[0] else longest[:2]
            if trace.slot is not None and x:
                named.append((x[-1], values[-1], trace.label, trace.slot))
        axes.set_ylabel(y)
        axes.margins(x=0.02)
        axes.xaxis.get_major_locator().set_params(integer=True)
        drawing.name_lines(axes, named, [], theme)
    all_axes[-1].set_xlabel("epoch")
    return figure


Row = tuple[str, int | None, dict[str, Point]]  # label, slot, a point for each metric


def overview(
    configs: Sequence[Row],
    baselines: Sequence[Row],
    metrics: Sequence[str],
    theme: Theme,
):
    """A row for each config, and below a line each baseline; a panel for each metric."""
    rows = [*configs, *baselines]
    height = 0.85 + 0.27 * len(rows)
    figure = drawing.new_figure(height, theme)
    left, gap = 2.75, 0.35
    width = (drawing.WIDTH - left - 0.25 - gap * (len(metrics) - 1)) / len(metrics)
    for column, metric in enumerate(metrics):
        at = left + column * (width + gap), 0.55, width, height - 0.65
        axes = figure.add_axes(drawing.inches(at, height))
        drawing.style(axes, theme)
        axes.grid(axis="y", visible=False)
        for place, (_, slot, points) in enumerate(rows):
            if point := points.get(metric):
                plain = "o" if place < len(configs) else "|"
                marker = plain if slot is None else MARKERS[slot]
                _dot(axes, place, point, marker, drawing.color_of(slot, theme), theme)
        axes.axhline(len(configs) - 0.5, color=theme.muted, lw=0.8)
        axes.set(xlabel=f"{metric}, test", ylim=(len(rows) - 0.4, -0.6))
        axes.margins(x=0.16)
        axes.autoscale(axis="x")
        axes.set_xlim(left=0)
        labels = [drawing.short(label) for label, *_ in rows] if not column else []
        axes.set_yticks(range(len(rows)), labels or [""] * len(rows))
        axes.tick_params(axis="y", length=0, labelcolor=theme.ink)
    return figure


def segments(panels: Sequence[tuple[str, list[str], list[Line]]], y: str, theme: Theme):
    """Configs and baselines side by side in each segment: `panels` are a grouping's
    name, its segments' names, and lines whose x is the number of the segment."""
    rows = -(-max(len(lines) for *_, lines in panels) // 3)
    height = 3.3 + 0.22 * rows
    figure = drawing.new_figure(height, theme)
    width = (drawing.WIDTH - drawing.LEFT - 0.2 - 0.55 * (len(panels) - 1)) / len(
        panels
    )
    for column, (title, names, lines) in enumerate(panels):
        at = drawing.LEFT + column * (width + 0.55), height - 2.75, width, 2.45
        axes = figure.add_axes(drawing.inches(at, height))
        drawing.style(axes, theme)
        axes.grid(axis="x", visible=False)
        grey = itertools.cycle(GREY_MARKERS)
        for number, line in enumerate(lines):
            shift = 0.7 * (number - (len(lines) - 1) / 2) / len(lines)
            marker = next(grey) if line.slot is None else MARKERS[line.slot]
            _in_segments(axes, line, marker, shift, theme)
        axes.set_xticks(range(len(names)), names)
        drawing.title(axes, title, theme)
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, None))
        for edge in range(1, len(names)):
            axes.axvline(edge - 0.5, color=theme.grid, lw=0.8)
    figure.axes[0].set_ylabel(y)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="lower center",
        ncols=3,
        frameon=False,
        labelcolor=theme.ink,
    )
    return figure


def against_time(
    panels: Sequence[tuple[str, list[Line]]],
    levels: Sequence[Level],
    axis: Axis,
    y: str,
    theme: Theme,
):
    """Quality over seconds, a panel for each device; of a line each point is a seed, and
    the largest is their mean."""
    figure, all_axes = drawing.stacked(len(panels), theme)
    for axes, (device, lines) in zip(all_axes, panels, strict=True):
        named = []
        for line in lines:
            color, x = drawing.color_of(line.slot, theme), [at.x for at in line.points]
            marker = MARKERS[line.slot] if line.slot is not None else "o"
            values = [at.mean for at in line.points]
            axes.plot(x, values, marker, color=color, ms=4, alpha=0.55, mew=0)
            mean = sum(x) / len(x), sum(values) / len(values)
            axes.plot(*mean, marker, color=color, ms=9, mew=0)
            if line.slot is not None:
                named.append((*mean, line.label, line.slot))
        axes.set(xscale=axis.scale, ylabel=y)
        drawing.title(axes, device, theme)
        if axis.scale == "linear":
            axes.set_xlim(left=0)
        _limit(axes, Panel(y, lines, list(levels)))
        axes.margins(x=0.05)
        drawing.name_lines(axes, named, levels, theme)
    all_axes[-1].set_xlabel(axis.x)
    return figure


def _line(axes, line: Line, theme: Theme) -> None:
    color, x = drawing.color_of(line.slot, theme), [at.x for at in line.points]
    low, high = [at.low for at in line.points], [at.high for at in line.points]
    mean = [at.mean for at in line.points]
    if line.slot is None:
        axes.plot(x, mean, color=theme.muted, lw=0.7, alpha=0.6)
        return
    axes.fill_between(x, low, high, color=color, alpha=0.22, lw=0)
    for at in line.points:
        if at.users:
            axes.plot([at.x, at.x], at.users, color=color, lw=1, alpha=0.6)
    axes.plot(x, mean, color=color, lw=1.8, marker=MARKERS[line.slot], ms=5.5)


def _reference(axes, line: Line, theme: Theme) -> None:
    x, mean = [at.x for at in line.points], [at.mean for at in line.points]
    axes.plot(x, mean, color=theme.muted, lw=1, ls=(0, (4, 2)))


def _dot(axes, place: int, point: Point, marker: str, color: str, theme: Theme) -> None:
    if point.users:
        axes.plot(point.users, [place, place], color=color, lw=1.2)
    axes.plot([point.low, point.high], [place, place], color=color, lw=6, alpha=0.5)
    axes.plot(point.mean, place, marker, color=color, ms=9 if marker == "|" else 5)
    end = max(point.high, *(point.users or (point.mean,)))
    axes.annotate(
        f"{point.mean:.4f}",
        (end, place),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=theme.ink,
    )


def _in_segments(axes, line: Line, marker: str, shift: float, theme: Theme) -> None:
    color = drawing.color_of(line.slot, theme)
    x = [at.x + shift for at in line.points]
    for at, place in zip(line.points, x, strict=True):
        if at.users:
            axes.plot([place, place], at.users, color=color, lw=1)
    style = {"color": color, "ms": 7 if line.slot is None else 5.5, "ls": "none"}
    label = drawing.short(line.label)
    axes.plot(x, [at.mean for at in line.points], marker=marker, label=label, **style)


def _dot_alone(axes, x: list[float], values: list[float], *, color: str) -> None:
    """A run of one epoch has no line."""
    if len(x) == 1:
        axes.plot(x, values, "o", color=color, ms=4)


def _mean(seeds) -> tuple[list[float], list[float]]:
    """Over seeds, as far as all of them go."""
    if not seeds:
        return [], []
    shortest = min((x for x, *_ in seeds), key=len)
    columns = zip(*(values[: len(shortest)] for _, values, _ in seeds), strict=True)
    return shortest, [sum(column) / len(seeds) for column in columns]


def _limit(axes, panel: Panel) -> None:
    """The y axis by the lines; baselines far from them do not flatten them."""
    points = [at for line in panel.lines for at in line.points]
    values = [y for at in points for y in (at.low, at.high, *(at.users or ()))]
    low, high = min(values), max(values)
    span = max(high - low, 0.02 * abs(high), 1e-6)
    near = [x.value for x in panel.levels if low - span <= x.value <= high + span]
    near += [at.mean for line in panel.references for at in line.points]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.07 * max(high - low, span)
    axes.set_ylim(low - margin if panel.floor is None else panel.floor, high + margin)
