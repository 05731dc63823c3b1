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
import concurrent.futures
import importlib
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
MOST = 600  # seconds of a fault's tests; one that hangs is not caught
PYTEST = "-o addopts= -p no:xdist -p no:cacheprovider -p own_failures -q --tb=short"


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
        return [test for test, found in self.outcomes.items() if found == outcome]


def load() -> list[Mutant]:
    """The faults of all lists."""
    names = sorted(
        path.stem for path in pathlib.Path(__file__).parent.glob("mutants_*")
    )
    made = []
    for name in names:
        for file, text, other, tests in importlib.import_module(name).MUTANTS:
            tests = (tests,) if isinstance(tests, str) else tuple(tests)
            made.append(Mutant(file, text, other, tests))
    return made


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
    listed = "git ls-files -z --cached --others --exclude-standard".split()
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, done.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def run(
    tests: Iterable[str], tree: pathlib.Path, *, programs: pathlib.Path, first: bool
) -> Seen:
    """Tests in a copy of the tree; with `first` up to the first that does not pass."""
    told = tree.with_name(f"{tree.name}.told")
    told.unlink(missing_ok=True)
    paths = str(tree), str(tree / "tests")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",  # a fault must not meet what was compiled before
        "RECALL_TOLD": str(told),
        "RECALL_PROGRAMS": str(programs),
    }
    command = [sys.executable, "-m", "pytest", *PYTEST.split()]
    command += ["--maxfail=1"] * first + list(tests)
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            timeout=MOST if first else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired:
        status, output = -1, f"not done after {MOST} s"
    lines = told.read_text("utf-8").splitlines() if told.exists() else []
    outcomes = {test: outcome for outcome, test in map(json.loads, lines)}
    return Seen(outcomes, status, output, time.monotonic() - begin)


def try_one(mutant: Mutant, tree: pathlib.Path, *, programs: pathlib.Path) -> Seen:
    """Plant a fault, run its tests, and put the file back."""
    path = tree / mutant.file
    whole = path.read_text("utf-8")
    path.write_text(whole.replace(mutant.text, mutant.other), "utf-8")
    try:
        return run(mutant.tests, tree, programs=programs, first=True)
    finally:
        path.write_text(whole, "utf-8")


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
    flags.set_once()  # for all processes of tests: to ask takes seconds
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        sys.exit(try_all(mutants, pathlib.Path(folder), jobs=options.jobs))


def try_all(mutants: Sequence[Mutant], folder: pathlib.Path, *, jobs: int) -> int:
    """The exit status."""
    begin, programs = time.monotonic(), folder / "programs"
    trees = [copy_tree(folder / f"tree-{j}") for j in range(jobs)]
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    without = run(tests, trees[0], programs=programs, first=False)
    if without.status or without.of("skipped"):
        print(without.output)
        print("without any fault these are not passed:", *_not_passed(without))
        return 1
    count = len(without.outcomes)
    print(f"{count} tests pass without any fault, {without.seconds:.0f} s", flush=True)
    free: queue.Queue[pathlib.Path] = queue.Queue()
    for tree in trees:
        free.put(tree)

    def tried(mutant: Mutant) -> bool:
        tree = free.get()
        try:
            return tell(mutant, try_one(mutant, tree, programs=programs))
        finally:
            free.put(tree)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        caught = list(pool.map(tried, mutants))
    minutes = (time.monotonic() - begin) / 60
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
    """Both from where they begin to differ to where they end, whole words."""
    begin = len(os.path.commonprefix([text, other]))
    begin = text.rfind(" ", 0, begin) + 1
    end = len(os.path.commonprefix([text[:begin:-1], other[:begin:-1]]))
    return text[begin : len(text) - end], other[begin : len(other) - end]


def _short(text: str, *, most: int = 60) -> str:
    line = " ".join(text.split()) or "nothing"
    return line if len(line) <= most else line[: most - 3] + "..."


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="of faults that have this text")
    parser.add_argument("--list", action="store_true", help="tell which there are")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
