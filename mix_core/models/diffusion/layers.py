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
from mix_core.ops.convolution import Padding
from mix_core.ops.dtypes import cast


class Conv2D(nn.Layer):
    """A convolution with zeros as first values; weight (out, in, k, k), as the files have it."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, padding: int | Padding = 1
    ) -> None:
        """`padding`: of all sides, or of above, below, left and right."""
        super().__init__()
        self.stride = stride
        self.padding: Padding = (padding,) * 4 if isinstance(padding, int) else padding
        self.weight = self.create_parameter(
            [outputs, inputs, kernel, kernel], default_initializer=Constant(0.0)
        )
        self.bias = self.create_parameter([outputs], is_bias=True)

    def forward(self, x_BCHW: Tensor, shift_BO: Tensor | None = None) -> Tensor:
        """`shift_BO`: added to all places of a channel."""
        bias = self.bias if shift_BO is None else self.bias + cast(shift_BO, self.bias.dtype)
        return ops.conv2d(x_BCHW, self.weight, bias, stride=self.stride, padding=self.padding)


def pointwise(inputs: int, outputs: int) -> Conv2D:
    """A convolution of 1x1."""
    return Conv2D(inputs, outputs, 1, padding=0)


class GroupNorm(nn.Layer):
    def __init__(self, groups: int, channels: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = self.create_parameter([channels], default_initializer=Constant(1.0))
        self.bias = self.create_parameter([channels], is_bias=True)

    def forward(self, x_BCHW: Tensor, *, silu: bool = False) -> Tensor:
        """With `silu`, the result times its sigmoid."""
        return ops.group_norm(x_BCHW, self.groups, self.weight, self.bias, self.eps, silu=silu)

    def with_silu(self, x_BCHW: Tensor) -> Tensor:
        """The result times its sigmoid."""
        return self(x_BCHW, silu=True)


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
