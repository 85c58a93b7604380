"""`.pdparams` files: a pickle of a dict of arrays, written an array at a time.

`paddle.save` wants all arrays in memory. What it writes for a dict of NumPy arrays is a fixed sequence of
operations around each array's bytes, and that is written here. The array's constructor bears the name that
NumPy 1 and 2 both know. Operations: `pickletools`, pickle protocol 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mix_core.models.common.tensor_files import Outgoing

_KINDS = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4"}
_EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
"""_reconstruct(ndarray, (0,), b"b")"""


def write_pickled_arrays(path: Path, tensors: Sequence[Outgoing]) -> None:
    """Write one file; bfloat16 as uint16, which Paddle takes for bfloat16."""
    with path.open("wb") as file:
        file.write(b"\x80\x04}")  # protocol 4, an empty dict
        for tensor in tensors:
            data = np.ascontiguousarray(tensor.values()).reshape(-1).view(np.uint8)
            file.write(_text(tensor.name) + _EMPTY + _state(tensor) + len(data).to_bytes(8, "little"))
            file.write(data)
            file.write(b"tbs")  # the state's end, the array gets it, the dict gets the array
        file.write(b".")


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return b"X" + len(data).to_bytes(4, "little") + data


def _state(tensor: Outgoing) -> bytes:
    """(1, shape, dtype, not in Fortran's order, bytes...; the bytes' length and contents follow."""
    shape = b"(" + b"".join(b"\x8a\x08" + n.to_bytes(8, "little") for n in tensor.shape) + b"t"
    # dtype("f4", False, True) with the state (3, "<", None, None, None, -1, -1, 0)
    dtype = b"cnumpy\ndtype\n(" + _text(_KINDS[tensor.dtype]) + b"\x89\x88tR"
    dtype += b"(K\x03" + _text("<") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    return b"(K\x01" + shape + dtype + b"\x89\x8e"
