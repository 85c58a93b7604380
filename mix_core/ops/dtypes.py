"""Which dtype an operator computes in.

Statistics are float32: the references compute narrower floating types in it and round the result. A run may
ask for matrix products in a narrower dtype than its parameters have (`products_in`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import paddle
from paddle import Tensor

import mix_core.device as device

NARROW = (paddle.bfloat16, paddle.float16)

_products: Any = None
"""The dtype that matrix products are asked to compute in; None: that of their tensors."""
_inside = False
"""Whether their tensors stay as they are, and kernels are asked to narrow the factors."""


@contextmanager
def products_in(dtype: Any, *, inside: bool = False) -> Iterator[None]:
    """Let `linear` and `linear_cross_entropy` bring their tensors to `dtype` (bfloat16, float16) first.

    With `inside` the tensors stay float32, and the kernel is asked to multiply in `dtype`.

    Going backward belongs inside too, for blocks that are computed again there. Norms then give the dtype of
    their weights, and everything else that of its first tensor. Not Paddle's auto_cast: it casts products
    wherever they stand, also those by which references take statistics, and it is off going backward.
    """
    global _products, _inside
    before = _products, _inside
    _products, _inside = dtype, inside
    try:
        yield
    finally:
        _products, _inside = before


def for_product(*values: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype that products compute in; itself where nothing else is asked."""
    if _products is None or _inside:
        return values
    return tuple(None if value is None else cast(value, _products) for value in values)


def product_dtype(value: Tensor) -> Any:
    """The dtype that `for_product` gives the tensor."""
    return value.dtype if _products is None or _inside else _products


def products_inside() -> str | None:
    """The name of the dtype that kernels are asked to multiply float32 tensors in, if they are."""
    return str(_products).removeprefix("paddle.") if _inside else None


def kept_in(dtype: Any, operator_class: str) -> Any:
    """`dtype` where the device has this class of operators for it (its profile's `dtypes`), else float32."""
    if dtype not in NARROW:
        return dtype
    active = device.active()
    name = str(dtype).removeprefix("paddle.")
    has = active is None or active.profile.supports_dtype(name, operator_class)
    return dtype if has else paddle.float32


def cast(value: Tensor, dtype: Any) -> Tensor:
    """The tensor in `dtype`; itself where it has it, because `astype` would copy it."""
    return value if value.dtype == dtype else value.astype(dtype)


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
