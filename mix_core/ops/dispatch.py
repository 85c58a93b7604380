"""Which function serves an operator: one dictionary lookup on the request, the device's hooks only on a miss.

The device plugin is asked once for each request it has not seen; its answer, a kernel or none, is kept for
as long as the same device is active. With no active device, with ``kernels="reference"`` or without an
answer, the reference of this package runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mix_core.device as device

_answers: dict[tuple[Any, ...], Callable[..., Any] | None] = {}
_answers_of: Any = None
"""The activation that gave `_answers`; another one empties them."""


def kernel_for(
    op: str,
    dtype: Any,
    *,
    head_dim: int | None = None,
    causal: bool = False,
    windowed: bool = False,
    packed: bool = False,
    training: bool = False,
    size_class: str | None = None,
    products: str | None = None,
) -> Callable[..., Any] | None:
    """Return the active device's function for this request, or None where the reference has to run."""
    global _answers_of
    active = device.active()
    if active is None:
        return None
    if active is not _answers_of:
        _answers.clear()
        _answers_of = active
    key = (op, dtype, head_dim, causal, windowed, packed, training, size_class, products)
    try:
        return _answers[key]
    except KeyError:
        request = device.KernelRequest(
            dtype=str(dtype).removeprefix("paddle."),
            head_dim=head_dim,
            causal=causal,
            windowed=windowed,
            packed=packed,
            training=training,
            size_class=size_class,
            products=products,
        )
        kernel = active.kernel(op, request)
        answer = None if kernel is None else kernel.fn
        _answers[key] = answer
        return answer
