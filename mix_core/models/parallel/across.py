"""What the ranks that share each layer tell each other, forward and back.

Shapes: `...` any.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.autograd import PyLayer

from mix_core.ops.shapes import reshape


class Across:
    """The ranks among which layers are divided, as one of them.

    Args:
        index: this rank's place among them.
        ranks: how many they are.
        group: Paddle's group of them; None: of all ranks.
    """

    def __init__(self, index: int, ranks: int, group: Any) -> None:
        self.index, self.ranks, self.group = index, ranks, group

    def spread(self, x: Tensor) -> Tensor:
        """x itself, which all ranks have and each uses in its part; going back, their gradients' sum."""
        return x if x.stop_gradient else _Spread.apply(x, self)

    def summed(self, x: Tensor) -> Tensor:
        """The sum of what the ranks have of x (...); going back, every rank gets the gradient as it is."""
        return self.sum_(x.detach().clone()) if x.stop_gradient else _Summed.apply(x, self)

    @paddle.no_grad()
    def sum_(self, x: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        dist.all_reduce(x, group=self.group)
        return x

    @paddle.no_grad()
    def largest_(self, x: Tensor) -> Tensor:
        """The largest of the ranks' numbers, in place."""
        dist.all_reduce(x, op=dist.ReduceOp.MAX, group=self.group)
        return x

    @paddle.no_grad()
    def gathered(self, x: Tensor) -> list[Tensor]:
        """The tensors of all ranks, of one shape, in their order."""
        found: list[Tensor] = []
        dist.all_gather(found, x, group=self.group)
        return found


class _Spread(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, across: Across) -> Tensor:
        ctx.across = across
        # not the tensor itself: Paddle would take it for one that is changed in place
        return reshape(x.detach(), x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ctx.across.sum_(grad.clone())  # other branches may have the same tensor


class _Summed(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, across: Across) -> Tensor:
        return across.sum_(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad
