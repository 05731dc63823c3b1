"""A command of `experiments` called in the process of a test."""

import contextlib
import io
import re
import sys
from types import ModuleType

import pytest
from absl import flags

from experiments.common import cli


def called(module: ModuleType, *arguments, parse=cli.parse) -> tuple[int, str, str]:
    """Its exit status, its output, its errors. Flags that another command, or an earlier
    call, has defined are forgotten first."""
    for owner, defined in list(flags.FLAGS.flags_by_module_dict().items()):
        for flag in list(defined):
            config = re.match(r"config(\..*)?$", flag.name)
            if (
                config or owner.startswith("experiments.")
            ) and flag.name in flags.FLAGS:
                delattr(flags.FLAGS, flag.name)
    module.define_flags()
    output, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        name = module.__name__.rpartition(".")[2]
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            status = cli.start(module.main, parse=parse) or 0
        except SystemExit as stopped:
            status = stopped.code
    return status, output.getvalue(), errors.getvalue()
