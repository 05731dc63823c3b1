"""Train, evaluate, report: the main command.

    python -m experiments.run --config=dssm_ml1m
    python -m experiments.run --config=dssm_ml1m --config.loss.temperature=0.1
        --workdir=runs/dssm_ml1m_t01 --seed=1

A run folder with the same config resumes, on any number of devices (--devices=8; 0 for
all there are); one with another config is refused. With --distributed several processes
train as one, on all that they have (experiments/common/distributed.py).
"""

import pathlib

import jax
from absl import flags

from experiments.common import cli, distributed, summary
from recall_jax.devices import mesh
from recall_jax.types import InputError


def main(argv: list[str]) -> None:
    del argv
    config = flags.FLAGS.config
    if flags.FLAGS.seed is not None:
        config.seed = flags.FLAGS.seed
    workdir = pathlib.Path(flags.FLAGS.workdir or f"runs/{config.name}")
    with distributed.joined(), mesh.use(mesh_of(flags.FLAGS.devices)):
        summary.train(config, workdir)


def mesh_of(num: int | None) -> jax.sharding.Mesh | None:
    """Of the first `num` devices, all for 0; None for one, which is what is not asked.
    Of several processes always all of theirs."""
    if flags.FLAGS.distributed and num:
        raise InputError(
            f"--devices={num} with --distributed, which takes all devices of all "
            "processes; leave --devices out"
        )
    num = 0 if flags.FLAGS.distributed else num
    return mesh.first(1 if num is None else num)


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "run folder; default runs/NAME")
    flags.DEFINE_integer("seed", None, "overrides the config's seed")
    flags.DEFINE_integer("devices", None, "that share the work; 0: all; default 1")
    distributed.define_flags()


if __name__ == "__main__":
    define_flags()
    cli.start(main)
