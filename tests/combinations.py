"""Random combinations of fields: each trains to its end or is refused in a sentence.

    python tests/combinations.py --number=300 --seed=0 --first=0

Each draw (`drawn`) is run as experiments.run does, in a folder of its own. It fails
where anything but InputError or Diverged is raised, where a figure is no finite number,
where a warning is given, where it takes longer than --seconds, or where it is refused
after training began. What failed is printed with the command that repeats it. A draw
that trains takes about ten seconds of one core; with --dry it ends where training would
begin, its step traced, after about two.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import math
import os
import pathlib
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator

from flags import QUICKER, add_flag, is_known

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if is_known(QUICKER):
    add_flag(QUICKER)
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import drawn
import jax
import numpy as np
import tiny_logs

from experiments.common import summary
from recall_jax.devices import mesh
from recall_jax.run import build as build_lib
from recall_jax.run import experiment as experiment_lib
from recall_jax.training import loop, step
from recall_jax.types import InputError

CLEARED = 20  # draws after which compiled programs are forgotten
DESCRIPTION = {"config.json", "data.json", "vocabularies.json", ".lock"}


@dataclasses.dataclass
class Outcome:
    """How a draw ended: "trained", "refused", "diverged" or "failed", and what it said."""

    kind: str
    said: str = ""


class Reached(BaseException):
    """A dry draw came to its training."""


class TooLong(BaseException):
    """A draw took longer than it may; no `except Exception` catches it."""


def main() -> int:
    options = _parse()
    if options.dry:
        experiment_lib.train_model = trace
    counts: collections.Counter = collections.Counter()
    refusals: collections.Counter = collections.Counter()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        _keep_programs(options.programs or folder / "programs")
        tiny_logs.write(folder)
        for number in range(options.first, options.first + options.number):
            outcome, fields, seconds = _one(options, number, folder=folder)
            counts[outcome.kind] += 1
            if outcome.kind in ("refused", "diverged"):
                refusals[_without_values(outcome.said, folder)] += 1
            line = f"{number} {outcome.kind} {seconds:.1f} s"
            print(f"{line}: {outcome.said}" if outcome.said else line, flush=True)
            if outcome.kind == "failed":
                print(f"  repeat: {_command(options, number)}\n  drawn: {fields}")
            if number % CLEARED == CLEARED - 1:
                jax.clear_caches()
    for sentence, count in refusals.most_common():
        print(f"{count:5} {sentence}")
    minutes = (time.perf_counter() - start) / 60
    print(f"seed {options.seed}: {dict(counts)}, {minutes:.1f} minutes")
    return 1 if counts["failed"] else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--number", type=int, default=300, help="of draws")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument(
        "--seconds",
        type=int,
        default=120,
        help="of the processor, that a draw may take",
    )
    parser.add_argument("--programs", help="folder of compiled programs to keep")
    parser.add_argument("--dry", action="store_true", help="trace the step, no more")
    parser.add_argument("--told", action="store_true", help="show what a run prints")
    return parser.parse_args()


def _keep_programs(folder) -> None:
    """Compilation is most of a draw, and many have the same programs."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _command(options: argparse.Namespace, number: int) -> str:
    return f"python tests/combinations.py --seed={options.seed} --first={number} --number=1"


def _one(
    options: argparse.Namespace, number: int, *, folder: pathlib.Path
) -> tuple[Outcome, dict, float]:
    rng = np.random.default_rng([options.seed, number])
    config, fields = drawn.draw(rng, folder=folder)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        outcome = _run(config, pathlib.Path(directory) / "run", options=options)
    return outcome, fields, time.perf_counter() - start


def _run(config, workdir: pathlib.Path, *, options: argparse.Namespace) -> Outcome:
    output = sys.stderr if options.told else io.StringIO()
    redirects = contextlib.redirect_stdout(output), contextlib.redirect_stderr(output)
    try:
        with redirects[0], redirects[1], _alarm(options.seconds), _warnings() as given:
            results = summary.train(config, workdir)
    except InputError as refusal:
        late = _trained_files(workdir)
        if late:
            return Outcome("failed", f"refused late ({', '.join(late)}): {refusal}")
        return Outcome("refused", str(refusal))
    except loop.Diverged as problem:
        return Outcome("diverged", str(problem))
    except Reached:
        return Outcome("traced")
    except TooLong:
        return Outcome("failed", f"took longer than {options.seconds} s")
    except Exception:  # noqa: BLE001 - whatever it is, it is shown
        return Outcome("failed", traceback.format_exc())
    if given:
        lines = {f"{x.filename}:{x.lineno}: {x.message}" for x in given}
        return Outcome("failed", "warned: " + "; ".join(sorted(lines)))
    wrong = [*_wrong_figures(results), *_wrong_lines(workdir)]
    return Outcome("failed", "; ".join(wrong)) if wrong else Outcome("trained")


def trace(config, data, workdir, **_):
    """What `training.train_model` checks, and its step traced."""
    on = build_lib.make_corpus(config, data)
    plan = build_lib.make_plan(config, data, num_rows=on.num_rows)
    build_lib.check_devices(config, plan)
    size = plan.size * on.span
    built = build_lib.make(config, data, batch_size=size, placement=mesh.outlined)
    source = on.source
    if data.log is None:
        hypers = step.make_hypers(
            config.optim, config.loss, config.negatives, num_steps=plan.num_steps
        )
        rows = jax.ShapeDtypeStruct((plan.size,), np.int32)
        jax.eval_shape(
            build_lib.make_step(config, built), built.state, hypers, source, rows
        )
    raise Reached


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(*_):
        raise TooLong

    # Of the processor's time, which other work on the machine does not take; and ten
    # times as long by the clock, for a wait that never ends.
    timers = ((signal.ITIMER_PROF, signal.SIGPROF, seconds),)
    timers += ((signal.ITIMER_REAL, signal.SIGALRM, 10 * seconds),)
    for timer, name, limit in timers:
        signal.signal(name, ring)
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer, *_ in timers:
            signal.setitimer(timer, 0)


@contextlib.contextmanager
def _warnings() -> Iterator[list]:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        yield given


def _trained_files(workdir: pathlib.Path) -> list[str]:
    """Files that training wrote."""
    files = (path for path in workdir.rglob("*") if path.is_file())
    return sorted(path.name for path in files if path.name not in DESCRIPTION)[:5]


def _wrong_figures(results: dict) -> Iterator[str]:
    """Numbers of results.json that are not finite, and metrics beyond 0 and 1."""
    for path, value in _leaves(results, "results"):
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{path} is {value}"
    for name in ("valid", "test", "baselines"):
        for path, value in _leaves(results[name], name):
            if not 0 <= value <= 1:
                yield f"{path} is {value}"


def _wrong_lines(workdir: pathlib.Path) -> Iterator[str]:
    """Entries of metrics.jsonl that were no finite number."""
    for path in workdir.rglob("metrics.jsonl"):
        for line in path.read_text().splitlines():
            entries = json.loads(line)
            if None in entries.values():
                yield f"{path.relative_to(workdir)}: {line}"


def _leaves(value, path: str) -> Iterator[tuple]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for j, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{j}]")
    else:
        yield path, value


def _without_values(said: str, folder: pathlib.Path) -> str:
    """A refusal without the folder and with numbers as N, so that like ones count
    together."""
    said = said.replace(str(folder), "LOGS")
    said = re.sub(r"/tmp/\w+", "RUN", said)
    return re.sub(r"-?\b\d[\d,.]*(e[+-]?\d+)?\b", "N", said)


if __name__ == "__main__":
    sys.exit(main())
