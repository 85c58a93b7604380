"""What the forward pass of a block keeps for the backward one, and what going back needs for a moment.

Every line names tensors that the operators of `mix_core/ops` (a reference) or a one-pass kernel save; they
were checked against a device's own count (docs/planning.md). Bytes.

Shapes: T tokens, D width, N and K heads of queries and of keys, H head dim, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mix_core.models.outline import Stack
from mix_core.planning.work import Kernels, Numbers

MAX_KEPT_SCORES = 1 << 23
"""Attention weights, in numbers, up to which the reference keeps them (ops/attend_reference.py)."""
QUERY_BLOCK = 256
"""Queries that the reference of attention scores together (ops/attend_plan.py)."""


@dataclass(frozen=True)
class Part:
    """Half a block, or something else that runs as one piece."""

    kept: int
    """From its forward pass until its backward one."""
    forward: int
    """Besides what stays, while it runs forward."""
    backward: int
    """Besides what was kept, while it runs backward; gradients of parameters not counted."""
    gradients: int = 0
    """Of its learning parameters, float32."""
    unfinished: int = 0
    """Those of `gradients` that a part further back adds to; there the same, negative."""


@dataclass(frozen=True)
class Share:
    """How a block is divided among the devices of one tensor-parallel group."""

    tensor: int = 1
    """Devices that heads and feed-forward are split over."""
    sequence: bool = False
    """Whether norms and the residual stream are split too, by tokens."""

    @property
    def stream(self) -> int:
        return self.tensor if self.sequence else 1


WHOLE = Share()


def block_parts(
    stack: Stack,
    tokens: int,
    spans: Iterable[tuple[int, int]],
    numbers: Numbers,
    kernels: Kernels,
    *,
    causal: bool,
    learns: bool,
    share: Share = WHOLE,
    mlp_tokens: int | None = None,
) -> tuple[Part, Part]:
    """Attention and feed-forward of one block, whose input has a gradient.

    `learns`: whether its own weights do. `mlp_tokens`: rows that leave the attention, where that is fewer.
    """
    packed = tuple(spans)
    attention = _attention(stack, tokens, packed, numbers, kernels, causal, share)
    mlp = _mlp(stack, tokens if mlp_tokens is None else mlp_tokens, numbers, kernels, share)
    if not learns:
        return attention, mlp
    of_qkv = stack.qkv_bias * stack.attention_width
    rest = stack.block_parameters - stack.whole_vectors - stack.attention_matrices - of_qkv
    vectors = stack.whole_vectors // 2
    own = (stack.attention_matrices + of_qkv) // share.tensor + stack.whole_vectors - vectors
    return (
        replace(attention, gradients=4 * own),
        replace(mlp, gradients=4 * (rest // share.tensor + vectors)),
    )


def _norm(rows: int, width: int, rms: bool, numbers: Numbers, kernels: Kernels) -> int:
    """The norm's input and its statistics; a reference widens a narrow input and keeps the copy."""
    name = "rms_norm" if rms else "layer_norm"
    each = numbers.stream if name in kernels else 4
    return rows * (width * each + 4 * (1 if rms else 2))


def _attention(
    stack: Stack,
    tokens: int,
    spans: tuple[tuple[int, int], ...],
    numbers: Numbers,
    kernels: Kernels,
    causal: bool,
    share: Share,
) -> Part:
    D, H = stack.width, stack.head_dim
    N, K = -(-stack.heads // share.tensor), -(-stack.kv_heads // share.tensor)
    rows = tokens // share.stream
    p, r = numbers.product, numbers.stream
    # the norm's result, of all tokens: as it is, or a cast of it for each map that takes it
    takers = 1 if stack.joined_qkv or "qkv" in kernels or not numbers.casts else 3
    kept = _norm(rows, D, stack.rms, numbers, kernels) + takers * tokens * D * p
    if numbers.casts:  # the matrices are cast once a pass, and the copies serve going back
        kept += p * stack.attention_matrices // share.tensor
    kept += p * tokens * N * H  # what attention gives, the input of its output map
    if stack.rotary and "rotary" not in kernels:
        kept += 2 * 4 * tokens * (N + K) * H  # cosines and sines, a row for each head
    if stack.norm_qk:
        kept += 2 * _norm(tokens, stack.heads * H, True, numbers, kernels)
    if stack.scaled:
        kept += r * rows * D  # the branch, which the learned scale multiplies
    if "attention" in kernels:
        kept += p * tokens * (N + 2 * K) * H + 4 * tokens * N
        scores = 0
    else:
        seen = [_reference_keys(length, causal) * count for length, count in spans]
        held = sum(_scores(length, causal) * count for length, count in spans) * N
        kept += 4 * (tokens * N + 2 * sum(seen) * K) * H
        kept += 4 * held if held <= MAX_KEPT_SCORES else 0
        largest = max((_scores(length, causal) * count for length, count in spans), default=0)
        scores = 4 * N * min(largest, max(MAX_KEPT_SCORES // max(N, 1), 1))
    qkv = p * tokens * (N + 2 * K) * H
    forward = r * rows * D + 2 * qkv + scores
    # gradients of stream and branch, of q, k and v, of the scores twice, and of the norm's result
    backward = 2 * r * rows * D + takers * p * tokens * D + 2 * qkv + 2 * scores
    return Part(kept, forward, backward)


def _reference_keys(length: int, causal: bool) -> int:
    """Keys that the blocks of a segment's queries see, each block's counted."""
    blocks = range(0, length, QUERY_BLOCK)
    return sum(min(start + QUERY_BLOCK, length) if causal else length for start in blocks)


def _scores(length: int, causal: bool) -> int:
    """Scores of one head over a segment, masked ones within a block included."""
    total = 0
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        total += (end - start) * (end if causal else length)
    return total


def _mlp(stack: Stack, tokens: int, numbers: Numbers, kernels: Kernels, share: Share) -> Part:
    D, F = stack.width, -(-stack.inner // share.tensor)
    rows = tokens // share.stream
    p, r = numbers.product, numbers.stream
    joined = "gated_mlp" in kernels and stack.gated
    takers = 1 if joined or not numbers.casts or not stack.gated else 2
    kept = _norm(rows, D, stack.rms, numbers, kernels) + takers * tokens * D * p
    if numbers.casts:
        kept += p * stack.mlp_matrices // share.tensor
    if stack.scaled:
        kept += r * rows * D
    inner = tokens * F
    if stack.gated:
        if joined:
            kept += 2 * p * inner  # gate and up; their product is made again
        elif "swiglu" in kernels:
            kept += 3 * p * inner
        else:
            kept += (3 * 4 + p) * inner  # gate, up and sigmoid in float32; the product
        temporaries = 3 * p * inner
    else:
        kept += (2 * p if "gelu" in kernels else 4 + p) * inner
        temporaries = 2 * p * inner
    forward = r * rows * D + 3 * p * inner
    backward = 2 * r * rows * D + takers * p * tokens * D + temporaries
    return Part(kept, forward, backward)
