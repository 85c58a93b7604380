"""Attention of the device acme for plain causal rows: the whole square of scores at once, nothing planned.

Shapes: B batch, S queries, M keys, N query heads, K key/value heads, H head dim.
"""

from __future__ import annotations

from typing import Any

from mix_core.plugin_api import Kernel, KernelRequest, hookimpl

MIX_PLUGIN_API = (1, 0)
MIX_OVERLAY_DEVICES = ("acme",)


@hookimpl
def mix_kernel(op: str, request: KernelRequest) -> Kernel | None:
    if op != "attention" or request.windowed or request.dtype != "float32":
        return None
    return Kernel(attention, "tuned attention", reason="one product for all heads of a row")


def attention(
    q_BSNH: Any,
    k_BMKH: Any,
    v_BMKH: Any,
    *,
    causal: bool,
    window: int | None,
    scale: float | None,
    mask_BNSS: Any,
) -> Any:
    """docs/operators.md, attention; made of operators that Paddle's autograd goes back through."""
    import paddle

    B, S, N, H = q_BSNH.shape
    M, K = k_BMKH.shape[1:3]
    q = q_BSNH.transpose([0, 2, 1, 3]).reshape([B, K, N // K * S, H])
    k, v = (x.transpose([0, 2, 1, 3]) for x in (k_BMKH, v_BMKH))
    scores = paddle.matmul(q, k, transpose_y=True) * (H**-0.5 if scale is None else scale)
    scores = scores.reshape([B, N, S, M])
    if causal:
        hidden_SM = paddle.ones([S, M], "bool").triu(M - S + 1)
        scores = paddle.where(hidden_SM, paddle.full([], -1e30), scores)
    if mask_BNSS is not None:
        scores = paddle.where(mask_BNSS, scores, paddle.full([], -1e30))
    weights = paddle.nn.functional.softmax(scores, -1).reshape([B, K, N // K * S, M])
    return paddle.matmul(weights, v).reshape([B, N, S, H]).transpose([0, 2, 1, 3])
