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
    distinct, of_value = np.unique(places_R, return_inverse=True)
    places = paddle.to_tensor(distinct)
    sums = _C_ops.gather(total_VD, places, 0)
    sums = _C_ops.scatter_nd_add(sums, paddle.to_tensor(of_value.reshape(-1, 1)), values_RD)
    return _C_ops.scatter_(total_VD, places, sums, True)


def add_distinct_rows(total_VD: Tensor, places_R: Tensor, values_RD: Tensor) -> Tensor:
    """The same where no place repeats, with places on the device."""
    sums = _C_ops.gather(total_VD, places_R, 0).add_(values_RD)
    return _C_ops.scatter_(total_VD, places_R, sums, True)
