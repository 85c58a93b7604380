"""Adding rows into a larger tensor, from operators that every chip has.

Not index_add, which chips lack; not index_put, whose threads on a CPU lose sums where a row repeats; not
scatter_nd_add alone, which copies the whole tensor. Sums are taken in the order of the values, as there.

Shapes: V rows of the tensor, R rows to add, D their width.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor, _C_ops


def add_rows(total_VD: Tensor, places_R: np.ndarray, values_RD: Tensor) -> Tensor:
    """``total[places[i]] += values[i]`` for each i, in place; places may repeat. Returns the tensor."""
    return add_placed_rows(total_VD, place_rows(places_R), values_RD)


def place_rows(places_R: np.ndarray) -> tuple[Tensor, Tensor]:
    """What `add_placed_rows` needs of places: each once, and which of them a row goes to (R, 1)."""
    distinct, of_row = np.unique(places_R, return_inverse=True)
    return paddle.to_tensor(distinct), paddle.to_tensor(of_row.reshape(-1, 1))


def add_placed_rows(total_VD: Tensor, placed: tuple[Tensor, Tensor], values_RD: Tensor) -> Tensor:
    """The same where `place_rows` was asked before: nothing is copied between host and device."""
    distinct, of_row_R1 = placed
    sums = _C_ops.scatter_nd_add(_C_ops.gather(total_VD, distinct, 0), of_row_R1, values_RD)
    return _C_ops.scatter_(total_VD, distinct, sums, True)


def add_distinct_rows(total_VD: Tensor, places_R: Tensor, values_RD: Tensor) -> Tensor:
    """The same where no place repeats, with places on the device."""
    sums = _C_ops.gather(total_VD, places_R, 0).add_(values_RD)
    return _C_ops.scatter_(total_VD, places_R, sums, True)
