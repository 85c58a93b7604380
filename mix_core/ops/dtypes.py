"""Statistics in float32: the references compute narrower floating types in it and round the result."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import paddle
from paddle import Tensor

NARROW = (paddle.bfloat16, paddle.float16)


def widened(value: Tensor) -> Tensor:
    """The tensor in float32 if it is narrower, else itself (a cast to its own type would copy it)."""
    return value.astype("float32") if value.dtype in NARROW else value


def in_float32(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a reference see float32 where its first tensor is narrower, and give its result that dtype."""

    @wraps(reference)
    def call(first: Tensor, *others: Any, **keywords: Any) -> Tensor:
        dtype = first.dtype
        if dtype not in NARROW:
            return reference(first, *others, **keywords)
        others = tuple(widened(value) if isinstance(value, Tensor) else value for value in others)
        keywords = {
            k: widened(value) if isinstance(value, Tensor) else value for k, value in keywords.items()
        }
        return reference(widened(first), *others, **keywords).astype(dtype)

    return call
