"""Reports for tests: runs to report on, the command, and what it made, read."""

import functools
import html.parser
import pathlib

import command_line
import made_up_runs

from experiments import report
from experiments.common import charts, groups, plots

command = functools.partial(command_line.called, report, parse=report.parse)
ODD = '<b>a & "b"</b> $x$'
SWEPT = 0.05, 0.1, 0.2


def write_sweep(folder: pathlib.Path) -> None:
    """Three temperatures with two seeds each, and one that is not finished."""
    for place, value in enumerate(SWEPT):
        for seed in (0, 1):
            config = made_up_runs.experiment(temperature_of_loss=value, seed=seed)
            level = 0.3 + 0.01 * place + 0.004 * seed
            made_up_runs.write(
                folder / f"t{value}" / f"seed-{seed}", config, level=level
            )
    config = made_up_runs.experiment(temperature_of_loss=0.4)
    made_up_runs.begin(folder / "t0.4" / "seed-0", config)


def grouped(*folders: pathlib.Path) -> list[groups.Group]:
    runs = groups.find([str(folder) for folder in folders])
    return groups.group(map(groups.read, runs))


def labels(group: groups.Group) -> list[str]:
    return [variant.entry.label for variant in group.variants]


def chart(group: groups.Group, name: str) -> charts.Chart:
    (match,) = [one for one in charts.make(group) if one.name.startswith(name)]
    return match


def panels(group: groups.Group, name: str) -> list[plots.Panel]:
    """What a chart of lines draws."""
    return chart(group, name).draw.args[0]


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside of styles; a tag that closes
    another than the last one opened is an error."""

    VOID = "meta", "link", "img", "source"

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self._open = "", []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self._open else ""

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]
