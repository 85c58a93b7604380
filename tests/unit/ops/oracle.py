"""The operators' formulas in float64 numpy, and gradients by central differences."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import paddle

FORWARD, GRADIENT = 2e-6, 5e-6
"""Limits for float32 at sizes below those of tiles, relative in norm (docs/operators.md)."""


def draw(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers that float32 holds exactly."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(np.float64)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


def numeric_gradients(
    formula: Callable[..., np.ndarray], inputs: list[np.ndarray], cotangent: np.ndarray, step: float = 1e-5
) -> list[np.ndarray]:
    """Gradient of sum(formula(*inputs) * cotangent) with respect to each input, number by number."""
    gradients = []
    for array in inputs:
        gradient = np.zeros_like(array)
        flat, flat_gradient = array.reshape(-1), gradient.reshape(-1)
        for i in range(flat.size):
            kept = flat[i]
            flat[i] = kept + step
            above = (formula(*inputs) * cotangent).sum()
            flat[i] = kept - step
            below = (formula(*inputs) * cotangent).sum()
            flat[i] = kept
            flat_gradient[i] = (above - below) / (2 * step)
        gradients.append(gradient)
    return gradients


def check(
    operator: Callable[..., paddle.Tensor], formula: Callable[..., np.ndarray], inputs: list[np.ndarray]
) -> None:
    """Hold an operator's result and gradients to the formula."""
    expected = formula(*inputs)
    tensors = [paddle.to_tensor(array.astype(np.float32), stop_gradient=False) for array in inputs]
    result = operator(*tensors)
    assert list(result.shape) == list(expected.shape)
    assert distance(result.numpy(), expected) < FORWARD
    cotangent = draw(99, *expected.shape)
    result.backward(paddle.to_tensor(cotangent.astype(np.float32)))
    for place, (tensor, gradient) in enumerate(zip(tensors, numeric_gradients(formula, inputs, cotangent))):
        assert distance(tensor.grad.numpy(), gradient) < GRADIENT, f"gradient of input {place}"


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attention(
    q_SNH: np.ndarray,
    k_MKH: np.ndarray,
    v_MKH: np.ndarray,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    mask_NSM: np.ndarray | None = None,
    factors_NSM: np.ndarray | None = None,
) -> np.ndarray:
    """One row's attention by the textbook; `factors` multiply the weights (dropout)."""
    S, N, H = q_SNH.shape
    M, K, _ = k_MKH.shape
    out = np.zeros_like(q_SNH)
    ahead = np.arange(M) - (np.arange(S)[:, None] + M - S)
    keep = np.ones((S, M), bool)
    if causal:
        keep &= ahead <= 0
    if window is not None:
        keep &= np.abs(ahead) < window
    for n in range(N):
        k_MH, v_MH = k_MKH[:, n // (N // K)], v_MKH[:, n // (N // K)]
        scores = q_SNH[:, n] @ k_MH.T * (H**-0.5 if scale is None else scale)
        allowed = keep if mask_NSM is None else keep & mask_NSM[n]
        weights = softmax(np.where(allowed, scores, -1e30))
        out[:, n] = (weights if factors_NSM is None else weights * factors_NSM[n]) @ v_MH
    return out


def packed(
    q_TNH: np.ndarray, k_TKH: np.ndarray, v_TKH: np.ndarray, cu_seqlens: np.ndarray, **options: object
) -> np.ndarray:
    out = np.zeros_like(q_TNH)
    for start, end in pairwise(cu_seqlens):
        if start == end:
            continue
        part = slice(int(start), int(end))
        out[part] = attention(q_TNH[part], k_TKH[part], v_TKH[part], **options)
    return out
