"""Small arrays end to end in one of each type.

A store of arrays costs first of all by the array (BUILD_NOTES.md, record 21).
"""

from typing import Any, NamedTuple

import numpy as np

SMALL = 1 << 22  # bytes of an array that is packed


class Packed(NamedTuple):
    """Arrays by name, and of those that hold others the names of what they hold."""

    arrays: dict[str, Any]
    names: dict[str, list[str]]


def pack(arrays: dict[str, Any]) -> Packed:
    """The arrays, the small ones of each type as one on the host, in their order; all of
    them must be this process's."""
    names: dict[str, list[str]] = {}
    for name, array in arrays.items():
        if array.size * array.dtype.itemsize <= SMALL:
            names.setdefault(f"packed {array.dtype}", []).append(name)
    small = {name for held in names.values() for name in held}
    left = {name: array for name, array in arrays.items() if name not in small}
    packs = {
        pack: np.concatenate([np.asarray(arrays[name]).ravel() for name in held])
        for pack, held in names.items()
    }
    return Packed(left | packs, names)


def unpack(packed: Packed, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The arrays by name, given the shape of each; those that were packed are copies."""
    arrays = dict(packed.arrays)
    for pack, held in packed.names.items():
        whole, start = arrays.pop(pack), 0
        for name in held:
            stop = start + int(np.prod(shapes[name], dtype=np.int64))
            arrays[name] = np.array(whole[start:stop]).reshape(shapes[name])
            start = stop
    return arrays
