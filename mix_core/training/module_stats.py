"""How large each module's gradients and parameters are: to find the layer that explodes, or never learns.

Shapes: M modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import paddle
from paddle import Tensor, _C_ops

_BLOCK = re.compile(r"^(.*?\.\d+)\.")


def module_of(name: str) -> str:
    """A parameter's module: its block (`model.layers.3`), else its name without the last part."""
    match = _BLOCK.match(name)
    return match[1] if match else name.rpartition(".")[0] or name


@paddle.no_grad()
def module_stats(
    parameters: Sequence[tuple[str, Tensor]], gradients: Mapping[str, Tensor | None], scale: float
) -> dict[str, dict[str, float]]:
    """Norms of the modules that learn, in the model's order, with one wait for the device.

    Args:
        gradients: by parameter's name, None where there is none.
        scale: what a gradient is divided by (the step's labels, and the loss scale).
    Returns:
        module -> grad_norm and weight_norm: L2 over all numbers of the module. The squares of all grad_norm
        add up to the square of the step's.
    """
    modules: dict[str, list[str]] = {}
    for name, _ in parameters:
        modules.setdefault(module_of(name), []).append(name)
    values = dict(parameters)
    sums = []
    for names in modules.values():
        sums.append(_sum_of_squares([gradients[name] for name in names if gradients.get(name) is not None]))
        sums.append(_sum_of_squares([values[name].astype("float32") for name in names]))
    squares_2M = paddle.concat(sums).numpy().astype(np.float64) if sums else np.zeros(0)
    norms_M2 = np.sqrt(squares_2M).reshape(-1, 2)
    return {
        module: {"grad_norm": float(grad_norm) / scale, "weight_norm": float(weight_norm)}
        for module, (grad_norm, weight_norm) in zip(modules, norms_M2)
    }


def _sum_of_squares(tensors: Sequence[Tensor]) -> Tensor:
    """Over all tensors, (1,) float32; 0 without any."""
    squares = [_C_ops.squared_l2_norm(tensor).reshape([1]) for tensor in tensors]
    return paddle.add_n(squares) if squares else paddle.zeros([1])
