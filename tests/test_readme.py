"""The README says nothing of the code that is not so."""

import pathlib
import re

import pytest

from experiments.common import cli

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "path", ["recall_jax/models/markov.py", "experiments/configs/markov_ml1m.py"]
)
def test_the_smallest_model_stands_there_as_it_is(path):
    added = "".join(f"+{line}\n" for line in (ROOT / path).read_text().splitlines())
    assert f"+++ {path}\n{added}" in README


def test_every_config_and_command_that_it_names_exists():
    named = set(re.findall(r"--configs?=([\w,]+)", README.replace("\\\n", "")))
    names = {name for entry in named for name in entry.split(",") if name}
    assert len(names) > 5
    assert names - {"runs", "help"} <= set(cli.config_names())
    for module in set(re.findall(r"python -m (experiments[\w.]+)", README)):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


def test_every_file_that_it_links_exists_and_every_room_is_there():
    links = re.findall(r"\]\(([\w/.]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
    rooms = re.findall(r"^\| `(\w+(?:/|\.py))` \|", README, re.MULTILINE)
    paths = {
        path for path in (ROOT / "recall_jax").iterdir() if path.name[0] not in "_."
    }
    assert {ROOT / "recall_jax" / room for room in rooms} == paths
