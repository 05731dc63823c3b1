"""experiments/ABLATIONS.md: every study, its table where it is measured, what it shows;
and the tables of studies that README.md shows."""

import pathlib
import re
from typing import Any

from experiments.common import ablation, study
from recall_jax import files
from recall_jax.run import folder as folder_lib

PATH = "experiments/ABLATIONS.md"
README = "README.md"
SHOWN = re.compile(r"(<!-- study: (\w+) -->\n).*?(<!-- /study -->)", re.DOTALL)
HEAD = """# Ablations

One thing changed at a time, by `python -m experiments.ablate NAME`; the study files in
`experiments/studies/` say what, and this page is `python -m experiments.ablate
--write_page`. Budgets are small and alike for all settings of a study: read differences
within a table, not figures against other pages, and seconds as about: what else a machine
does is in them."""


def write(runs: pathlib.Path, *, path: str) -> str:
    """The page of the studies measured in `runs`; gives back its path."""
    sections = [_section(name, runs / name / "ablation.json") for name in study.names()]
    files.write_atomically(pathlib.Path(path), "\n\n".join([HEAD, *sections]) + "\n")
    return path


def fill(runs: pathlib.Path, *, path: str) -> str:
    """Put what is measured in `runs` between a file's lines `<!-- study: NAME -->` and
    `<!-- /study -->`; what stands there stays if it is not. Gives back the file's path."""

    def anew(match: re.Match) -> str:
        begin, name, end = match.groups()
        measured = runs / name / "ablation.json"
        if not measured.exists():
            return match[0]
        parts = _measured(study.load(name), folder_lib.read_json(measured))
        return begin + "\n\n".join(parts) + "\n" + end

    text = pathlib.Path(path).read_text()
    files.write_atomically(pathlib.Path(path), SHOWN.sub(anew, text))
    return path


def _section(name: str, path: pathlib.Path) -> str:
    design = study.load(name)
    if not path.exists():
        head = ablation.heading(design, finding="not yet measured")
        return f"## {name}\n\n{head}"
    summary = folder_lib.read_json(path)
    finding = design.finding or "measured below, and not yet told"
    parts = [f"## {name}", ablation.heading(design, finding=finding)]
    parts += [*_measured(design, summary), _folded(ablation.commands(summary))]
    return "\n\n".join(parts)


def _measured(design: study.Study, summary: dict[str, Any]) -> list[str]:
    """The command, and the table that it left."""
    command = f"```sh\n{summary['command']}\n```"
    parts = [_warning(design, summary), command, ablation.as_text(summary)]
    return list(filter(None, parts))


def _warning(design: study.Study, summary: dict[str, Any]) -> str:
    """What keeps the figures from being the study's."""
    if summary["study"] != ablation.as_written(design):
        return "**The study's file has changed since these figures.**"
    if summary["finished"] < summary["runs"]:
        return f"**{summary['finished']} of {summary['runs']} runs gave figures.**"
    return ""


def _folded(text: str) -> str:
    return f"<details><summary>A run of each row</summary>\n\n{text}\n\n</details>"
