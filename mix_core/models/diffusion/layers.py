"""Small layers of diffusion networks: convolution, group norm, the embedding of a time step.

Shapes: B batch, C channels, H and W rows and columns, D model dim, `...` any leading axes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.nn.initializer import Constant

from mix_core import ops
from mix_core.models.common.layers import Linear
from mix_core.ops.dtypes import cast, for_product, kept_in

MAX_COLUMNS = 1 << 26
"""Numbers that a convolution may lay out for its product at once, where no gradient is taken."""


class Conv2D(nn.Layer):
    """Paddle's convolution with zeros as first values; weight (out, in, k, k), as the files have it.

    It computes in float32 where the device has none in the dtype of its input.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, padding: int | list[int] = 1
    ) -> None:
        """`padding`: of all sides, or of above, below, left and right."""
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight = self.create_parameter(
            [outputs, inputs, kernel, kernel], default_initializer=Constant(0.0)
        )
        self.bias = self.create_parameter([outputs], is_bias=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        given = for_product(x_BCHW, self.weight, self.bias)
        narrow = given[0].dtype
        x_BCHW, weight, bias = (cast(one, kept_in(narrow, "convolution")) for one in given)
        C, H, W = x_BCHW.shape[1:]
        row = C * weight.shape[2] * weight.shape[3] * W
        if self.stride == 1 and row * H > MAX_COLUMNS and not paddle.is_grad_enabled():
            out = _in_strips(x_BCHW, weight, bias, self.padding, max(1, MAX_COLUMNS // row))
        else:
            out = F.conv2d(x_BCHW, weight, bias, self.stride, self.padding)
        return cast(out, narrow)


def _in_strips(x_BCHW: Tensor, weight: Tensor, bias: Tensor, padding: int, rows: int) -> Tensor:
    """The convolution of stride 1 by so many rows at a time.

    A device may lay out k * k numbers for each place and channel: 2.4 GB where the autoencoder ends with 256
    channels of 512 x 512.
    """
    H = x_BCHW.shape[2]
    strips = []
    for top in range(0, H, rows):
        first, end = top - padding, min(top + rows, H) + padding
        around = [max(0, -first), max(0, end - H), padding, padding]
        strips.append(F.conv2d(x_BCHW[:, :, max(first, 0) : min(end, H)], weight, bias, 1, around))
    return paddle.concat(strips, axis=2)


def pointwise(inputs: int, outputs: int) -> Conv2D:
    """A convolution of 1x1."""
    return Conv2D(inputs, outputs, 1, padding=0)


class GroupNorm(nn.Layer):
    def __init__(self, groups: int, channels: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = self.create_parameter([channels], default_initializer=Constant(1.0))
        self.bias = self.create_parameter([channels], is_bias=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return ops.group_norm(x_BCHW, self.groups, self.weight, self.bias, self.eps)


class TwoMaps(nn.Layer):
    """``linear_2(silu(linear_1(x)))``, x (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1 = Linear(inputs, outputs, True)
        self.linear_2 = Linear(outputs, outputs, True)

    def forward(self, x: Tensor) -> Tensor:
        x = cast(x, self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(x)))


@lru_cache(maxsize=8)
def _frequencies(half: int, shift: float) -> np.ndarray:
    exponents = np.arange(half, dtype=np.float64) * (-math.log(10000.0) / (half - shift))
    return np.exp(exponents).astype(np.float32)


def sinusoids(steps: Tensor, width: int, *, flip: bool = True, shift: float = 0.0) -> Tensor:
    """Sines and cosines of each number, (...) -> (..., width) float32; `flip`: cosines first.

    Ho et al., "Denoising Diffusion Probabilistic Models", 2020, after Vaswani et al., 2017. `shift` is taken
    from the number of frequencies before it divides the exponents.
    """
    frequencies = paddle.to_tensor(_frequencies(width // 2, shift))
    angles = paddle.unsqueeze(cast(steps, paddle.float32), -1) * frequencies
    sines, cosines = paddle.sin(angles), paddle.cos(angles)
    return paddle.concat([cosines, sines] if flip else [sines, cosines], axis=-1)


def as_steps(timestep: Tensor | np.ndarray | float, batch: int) -> Tensor:
    """The time step of each row (B,), from one number for all or from one for each."""
    steps = timestep if isinstance(timestep, Tensor) else paddle.to_tensor(np.asarray(timestep, np.float32))
    steps = steps.reshape([-1])
    return steps.expand([batch]) if steps.shape[0] == 1 else steps
