"""The uses of the operators that work row by row, and of products. Shapes as in formulas.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mix_core.conformance.measure import Input, Use
from mix_core.conformance.replaceable_attention import _formula, _ops

EPS = 1e-6
NORM_SHAPES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("plain", (5, 32)),
    ("one row", (96,)),
    ("three axes", (2, 7, 80)),
    ("odd width", (11, 37)),
    ("wide", (3, 4096)),
    ("many rows", (1027, 16)),
)
LABELS = np.array([3, -100, 0, 4, 4, -100, 5])


def uses() -> list[Use]:
    parts = (_norms(), _group_norms(), _convolutions(), _rotaries(), _activations(), _products(), _losses())
    return [use for part in parts for use in part]


def _with(name: str, *rest: Any, **options: Any) -> tuple[Any, Any]:
    """The operator and its formula with the same last arguments."""
    operator, formula = _ops(name), _formula(name)
    return (lambda *tensors: operator(*tensors, *rest, **options)), (
        lambda *tensors: formula(*tensors, *rest, **options)
    )


def _norms() -> Iterator[Use]:
    for name, shape in NORM_SHAPES:
        x, weight, bias = Input("x", shape), Input("weight", shape[-1:]), Input("bias", shape[-1:])
        yield Use("rms_norm", name, (x, weight), *_with("rms_norm", EPS))
        yield Use("layer_norm", name, (x, weight, bias), *_with("layer_norm", EPS))
        yield Use("add_rms_norm", name, (x, Input("branch", shape), weight), *_with("add_rms_norm", EPS))
    # the squares of large numbers overflow float16: statistics in the tensors' own dtype do not survive them
    small, large = Input("x", (5, 32), scale=1e-3), Input("x", (5, 32), scale=400.0)
    weight = Input("weight", (32,))
    yield Use("rms_norm", "small numbers", (small, weight), *_with("rms_norm", EPS))
    yield Use("rms_norm", "eps 0.01", (Input("x", (5, 32)), weight), *_with("rms_norm", 1e-2))
    yield Use("rms_norm", "large numbers", (large, weight), *_with("rms_norm", EPS))
    branch = Input("branch", (5, 32), scale=1e-3)
    yield Use("add_rms_norm", "small numbers", (small, branch, weight), *_with("add_rms_norm", EPS))
    yield Use(
        "add_rms_norm",
        "eps 0.01",
        (Input("x", (5, 32)), Input("branch", (5, 32)), weight),
        *_with("add_rms_norm", 1e-2),
    )
    shifted = Input("x", (5, 64), offset=3.0)
    pair = (Input("weight", (64,)), Input("bias", (64,)))
    yield Use("layer_norm", "mean 3", (shifted, *pair), *_with("layer_norm", EPS))
    yield Use("layer_norm", "eps 0.001", (Input("x", (5, 64), scale=0.1), *pair), *_with("layer_norm", 1e-3))
    norm, formula = _ops("layer_norm"), _formula("layer_norm")
    x = Input("x", (5, 32))
    yield Use(
        "layer_norm",
        "no weight",
        (x,),
        lambda x: norm(x, None, None, EPS),
        lambda x: formula(x, None, None, EPS),
    )
    yield Use(
        "layer_norm",
        "no bias",
        (x, weight),
        lambda x, w: norm(x, w, None, EPS),
        lambda x, w: formula(x, w, None, EPS),
    )


def _group_norms() -> Iterator[Use]:
    norm, formula = _ops("group_norm"), _formula("group_norm")
    for name, shape, groups in (
        ("plain", (2, 8, 5, 3), 4),
        ("one group", (2, 6, 7), 1),
        ("a group a channel", (3, 6, 4), 6),
        ("no further axis", (4, 12), 3),
        ("large pictures", (1, 32, 33, 17), 8),
    ):
        inputs = (Input("x", shape), Input("weight", (shape[1],)), Input("bias", (shape[1],)))
        yield Use(
            "group_norm",
            name,
            inputs,
            lambda x, w, b, groups=groups: norm(x, groups, w, b, 1e-5),
            lambda x, w, b, groups=groups: formula(x, groups, w, b, 1e-5),
        )
        yield Use(
            "group_norm",
            f"{name}, silu",
            inputs,
            lambda x, w, b, groups=groups: norm(x, groups, w, b, 1e-5, silu=True),
            lambda x, w, b, groups=groups: formula(x, groups, w, b, 1e-5, silu=True),
        )
    yield Use(
        "group_norm",
        "no weight",
        (Input("x", (2, 8, 5), offset=2.0),),
        lambda x: norm(x, 4, None, None, 1e-2),
        lambda x: formula(x, 4, None, None, 1e-2),
    )


def _convolutions() -> Iterator[Use]:
    for name, shape, outputs, kernel, stride, padding in (
        ("plain", (2, 3, 6, 5), 4, 3, 1, (1, 1, 1, 1)),
        ("no padding", (1, 3, 7, 5), 4, 3, 1, (0, 0, 0, 0)),
        ("a place each", (2, 5, 4, 3), 6, 1, 1, (0, 0, 0, 0)),
        ("every second place", (2, 3, 7, 6), 4, 3, 2, (1, 1, 1, 1)),
        ("zeros on two sides", (1, 3, 8, 8), 4, 3, 2, (0, 1, 0, 1)),
        ("many channels", (1, 68, 9, 17), 65, 3, 1, (1, 1, 1, 1)),
    ):
        width = shape[1] * kernel * kernel
        inputs = (
            Input("x", shape),
            Input("weight", (outputs, shape[1], kernel, kernel), width**-0.5),
            Input("bias", (outputs,)),
        )
        yield Use("conv2d", name, inputs, *_with("conv2d", stride=stride, padding=padding))
        each = (*inputs[:2], Input("bias", (shape[0], outputs)))
        yield Use("conv2d", f"{name}, a bias each", each, *_with("conv2d", stride=stride, padding=padding))


def _rotaries() -> Iterator[Use]:
    for name, lead, N, K, H in (
        ("plain", (6,), 4, 2, 16),
        ("a batch", (2, 5), 4, 2, 32),
        ("head dim 128", (7,), 2, 1, 128),
        ("head dim 80", (7,), 2, 2, 80),
        ("head dim 6", (5,), 2, 1, 6),
        ("many tokens", (519,), 1, 1, 16),
    ):
        angles = np.random.default_rng(3).uniform(0, 6.3, (*lead, 1, H // 2)).astype(np.float32)
        cos, sin = (np.concatenate([table, table], -1) for table in (np.cos(angles), np.sin(angles)))
        yield Use(
            "rotary",
            name,
            (Input("q", (*lead, N, H)), Input("k", (*lead, K, H))),
            _turning("ops", cos, sin),
            _turning("formula", cos.astype(np.float64), sin.astype(np.float64)),
        )


def _turning(which: str, cos: np.ndarray, sin: np.ndarray) -> Any:
    function = _ops("rotary") if which == "ops" else _formula("rotary")

    def call(q: Any, k: Any) -> Any:
        import paddle

        return function(q, k, paddle.to_tensor(cos), paddle.to_tensor(sin))

    return call


def _activations() -> Iterator[Use]:
    for name, shape, scale in (
        ("plain", (5, 24), 1.0),
        ("far out", (3, 40), 6.0),
        ("odd size", (7, 1031), 1.0),
    ):
        pair = (Input("gate", shape, scale), Input("up", shape))
        whole = Input("x", (*shape[:-1], 2 * shape[-1]), scale)
        yield Use("geglu", name, (whole,), *_with("geglu"))
        yield Use("swiglu", name, pair, *_with("swiglu"))
        for form in ("erf", "tanh", "quick"):
            yield Use("gelu", f"{form}, {name}", (Input("x", shape, scale),), *_with("gelu", form))


def _products() -> Iterator[Use]:
    for name, lead, width, outputs in (
        ("plain", (5,), 24, 8),
        ("one row", (1,), 64, 33),
        ("three axes", (2, 3), 17, 19),
        ("large", (130,), 259, 131),
        ("long sums", (4,), 5000, 6),
    ):
        inputs = (
            Input("x", (*lead, width)),
            Input("weight", (width, outputs), width**-0.5),
            Input("bias", (outputs,)),
        )
        yield Use("linear", name, inputs, *_with("linear"))
        yield Use("linear", f"{name}, no bias", inputs[:2], *_with("linear"))
    for name, T, D, V in (("plain", 5, 24, 40), ("one row", 1, 64, 1003), ("large", 67, 128, 515)):
        pair = (Input("hidden", (T, D)), Input("weight", (V, D), D**-0.5))
        yield Use("head_logits", name, pair, *_with("head_logits"))


def _losses() -> Iterator[Use]:
    operator, formula = _ops("linear_cross_entropy"), _formula("linear_cross_entropy")
    many = np.random.default_rng(2).integers(0, 1003, 300)
    many[::7] = -100
    for name, labels, D, V, scale in (
        ("plain", LABELS, 8, 6, 0.5),
        ("every row", np.abs(LABELS) % 6, 8, 6, 0.5),
        ("confident", LABELS, 8, 6, 12.0),
        ("large", many, 32, 1003, 32**-0.5),
    ):
        yield Use(
            "linear_cross_entropy",
            name,
            (Input("hidden", (len(labels), D)), Input("weight", (V, D), scale)),
            lambda h, w, labels=labels: operator(h, w, labels)[0],
            lambda h, w, labels=labels: formula(h, w, labels),
            result_dtype="float32",
        )
    own = np.where(LABELS == -100, 2, LABELS)
    yield Use(
        "linear_cross_entropy",
        "another ignore_index",
        (Input("hidden", (7, 8)), Input("weight", (6, 8), 0.5)),
        lambda h, w: operator(h, w, own, ignore_index=2)[0],
        lambda h, w: formula(h, w, own, ignore_index=2),
        result_dtype="float32",
    )
