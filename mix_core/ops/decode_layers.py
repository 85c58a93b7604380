"""All decoder layers for one new token a row, over the key/value cache: what generation repeats.

Shapes: B batch, C cache slots, D model dim, N query heads, K key/value heads (K divides N), H head dim,
F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from paddle import Tensor

from mix_core.ops.arguments import check_decode_layers, refuse
from mix_core.ops.attend_decode import attention_decode
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import cast, product_dtype
from mix_core.ops.low_rank import Matrix
from mix_core.ops.matmul import linear
from mix_core.ops.matmul_int8 import Int8Matrix
from mix_core.ops.norms import add_rms_norm, rms_norm
from mix_core.ops.projections import Matrices, Three, gated_mlp, qkv
from mix_core.ops.rope import rotary
from mix_core.ops.shapes import reshape


class LayerWeights(NamedTuple):
    """Of a layer whose maps but those to queries, keys and values have no biases.

    Matrices are (inputs, outputs); an `Int8Matrix` holds its steps turned.
    """

    input_norm_D: Tensor
    qkv: Matrices
    """Weights (D, N * H), (D, K * H), (D, K * H)."""
    qkv_biases: Three | None
    out: Matrix
    """(N * H, D)."""
    post_norm_D: Tensor
    mlp: Matrices
    """gate (D, F), up (D, F), down (F, D)."""
    eps: float
    """Of both norms."""


class LayerCache(NamedTuple):
    keys: Tensor
    values: Tensor
    """(B * K * C, H) each, row after row, head after head, slot after slot. Both are written in place."""
    lengths_B: np.ndarray
    """Slots of each row that hold a token, the new one's included, which is the last of them."""
    rows: Tensor
    """Where the new tokens' heads go in keys and values (B * K,)."""


def decode_layers(
    x_BD: Tensor,
    layers: Sequence[LayerWeights],
    caches: Sequence[LayerCache],
    cos_B1H: Tensor,
    sin_B1H: Tensor,
    query_scale_B11: Tensor | None = None,
    *,
    summed: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Through each layer: put the tokens' keys and values into its cache, attend, feed forward -> (B, D).

    The layers have equal shapes and one eps, their caches one `lengths_B`. No gradient. `summed` takes what
    comes back into the tokens from attention and feed-forward, where devices share each layer.
    """
    if query_scale_B11 is None and summed is None:
        if _all_are(Int8Matrix, layers):
            return decode_layers_int8(x_BD, layers, caches, cos_B1H, sin_B1H)
        if _all_are(Tensor, layers):
            kernel = _kernel("decode_layers", x_BD, layers, caches)
            if kernel is not None:
                return kernel(x_BD, layers, caches, cos_B1H, sin_B1H)
    return _by_parts(x_BD, layers, caches, cos_B1H, sin_B1H, query_scale_B11, summed or _alone)


def decode_layers_int8(
    x_BD: Tensor,
    layers: Sequence[LayerWeights],
    caches: Sequence[LayerCache],
    cos_B1H: Tensor,
    sin_B1H: Tensor,
) -> Tensor:
    """`decode_layers` whose matrices are all in 8 bits. docs/operators.md has the contract."""
    if not _all_are(Int8Matrix, layers):
        refuse("decode_layers_int8", "layers", "matrices that are not in 8 bits", "an Int8Matrix for each")
    kernel = _kernel("decode_layers_int8", x_BD, layers, caches)
    if kernel is not None:
        return kernel(x_BD, layers, caches, cos_B1H, sin_B1H)
    return _by_parts(x_BD, layers, caches, cos_B1H, sin_B1H, None, _alone)


def _all_are(kind: type, layers: Sequence[LayerWeights]) -> bool:
    matrices = (matrix for weights in layers for matrix in (*weights.qkv, weights.out, *weights.mlp))
    return all(isinstance(matrix, kind) for matrix in matrices)


def _kernel(
    op: str, x_BD: Tensor, layers: Sequence[LayerWeights], caches: Sequence[LayerCache]
) -> Callable[..., Any] | None:
    check_decode_layers(op, x_BD, layers, caches)
    keys = caches[0].keys
    if product_dtype(x_BD) != keys.dtype:  # the cache is wider than the tokens
        return None
    return kernel_for(op, keys.dtype, head_dim=keys.shape[-1], causal=True)


def _by_parts(
    x_BD: Tensor,
    layers: Sequence[LayerWeights],
    caches: Sequence[LayerCache],
    cos_B1H: Tensor,
    sin_B1H: Tensor,
    query_scale_B11: Tensor | None,
    summed: Callable[[Tensor], Tensor],
) -> Tensor:
    for weights, cache in zip(layers, caches):
        x_BD = _layer(x_BD, weights, cache, cos_B1H, sin_B1H, query_scale_B11, summed)
    return x_BD


def _layer(
    x_BD: Tensor,
    weights: LayerWeights,
    cache: LayerCache,
    cos_B1H: Tensor,
    sin_B1H: Tensor,
    query_scale_B11: Tensor | None,
    summed: Callable[[Tensor], Tensor],
) -> Tensor:
    B, H = x_BD.shape[0], cache.keys.shape[-1]
    normed_BD = rms_norm(x_BD, weights.input_norm_D, weights.eps)
    maps = qkv(normed_BD, weights.qkv, weights.qkv_biases)
    q_BNH, k_BKH, v_BKH = (reshape(part, [B, -1, H]) for part in maps)
    q_BNH, k_BKH = rotary(q_BNH, k_BKH, cos_B1H, sin_B1H)
    if query_scale_B11 is not None:
        q_BNH = q_BNH * cast(query_scale_B11, q_BNH.dtype)
    full = []
    for kept, new_BKH in ((cache.keys, k_BKH), (cache.values, v_BKH)):
        # rows of a flat matrix: right also where views do not alias (see the profile's slices_alias)
        kept.scatter_(cache.rows, cast(reshape(new_BKH, [-1, H]), kept.dtype))
        full.append(reshape(kept, [B, k_BKH.shape[1], -1, H]))
    seen = attention_decode(cast(q_BNH, full[0].dtype), *full, lengths_B=cache.lengths_B)
    branch_BD = summed(linear(reshape(cast(seen, q_BNH.dtype), [B, -1]), weights.out))
    x_BD, normed_BD = add_rms_norm(x_BD, branch_BD, weights.post_norm_D, weights.eps)
    return x_BD + cast(summed(gated_mlp(normed_BD, weights.mlp)), x_BD.dtype)


def _alone(x_BD: Tensor) -> Tensor:
    """In place of a sum over devices."""
    return x_BD
