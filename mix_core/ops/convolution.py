"""Two-dimensional convolution.

Shapes: B batch, C channels, H and W rows and columns, O channels of the result, K side of the kernel.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from mix_core.ops.arguments import check_conv2d
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import cast, for_product, kept_in, products_inside

MAX_COLUMNS = 1 << 26
"""Numbers that Paddle's convolution may lay out for its product at once, where no gradient is taken."""
FEW_CHANNELS = 64
"""Below so many, of x or of the result, a device is asked for a kernel of the size class `few channels`."""
Padding = tuple[int, int, int, int]
"""Zeros above, below, to the left and to the right."""


def conv2d(
    x_BCHW: Tensor, weight_OCKK: Tensor, bias_O: Tensor, *, stride: int = 1, padding: Padding = (0, 0, 0, 0)
) -> Tensor:
    """Products of the kernel with each place of x, without turning it: (B, C, H, W) -> (B, O, H', W').

    The bias is one for all images (O,), or one for each (B, O).
    H' is ``(H + above + below - K) // stride + 1``, and W' likewise. It is computed in float32 where the
    device has no convolution in the dtype of its input.
    """
    x, weight, bias = for_product(x_BCHW, weight_OCKK, bias_O)
    check_conv2d(x, weight, bias, stride, padding)
    narrow = x.dtype
    x, weight, bias = (cast(one, kept_in(narrow, "convolution")) for one in (x, weight, bias))
    training = not (x.stop_gradient and weight.stop_gradient)
    few = min(weight.shape[:2]) < FEW_CHANNELS
    kernel = kernel_for(
        "conv2d",
        x.dtype,
        training=training,
        size_class="few channels" if few else None,
        products=products_inside(),
    )
    if kernel is not None:
        return cast(kernel(x, weight, bias, stride=stride, padding=padding), narrow)
    if bias.ndim == 2:
        out = conv2d(x, weight, paddle.zeros([bias.shape[1]], bias.dtype), stride=stride, padding=padding)
        return cast(out + cast(bias, out.dtype).unsqueeze([2, 3]), narrow)
    row = x.shape[1] * weight.shape[2] * weight.shape[3] * x.shape[3]
    if stride == 1 and row * x.shape[2] > MAX_COLUMNS and not paddle.is_grad_enabled():
        return cast(_in_strips(x, weight, bias, padding, max(1, MAX_COLUMNS // row)), narrow)
    return cast(F.conv2d(x, weight, bias, stride, list(padding)), narrow)


def _in_strips(x_BCHW: Tensor, weight: Tensor, bias: Tensor, padding: Padding, rows: int) -> Tensor:
    """The convolution of stride 1 by so many rows of the result at a time.

    A device may lay out K * K numbers for each place and channel: 2.4 GB where the autoencoder ends with 256
    channels of 512 x 512.
    """
    above, below, left, right = padding
    H, K = x_BCHW.shape[2], weight.shape[2]
    of_out = H + above + below - K + 1
    strips = []
    for top in range(0, of_out, rows):
        first, end = top - above, min(top + rows, of_out) - above + K - 1
        around = [max(0, -first), max(0, end - H), left, right]
        strips.append(F.conv2d(x_BCHW[:, :, max(first, 0) : min(end, H)], weight, bias, 1, around))
    return paddle.concat(strips, axis=2)
