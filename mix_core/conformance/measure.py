"""Runs one use of an operator on the device and in float64 on the host, and holds one to the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mix_core.conformance.case import Context, Mismatch, expect
from mix_core.conformance.closeness import FORWARD, GRADIENT, require_close, require_equal

LAYOUTS = ("contiguous", "transposed", "sliced")


@dataclass(frozen=True)
class Input:
    """A tensor that a use is given."""

    name: str
    shape: tuple[int, ...]
    scale: float = 1.0
    offset: float = 0.0
    kind: str = "normal"
    """normal, positive (0.5 to 2), whole (small), int8 (-127 to 127), distinct (no two alike) or bool."""
    dtype: str | None = None
    """Of its own; None: that of the case."""
    bound: int = 8
    """Of whole numbers: 0 up to this, exclusive."""

    @property
    def floating(self) -> bool:
        return self.dtype is None or self.dtype.startswith(("float", "bfloat"))

    def draw(self, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if self.kind == "int8":
            return rng.integers(-127, 128, self.shape)
        if self.kind == "whole":
            return rng.integers(0, self.bound, self.shape)
        if self.kind == "bool":
            return rng.integers(0, 2, self.shape).astype(bool)
        if self.kind == "distinct":
            count = int(np.prod(self.shape))
            return (rng.permutation(count) - count // 2).reshape(self.shape) / 8.0
        if self.kind == "positive":
            return rng.uniform(0.5, 2.0, self.shape) * self.scale
        return rng.standard_normal(self.shape) * self.scale + self.offset

    def __str__(self) -> str:
        more = (f" times {self.scale:g}" if self.scale != 1 else "") + (
            f" plus {self.offset:g}" if self.offset else ""
        )
        return f"{self.name} {list(self.shape)} {self.kind}{more}"


@dataclass(frozen=True)
class Use:
    """An operator with its arguments."""

    operator: str
    name: str
    inputs: tuple[Input, ...]
    call: Callable[..., Any]
    """Device tensors -> a tensor, or several."""
    formula: Callable[..., Any]
    """The same in float64 on the host, by the textbook or by Paddle's own kernel there."""
    gradient: bool = True
    result_dtype: str | None = None
    """Of floating results; None: that of the case."""
    exact: bool = False
    """Whether results are whole numbers or copies, equal to the bit."""

    def __str__(self) -> str:
        return f"{self.name}, {', '.join(map(str, self.inputs))} (seeds 0...)"


@contextmanager
def on_host() -> Iterator[None]:
    """Make the host the current device of Paddle for a while."""
    import paddle

    place = paddle.get_device()
    paddle.set_device("cpu")
    try:
        yield
    finally:
        paddle.set_device(place)


def to_device(array: np.ndarray, dtype: str) -> Any:
    """A device tensor of any dtype; numbers are rounded on the way where it is narrow."""
    import paddle

    if dtype in ("bfloat16", "float16"):
        return paddle.to_tensor(array.astype(np.float32)).astype(dtype)
    return paddle.to_tensor(array.astype(dtype))


def to_numpy(tensor: Any) -> np.ndarray:
    """The numbers of a tensor of any dtype; narrow ones widened on the host."""
    import paddle

    if tensor.dtype == paddle.bfloat16:
        bits = tensor.numpy().astype(np.uint32) << 16  # numpy has no bfloat16: Paddle gives the bits
        return bits.view(np.float32)
    array: np.ndarray = tensor.numpy()
    return array


def arranged(tensor: Any, layout: str) -> Any:
    """The same numbers, in memory that is not contiguous where the device has views."""
    import paddle

    if layout == "transposed" and tensor.ndim >= 2:
        order = [*range(tensor.ndim - 2), tensor.ndim - 1, tensor.ndim - 2]
        return paddle.transpose(paddle.transpose(tensor, order).contiguous(), order)
    if layout == "sliced" and tensor.ndim >= 1:
        doubled = paddle.concat([tensor, tensor], axis=-1)
        return doubled[..., : tensor.shape[-1]]
    return tensor


def check_use(
    context: Context,
    use: Use,
    dtype: str,
    *,
    layout: str = "contiguous",
    frozen: int | None = None,
    limits: str | None = None,
) -> None:
    """Hold results and gradients of a use to the reference.

    Args:
        frozen: number of the floating input that has `stop_gradient`.
        limits: the dtype whose limits hold, where products are narrower than tensors.
    """
    arrays = [inner.draw(seed) for seed, inner in enumerate(use.inputs)]
    tensors, wide = [], []
    for inner, array in zip(use.inputs, arrays):
        tensor = arranged(to_device(array, inner.dtype or dtype), layout)
        tensors.append(tensor.detach())
        wide.append(to_numpy(tensor))
    floating = [i for i, inner in enumerate(use.inputs) if inner.floating]
    differentiated = [i for i in floating if use.gradient and (frozen is None or i != floating[frozen])]
    for i, tensor in enumerate(tensors):
        tensor.stop_gradient = i not in differentiated
    results = _several(use.call(*tensors))
    found = [to_numpy(result) for result in results]
    expected, gradients, cotangents = _reference(use, wide, differentiated, dtype, results)
    on = f"{use}, {dtype}, {layout}"
    _check_results(context, use, dtype, results, found, expected, on, limits or dtype)
    if differentiated and cotangents:
        _check_gradients(
            context, use, limits or dtype, tensors, differentiated, results, gradients, cotangents, on
        )
    for inner, tensor, before in zip(use.inputs, tensors, wide):
        require_equal(f"the input {inner.name} after the call", to_numpy(tensor), before, on)


def _several(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def _reference(
    use: Use, wide: Sequence[np.ndarray], differentiated: Sequence[int], dtype: str, results: Sequence[Any]
) -> tuple[list[np.ndarray], dict[int, np.ndarray], list[np.ndarray]]:
    """Results, gradients by input, and the numbers that the gradient was asked with."""
    import paddle

    with on_host():
        tensors = []
        for i, array in enumerate(wide):
            tensor = paddle.to_tensor(array.astype(np.float64) if array.dtype.kind == "f" else array)
            tensor.stop_gradient = i not in differentiated
            tensors.append(tensor)
        outputs = _several(use.formula(*tensors))
        expected = [output.numpy() for output in outputs]
        cotangents = [_cotangent(number, array, dtype) for number, array in enumerate(expected)]
        gradients = {}
        kept = [i for i, output in enumerate(outputs) if not output.stop_gradient]
        if differentiated and kept:
            found = paddle.grad(
                [outputs[i] for i in kept],
                [tensors[i] for i in differentiated],
                [paddle.to_tensor(cotangents[i]) for i in kept],
                allow_unused=True,
            )
            for i, gradient in zip(differentiated, found):
                zeros = np.zeros(tensors[i].shape)
                gradients[i] = zeros if gradient is None else gradient.numpy()
    return expected, gradients, cotangents if kept else []


def _cotangent(number: int, like: np.ndarray, dtype: str) -> np.ndarray:
    """Normal numbers that the dtype holds."""
    drawn = np.random.default_rng(90 + number).standard_normal(like.shape).astype(np.float32)
    if dtype == "bfloat16":
        bits = np.asarray(drawn).view(np.uint32) & np.uint32(0xFFFF0000)
        drawn = bits.view(np.float32)
    return (drawn.astype(np.float16) if dtype == "float16" else drawn).astype(np.float64)


def _check_results(
    context: Context,
    use: Use,
    dtype: str,
    results: Sequence[Any],
    found: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    on: str,
    limits: str,
) -> None:
    if len(found) != len(expected):
        raise Mismatch(f"{use.operator} gives {len(found)} results, expected {len(expected)}; on {on}")
    for number, (result, got, wanted) in enumerate(zip(results, found, expected)):
        what = f"result {number} of {use.operator}" if len(found) > 1 else f"the result of {use.operator}"
        require_place(context, result, what)
        narrow = wanted.dtype == np.float64 and dtype.startswith(("float", "bfloat"))
        kind = use.result_dtype or (dtype if narrow else str(wanted.dtype))
        expect(
            str(result.dtype) == f"paddle.{kind}",
            f"{what} has dtype {result.dtype}, expected {kind}; on {on}",
        )
        if use.exact or wanted.dtype.kind in "biu":
            require_equal(what, got, wanted.astype(got.dtype), on)
        else:
            require_close(context, what, got, wanted, FORWARD[limits], on)


def _check_gradients(
    context: Context,
    use: Use,
    dtype: str,
    tensors: Sequence[Any],
    differentiated: Sequence[int],
    results: Sequence[Any],
    gradients: dict[int, np.ndarray],
    cotangents: Sequence[np.ndarray],
    on: str,
) -> None:
    import paddle

    pairs = [(r, c) for r, c in zip(results, cotangents) if not r.stop_gradient]
    expect(bool(pairs), f"{use.operator} gives no result with a gradient; on {on}")
    paddle.autograd.backward(
        [r for r, _ in pairs],
        [paddle.to_tensor(c.astype(np.float32)).astype(r.dtype) for r, c in pairs],
    )
    for i, tensor in enumerate(tensors):
        name = use.inputs[i].name
        if i not in differentiated:
            expect(tensor.grad is None, f"{name} has stop_gradient and got a gradient; on {on}")
            continue
        expect(tensor.grad is not None, f"{name} got no gradient; on {on}")
        require_place(context, tensor.grad, f"the gradient of {name}")
        require_close(
            context, f"the gradient of {name}", to_numpy(tensor.grad), gradients[i], GRADIENT[dtype], on
        )


def require_place(context: Context, tensor: Any, what: str) -> None:
    """Results stay on the device; a silent fallback that leaves them on the host is red."""
    import paddle

    wanted = str(paddle.framework._current_expected_place())
    if tensor.size:
        expect(str(tensor.place) == wanted, f"{what} lies on {tensor.place}, expected {wanted}")
