"""Weights for several ranks: each tensor is read by one of them, and sent to the others.

Files lie where reading costs most (a network file system, a disk that all devices of a host share), and links
between devices are the fastest thing there is. Beside the model a rank holds one tensor on its host while it
reads one, and nothing while it receives; where ranks divide layers, each device holds the whole of one
parameter for as long as the ranks take their parts of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import paddle
import paddle.distributed as dist

from mix_core.models.common.parts import held_box, is_part, whole_shape
from mix_core.models.common.weights import filled_by, parameters_of, set_whole

if TYPE_CHECKING:
    import numpy as np
    from paddle import Tensor

    from mix_core.device.ranks import Job
    from mix_core.models.common.tensor_files import StoredTensor
    from mix_core.models.common.weights import AnySlot


class InTurn:
    """Fills slots of a model that all ranks build alike. All ranks have to load the same, in one order."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.read_bytes = [0] * job.ranks
        """Of the files' tensors, by the rank that reads them."""

    @paddle.no_grad()
    def __call__(self, slot: AnySlot, stored: StoredTensor) -> None:
        reader = self.read_bytes.index(min(self.read_bytes))
        self.read_bytes[reader] += stored.size_bytes
        if reader == self.job.rank:
            for parameter, values in slot.wholes(stored):
                self._share(parameter, reader, values)
        else:
            for parameter in parameters_of([slot]):
                self._share(parameter, reader)

    def _share(self, parameter: Tensor, reader: int, values: np.ndarray | None = None) -> None:
        """Take what this rank holds of a parameter from the rank that has its values."""
        divided = is_part(parameter)
        whole = paddle.empty(whole_shape(parameter), parameter.dtype) if divided else parameter
        if values is not None:
            set_whole(whole, values)
        dist.broadcast(whole, src=reader)
        if divided:
            parameter._clear_data()  # so that whole and part are all that is held of it
            part = whole[held_box(parameter).slices]
            if part._is_shared_buffer_with(whole):  # a view, where Paddle has stride kernels
                part = part.clone()
            part._share_buffer_to(parameter)


@contextmanager
def reading_in_turn(job: Job) -> Iterator[None]:
    """Weights that are loaded in here are read once by all ranks together."""
    if job.ranks == 1:
        yield
        return
    with filled_by(InTurn(job)):
        yield
