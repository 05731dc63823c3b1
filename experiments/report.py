"""Runs as a report: one HTML page that needs no network, its plots, its tables.

    python -m experiments.report runs/table
    python -m experiments.report 'runs/dssm_*' runs/mf_ml1m --to=reports/towers
    python -m experiments.report runs/sweep --by=recall@20

RUNS are run folders (of experiments.run), folders that hold run folders at any depth (of
experiments.table, of a sweep), or globs. Runs are told apart by what differs in their
config.json, seeds of one config averaged. What may not be compared (other data, another
protocol, another treatment of ties or seen items) stands in sections and axes of its own. A
run without results.json appears as unfinished, or as a sweep ended it, with its learning
curve.

Written to --to (default: reports/ and the name of the first of RUNS): index.html, every
plot as PNG, for light pages and dark ones, table.md and table.csv (a value a line). Nothing
is trained, and no run is touched.
"""

import csv
import io
import pathlib
import re
import shlex
import sys
from collections.abc import Iterable, Sequence

from absl import flags

from experiments.common import charts, cli, drawing, report_page, tabulate
from experiments.common import groups as groups_lib
from experiments.common.groups import Group
from recall_jax import files
from recall_jax.types import InputError


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    if not options.runs:
        raise InputError("name runs: python -m experiments.report runs/table")
    workdirs = groups_lib.find(options.runs)
    to = pathlib.Path(options.to or f"reports/{_name(options.runs[0])}")
    _check_apart(to, workdirs)
    groups = groups_lib.group(groups_lib.read(workdir) for workdir in workdirs)
    sections = [_section(group, by=options.by) for group in groups]
    write(sections, to, title=options.title or f"Report: {to.name}")
    done = sum(cell.results is not None for group in groups for cell in group.cells)
    plural = "s" * (len(groups) != 1)
    print(
        f"read       {len(workdirs)} runs, {done} of them finished, "
        f"{len(groups)} group{plural}"
    )
    plots = sum(len(section.pictures) for section in sections)
    print(f"written    {to}/index.html, table.md, table.csv, {plots} plots (*.png)")


def parse(argv: list[str]) -> list[str]:
    """As `cli.parse_plain`, what is no flag in flags.FLAGS.runs."""
    command, *runs = cli.parse_plain(argv)
    flags.FLAGS.runs = [*(flags.FLAGS.runs or []), *runs]
    return [command]


def _name(first: str) -> str:
    """Of a report: runs/table as table, runs/dssm_* as dssm."""
    name = pathlib.Path(first).resolve().name
    return re.sub(r"[^\w.=-]+", "_", name).strip("_.") or "report"


def _check_apart(to: pathlib.Path, runs: Iterable[pathlib.Path]) -> None:
    """Raise InputError where the report would lie among runs, whose tables have the
    names of its own."""
    inside = to.resolve()
    for run in runs:
        if run.resolve().is_relative_to(inside) or inside.is_relative_to(run.resolve()):
            raise InputError(
                f"--to={to} and the run {run} lie one in the other; name another folder"
            )
    if to.exists() and not to.is_dir():
        raise InputError(f"--to={to} is a file; name a folder")


def _section(group: Group, *, by: str) -> report_page.Section:
    pictures = [
        report_page.Picture(
            chart,
            drawing.png(chart.draw(drawing.LIGHT)),
            drawing.png(chart.draw(drawing.DARK)),
        )
        for chart in charts.make(group, by=by)
    ]
    return report_page.Section(group, pictures, groups_lib.summaries(group, by=by))


def write(
    sections: Sequence[report_page.Section], to: pathlib.Path, *, title: str
) -> None:
    """Everything of a report."""
    to.mkdir(parents=True, exist_ok=True)
    for number, section in enumerate(sections, 1):
        for name, content in _files(section, number):
            (to / name).write_bytes(content)
    command = shlex.join(["python", "-m", "experiments.report", *sys.argv[1:]])
    page = report_page.render(title, command=command, sections=sections)
    files.write_atomically(to / "index.html", page)
    text = [f"```sh\n{command}\n```"]
    for number, section in enumerate(sections, 1):
        text += [_heading(section.group, number), tabulate.as_text(section.summaries)]
    files.write_atomically(to / "table.md", "\n\n".join(text) + "\n")
    table = as_csv([section.group for section in sections])
    files.write_atomically(to / "table.csv", table)


def _heading(group: Group, number: int) -> str:
    evaluation = f"{group.protocol}; {group.ranked}; seen items {group.seen}"
    return f"# Group {number}: {evaluation}; ties in time: {group.ties}"


def _files(section: report_page.Section, number: int) -> Iterable[tuple[str, bytes]]:
    """Names and contents of a section's PNGs."""
    for picture in section.pictures:
        name = re.sub(r"[^\w.-]+", "_", f"{number}-{picture.chart.name}")
        yield f"{name}.png", picture.light
        yield f"{name}-dark.png", picture.dark


def as_csv(groups: Iterable[Group]) -> str:
    """One value a line, of finished runs, with what may not be compared before it; rows
    and metrics as in experiments.table's."""
    file = io.StringIO()
    write_row = csv.writer(file, lineterminator="\n").writerow
    where = ["source", "events", "protocol", "ranked", "seen", "ties"]
    write_row([*where, "config", "overrides", "seed", "row", "metric", "value"])
    for group in groups:
        group_values = [getattr(group, name) for name in where]
        for cell in group.cells:
            own = ":".join(f"{k}={v}" for k, v in cell.entry.own.items())
            run = [cell.entry.name, own, cell.seed]
            for value in tabulate.values(cell) if cell.results else ():
                write_row([*group_values, *run, *value])
    return file.getvalue()


def define_flags() -> None:
    flags.DEFINE_multi_string("runs", None, "as RUNS: a folder, or a glob")
    flags.DEFINE_string("to", None, "folder of the report; default reports/NAME")
    flags.DEFINE_string("title", None, "of the page; default: the folder's name")
    flags.DEFINE_string("by", "", "metric of the plots; default evaluate.select_by")


if __name__ == "__main__":
    define_flags()
    cli.start(main, parse=parse)
