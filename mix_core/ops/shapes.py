"""Reshaping, and rows by index.

Shapes: T rows of a matrix, C rows to put in, D columns.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, _C_ops

from mix_core.ops.dtypes import NARROW

reshape = _C_ops.reshape
"""``reshape(x, shape)``: a tensor's method checks its arguments first, which costs more than the act."""


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """``x[rows]`` along the first axis of a matrix, (rows, ...); no row is asked for twice where x learns.

    Narrow rows are looked up as an embedding's are: devices that train in 16 bits have that for bfloat16, and
    two of three have no gather for it.
    """
    return F.embedding(rows, x) if x.dtype in NARROW else paddle.gather(x, rows)


def put_rows(x_TD: Tensor, places_C: np.ndarray, rows_CD: Tensor) -> Tensor:
    """``x`` with other rows at `places`, each named once.

    Narrow rows are chosen out of both matrices, because two of three devices cannot scatter them.
    """
    if x_TD.dtype not in NARROW:
        return paddle.scatter(x_TD, paddle.to_tensor(places_C), rows_CD)
    sources_T = np.arange(x_TD.shape[0])
    sources_T[places_C] = len(sources_T) + np.arange(len(places_C))
    return take_rows(paddle.concat([x_TD, rows_CD]), paddle.to_tensor(sources_T))
