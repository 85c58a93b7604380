"""Attention by `flash_attention_npu`, the custom operator of paddle-custom-npu.

Shapes: B batch, S queries, M keys, T packed tokens, N query heads, K key/value heads, H head dim.

The operator was published with 9, 10 and 13 positional arguments; `FlashAttention` is made for one of them.
What it has to be kept from (backends/npu/custom_op/fused_attention_npu.cc, October 2024):
- its `is_triangle_upper_mask` hides every later key under any mask: always False here;
- it multiplies by H ** -0.5 and by nothing else: another scale goes into q;
- its forward pass forgets dropout and its backward pass does not: dropout is always 0;
- `causal` makes it ignore the mask, and makes a square mask: both are put into one mask here.
In its mask True means hidden, the opposite of mix-core's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mix_core.plugin_api import DeviceError

OPERATOR = "flash_attention_npu"
FORMS = (9, 10, 13)
VARLEN_FORM = 13
REACH = 65536
"""Tokens to either side that the operator sees; fixed in its source."""


class FlashAttention:
    """Attention and packed attention in one of the operator's published call forms.

    `call(name, *arguments)` runs a custom operator and returns its results; `form` is the number of arguments
    it takes; `training` says whether a gradient will be asked for.
    """

    def __init__(self, call: Callable[..., Any], form: int, training: bool) -> None:
        if form not in FORMS:
            raise DeviceError(f"{OPERATOR} takes {form} arguments; known forms have {FORMS}")
        self.call, self.form, self.training = call, form, training

    def dense(
        self,
        q_BSNH: Any,
        k_BMKH: Any,
        v_BMKH: Any,
        *,
        causal: bool,
        window: int | None,
        scale: float | None,
        mask_BNSS: Any = None,
    ) -> Any:
        """docs/operators.md, attention. Raises DeviceError for rows longer than the operator's reach."""
        S, M = q_BSNH.shape[1], k_BMKH.shape[1]
        plain = window is None and mask_BNSS is None
        if plain and (not causal or S == M):
            hidden = None
        else:
            hidden = _hidden(S, M, causal, window)
            if mask_BNSS is not None:
                hidden = mask_BNSS.logical_not() if hidden is None else hidden | mask_BNSS.logical_not()
        by_itself = causal and hidden is None
        return self._run(q_BSNH, k_BMKH, v_BMKH, scale, max(S, M), hidden, by_itself, ())

    def packed(
        self,
        q_TNH: Any,
        k_TKH: Any,
        v_TKH: Any,
        cu_seqlens: np.ndarray,
        *,
        causal: bool,
        window: int | None,
        scale: float | None,
    ) -> Any:
        """docs/operators.md, attention_packed: by the segments' ends, or segment by segment."""
        if self.takes_ends(causal, window is not None):
            lengths = np.diff(cu_seqlens)
            ends = [int(end) for end in cu_seqlens[1:][lengths > 0]]
            return self._run(q_TNH, k_TKH, v_TKH, scale, int(lengths.max()), None, False, ends)
        parts = []
        for start, count, length in runs(cu_seqlens):
            rows = slice(start, start + count * length)
            q, k, v = (x[rows].reshape([count, length, *x.shape[1:]]) for x in (q_TNH, k_TKH, v_TKH))
            out = self.dense(q, k, v, causal=causal, window=window, scale=scale)
            parts.append(out.reshape([count * length, *q_TNH.shape[1:]]))
        if len(parts) == 1:
            return parts[0]
        import paddle

        return paddle.concat(parts)

    def takes_ends(self, causal: bool, windowed: bool) -> bool:
        """Whether one call takes all segments: only in the 13-argument form, and only without a mask.

        How that form masks within segments was never published.
        """
        return self.form == VARLEN_FORM and not causal and not windowed

    def _run(
        self,
        q: Any,
        k: Any,
        v: Any,
        scale: float | None,
        longest: int,
        hidden: Any,
        causal: bool,
        ends: Sequence[int],
    ) -> Any:
        if longest > REACH:
            raise DeviceError(
                f"{OPERATOR} sees {REACH} tokens to either side, this row has {longest}: shorten max_length, "
                "or run with --kernels reference"
            )
        own = q.shape[-1] ** -0.5
        if scale is not None and scale != own:
            q = q * (scale / own)
        seed, dropout, return_softmax, triangle = None, 0.0, False, False
        arguments: list[Any] = [q, k, v, seed, hidden]
        if self.form == VARLEN_FORM:
            arguments += [list(ends), list(ends)]
        arguments += [dropout, causal, return_softmax, not self.training]
        if self.form >= 10:
            arguments.append(triangle)
        if self.form == VARLEN_FORM:
            arguments.append(bool(ends))
        return self.call(OPERATOR, *arguments)[0]


def runs(cu_seqlens: np.ndarray) -> list[tuple[int, int, int]]:
    """Neighbouring segments of one length: (first token, how many, length); empty ones are left out."""
    found: list[tuple[int, int, int]] = []
    for start, length in zip(cu_seqlens[:-1].tolist(), np.diff(cu_seqlens).tolist()):
        if length == 0:
            continue
        if found and found[-1][2] == length:
            first, count, _ = found[-1]
            found[-1] = (first, count + 1, length)
        else:
            found.append((start, 1, length))
    return found


@lru_cache(maxsize=2)  # a step's layers share one; long rows make large ones
def _hidden(S: int, M: int, causal: bool, window: int | None) -> Any:
    """(S, M) bool, True where position alone hides a key; None where it hides nothing."""
    if not causal and window is None:
        return None
    import paddle

    ahead_SM = np.arange(M)[None, :] - (np.arange(S) + M - S)[:, None]
    hidden_SM = ahead_SM > 0 if causal else np.zeros((S, M), bool)
    if window is not None:
        hidden_SM = hidden_SM | (np.abs(ahead_SM) >= window)
    return paddle.to_tensor(hidden_SM)
