"""What imports what."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]

CODE = """
import sys
import flax.nnx, jax, jaxtyping, numpy, optax
before = set(sys.modules)
import recall_jax.evaluate.measure, recall_jax.run.config
import recall_jax.training.checkpoint, recall_jax.training.loop
import recall_jax.data.sources.movielens, recall_jax.data.sources.synthetic
import recall_jax.models.dssm, recall_jax.models.youtubednn
added = {name.split(".")[0] for name in set(sys.modules) - before}
core = {"flax", "jax", "jaxlib", "jaxtyping", "numpy", "optax", "recall_jax"}
print(sorted(added - sys.stdlib_module_names - core))
"""


def test_training_and_exact_evaluation_import_with_the_core_packages_alone():
    """jax, flax, optax, numpy, jaxtyping; all else where it is used."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_rooms_import_only_the_rooms_under_them():
    """By the contract in .importlinter."""
    command = pathlib.Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def imported(path: pathlib.Path) -> set[str]:
    """Names of the modules that a file imports, as written."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_library_needs_no_script_and_scripts_need_no_script():
    """But what they share, in experiments/common, their configs and their studies."""
    for path in (ROOT / "recall_jax").rglob("*.py"):
        assert not {x for x in imported(path) if x.startswith("experiments")}, path
    scripts = {
        f"experiments.{path.stem}" for path in (ROOT / "experiments").glob("*.py")
    }
    assert "experiments.run" in scripts
    for path in (ROOT / "experiments").rglob("*.py"):
        assert not {x for x in imported(path) if x in scripts}, path
