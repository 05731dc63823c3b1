"""What the bench of many devices counts."""

import pytest
from meshes import mesh_of

from experiments.bench import scaling
from recall_jax.devices import mesh

PROGRAM = """
  %a = f32[8,64]{1,0} all-gather(%x), channel_id=1
  %b = (f32[16]{0}, s32[]) all-reduce(%y, %z), channel_id=2
  %c = f32[2,64]{1,0} reduce-scatter(%w), channel_id=3
  %d = (s32[1,10]{1,0}, s32[1,10]{1,0}) all-to-all(%u, %v), channel_id=4
  %e = f32[99]{0} add(%p, %q)
"""


def test_bytes_of_each_collective_are_those_of_a_ring():
    traffic = scaling.moved_bytes(PROGRAM, devices=4)
    assert traffic == {
        "all-gather": 3 * 8 * 64 * 4,
        "all-reduce": 2 * 3 * (16 * 4 + 4),
        "reduce-scatter": 4 * 3 * 2 * 64 * 4,
        "all-to-all": 3 * 2 * 10 * 4,
    }


@pytest.mark.slow
def test_a_step_moves_little_more_than_it_must():
    with mesh.use(mesh_of(8)):
        traffic = scaling.measure_bytes(50_000, met=50_000, batch=8192)
    assert 1.0 <= traffic["over_bound"] < 1.5
