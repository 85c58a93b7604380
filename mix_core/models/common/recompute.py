"""Compute a layer again in the backward pass instead of keeping what it made in the forward one.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Nothing about random state has to be kept:
what a layer draws comes from a counter (see random.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

AROUND = "around"
"""An attribute that a layer may be given: called with whether it goes back, the context in which the layer
computes, forward or again."""


Run = Callable[..., Tensor]
"""Runs part of a block: `run`, which keeps what it makes, or `recompute`."""


@dataclass(frozen=True)
class Again:
    """Which blocks of a tower or decoder are computed again, and how much of each; True in its place: all."""

    part: Literal["all", "attention"] = "all"
    """`attention`: the half up to the sum behind the attention; the other half is kept."""
    first: int | None = None
    """Only so many blocks from the start; None: all."""
    kept: frozenset[int] = frozenset()
    """Blocks, counted from 0, that are kept whole all the same."""

    def of(self, block: int) -> str:
        """What is computed again of a block: "all", "attention", or "" for nothing."""
        return "" if block in self.kept or not (self.first is None or block < self.first) else self.part


def asked_of(owner: Any, block: int) -> str:
    """`Again.of` for a block of a layer that has the attribute `recompute`; "" while it is not trained."""
    if not (owner.recompute and owner.training):
        return ""
    return owner.recompute.of(block) if isinstance(owner.recompute, Again) else "all"


def run_block(owner: Any, number: int, block: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    """``block(x, *rest)`` with as much of it computed again as `owner` asks for. The block takes
    ``branch=recompute`` to run its attention half by."""
    again = asked_of(owner, number)
    if again == "all":
        return recompute(block, x, *rest)
    return block(x, *rest, branch=recompute) if again else block(x, *rest)


def run(half: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    """``half(x, *rest)``, kept: what a block runs its attention half by where nothing else is asked for."""
    return half(x, *rest)


def _around(layer: Callable[..., Tensor], *, going_back: bool) -> AbstractContextManager[None]:
    make = getattr(getattr(layer, "__self__", layer), AROUND, None)
    return nullcontext() if make is None else make(going_back)


class _Recompute(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Callable[..., Tensor], rest: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.rest = layer, rest
        with _around(layer, going_back=False):
            return layer(x, *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (saved,) = ctx.saved_tensor()
        x = saved.detach()
        x.stop_gradient = False
        with _around(ctx.layer, going_back=True):
            with paddle.enable_grad():
                out = ctx.layer(x, *ctx.rest)
            paddle.autograd.backward([out], [grad])
        return x.grad


def recompute(layer: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    """``layer(x, *rest)`` that keeps only `x` for the backward pass; x and parameters get gradients."""
    if x.stop_gradient:
        module = getattr(layer, "__self__", layer)  # of a method, the layer that has it
        if isinstance(module, paddle.nn.Layer) and all(p.stop_gradient for p in module.parameters()):
            return layer(x, *rest)  # a frozen tower: nothing of it is kept, and nothing goes back
        # with a frozen input the graph would end here, and the layer's parameters would get no gradient
        x = x.detach()
        x.stop_gradient = False
    return _Recompute.apply(x, layer, rest)


def applied(layer: Callable[..., Any], make: Callable[[Tensor], Tensor] | None, x: Tensor) -> Any:
    """``layer(make(x))`` that keeps x in place of what `make` made of it; None: ``layer(x)``.

    For a norm or an activation before a product: it costs little to do again going backward, and the product
    keeps what it multiplies. `make` draws nothing and gives the same again. The graph may go back once.
    """
    if make is None or not paddle.is_grad_enabled():
        return layer(x if make is None else make(x))
    made = make(x)
    place, source = made.data_ptr(), x.detach()

    def pack(tensor: Tensor) -> _Kept:
        """What the tensor is made of again, and its shape; or the tensor itself."""
        return _Kept(source, tensor.shape) if tensor.data_ptr() == place else _Kept(tensor.detach())

    def unpack(kept: _Kept) -> Tensor:
        """A tensor whose memory Paddle takes over."""
        tensor, shape = kept.take()
        if shape is None:
            return tensor
        with paddle.no_grad():
            return make(tensor).reshape(shape)

    with paddle.autograd.saved_tensors_hooks(pack, unpack):
        return layer(made)


class _Kept:
    """No list or tuple, whose items Paddle would take for tensors of a PyLayer."""

    def __init__(self, tensor: Tensor, shape: list[int] | None = None) -> None:
        self._pair: Any = (tensor, shape)

    def take(self) -> tuple[Tensor, list[int] | None]:
        """Once: Paddle drops what was packed with the whole graph only, and memory would stay until then."""
        pair, self._pair = self._pair, None
        if pair is None:
            raise RuntimeError("a graph with `applied` goes back once; run its forward pass again")
        return pair
