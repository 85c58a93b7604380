"""Every differentiable operator in 16 bits against its formula in float64: distances, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import mix_core.device as device

device.activate()

import paddle  # noqa: E402 (after the settings)

from mix_core import ops  # noqa: E402
from tests.unit.ops import oracle  # noqa: E402

EPS = 1e-6
ENDS = np.array([0, 3, 7, 7, 9], np.int32)
LABELS = np.array([3, -100, 0, 4, 4])

Case = tuple[str, Callable[..., paddle.Tensor], Callable[..., np.ndarray], list[np.ndarray]]


def cases() -> Iterator[Case]:
    """Name, operator, formula, inputs."""
    draw = oracle.draw
    yield (
        "rms_norm",
        lambda x, w: ops.rms_norm(x, w, EPS),
        lambda x, w: x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * w,
        [draw(0, 4, 32), draw(1, 32)],
    )
    yield (
        "layer_norm",
        lambda x, w, b: ops.layer_norm(x, w, b, EPS),
        lambda x, w, b: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS) * w + b,
        [draw(0, 3, 16), draw(1, 16), draw(2, 16)],
    )
    yield (
        "swiglu",
        ops.swiglu,
        lambda gate, up: gate / (1 + np.exp(-gate)) * up,
        [draw(0, 3, 16), draw(1, 3, 16)],
    )
    yield "gelu", lambda x: ops.gelu(x, "quick"), lambda x: x / (1 + np.exp(-1.702 * x)), [draw(0, 4, 16)]
    yield (
        "linear",
        ops.linear,
        lambda x, w, b: x @ w + b,
        [draw(0, 5, 24), draw(1, 24, 8), draw(2, 8)],
    )
    yield "linear without bias", ops.linear, lambda x, w: x @ w, [draw(0, 5, 24), draw(1, 24, 8)]
    cos, sin = ops.rotary_tables_1d(np.arange(6), 8, 100.0)
    tables = [paddle.to_tensor(table[:, None]) for table in (cos, sin)]
    yield (
        "rotary",
        lambda q: ops.rotary(q, q, *tables)[0],
        lambda q: q * cos[:, None] + np.concatenate([-q[..., 4:], q[..., :4]], -1) * sin[:, None],
        [draw(0, 6, 2, 8)],
    )
    yield (
        "attention",
        lambda q, k, v: ops.attention(q[None], k[None], v[None], causal=True)[0],
        lambda q, k, v: oracle.attention(q, k, v, causal=True),
        [draw(0, 6, 4, 8), draw(1, 6, 2, 8), draw(2, 6, 2, 8)],
    )
    yield (
        "attention_packed",
        lambda q, k, v: ops.attention_packed(q, k, v, ENDS, causal=True),
        lambda q, k, v: oracle.packed(q, k, v, ENDS, causal=True),
        [draw(0, 9, 4, 8), draw(1, 9, 2, 8), draw(2, 9, 2, 8)],
    )
    yield (
        "linear_cross_entropy",
        lambda hidden, weight: ops.linear_cross_entropy(hidden, weight, LABELS)[0],
        cross_entropy,
        [draw(0, 5, 8), draw(1, 6, 8)],
    )


def cross_entropy(hidden: np.ndarray, weight: np.ndarray) -> np.ndarray:
    rows = LABELS != -100
    logits = hidden[rows] @ weight.T
    return (np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), LABELS[rows]]).sum()


def measure(case: Case, dtype: str) -> dict[str, Any]:
    """Distances of the result and of the worst gradient; inputs are numbers that the dtype holds."""
    _, operator, formula, inputs = case
    tensors = [paddle.to_tensor(array.astype(np.float32)).astype(dtype) for array in inputs]
    inputs = [tensor.astype("float32").numpy().astype(np.float64) for tensor in tensors]
    for tensor in tensors:
        tensor.stop_gradient = False
    result = operator(*tensors)
    expected = formula(*inputs)
    cotangent_tensor = paddle.to_tensor(oracle.draw(99, *expected.shape).astype(np.float32)).astype(
        result.dtype
    )
    cotangent = cotangent_tensor.astype("float32").numpy().astype(np.float64)
    result.backward(cotangent_tensor)
    gradients = oracle.numeric_gradients(formula, inputs, cotangent)
    return {
        "dtypes": sorted({str(result.dtype), *(str(tensor.grad.dtype) for tensor in tensors)}),
        "forward": oracle.distance(result.astype("float32").numpy(), expected),
        "gradient": max(
            oracle.distance(tensor.grad.astype("float32").numpy(), gradient)
            for tensor, gradient in zip(tensors, gradients)
        ),
    }


def main() -> None:
    found = {case[0]: {dtype: measure(case, dtype) for dtype in ("bfloat16", "float16")} for case in cases()}
    from mix_core.device import simulate

    print(json.dumps({"operators": found, "fallbacks": simulate.counters()["fallbacks"]}))


if __name__ == "__main__":
    main()
