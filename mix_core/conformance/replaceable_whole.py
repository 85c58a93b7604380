"""The uses of operators that are several in one (qkv, gated_mlp, decode_layers), and of int8 weights.

Shapes: B rows, D model dim, F feed-forward width, N query heads, K key/value heads, H head dim, C slots,
I input features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mix_core.conformance import replaceable_adapted
from mix_core.conformance.measure import Input, Use
from mix_core.conformance.replaceable_attention import _formula, _ops

EPS = 1e-6


def uses() -> list[Use]:
    return [*_maps(), *_int8(), *_layers(), *replaceable_adapted.uses()]


def _maps() -> Iterator[Use]:
    linear, swiglu = _formula("linear"), _formula("swiglu")
    for name, lead, width, outputs in (
        ("plain", (5,), 24, (16, 8, 8)),
        ("three axes", (2, 3), 65, (33, 17, 17)),
    ):
        x = Input("x", (*lead, width))
        weights = tuple(Input(f"weight {i}", (width, n), width**-0.5) for i, n in enumerate(outputs))
        biases = tuple(Input(f"bias {i}", (n,)) for i, n in enumerate(outputs))
        yield Use(
            "qkv",
            name,
            (x, *weights, *biases),
            lambda x, *rest: _ops("qkv")(x, rest[:3], rest[3:]),
            lambda x, *rest: tuple(linear(x, w, b) for w, b in zip(rest[:3], rest[3:])),
        )
        yield Use(
            "qkv",
            f"{name}, no biases",
            (x, *weights),
            lambda x, *rest: _ops("qkv")(x, rest),
            lambda x, *rest: tuple(linear(x, w) for w in rest),
        )
    for name, lead, D, F in (
        ("plain", (5,), 24, 40),
        ("one row", (1,), 64, 33),
        ("three axes", (2, 3), 40, 131),
    ):
        x = Input("x", (*lead, D))
        gate, up = (Input(part, (D, F), D**-0.5) for part in ("gate", "up"))
        down = Input("down", (F, D), F**-0.5)
        yield Use(
            "gated_mlp",
            name,
            (x, gate, up, down),
            lambda x, *rest: _ops("gated_mlp")(x, rest),
            lambda x, g, u, d: linear(swiglu(linear(x, g), linear(x, u)), d),
        )
        biases = (Input("gate bias", (F,)), Input("up bias", (F,)), Input("down bias", (D,)))
        yield Use(
            "gated_mlp",
            f"{name}, biases",
            (x, gate, up, down, *biases),
            lambda x, *rest: _ops("gated_mlp")(x, rest[:3], rest[3:]),
            lambda x, g, u, d, a, b, c: linear(swiglu(linear(x, g, a), linear(x, u, b)), d, c),
        )


def _int8() -> Iterator[Use]:
    for name, lead, width, outputs in (
        ("plain", (5,), 24, 40),
        ("one row", (1,), 130, 257),
        ("many rows", (67,), 64, 33),
    ):
        inputs = (
            Input("x", (*lead, width)),
            Input("weight", (outputs, width), kind="int8", dtype="int8"),
            Input("scale", (outputs,), 0.01, kind="positive", dtype="float32"),
            Input("bias", (outputs,)),
        )
        yield Use("linear_int8", name, inputs, _ops("linear_int8"), _int8_formula, gradient=False)
        yield Use(
            "linear_int8", f"{name}, no bias", inputs[:3], _ops("linear_int8"), _int8_formula, gradient=False
        )
        scales = np.linspace(0.005, 0.02, outputs)
        yield Use(
            "linear_int8",
            f"{name}, going back",
            inputs[:2],
            lambda x, weight, scales=scales: _ops("linear_int8")(x, weight, _tensor(scales, "float32")),
            lambda x, weight, scales=scales: _int8_formula(x, weight, _tensor(scales, "float64")),
        )


def _tensor(values: np.ndarray, dtype: str) -> Any:
    import paddle

    return paddle.to_tensor(values.astype(np.float32)).astype(dtype)


def _int8_formula(x: Any, weight_OI: Any, scale_O: Any, bias_O: Any = None) -> Any:
    out = (x @ weight_OI.astype("float64").t()) * scale_O
    return out if bias_O is None else out + bias_O


def _layers() -> Iterator[Use]:
    for name, lengths, D, N, K, H, F in (
        ("plain", (3, 7, 1), 24, 4, 2, 16, 40),
        ("one row", (20,), 64, 2, 1, 128, 33),
        ("as many heads", (5, 20), 40, 2, 2, 64, 56),
    ):
        B, C, n = len(lengths), 20, {"D": D, "N": N * H, "K": K * H, "F": F}
        shapes = ("D", "DN", "DK", "DK", "ND", "D", "DF", "DF", "FD")
        names = ("norm", "q", "k", "v", "out", "post norm", "gate", "up", "down")
        weights = tuple(
            Input(part, tuple(n[axis] for axis in shape), n[shape[0]] ** (-0.5 * (len(shape) - 1)))
            for part, shape in zip(names, shapes)
        )
        caches = (Input("keys", (B, K, C, H)), Input("values", (B, K, C, H)))
        angles = np.random.default_rng(6).uniform(0, 6.3, (B, 1, H // 2)).astype(np.float32)
        tables = [np.concatenate([table, table], -1) for table in (np.cos(angles), np.sin(angles))]
        lengths_B = np.array(lengths, np.int32)
        call, formula = _layer(lengths_B, tables), _layer_formula(lengths_B, tables)
        in_steps = tuple(
            Input(one.name, one.shape[::-1], kind="int8", dtype="int8") if len(one.shape) == 2 else one
            for one in weights
        )
        for operator, kept in (("decode_layers", weights), ("decode_layers_int8", in_steps)):
            inputs = (Input("x", (B, D)), *kept, *caches)
            yield Use(operator, name, inputs, call, formula, gradient=False)


def _scales(steps_OI: Any) -> np.ndarray:
    """With these the matrix's numbers have about the size of the other one's."""
    outputs, inputs = steps_OI.shape
    return np.linspace(0.5, 1.5, outputs) / (73 * np.sqrt(inputs))


def _matrix(weight: Any) -> Any:
    """What the operator takes of an input."""
    from mix_core.ops.matmul_int8 import Int8Matrix

    return Int8Matrix(weight, _tensor(_scales(weight), "float32")) if _in_steps(weight) else weight


def _widened(weight: Any) -> Any:
    """(I, O) in float64."""
    if not _in_steps(weight):
        return weight
    scale_O = _tensor(_scales(weight), "float64")
    return (weight.astype("float64") * scale_O.unsqueeze(-1)).t()


def _in_steps(weight: Any) -> bool:
    return str(weight.dtype) == "paddle.int8"


def _layer(lengths_B: np.ndarray, tables: list[np.ndarray]) -> Any:
    """x, weights and the cache -> out and the cache afterwards."""

    def call(x: Any, *rest: Any) -> Any:
        import paddle

        from mix_core.ops.decode_layers import LayerCache, LayerWeights
        from mix_core.ops.dtypes import cast, kept_in

        norm, q, k, v, out, post, gate, up, down, keys, values = map(_matrix, rest)
        B, K, C, H = keys.shape
        kept_as = kept_in(keys.dtype, "scatter")  # as a model's cache does
        flat = [paddle.assign(kept).reshape([-1, H]).astype(kept_as) for kept in (keys, values)]
        rows = (np.arange(B * K) * C + np.repeat(lengths_B - 1, K)).astype(np.int64)
        weights = LayerWeights(norm, (q, k, v), None, out, post, (gate, up, down), EPS)
        cache = LayerCache(flat[0], flat[1], lengths_B, paddle.to_tensor(rows))
        done = _ops("decode_layers")(x, [weights], [cache], *map(paddle.to_tensor, tables))
        return (done, *(cast(one.reshape([B, K, C, H]), keys.dtype) for one in flat))

    return call


def _layer_formula(lengths_B: np.ndarray, tables: list[np.ndarray]) -> Any:
    def formula(x: Any, *rest: Any) -> Any:
        import paddle

        from mix_core.conformance import formulas as by

        norm, q, k, v, out, post, gate, up, down, keys, values = map(_widened, rest)
        B, H = x.shape[0], keys.shape[-1]
        cos, sin = (paddle.to_tensor(table.astype(np.float64)) for table in tables)
        normed = by.rms_norm(x, norm, EPS)
        heads = [by.linear(normed, w).reshape([B, -1, H]) for w in (q, k, v)]
        turned = by.rotary(heads[0], heads[1], cos, sin)
        full = []
        for kept, new in ((keys, turned[1]), (values, heads[2])):
            numbers = kept.numpy().copy()
            numbers[np.arange(B), :, lengths_B - 1] = new.numpy()
            full.append(paddle.to_tensor(numbers))
        seen = by.attention_decode(turned[0], *full, lengths_B).reshape([B, -1])
        total, after = by.add_rms_norm(x, by.linear(seen, out), post, EPS)
        fed = by.linear(by.swiglu(by.linear(after, gate), by.linear(after, up)), down)
        return (total + fed, *full)

    return formula
