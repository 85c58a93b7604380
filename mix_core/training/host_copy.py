"""A copy of tensors in host memory: taken while training stands still, written to files while it goes on.

The memory is allocated once, before the first copy, and used again by all later ones: fresh memory costs more
than the copy itself, because the system hands it out page by page. Each tensor has a place of its own in it,
so a copy is one pass over the bytes, from the device straight into its place. What is in host memory already
is copied by several threads, past Paddle, which takes longer for a small tensor than its bytes do.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor
from paddle.base import core

_NUMPY_OF = {
    paddle.float32: np.float32,
    paddle.float64: np.float64,
    paddle.float16: np.float16,
    paddle.bfloat16: np.uint16,
    paddle.int64: np.int64,
    paddle.int32: np.int32,
    paddle.int8: np.int8,
    paddle.uint8: np.uint8,
}
_ALIGNMENT_BYTES = 64
_CHUNK_BYTES = 4 << 20
_MOST_THREADS = 4
"""Memory is no faster for more."""


@dataclass
class _Place:
    """Where a tensor's copy lies."""

    tensor: Tensor
    values: np.ndarray
    address: int
    inside: Tensor | None = None
    """A host tensor on the same memory, once one was needed."""
    taken: bool = False

    def take_from_device(self) -> None:
        if self.inside is None:
            self.inside = _tensor_on(self.values, f"host_copy_{id(self.tensor)}")
        self.inside.copy_(self.tensor, True)
        if self.inside.data_ptr() != self.address:  # the device gave it other memory
            self.values[...] = self.inside.numpy()


class HostCopy:
    """Copies of these tensors; a tensor that is given twice has one.

    Args:
        tensors: they must stay the same objects, of the same shapes and dtypes.
        changing: those that are copied each time; the others only the first time.
    """

    def __init__(self, tensors: Iterable[Tensor], changing: Iterable[Tensor] = ()) -> None:
        self._tensors = {id(one): one for one in (*tensors, *changing)}
        self._changing = {id(one) for one in changing}
        self._places: dict[int, _Place] = {}
        self._memory: np.ndarray | None = None

    @property
    def size_bytes(self) -> int:
        """Host memory that the copy takes, from `prepare` or the first `take` on."""
        return sum(_padded(one) for one in self._tensors.values())

    def prepare(self) -> None:
        """Have the system hand out the memory, which may happen in another thread; `take` does it else."""
        if self._memory is None:
            memory = np.empty(self.size_bytes + _ALIGNMENT_BYTES, np.uint8)
            memory.fill(0)
            self._memory = memory

    @paddle.no_grad()
    def take(self) -> int:
        """Copy what may have changed since the last time -> bytes copied."""
        self.prepare()
        if not self._places:
            self._allot(self._memory)
        copied = 0
        moves: list[tuple[int, int, int]] = []
        for place in self._places.values():
            if place.taken and id(place.tensor) not in self._changing:
                continue
            if not place.values.nbytes:
                continue
            if place.tensor.place.is_cpu_place() and place.tensor.is_contiguous():
                moves.append((place.address, place.tensor.data_ptr(), place.values.nbytes))
            else:
                place.take_from_device()
            place.taken = True
            copied += place.values.nbytes
        _move(moves)
        return copied

    def read(self, tensor: Tensor) -> np.ndarray:
        """The copy that was last taken of a tensor, bfloat16 as uint16. Needs no device."""
        place = self._places.get(id(tensor))
        if place is None:
            raise KeyError(
                f"{tensor.name} of shape {list(tensor.shape)} is not among the tensors of this copy"
            )
        return place.values

    def _allot(self, memory: np.ndarray) -> None:
        start = -memory.ctypes.data % _ALIGNMENT_BYTES
        for key, tensor in self._tensors.items():
            kind = np.dtype(_NUMPY_OF[tensor.dtype])
            end = start + int(tensor.size) * kind.itemsize
            values = memory[start:end].view(kind).reshape(tensor.shape)
            self._places[key] = _Place(tensor, values, values.ctypes.data)
            start += _padded(tensor)


def _move(moves: Iterable[tuple[int, int, int]]) -> None:
    """Copy within host memory: address of the copy, of the bytes, their number."""
    chunks = deque(
        (target + start, source + start, min(_CHUNK_BYTES, size - start))
        for target, source, size in moves
        for start in range(0, size, _CHUNK_BYTES)
    )
    helpers = min(_MOST_THREADS, len(os.sched_getaffinity(0)), len(chunks)) - 1

    def work() -> None:
        while chunks:
            try:
                chunk = chunks.popleft()
            except IndexError:  # another thread had the last one
                return
            ctypes.memmove(*chunk)  # without Python's lock

    if helpers < 1:
        work()
        return
    with ThreadPoolExecutor(helpers) as pool:
        helping = [pool.submit(work) for _ in range(helpers)]
        work()
        for one in helping:
            one.result()


def _padded(tensor: Tensor) -> int:
    size = int(tensor.size) * np.dtype(_NUMPY_OF[tensor.dtype]).itemsize
    return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _tensor_on(values: np.ndarray, name: str) -> Tensor:
    """A host tensor that shares the array's memory; Paddle's public functions copy, or know no bfloat16."""
    return core.eager.Tensor(
        value=values,
        place=paddle.CPUPlace(),
        persistable=False,
        zero_copy=True,
        name=name,
        stop_gradient=True,
    )
