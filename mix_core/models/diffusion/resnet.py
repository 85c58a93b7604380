"""The residual block of U-Net and autoencoder, and what halves or doubles a feature map.

Shapes: B batch, C channels, H and W rows and columns, E width of the time step's embedding.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from mix_core.models.common.layers import Linear, residual
from mix_core.models.common.recompute import applied
from mix_core.models.diffusion.layers import Conv2D, GroupNorm, pointwise
from mix_core.ops.dtypes import cast, widened


class ResNetBlock(nn.Layer):
    """Two convolutions, each after group norm and silu; the time step's embedding is added between them."""

    def __init__(self, inputs: int, outputs: int, groups: int, eps: float, embedding: int | None) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(groups, inputs, eps), Conv2D(inputs, outputs)
        self.time_emb_proj = None if embedding is None else Linear(embedding, outputs, True)
        self.norm2, self.conv2 = GroupNorm(groups, outputs, eps), Conv2D(outputs, outputs)
        self.conv_shortcut = None if inputs == outputs else pointwise(inputs, outputs)

    def forward(self, x_BCHW: Tensor, activated_BE: Tensor | None = None) -> Tensor:
        """`activated_BE`: silu of the embedding, which is the same for all blocks."""
        shift_BC = None if self.time_emb_proj is None else self.time_emb_proj(activated_BE)
        h_BCHW = applied(lambda normed: self.conv1(normed, shift_BC), self.norm1.with_silu, x_BCHW)
        h_BCHW = applied(self.conv2, self.norm2.with_silu, h_BCHW)
        if self.conv_shortcut is not None:
            x_BCHW = cast(self.conv_shortcut(x_BCHW), x_BCHW.dtype)
        return residual(x_BCHW, h_BCHW)


class Downsample(nn.Layer):
    """A convolution of stride 2. The autoencoder pads on the right and below only, the U-Net on all sides."""

    def __init__(self, channels: int, *, one_sided: bool) -> None:
        super().__init__()
        self.conv = Conv2D(channels, channels, stride=2, padding=(0, 1, 0, 1) if one_sided else 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return cast(self.conv(x_BCHW), x_BCHW.dtype)


class Upsample(nn.Layer):
    """Each place repeated, and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2D(channels, channels)

    def forward(self, x_BCHW: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """`size`: rows and columns of the result, where they are not twice those of x."""
        rows, columns = size or (2 * x_BCHW.shape[2], 2 * x_BCHW.shape[3])
        # in float32: chips have either operator in one 16-bit dtype or the other, and going back in neither
        larger = cast(_repeated(widened(x_BCHW), rows, columns), x_BCHW.dtype)
        return cast(self.conv(larger), x_BCHW.dtype)


def _repeated(x_BCHW: Tensor, rows: int, columns: int) -> Tensor:
    """Each place of the result has the nearest place's numbers."""
    B, C, H, W = x_BCHW.shape
    if rows % H or columns % W:
        return F.interpolate(x_BCHW, size=[rows, columns], mode="nearest")
    # of whole multiples: on a CPU Paddle's interpolation and its gradient take three times as long
    split = x_BCHW.reshape([B, C, H, 1, W, 1]).expand([B, C, H, rows // H, W, columns // W])
    return split.reshape([B, C, rows, columns])
