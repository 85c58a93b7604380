"""Attention with a bias on its scores, which the operators' contract has no argument for.

The plain form, row by row: scores of one row exist at a time, going forward and back, and none are kept.

Shapes: B rows, S queries and keys, N heads, H head dim.
"""

from __future__ import annotations

from typing import Any

from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.ops.dtypes import in_float32
from mix_core.ops.gradients import frozen, unless


@in_float32
def biased_attention(q_BSNH: Tensor, k_BSNH: Tensor, v_BSNH: Tensor, bias_NSS: Tensor) -> Tensor:
    """``softmax(q k^T + bias) v`` -> (B, S, N, H), differentiable in all four; scores are not scaled."""
    heads_first = [0, 2, 1, 3]
    parts = (x.transpose(heads_first) for x in (q_BSNH, k_BSNH, v_BSNH))
    return _Biased.apply(*parts, bias_NSS).transpose(heads_first)


class _Biased(PyLayer):
    @staticmethod
    def forward(ctx: Any, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, bias_NSS: Tensor) -> Tensor:
        ctx.save_for_backward(q_BNSH, k_BNSH, v_BNSH, bias_NSS)
        ctx.frozen = frozen(q_BNSH, k_BNSH, v_BNSH, bias_NSS)
        rows = [
            _C_ops.matmul(_weights(q, k, bias_NSS), v, False, False)
            for q, k, v in zip(q_BNSH, k_BNSH, v_BNSH)
        ]
        return _C_ops.stack(rows, 0)

    @staticmethod
    def backward(ctx: Any, grad_BNSH: Tensor) -> tuple[Tensor | None, ...]:
        q_BNSH, k_BNSH, v_BNSH, bias_NSS = ctx.saved_tensor()
        dq, dk, dv = [], [], []
        dbias = None
        for q, k, v, grad in zip(q_BNSH, k_BNSH, v_BNSH, grad_BNSH):
            weights = _weights(q, k, bias_NSS)
            dv.append(_C_ops.matmul(weights, grad, True, False))
            dscores = _C_ops.softmax_grad(weights, _C_ops.matmul(grad, v, False, True), -1)
            dq.append(_C_ops.matmul(dscores, k, False, False))
            dk.append(_C_ops.matmul(dscores, q, True, False))
            if not ctx.frozen[3]:
                dbias = dscores if dbias is None else dbias.add_(dscores)
        return unless(ctx.frozen, *(_C_ops.stack(parts, 0) for parts in (dq, dk, dv)), dbias)


def _weights(q_NSH: Tensor, k_NSH: Tensor, bias_NSS: Tensor) -> Tensor:
    return _C_ops.softmax(_C_ops.matmul(q_NSH, k_NSH, False, True).add_(bias_NSS), -1)
