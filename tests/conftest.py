"""Tests run on eight devices of one CPU, with shapes checked, rank promotion an error,
and a tiny log at hand."""

import os
import pathlib

import flags

flags.set_once()

from jaxtyping import install_import_hook

CHECKED = (
    "evaluate.metrics",
    "evaluate.segments",
    "index.inputs",
    "index.scann",
    "index.search",
    "index.topk",
    "losses.candidates",
    "losses.frequency",
    "losses.losses",
    "losses.objective",
    "losses.sampling",
    "losses.scores",
    "losses.softmax",
    "models.histories",
    "models.layers",
    "pairs.walks",
    "tables.rows",
)
install_import_hook([f"recall_jax.{name}" for name in CHECKED], "beartype.beartype")

import jax
import jaxtyping
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from recall_jax.data import log, prepare
from recall_jax.data import split as split_lib
from recall_jax.data.log import Bag, Entities, Interactions
from recall_jax.serve import towers

jax.config.update("jax_numpy_rank_promotion", "raise")

DATA_DIR = pathlib.Path(
    os.environ.get(
        "RECALL_DATA_DIR", pathlib.Path(__file__).parents[2] / "shared" / "data"
    )
)


def pytest_collection_modifyitems(config, items):
    if config.getoption("-m"):
        return
    skip = pytest.mark.skip(reason="slow; run with -m slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def ml_1m() -> pathlib.Path:
    """The folder of MovieLens 1M, or a skip."""
    if not (DATA_DIR / "ml-1m" / "ratings.dat").exists():
        pytest.skip(f"no {DATA_DIR}/ml-1m; name its parent in RECALL_DATA_DIR")
    return DATA_DIR / "ml-1m"


def make_log(
    *, users: int = 30, items: int = 20, events: int = 400, seed: int = 0
) -> Interactions:
    """A random log without repeats, with a feature of every kind and tied times."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(users * items)[:events]
    lengths = rng.integers(0, 4, items)
    tags = Bag(
        rng.integers(0, 6, lengths.sum()).astype(str),
        np.concatenate([[0], np.cumsum(lengths)]),
    )
    return Interactions(
        user=(pairs // items).astype(np.int32),
        item=(pairs % items).astype(np.int32),
        users=Entities(
            np.array([f"u{j}" for j in range(users)]),
            {"gender": rng.choice(["f", "m"], users)},
        ),
        items=Entities(
            np.arange(100, 100 + items),
            {"tags": tags, "price": rng.normal(size=items).astype(np.float32)},
        ),
        time=rng.integers(0, events // 2, events).astype(np.int64),
        source="a random log",
    )


def make_data(*, history_length: int = 5, min_history: int = 1, **sizes):
    """That log under leave_one_out."""
    split = split_lib.by_protocol(make_log(**sizes), config=log.Config())
    return prepare.in_memory(
        split, history_length=history_length, min_history=min_history
    )


@pytest.fixture
def data():
    return make_data()


@pytest.fixture(scope="session")
def program_folder(tmp_path_factory) -> pathlib.Path:
    """Of one session, or what tests/mutants.py names: a cache is keyed by program, so
    that a changed one is never taken for what it was."""
    kept = os.environ.get("RECALL_PROGRAMS")
    return pathlib.Path(kept) if kept else tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module", autouse=True)
def kept_programs(program_folder):
    """JAX's compilation cache, as a module's environment: most of a test's seconds are
    compilation, and many of their programs are the same."""
    settings = {
        "jax_compilation_cache_dir": str(program_folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    home = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(program_folder)  # of processes that set none
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {name.upper(): str(value) for name, value in settings.items()}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    if home is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = home


@pytest.fixture(scope="module")
def one_platform():
    """Exports for the CPU alone, a third of the work; `test_export` makes them for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(towers, "PLATFORMS", ("cpu",))
        yield


@pytest.fixture(scope="module")
def symbolic_shapes():
    """Shapes unchecked, for modules that export towers: of a batch size that is a
    symbol, jaxtyping cannot say whether it spreads."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
