"""The main command on eight devices leaves what it leaves on one."""

import contextlib
import json

import jax
import numpy as np
import pytest
from meshes import mesh_of
from test_configs import shrunk
from test_run import SYNTHETIC, TIMES, command, finish, own_log

from experiments import cli, training
from recall_jax import checkpoint, evaluate, retrieval, sharding

pytestmark = [
    pytest.mark.usefixtures("kept_programs"),
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
]


@pytest.fixture(scope="module")
def one(kept_programs, tmp_path_factory):
    return finish(*SYNTHETIC, workdir=tmp_path_factory.mktemp("one"))


def assert_close(one: dict, other: dict) -> None:
    """The same results but for times, devices and the last digits."""
    assert one.keys() == other.keys()
    for name in one.keys() - {*TIMES, "device", "indexes"}:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=name)
            if isinstance(a, float)
            else np.testing.assert_equal(a, b, name),
            one[name],
            other[name],
        )
    for name, row in one["indexes"].items():
        found = other["indexes"][name]["metrics"]
        assert found == pytest.approx(row["metrics"], rel=1e-5)


def test_eight_devices_leave_what_one_leaves(one, tmp_path):
    eight = finish(*SYNTHETIC, "--devices=8", workdir=tmp_path)
    assert_close(one.results, eight.results)
    assert (one.results["device"], eight.results["device"]) == ("cpu", "8 x cpu")
    assert "devices    8 x cpu\n" in eight.printed
    assert "examples/s on 8 x cpu" in eight.printed
