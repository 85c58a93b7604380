"""What stages of a pipeline tell each other: a tensor of any shape, or that there is none.

Each message begins with a small one of fixed size that says what follows, because passes differ in shape:
rows in length, pictures in number, and a pass of text alone has no state of the tower at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor

from mix_core.errors import RunFailedError

DTYPES = (paddle.float32, paddle.float16, paddle.bfloat16)
MOST_AXES = 5
_NOTHING = -1
_WANTS_GRADIENT = 1


def header_of(tensor: Tensor | None) -> np.ndarray:
    """What is said before a tensor, (3 + MOST_AXES,) int32: dtype, whether a gradient is wanted, shape."""
    header = np.zeros(3 + MOST_AXES, np.int32)
    header[0] = _NOTHING
    if tensor is not None:
        shape = tensor.shape
        header[:3] = DTYPES.index(tensor.dtype), not tensor.stop_gradient, len(shape)
        header[3 : 3 + len(shape)] = shape
    return header


def blank_of(header: Sequence[int]) -> Tensor | None:
    """A tensor to receive what such a header announces; a leaf that gets a gradient where one is wanted.

    Raises:
        RunFailedError: it announces none of `DTYPES` or more axes than there may be.
    """
    kind, wanted, axes, *sizes = (int(one) for one in header)
    if kind == _NOTHING:
        return None
    if not (0 <= kind < len(DTYPES) and 0 <= axes <= MOST_AXES and min(sizes[:axes], default=1) >= 0):
        raise RunFailedError(
            f"a message of the pipeline begins with {list(map(int, header))}, which announces no tensor; do "
            "all ranks run the same version?"
        )
    tensor = paddle.empty(sizes[:axes], dtype=DTYPES[kind])
    tensor.stop_gradient = wanted != _WANTS_GRADIENT
    return tensor


class Wire:
    """Paddle's send and recv within a group; None: of all ranks. Ranks are numbered as of all."""

    def __init__(self, group: Any) -> None:
        self.group = group

    @paddle.no_grad()
    def send(self, tensor: Tensor | None, to: int) -> None:
        dist.send(paddle.to_tensor(header_of(tensor)), dst=to, group=self.group)
        if tensor is not None and tensor.size:
            dist.send(tensor.detach().contiguous(), dst=to, group=self.group)

    @paddle.no_grad()
    def receive(self, sender: int) -> Tensor | None:
        header = paddle.zeros([3 + MOST_AXES], dtype="int32")
        dist.recv(header, src=sender, group=self.group)
        tensor = blank_of(header.numpy())
        if tensor is not None and tensor.size:
            dist.recv(tensor, src=sender, group=self.group)
        return tensor
