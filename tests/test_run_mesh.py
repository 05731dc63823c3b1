"""The main command on eight devices leaves what it leaves on one."""

import jax
import pytest
from test_run import SYNTHETIC, TIMES, finish

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
        assert_equal(one[name], other[name], told=name)
    for name, row in one["indexes"].items():
        assert_equal(row["metrics"], other["indexes"][name]["metrics"], told=name)


def assert_equal(one, other, *, told: str) -> None:
    """Trees of numbers and strings, numbers to the last digits."""
    leaves, structure = jax.tree.flatten(one)
    others, same = jax.tree.flatten(other)
    assert structure == same, told
    for ours, theirs in zip(leaves, others):
        if isinstance(ours, float):
            theirs = pytest.approx(theirs, rel=1e-5, abs=1e-9)
        assert ours == theirs, told


def test_eight_devices_leave_what_one_leaves(one, tmp_path):
    eight = finish(*SYNTHETIC, "--devices=8", workdir=tmp_path)
    assert_close(one.results, eight.results)
    assert (one.results["device"], eight.results["device"]) == ("cpu", "8 x cpu")
    assert "devices    8 x cpu\n" in eight.printed
    assert "examples/s on 8 x cpu" in eight.printed
