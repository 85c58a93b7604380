"""What the ranks that share each layer tell each other, forward and back.

Between divided layers either every rank has all tokens, or (sequence parallel) each has some: then what comes
before a divided layer gathers them, and the sum that follows it hands them out again. Korthikanti et al.,
"Reducing Activation Recomputation in Large Transformer Models", 2022.

Shapes: T tokens, t of one rank (T over the ranks, rounded up; the last rank's end in zeros), `...` any.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
        scatters: whether the device's collectives have `reduce_scatter`; else a sum takes its place.
    """

    def __init__(self, index: int, ranks: int, group: Any, *, scatters: bool = True) -> None:
        self.index, self.ranks, self.group, self.scatters = index, ranks, group, scatters
        self.tokens: int | None = None
        """T, while each rank has some of the tokens between divided layers; None: each has all."""

    @contextmanager
    def in_parts(self, tokens: int) -> Iterator[None]:
        """Within, each rank has some of so many tokens between divided layers."""
        before, self.tokens = self.tokens, tokens
        try:
            yield
        finally:
            self.tokens = before

    def spread(self, x: Tensor) -> Tensor:
        """All of x, which each rank uses in its part of a layer; going back, the sum of their gradients."""
        if self.tokens is not None:
            return _Gathered.apply(x, self, self.tokens, True)
        return x if x.stop_gradient else _Spread.apply(x, self)

    def summed(self, x: Tensor) -> Tensor:
        """The sum of what the ranks have of x (...); going back, every rank gets the sum's gradient."""
        if self.tokens is not None:
            return _Scattered.apply(x, self, True)
        return self.sum_(x.detach().clone()) if x.stop_gradient else _Summed.apply(x, self)

    def part(self, x_TD: Tensor) -> Tensor:
        """This rank's tokens (t, D) of those that all ranks have."""
        return _Scattered.apply(x_TD, self, False)

    def whole(self, x_tD: Tensor, tokens: int) -> Tensor:
        """All tokens (T, D), with which all ranks do the same."""
        return _Gathered.apply(x_tD, self, tokens, False)

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

    @paddle.no_grad()
    def rows(self, x_TD: Tensor, *, summed: bool) -> Tensor:
        """This rank's rows (t, D) of x, or of its sum over the ranks."""
        own = -(-x_TD.shape[0] // self.ranks)
        missing = own * self.ranks - x_TD.shape[0]
        if missing:
            x_TD = paddle.concat([x_TD, paddle.zeros([missing, *x_TD.shape[1:]], x_TD.dtype)])
        if summed and self.scatters:
            x_tD = paddle.empty([own, *x_TD.shape[1:]], dtype=x_TD.dtype)
            dist.stream.reduce_scatter(x_tD, x_TD, group=self.group, sync_op=True)
            return x_tD
        if summed:
            x_TD = self.sum_(x_TD if missing else x_TD.clone())
        return paddle.slice(x_TD, [0], [self.index * own], [(self.index + 1) * own])

    @paddle.no_grad()
    def all_rows(self, x_tD: Tensor, tokens: int) -> Tensor:
        """The rows (T, D) of all ranks."""
        x_TD = paddle.concat(self.gathered(x_tD))
        return x_TD if x_TD.shape[0] == tokens else paddle.slice(x_TD, [0], [0], [tokens])


class _Gathered(PyLayer):
    """Rows of all ranks. Going back, this rank's: of the sum over ranks where each used them in its part."""

    @staticmethod
    def forward(ctx: Any, x_tD: Tensor, across: Across, tokens: int, summed: bool) -> Tensor:
        ctx.across, ctx.summed = across, summed
        return across.all_rows(x_tD.detach(), tokens)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> Tensor:
        return ctx.across.rows(grad_TD, summed=ctx.summed)


class _Scattered(PyLayer):
    """This rank's rows of x, or of its sum over ranks. Going back, those of all ranks."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, across: Across, summed: bool) -> Tensor:
        ctx.across, ctx.tokens = across, x_TD.shape[0]
        return across.rows(x_TD.detach(), summed=summed)

    @staticmethod
    def backward(ctx: Any, grad_tD: Tensor) -> Tensor:
        return ctx.across.all_rows(grad_tD, ctx.tokens)


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
