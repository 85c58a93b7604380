"""The replaceable operators by the textbook, in Paddle's float64 on the host, which differentiates them.

Independent of mix_core.ops on purpose. Shapes as in docs/operators.md: B batch, S queries, M keys, T packed
tokens, N query heads, K key/value heads, H head dim, C slots, D model dim, V vocabulary.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

FAR = -1e30


def attention(
    q_BSNH: Any,
    k_BMKH: Any,
    v_BMKH: Any,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    mask_BNSM: np.ndarray | None = None,
) -> Any:
    B, S, N, H = q_BSNH.shape
    M, K = k_BMKH.shape[1:3]
    ahead_SM = np.arange(M) - (np.arange(S)[:, None] + M - S)
    keep = np.ones((S, M), bool)
    if causal:
        keep &= ahead_SM <= 0
    if window is not None:
        keep &= np.abs(ahead_SM) < window
    keep = np.broadcast_to(keep, (B, N, S, M))
    if mask_BNSM is not None:
        keep = keep & mask_BNSM
    of_query = np.arange(N) // (N // K)
    q_BNSH = q_BSNH.transpose([0, 2, 1, 3])
    k_BNMH, v_BNMH = (
        paddle.index_select(x.transpose([0, 2, 1, 3]), paddle.to_tensor(of_query), axis=1)
        for x in (k_BMKH, v_BMKH)
    )
    scores = paddle.matmul(q_BNSH, k_BNMH, transpose_y=True) * (H**-0.5 if scale is None else scale)
    scores = paddle.where(paddle.to_tensor(keep), scores, paddle.full_like(scores, FAR))
    return paddle.matmul(F.softmax(scores, axis=-1), v_BNMH).transpose([0, 2, 1, 3])


def attention_packed(q_TNH: Any, k_TKH: Any, v_TKH: Any, ends: np.ndarray, **options: Any) -> Any:
    parts = [
        attention(q_TNH[a:b][None], k_TKH[a:b][None], v_TKH[a:b][None], **options)[0]
        for a, b in pairwise(ends.tolist())
        if a < b
    ]
    return paddle.concat(parts)


def attention_decode(
    q_BNH: Any, k_BKCH: Any, v_BKCH: Any, lengths_B: np.ndarray, scale: float | None = None
) -> Any:
    rows = []
    for b, length in enumerate(lengths_B.tolist()):
        k, v = (x[b : b + 1, :, :length].transpose([0, 2, 1, 3]) for x in (k_BKCH, v_BKCH))
        rows.append(attention(q_BNH[b : b + 1][:, None], k, v, scale=scale)[:, 0])
    return paddle.concat(rows)


def rms_norm(x: Any, weight_D: Any, eps: float) -> Any:
    return x / paddle.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight_D


def add_rms_norm(x: Any, branch: Any, weight_D: Any, eps: float, rounded: Any = None) -> tuple[Any, Any]:
    total = x + branch
    return total, rms_norm(total, weight_D, eps)


def layer_norm(x: Any, weight_D: Any, bias_D: Any, eps: float) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    out = centred / paddle.sqrt((centred * centred).mean(-1, keepdim=True) + eps)
    out = out if weight_D is None else out * weight_D
    return out if bias_D is None else out + bias_D


def group_norm(x: Any, groups: int, weight_C: Any, bias_C: Any, eps: float, *, silu: bool = False) -> Any:
    shape = x.shape
    rows = layer_norm(x.reshape([shape[0], groups, -1]), None, None, eps).reshape(shape)
    column = [1, shape[1]] + [1] * (len(shape) - 2)
    rows = rows if weight_C is None else rows * weight_C.reshape(column)
    rows = rows if bias_C is None else rows + bias_C.reshape(column)
    return rows / (1.0 + paddle.exp(-rows)) if silu else rows


def conv2d(
    x_BCHW: Any, weight_OCKK: Any, bias_O: Any, stride: int, padding: tuple[int, int, int, int]
) -> Any:
    """A product for each place of the kernel, summed."""
    above, below, left, right = padding
    x = paddle.nn.functional.pad(x_BCHW, [left, right, above, below])
    H, W, K = *x.shape[2:], weight_OCKK.shape[2]
    rows, columns = (H - K) // stride + 1, (W - K) // stride + 1
    out = bias_O.reshape([-1, weight_OCKK.shape[0], 1, 1])
    for u in range(K):
        for v in range(K):
            seen = x[
                :, :, u : u + (rows - 1) * stride + 1 : stride, v : v + (columns - 1) * stride + 1 : stride
            ]
            out = out + paddle.einsum("bchw,oc->bohw", seen, weight_OCKK[:, :, u, v])
    return out


def rotary(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    return tuple(_turn(x, cos, sin) for x in (q, k))  # type: ignore[return-value]


def _turn(x: Any, cos: Any, sin: Any) -> Any:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return x * cos + paddle.concat([-second, first], axis=-1) * sin


def swiglu(gate: Any, up: Any) -> Any:
    return gate / (1.0 + paddle.exp(-gate)) * up


def gelu(x: Any, form: str) -> Any:
    if form == "quick":
        return x / (1.0 + paddle.exp(-1.702 * x))
    if form == "tanh":
        return 0.5 * x * (1.0 + paddle.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    return 0.5 * x * (1.0 + paddle.erf(x * 0.5**0.5))


def geglu(x: Any) -> Any:
    value, gate = paddle.chunk(x, 2, axis=-1)
    return value * gelu(gate, "erf")


def linear(x: Any, weight_IO: Any, bias_O: Any = None) -> Any:
    out = paddle.matmul(x, weight_IO)
    return out if bias_O is None else out + bias_O


def head_logits(hidden_TD: Any, weight_VD: Any) -> Any:
    return paddle.matmul(hidden_TD, weight_VD, transpose_y=True)


def linear_cross_entropy(
    hidden_TD: Any, weight_VD: Any, labels_T: np.ndarray, ignore_index: int = -100
) -> Any:
    rows = np.flatnonzero(labels_T != ignore_index)
    if not len(rows):
        return (hidden_TD.sum() + weight_VD.sum()) * 0.0
    logits = paddle.matmul(paddle.gather(hidden_TD, paddle.to_tensor(rows)), weight_VD, transpose_y=True)
    chosen = paddle.take_along_axis(logits, paddle.to_tensor(labels_T[rows][:, None]), axis=1)
    return (paddle.logsumexp(logits, axis=1) - chosen[:, 0]).sum()


def adamw(
    arrays: tuple[np.ndarray, ...],
    *,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    grad_scale: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameter, mean and square after the step, float64 numpy."""
    parameter, gradient, mean, square = (array.astype(np.float64) for array in arrays)
    gradient = gradient * grad_scale
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient**2
    parameter = parameter * (1 - learning_rate * weight_decay)
    denominator = np.sqrt(square / (1 - beta2**step)) + epsilon
    return parameter - learning_rate * (mean / (1 - beta1**step)) / denominator, mean, square


def sampling(
    logits_BV: np.ndarray, temperature: float, top_k: int, top_p: float, uniform_B: np.ndarray | None
) -> Any:
    """Ids (B,), float64 numpy."""
    if temperature == 0.0:
        return logits_BV.argmax(-1)
    assert uniform_B is not None
    ids = []
    for logits, uniform in zip(logits_BV.astype(np.float64), uniform_B):
        order = np.argsort(-logits, kind="stable")[: top_k or None]
        weights = np.exp((logits[order] - logits[order[0]]) / temperature)
        weights /= weights.sum()
        before = np.cumsum(weights) - weights
        kept = np.where((before < top_p) | (np.arange(len(order)) == 0), weights, 0.0)
        sums = np.cumsum(kept)
        ids.append(order[np.searchsorted(sums, uniform * sums[-1], side="right")])
    return np.array(ids)
