import subprocess
import sys

CODE = """
import sys
import flax.nnx, jax, jaxtyping, numpy, optax
before = set(sys.modules)
import recall_jax.checkpoint, recall_jax.config, recall_jax.evaluate, recall_jax.fit
import recall_jax.data.movielens, recall_jax.data.synthetic
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
