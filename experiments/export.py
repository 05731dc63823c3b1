"""A trained run as files that serve without it: towers, vocabularies, vectors.

    python -m experiments.export --run=runs/dssm_ml1m --to=exported/dssm_ml1m
    python -m experiments.export --run=runs/dssm_ml1m --to=exported/int8 --dtype=int8

The folder holds the user tower and the item tower as programs of jax.export for CPU,
CUDA and TPU, which run without this package, and the vectors of all items and users as
.npy and Parquet with raw ids; recall_jax/serve/export.md says what is in it and how it is used.
Users stand at the end of their whole history, events held out for tests included. An
older export in the folder is replaced when the new one is complete and agrees with the
trained model; the same command goes on where it was killed.
"""

from absl import flags

from experiments.common import cli
from recall_jax.run import open as open_lib
from recall_jax.serve import writer
from recall_jax.types import InputError


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    if options.run is None or options.to is None:
        raise InputError("name a run's folder with --run and a new folder with --to")
    run = open_lib.open_run(options.run)
    report = run.export(
        options.to,
        dtype=options.dtype,
        batch_size=options.batch_size,
        users=options.users,
    )
    print(writer.described(report))


def define_flags() -> None:
    flags.DEFINE_string("run", None, "folder of a trained run")
    flags.DEFINE_string("to", None, "folder of the export")
    flags.DEFINE_string("dtype", "float32", "of vectors: float32, bfloat16 or int8")
    flags.DEFINE_integer("batch_size", 4096, "users and items encoded at a time")
    flags.DEFINE_boolean("users", True, "write the vectors of users too")


if __name__ == "__main__":
    define_flags()
    cli.start(main, parse=cli.parse_plain)
