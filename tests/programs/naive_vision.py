"""A vision model's first lines as they are often written, with no chip in mind: an audit must find it.

It knows nothing of mix-core. 16-bit tensors throughout, as such programs run under a chip's guide.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

HALF = "bfloat16"


def patch_embedding() -> paddle.Tensor:
    convolution = nn.Conv3D(3, 16, (2, 4, 4), stride=(2, 4, 4), bias_attr=False)
    convolution.to(dtype=HALF)
    pixels = paddle.rand([2, 3, 2, 16, 16]).astype(HALF)
    return convolution(pixels).flatten(2).transpose([0, 2, 1])


def window_index() -> paddle.Tensor:
    ends = paddle.unique_consecutive(paddle.to_tensor([0, 4, 4, 8, 16, 16], dtype="int32"))
    lengths = ends[1:] - ends[:-1]
    windows = paddle.repeat_interleave(paddle.arange(3), lengths)
    return paddle.repeat_interleave(windows, 4)


def position_table(side: int) -> paddle.Tensor:
    table = paddle.rand([1, 16, 6, 6])
    table.stop_gradient = False
    return F.interpolate(table, size=[side, side], mode="bicubic").flatten(2).transpose([0, 2, 1])


def drop_path(x: paddle.Tensor, rate: float) -> paddle.Tensor:
    keep = paddle.bernoulli(paddle.full([x.shape[0], 1, 1], 1.0 - rate))
    return x * keep.astype(x.dtype) / (1.0 - rate)


def other_operators(x: paddle.Tensor) -> paddle.Tensor:
    """One call of each operator that chips often lack in 16 bits."""
    picture = x.reshape([2, 4, 8, 8])
    small = F.interpolate(picture, size=[4, 4], mode="bilinear")
    normed = F.group_norm(picture, 2)
    dropped = F.dropout(x, 0.5)
    parts = [small, normed, dropped, paddle.clip(x, 0.0, 1.0), paddle.cumsum(x, axis=-1)]
    parts += [F.log_softmax(x, axis=-1), paddle.masked_select(x, x > 0)]
    total = paddle.zeros([])
    for part in parts:
        total = total + part.astype("float32").mean()
    return total


def label_loss(x: paddle.Tensor) -> paddle.Tensor:
    labels = paddle.full([2, 16], 5, dtype="int64")
    labels[:, :3] = -100
    return F.nll_loss(F.log_softmax(x, axis=-1).reshape([-1, 16]), labels.reshape([-1]))


def main() -> None:
    paddle.seed(0)
    x = patch_embedding()
    window_index()
    x = drop_path(x + position_table(4).astype(HALF), 0.1)
    (other_operators(x) + label_loss(x).astype("float32")).backward()


if __name__ == "__main__":
    main()
