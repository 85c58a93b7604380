"""The uses of the three attentions. Shapes as in formulas.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mix_core.conformance.measure import Input, Use

ENDS = np.array([0, 3, 7, 7, 20, 21, 37], np.int32)
LONG = np.array([0, 130, 389, 400], np.int32)
ONE = np.array([0, 37], np.int32)

DENSE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain", {}),
    ("causal", {"causal": True}),
    ("window", {"window": 5}),
    ("causal, window", {"causal": True, "window": 6}),
    ("scale", {"scale": 0.7}),
    ("causal, scale", {"causal": True, "scale": 0.05}),
    ("mask", {"mask": 1}),
    ("mask per head", {"mask": 4}),
    ("causal, mask", {"causal": True, "mask": 1}),
    ("one key/value head", {"causal": True, "K": 1}),
    ("as many key/value heads", {"causal": True, "K": 4}),
    ("more keys", {"M": 33}),
    ("causal, more keys", {"causal": True, "M": 33}),
    ("causal, window, more keys", {"causal": True, "window": 9, "M": 33}),
    ("head dim 80", {"H": 80}),
    ("causal, head dim 128", {"causal": True, "H": 128}),
    ("causal, head dim 20", {"causal": True, "H": 20}),
    ("causal, long", {"causal": True, "S": 389, "N": 2, "K": 1, "B": 1}),
    ("causal, window, long", {"causal": True, "window": 100, "S": 389, "N": 2, "K": 1, "B": 1}),
    ("one query", {"causal": True, "S": 1, "M": 50}),
)
PACKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain", {}),
    ("causal", {"causal": True}),
    ("causal, window", {"causal": True, "window": 3}),
    ("window", {"window": 3}),
    ("scale", {"causal": True, "scale": 0.7}),
    ("one segment", {"causal": True, "ends": ONE}),
    ("one key/value head", {"causal": True, "K": 1}),
    ("as many key/value heads", {"K": 4}),
    ("head dim 80", {"H": 80}),
    ("causal, head dim 128", {"causal": True, "H": 128}),
    ("long", {"ends": LONG, "N": 2, "K": 1}),
    ("causal, long", {"causal": True, "ends": LONG, "N": 2, "K": 1}),
)
DECODE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain", {}),
    ("scale", {"scale": 0.7}),
    ("one key/value head", {"K": 1}),
    ("as many key/value heads", {"K": 4}),
    ("head dim 128", {"H": 128}),
    ("one slot", {"lengths": (1, 1, 1)}),
    ("all slots", {"lengths": (40, 40, 40)}),
    ("long", {"C": 700, "lengths": (700, 257, 1)}),
)


def uses() -> list[Use]:
    return [
        *(_dense(name, **options) for name, options in DENSE),
        *(_packed(name, **options) for name, options in PACKED),
        *(_decode(name, **options) for name, options in DECODE),
    ]


def _formula(name: str) -> Callable[..., Any]:
    """A formula by name: their module needs paddle, which is not imported yet."""

    def call(*arguments: Any, **options: Any) -> Any:
        from mix_core.conformance import formulas

        return getattr(formulas, name)(*arguments, **options)

    return call


def _ops(name: str) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        from mix_core import ops

        return getattr(ops, name)(*arguments, **options)

    return call


def _dense(
    name: str,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    mask: int = 0,
    B: int = 2,
    S: int = 19,
    M: int | None = None,
    N: int = 4,
    K: int = 2,
    H: int = 16,
) -> Use:
    M = S if M is None else M
    keep = None
    if mask:
        keep = np.random.default_rng(5).random((B, mask, S, M)) < 0.7
        keep[..., np.arange(S), np.arange(S) + M - S] = True  # every query sees something

    def call(q: Any, k: Any, v: Any) -> Any:
        import paddle

        tensor = None if keep is None else paddle.to_tensor(keep)
        return _ops("attention")(q, k, v, causal=causal, window=window, scale=scale, mask_BNSS=tensor)

    formula = partial(_formula("attention"), causal=causal, window=window, scale=scale, mask_BNSM=keep)
    inputs = (Input("q", (B, S, N, H)), Input("k", (B, M, K, H)), Input("v", (B, M, K, H)))
    return Use("attention", name, inputs, call, formula)


def _packed(
    name: str,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    ends: np.ndarray = ENDS,
    N: int = 4,
    K: int = 2,
    H: int = 16,
) -> Use:
    T = int(ends[-1])
    options = {"causal": causal, "window": window, "scale": scale}

    def call(q: Any, k: Any, v: Any) -> Any:
        return _ops("attention_packed")(q, k, v, ends, **options)

    def formula(q: Any, k: Any, v: Any) -> Any:
        return _formula("attention_packed")(q, k, v, ends, **options)

    inputs = (Input("q", (T, N, H)), Input("k", (T, K, H)), Input("v", (T, K, H)))
    return Use("attention_packed", name, inputs, call, formula)


def _decode(
    name: str,
    *,
    scale: float | None = None,
    C: int = 40,
    N: int = 4,
    K: int = 2,
    H: int = 16,
    lengths: tuple[int, ...] = (7, 40, 19),
) -> Use:
    B, lengths_B = len(lengths), np.array(lengths, np.int32)

    def call(q: Any, k: Any, v: Any) -> Any:
        return _ops("attention_decode")(q, k, v, lengths_B=lengths_B, scale=scale)

    def formula(q: Any, k: Any, v: Any) -> Any:
        return _formula("attention_decode")(q, k, v, lengths_B, scale)

    inputs = (Input("q", (B, N, H)), Input("k", (B, K, C, H)), Input("v", (B, K, C, H)))
    return Use("attention_decode", name, inputs, call, formula, gradient=False)
