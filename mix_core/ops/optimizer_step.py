"""One step of AdamW for a list of parameters.

Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, _C_ops

from mix_core.ops.arguments import check_adamw
from mix_core.ops.dispatch import kernel_for


@paddle.no_grad()
def adamw(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    *,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    grad_scale: float = 1.0,
) -> None:
    """Update parameters and moments in place, all of them in one call; docs/operators.md has the contract.

    `step` counts from 1. Gradients are multiplied by `grad_scale` (clipping) and hold no promised value
    afterwards. Moments are float32.
    """
    constants = dict(
        step=step,
        learning_rate=learning_rate,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        weight_decay=weight_decay,
        grad_scale=grad_scale,
    )
    if not parameters:
        return
    check_adamw(parameters, gradients, means, squares)
    kernel = kernel_for("adamw", parameters[0].dtype, training=True)
    (kernel or _reference)(parameters, gradients, means, squares, **constants)


def _reference(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    *,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    grad_scale: float,
) -> None:
    rate = paddle.full([1], learning_rate, "float32")
    power1 = paddle.full([1], beta1**step, "float32")
    power2 = paddle.full([1], beta2**step, "float32")
    for parameter, gradient, mean, square in zip(parameters, gradients, means, squares):
        narrow = parameter.dtype != paddle.float32
        target = parameter.astype("float32") if narrow else parameter
        gradient = gradient.astype("float32") if gradient.dtype != paddle.float32 else gradient
        if grad_scale != 1.0:
            gradient = gradient.scale_(grad_scale)
        _C_ops.adamw_(
            target,
            gradient,
            rate,
            mean,
            square,
            None,  # running maximum of the squares, for amsgrad
            power1,
            power2,
            None,  # master weights
            None,  # flag to skip the update
            beta1,
            beta2,
            epsilon,
            1.0,  # factor of the learning rate
            weight_decay,
            weight_decay != 0.0,
            False,  # lazy mode, for sparse gradients
            1000,  # rows from which a lazy update uses threads
            False,  # multi-precision
            True,  # the powers of beta are ours: leave them as they are
            False,  # amsgrad
        )
        if narrow:
            parameter.set_value(target.astype(parameter.dtype))
