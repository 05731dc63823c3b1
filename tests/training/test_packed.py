import json

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from recall_jax.training import checkpoint

ARRAYS = st.dictionaries(
    st.text("ab[]'.", max_size=4).map("state{}".format),
    arrays_of.arrays(
        st.sampled_from([np.float32, np.int32, np.uint32, np.bool_]),
        arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    max_size=6,
)


@given(ARRAYS)
def test_what_is_packed_comes_back_to_the_bit(arrays):
    packed = checkpoint.pack(arrays)
    assert len(packed.arrays) == len({array.dtype for array in arrays.values()})
    back = checkpoint.unpack(packed, {name: x.shape for name, x in arrays.items()})
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype)
        assert back[name].tobytes() == array.tobytes()


def state():
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=n)) for name, n in (("a", 3), ("b", 500))}


def test_a_large_array_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(checkpoint, "SMALL", 100)
    arrays = state()
    packed = checkpoint.pack(arrays)
    assert packed.arrays["b"] is arrays["b"] and packed.names == {
        "packed float32": ["a"]
    }


def test_checkpoints_with_and_without_packs_are_read_alike(tmp_path, monkeypatch):
    """Those of several processes have none."""
    for step, most in enumerate((-1, 100, checkpoint.SMALL)):
        monkeypatch.setattr(checkpoint, "SMALL", most)
        checkpoint.save(tmp_path, state(), kind="latest", step=step, progress={})
        monkeypatch.undo()
        if most < 0:
            (record,) = tmp_path.rglob("record.json")
            assert json.loads(record.read_text())["packed"] == {}
        restored_state, _ = checkpoint.restore(tmp_path, state(), kind="latest")
        jax.tree.map(np.testing.assert_array_equal, restored_state, state())
