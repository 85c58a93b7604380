"""Compute a block again going backward, where several of its inputs and results are tensors that learn.

As models/common/recompute.py, which serves blocks of one tensor: Chen et al., "Training Deep Nets with
Sublinear Memory Cost", 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer


class _Recompute(PyLayer):
    @staticmethod
    def forward(ctx: Any, block: Callable[..., Any], *inputs: Tensor) -> Any:
        ctx.block = block
        ctx.frozen = [tensor.stop_gradient for tensor in inputs]
        ctx.save_for_backward(*inputs)
        return block(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = []
        for tensor, frozen in zip(ctx.saved_tensor(), ctx.frozen):
            tensor = tensor.detach()
            tensor.stop_gradient = frozen
            inputs.append(tensor)
        with paddle.enable_grad():
            results = ctx.block(*inputs)
        results = results if isinstance(results, tuple) else (results,)
        paddle.autograd.backward(list(results), list(gradients))
        return tuple(None if frozen else tensor.grad for tensor, frozen in zip(inputs, ctx.frozen))


def recompute(block: Callable[..., Any], x: Tensor, *others: Tensor) -> Any:
    """``block(x, *others)`` that keeps only its inputs; they and the parameters get gradients.

    All arguments are tensors; the result is a tensor or a tuple of tensors, each of which must be used.
    """
    if all(tensor.stop_gradient for tensor in (x, *others)):
        # with frozen inputs the graph would end here, and the block's parameters would get no gradient
        x = x.detach()
        x.stop_gradient = False
    return _Recompute.apply(block, x, *others)


def run(block: Callable[..., Any], again: bool, *inputs: Tensor) -> Any:
    """``block(*inputs)``, by `recompute` where `again` is set and a gradient is to be taken."""
    return recompute(block, *inputs) if again and paddle.is_grad_enabled() else block(*inputs)
