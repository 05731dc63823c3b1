"""The parts of figures: themes, axes, and labels that stand clear of each other.

Every figure is drawn twice, for light pages and dark ones. Lines are told apart by colour,
by marker and by a label at their end. Colours are those of Okabe and Ito (2008), made
lighter for dark pages.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from recall_jax.types import InputError

WIDTH = 9.0  # inches
LEFT, RIGHT = 0.8, 2.75  # margins; labels of lines stand in the right one
DPI = 150
LONGEST = 32  # characters of a label
GAP = 0.165  # inches from a label to the next
MARKERS = "os^DvP"


class Theme(NamedTuple):
    name: str
    ink: str
    muted: str
    grid: str
    surface: str
    series: tuple[str, ...]  # one for each slot


LIGHT = Theme(
    name="light",
    ink="#1c1e21",
    muted="#5f6368",
    grid="#dcdfe3",
    surface="#ffffff",
    series=("#0072b2", "#d55e00", "#009e73", "#b8529a", "#e69f00", "#56b4e9"),
)
DARK = Theme(
    name="dark",
    ink="#e8eaed",
    muted="#a5abb3",
    grid="#3a3f46",
    surface="#16191d",
    series=("#56b4e9", "#ff8a45", "#2fcb9c", "#e08cc4", "#f0e442", "#9aa7ff"),
)
SLOTS = len(MARKERS)


class Level(NamedTuple):
    """A baseline: one value at every x."""

    label: str
    value: float


def png(figure) -> bytes:
    """The same bytes for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def new_figure(height: float, theme: Theme):
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise InputError(
            "a report's plots need matplotlib: pip install matplotlib"
        ) from problem
    with matplotlib.rc_context({"font.family": "DejaVu Sans"}):
        return Figure(figsize=(WIDTH, height), facecolor=theme.surface)


def inches(box: tuple[float, float, float, float], height: float) -> list[float]:
    left, bottom, width, tall = box
    return [left / WIDTH, bottom / height, width / WIDTH, tall / height]


def stacked(count: int, theme: Theme, *, tall: float = 2.75) -> tuple[Any, list]:
    """Panels one below another, with room for labels at their right."""
    each, bottom = tall + 0.5, 0.5
    height = count * each + 0.2
    figure = new_figure(height, theme)
    panels = []
    for number in range(count):
        box = LEFT, bottom + (count - 1 - number) * each, WIDTH - LEFT - RIGHT, tall
        panels.append(figure.add_axes(inches(box, height)))
        style(panels[-1], theme)
    return figure, panels


def style(axes, theme: Theme) -> None:
    axes.set_facecolor(theme.surface)
    axes.grid(color=theme.grid, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, which="both", labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.muted)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set(color=theme.ink, parse_math=False)


def title(axes, text: str, theme: Theme) -> None:
    axes.set_title(text, loc="left", fontsize=10, color=theme.ink, parse_math=False)


def color_of(slot: int | None, theme: Theme) -> str:
    return theme.muted if slot is None else theme.series[slot]


def name_lines(axes, named, levels: Sequence[Level], theme: Theme) -> None:
    """Labels right of the axes, apart from each other, tied to the ends of their lines;
    `named` are (x, y, label, slot). A level outside of the axis has an arrow."""
    low, high = axes.get_ylim()
    tall = axes.get_position().height * axes.figure.get_size_inches()[1]
    items = [(y, label, slot, (x, y)) for x, y, label, slot in named if label]
    for label, value in levels:
        inside = low <= value <= high
        arrow = "" if inside else " ↑" if value > high else " ↓"
        if inside:
            axes.axhline(value, color=theme.muted, lw=1, ls=(0, (4, 2)))
        text = f"{short(label)} {value:.4f}{arrow}"
        items.append((min(max(value, low), high), text, None, None))
    items.sort(key=lambda item: item[0])
    wanted = [(y - low) / (high - low) for y, *_ in items]
    for place, (y, label, slot, end) in zip(apart(wanted, GAP / tall), items):
        begin = end or (axes.get_xlim()[1], y)
        _label(axes, short(label), begin, place=place, slot=slot, theme=theme)


def _label(axes, label: str, begin, *, place: float, slot: int | None, theme: Theme):
    """Dotted, its tie is not taken for data."""
    tie = {"arrowstyle": "-", "lw": 1.1, "linestyle": ":", "shrinkA": 0, "shrinkB": 2}
    tie |= {"color": color_of(slot, theme), "relpos": (0, 0.5)}
    axes.annotate(
        label,
        begin,
        (1.05, place),
        textcoords="axes fraction",
        annotation_clip=False,
        va="center",
        fontsize=9,
        color=theme.muted if slot is None else theme.ink,
        arrowprops=tie,
    ).set_parse_math(False)


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Places as near to the wanted ones, which rise, as a gap between them allows (least
    squares, by pooling neighbours), below 1 where the gaps leave room.

    >>> [round(place, 2) for place in apart([0.5, 0.5, 0.9], 0.2)]
    [0.4, 0.6, 0.9]
    """
    pools: list[list[float]] = []  # each shares one place, less the gaps below
    for number, place in enumerate(wanted):
        pools.append([place - number * gap])
        while len(pools) > 1 and _middle(pools[-2]) >= _middle(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [_middle(pool) for pool in pools for _ in pool]
    most = 1 - (len(level) - 1) * gap
    return [min(place, most) + number * gap for number, place in enumerate(level)]


def _middle(pool: list[float]) -> float:
    return sum(pool) / len(pool)


def short(label: str) -> str:
    """At most LONGEST characters, its middle left out."""
    if len(label) <= LONGEST:
        return label
    half = (LONGEST - 1) // 2
    return f"{label[:half]}…{label[-half:]}"
