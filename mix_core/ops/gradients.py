"""What the references' backward passes return for inputs that do not learn.

Paddle wants None there, and frozen parameters are common (a vision tower, all but the adapters).
"""

from __future__ import annotations

from paddle import Tensor


def frozen(*inputs: Tensor) -> tuple[bool, ...]:
    """Which inputs take no gradient; ask in the forward pass."""
    return tuple(tensor.stop_gradient for tensor in inputs)


def unless(frozen_inputs: tuple[bool, ...], *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients, None for frozen inputs."""
    return tuple(None if skip else gradient for skip, gradient in zip(frozen_inputs, gradients))
