"""The reference of dense and packed attention, forward and backward, over a host plan.

Shapes: T query tokens, M key tokens, N query heads, K key/value heads, H head dim; b pairs of a segment and a
key/value head, q its query rows, k its keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.ops.add_rows import add_distinct_rows
from mix_core.ops.attend_plan import Job, Plan, make_plan
from mix_core.ops.dtypes import in_float32
from mix_core.ops.gradients import frozen, unless
from mix_core.ops.philox import keep_weights

MAX_KEPT = 1 << 23
"""Attention weights of one call kept for the backward pass, in numbers; more are computed again."""


@in_float32
def attend(
    q_TNH: Tensor,
    k_MKH: Tensor,
    v_MKH: Tensor,
    q_ends: np.ndarray,
    k_ends: np.ndarray,
    *,
    causal: bool,
    window: int | None,
    scale: float | None,
    dropout: float = 0.0,
    dropout_keys: np.ndarray | None = None,
    dropout_head: int = 0,
) -> Tensor:
    """Attention within segments; `*_ends` are the segments' ends in tokens with a leading 0."""
    N, H = q_TNH.shape[1:]
    plan = make_plan(
        q_ends.astype(np.int64).tobytes(),
        k_ends.astype(np.int64).tobytes(),
        N,
        k_MKH.shape[1],
        causal,
        window,
    )
    scale = H**-0.5 if scale is None else scale
    return _Attend.apply(q_TNH, k_MKH, v_MKH, plan, scale, dropout, dropout_keys, dropout_head)


class _Attend(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        q_TNH: Tensor,
        k_MKH: Tensor,
        v_MKH: Tensor,
        plan: Plan,
        scale: float,
        dropout: float,
        dropout_keys: np.ndarray | None,
        dropout_head: int,
    ) -> Tensor:
        N, H = q_TNH.shape[1:]
        heads = range(dropout_head, dropout_head + N)
        q_rows = _C_ops.gather(q_TNH.reshape([-1, H]), plan.q_rows, 0)
        flat_k, flat_v = k_MKH.reshape([-1, H]), v_MKH.reshape([-1, H])
        keep = sum(job.batch * job.queries * job.keys for job in plan.jobs) <= MAX_KEPT
        outs, saved = [], []
        for job in plan.jobs:
            # the scale goes to the keys: there are as many of them as queries, or fewer
            k_bkH = _C_ops.gather(flat_k, job.kv_rows, 0).scale_(scale).reshape([job.batch, job.keys, H])
            v_bkH = _C_ops.gather(flat_v, job.kv_rows, 0).reshape([job.batch, job.keys, H])
            weights = _weights(_rows(q_rows, job, H), k_bkH, job)
            kept = _dropped(weights, job, heads, dropout, dropout_keys)
            outs.append(_C_ops.matmul(kept, v_bkH, False, False).reshape([-1, H]))
            saved += [k_bkH, v_bkH] + ([weights] if keep else [])
        out = outs[0] if len(outs) == 1 else _C_ops.concat(outs, 0)
        ctx.save_for_backward(q_rows, *saved)
        ctx.plan, ctx.scale, ctx.keep, ctx.frozen = plan, scale, keep, frozen(q_TNH, k_MKH, v_MKH)
        ctx.dropout, ctx.dropout_keys, ctx.shapes = dropout, dropout_keys, (q_TNH.shape, k_MKH.shape)
        ctx.heads = heads
        return _C_ops.gather(out, plan.out_rows, 0).reshape(q_TNH.shape)

    @staticmethod
    def backward(ctx: Any, grad_TNH: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        q_rows, *saved = ctx.saved_tensor()
        q_shape, k_shape = ctx.shapes
        H = q_shape[2]
        grad_rows = _C_ops.gather(grad_TNH.reshape([-1, H]), plan.q_rows, 0)
        per_job = 3 if ctx.keep else 2
        dq, dk, dv = [], [], []
        for i, job in enumerate(plan.jobs):
            k_bkH, v_bkH, *kept = saved[i * per_job : (i + 1) * per_job]
            q_bqH, grad_bqH = _rows(q_rows, job, H), _rows(grad_rows, job, H)
            weights = kept[0] if kept else _weights(q_bqH, k_bkH, job)
            dropped = _dropped(weights, job, ctx.heads, ctx.dropout, ctx.dropout_keys)
            dv.append(_C_ops.matmul(dropped, grad_bqH, True, False).reshape([-1, H]))
            dweights = _C_ops.matmul(grad_bqH, v_bkH, False, True)
            dweights = _dropped(dweights, job, ctx.heads, ctx.dropout, ctx.dropout_keys)
            dscores = _C_ops.softmax_grad(weights, dweights, -1)
            dq.append(_C_ops.matmul(dscores, k_bkH, False, False).reshape([-1, H]))
            dk.append(_C_ops.matmul(dscores, q_bqH, True, False).reshape([-1, H]).scale_(ctx.scale))
        dq_rows = dq[0] if len(dq) == 1 else _C_ops.concat(dq, 0)
        dq_TNH = _C_ops.gather(dq_rows, plan.out_rows, 0).reshape(q_shape)
        return unless(ctx.frozen, dq_TNH, _back(dk, plan, k_shape), _back(dv, plan, k_shape))


def _rows(rows: Tensor, job: Job, H: int) -> Tensor:
    """The job's rows out of all in job order, (b, q, H)."""
    count = job.batch * job.queries
    if count != rows.shape[0]:
        rows = rows[job.first_row : job.first_row + count]
    return rows.reshape([job.batch, job.queries, H])


def _weights(q_bqH: Tensor, k_bkH: Tensor, job: Job) -> Tensor:
    """Softmax of the scores, (b, q, k)."""
    scores = _C_ops.matmul(q_bqH, k_bkH, False, True)
    if job.bias is not None:
        scores = scores.reshape([job.batch, -1]).add_(job.bias).reshape([job.batch, job.queries, job.keys])
    return _C_ops.softmax(scores, -1)


def _dropped(weights: Tensor, job: Job, heads: range, dropout: float, keys: np.ndarray | None) -> Tensor:
    """The weights with dropout's share set to 0 and the others enlarged."""
    if not dropout:
        return weights
    keep = keep_weights(keys[job.segments], heads, job.query_span, job.key_span, dropout)
    return weights * paddle.to_tensor(keep.reshape(weights.shape))


def _back(parts: list[Tensor], plan: Plan, shape: list[int]) -> Tensor:
    """Gradients of k or v rows from job order to their places; rows that jobs share add up."""
    if plan.kv_rows_back is not None:
        rows = parts[0] if len(parts) == 1 else _C_ops.concat(parts, 0)
        return _C_ops.gather(rows, plan.kv_rows_back, 0).reshape(shape)
    total = paddle.zeros([shape[0] * shape[1], shape[2]], parts[0].dtype)
    for job, part in zip(plan.jobs, parts):
        total = add_distinct_rows(total, job.kv_rows, part)
    return total.reshape(shape)
