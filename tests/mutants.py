"""Planted faults, each of which a quick test must see.

    python tests/mutants.py
    python tests/mutants.py --only=metrics.py --jobs=2
    python tests/mutants.py --list

A fault is (file, text, other text, tests): in a copy of the tree the text, which stands in
the file once, gives way to the other, and one of the tests must then fail by its own
assertion. A program that does not start, crashes or raises something else proves nothing
and leaves the fault uncaught. Lists of faults are files tests/mutants_*.py, each with its
MUTANTS. The exit status is 1 where a text is missing or stands twice, where a test fails
without any fault, and where a fault survives.
"""

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flags
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MOST = 600  # seconds of a fault's tests; one that hangs is not caught
LISTS = sorted((ROOT / "tests").glob("mutants_*.py"))
PYTEST = (
    "-o addopts= -p no:xdist -p no:cacheprovider -p own_failures -q --tb=short "
    "--hypothesis-seed=0 -W ignore::pytest.PytestAssertRewriteWarning"
)
IMPORTED = ("hypothesis.extra.numpy", "flax.nnx", "jaxtyping", "optax", "scipy.stats")
"""What most tests import beside the library, and JAX with them."""


class Mutant(NamedTuple):
    """A fault, and what must see it."""

    file: str  # from the root of the repository
    text: str  # stands there once
    other: str
    tests: tuple[str, ...]  # as pytest names them

    def __str__(self) -> str:
        before, after = (_short(x) for x in _differ(self.text, self.other))
        return f"{self.file}: {before} -> {after}"


class Seen(NamedTuple):
    """What became of tests."""

    outcomes: dict[str, str]  # by test: passed, failed, broken, skipped
    status: int  # of pytest
    output: str
    seconds: float

    def of(self, outcome: str) -> list[str]:
        return [test for test, result in self.outcomes.items() if result == outcome]


def load() -> list[Mutant]:
    """The faults of all lists."""
    names = sorted(
        path.stem for path in pathlib.Path(__file__).parent.glob("mutants_*")
    )
    mutants = []
    for name in names:
        for file, text, other, tests in importlib.import_module(name).MUTANTS:
            tests = (tests,) if isinstance(tests, str) else tuple(tests)
            mutants.append(Mutant(file, text, other, tests))
    return mutants


def problem_of(mutant: Mutant, root: pathlib.Path = ROOT) -> str | None:
    """Why a fault cannot be planted; None where it can."""
    path = root / mutant.file
    if not path.is_file():
        return "there is no such file"
    count = path.read_text("utf-8").count(mutant.text)
    if count != 1:
        return f"its text stands there {count} times"
    if mutant.text == mutant.other:
        return "it changes nothing"
    return None


def copy_tree(to: pathlib.Path) -> pathlib.Path:
    """What git has or would take, as it lies in the working tree."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, done.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


@dataclasses.dataclass
class Tried:
    """Tests at work in a process of their own, and what is to be put back after them."""

    tree: pathlib.Path
    process: int
    begun: float
    mutant: Mutant | None = None
    whole: str = ""  # the mutant's file as it was

    @property
    def report(self) -> pathlib.Path:
        return self.tree.with_name(f"{self.tree.name}.told")

    @property
    def output(self) -> pathlib.Path:
        return self.tree.with_name(f"{self.tree.name}.output")


def begin(
    tree: pathlib.Path, tests: Sequence[str], *, mutant: Mutant | None = None
) -> Tried:
    """Tests in a copy of the tree, with a fault planted up to the first that does not
    pass. The process is a fork: what tests import beside the library takes longer than
    most of them."""
    whole = ""
    if mutant:
        whole = (tree / mutant.file).read_text("utf-8")
        changed = whole.replace(mutant.text, mutant.other)
        (tree / mutant.file).write_text(changed, "utf-8")
    process = os.fork()
    tried = Tried(tree, process, time.monotonic(), mutant, whole)
    if not process:
        status = 1
        try:
            status = _pytest(tried, [*["--maxfail=1"] * bool(mutant), *tests])
        finally:
            os._exit(status)
    return tried


def _pytest(tried: Tried, arguments: Sequence[str]) -> int:
    """In the fork: the exit status."""
    tried.report.unlink(missing_ok=True)
    output = os.open(tried.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tried.tree)
    paths = [str(tried.tree), str(tried.tree / "tests")]
    sys.path[:1] = paths  # in place of the folder of this script
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",  # a fault must not meet what was compiled before
        "RECALL_TOLD": str(tried.report),
        "RECALL_PROGRAMS": str(tried.tree.with_name("programs")),
    }
    sys.dont_write_bytecode = True
    for name in ("flags", *(module.stem for module in LISTS)):
        sys.modules.pop(name, None)
    return int(pytest.main([*PYTEST.split(), *arguments]))


def end(tried: Tried, status: int) -> Seen:
    """What became of tests whose process is over; the fault is gone."""
    if tried.mutant:
        (tried.tree / tried.mutant.file).write_text(tried.whole, "utf-8")
    lines = (
        tried.report.read_text("utf-8").splitlines() if tried.report.exists() else []
    )
    outcomes = {test: outcome for outcome, test in map(json.loads, lines)}
    output = tried.output.read_text("utf-8", errors="replace")
    return Seen(outcomes, status, output, time.monotonic() - tried.begun)


def each(
    mutants: Sequence[Mutant], trees: Sequence[pathlib.Path]
) -> Iterator[tuple[Mutant, Seen]]:
    """Every fault and what became of its tests, as many at a time as there are trees."""
    waiting, free, running = list(mutants), list(trees), []
    while waiting or running:
        while waiting and free:
            mutant = waiting.pop(0)
            running.append(begin(free.pop(), mutant.tests, mutant=mutant))
        for tried in list(running):
            over, status = os.waitpid(tried.process, os.WNOHANG)
            if over:
                running.remove(tried)
                free.append(tried.tree)
                yield tried.mutant, end(tried, os.waitstatus_to_exitcode(status))
            elif time.monotonic() - tried.begun > MOST:
                os.kill(tried.process, signal.SIGKILL)
        time.sleep(0.05)


def main() -> None:
    options = parse()
    mutants = [m for m in load() if options.only in " ".join([*map(str, m), *m.tests])]
    if options.list:
        print(*mutants, f"{len(mutants)} faults", sep="\n")
        return
    wrong = [(m, problem) for m in mutants if (problem := problem_of(m))]
    for mutant, problem in wrong:
        print(f"{mutant}: {problem}")
    if wrong or not mutants:
        sys.exit(f"{len(wrong)} faults cannot be planted; {len(mutants)} chosen")
    flags.set_once()
    for name in IMPORTED:
        importlib.import_module(name)
    warnings.filterwarnings("ignore", message=".*fork")  # nothing has computed yet
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        sys.exit(try_all(mutants, pathlib.Path(folder), jobs=options.jobs))


def try_all(mutants: Sequence[Mutant], folder: pathlib.Path, *, jobs: int) -> int:
    """The exit status."""
    begun = time.monotonic()
    trees = [copy_tree(folder / f"tree-{j}") for j in range(jobs)]
    tried = begin(trees[0], sorted({test for m in mutants for test in m.tests}))
    _, status = os.waitpid(tried.process, 0)
    without = end(tried, status)
    if without.status or without.of("skipped"):
        print(without.output)
        print("without any fault these are not passed:", *_not_passed(without))
        return 1
    count = len(without.outcomes)
    print(f"{count} tests pass without any fault, {without.seconds:.0f} s", flush=True)
    caught = [tell(mutant, seen) for mutant, seen in each(mutants, trees)]
    minutes = (time.monotonic() - begun) / 60
    print(f"{sum(caught)} of {len(caught)} faults caught, {minutes:.1f} minutes")
    return int(not all(caught))


def _not_passed(seen: Seen) -> list[str]:
    return [*seen.of("failed"), *seen.of("broken"), *seen.of("skipped")]


def tell(mutant: Mutant, seen: Seen) -> bool:
    """Print what became of a fault; whether it was caught."""
    caught = seen.of("failed")
    if caught:
        how = f"caught    {seen.seconds:5.1f} s  {mutant}  by {caught[0]}"
    elif broken := seen.of("broken"):
        how = f"NOT SEEN  {seen.seconds:5.1f} s  {mutant}  another error in {broken[0]}"
    else:
        how = (
            f"SURVIVED  {seen.seconds:5.1f} s  {mutant}  pytest ends with {seen.status}"
        )
    print(how if caught else f"{how}\n{_end(seen.output)}", flush=True)
    return bool(caught)


def _end(output: str, *, lines: int = 12) -> str:
    return "\n".join(f"    {line}" for line in output.splitlines()[-lines:])


def _differ(text: str, other: str) -> tuple[str, str]:
    """From the word before the first that differs to the one after the last."""
    one, two = text.split(), other.split()
    begin = max(len(os.path.commonprefix([one, two])) - 1, 0)
    rest = one[begin + 1 :][::-1], two[begin + 1 :][::-1]
    end = max(len(os.path.commonprefix(rest)) - 1, 0)
    return tuple(" ".join(words[begin : len(words) - end]) for words in (one, two))


def _short(text: str, *, most: int = 60) -> str:
    text = text or "nothing"
    return text if len(text) <= most else text[: most - 3] + "..."


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="of faults that have this text")
    parser.add_argument("--list", action="store_true", help="tell which there are")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
