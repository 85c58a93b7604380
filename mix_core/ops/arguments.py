"""Refusing what an operator cannot serve, before a kernel or the reference sees it: the same words for both.

Each check raises ValueError with the operator, the argument, what was got and what was expected. They look at
shapes, dtypes and host values only. They run at every call, so texts are made only where something is wrong.

Shapes: B batch, S queries, M keys, T packed tokens, N query heads, K key/value heads (K divides N),
H head dim, C cache slots or channels, I and O features, D model dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NoReturn

import numpy as np
import paddle
from paddle import Tensor

FLOATING = (paddle.float32, paddle.bfloat16, paddle.float16, paddle.float64)


def refuse(op: str, argument: str, got: object, expected: str) -> NoReturn:
    raise ValueError(f"{op}: {argument} is {got}, expected {expected}")


def _one_dtype(op: str, first: str, tensor: Tensor, **others: Tensor | None) -> None:
    dtype = tensor.dtype
    for name, other in others.items():
        # one object in nearly every call; to compare two of them costs as much as the rest of a check
        if other is not None and other.dtype is not dtype and other.dtype != dtype:
            refuse(op, f"the dtype of {name}", _plain(other.dtype), f"{_plain(dtype)} as {first} has")


def _plain(dtype: object) -> str:
    return str(dtype).removeprefix("paddle.")


def _refuse_shape(op: str, name: str, got: Sequence[int], expected: str) -> NoReturn:
    refuse(op, f"the shape of {name}", list(got), expected)


def _heads(op: str, N: int, K: int, H: int, of_k: int) -> None:
    if K == 0 or N % K != 0:
        raise ValueError(f"{op}: q has {N} heads and k has {K}, expected a multiple of k's")
    if of_k != H:
        raise ValueError(f"{op}: q has the head dim {H} and k has {of_k}, expected one head dim")


def _window(op: str, window: int | None) -> None:
    if window is not None and window < 1:
        refuse(op, "window", window, "None or at least 1")


def check_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None, mask: Tensor | None) -> None:
    op = "attention"
    of_q, of_k, of_v = q.shape, k.shape, v.shape
    if len(of_q) != 4:
        _refuse_shape(op, "q", of_q, "4 axes (B, S, N, H)")
    if len(of_k) != 4 or of_k[0] != of_q[0]:
        _refuse_shape(op, "k", of_k, f"4 axes (B, M, K, H) with B = {of_q[0]}")
    if of_v != of_k:
        _refuse_shape(op, "v", of_v, f"{list(of_k)} as k has")
    _heads(op, of_q[2], of_k[2], of_q[3], of_k[3])
    _one_dtype(op, "q", q, k=k, v=v)
    _window(op, window)
    if mask is None:
        return
    B, S, N, _ = of_q
    sizes = [[B, heads, S, of_k[1]] for heads in (1, N)]
    if mask.shape not in sizes:
        _refuse_shape(op, "mask", mask.shape, f"{sizes[0]} or {sizes[1]}")
    if mask.dtype != paddle.bool:
        refuse(op, "the dtype of mask", _plain(mask.dtype), "bool (True = attend)")


def check_packed(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: np.ndarray, window: int | None) -> None:
    op = "attention_packed"
    of_q, of_k, of_v = q.shape, k.shape, v.shape
    if len(of_q) != 3:
        _refuse_shape(op, "q", of_q, "3 axes (T, N, H)")
    if len(of_k) != 3 or of_k[0] != of_q[0]:
        _refuse_shape(op, "k", of_k, f"3 axes (T, K, H) with T = {of_q[0]}")
    if of_v != of_k:
        _refuse_shape(op, "v", of_v, f"{list(of_k)} as k has")
    _heads(op, of_q[1], of_k[1], of_q[2], of_k[2])
    _one_dtype(op, "q", q, k=k, v=v)
    _window(op, window)
    _host_integers(op, "cu_seqlens", cu_seqlens)
    _check_ends(cu_seqlens.tobytes(), cu_seqlens.dtype.str, of_q[0])


def _host_integers(op: str, name: str, values: np.ndarray) -> None:
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
        known = isinstance(values, np.ndarray)
        got = f"{values.dtype} with {values.ndim} axes" if known else type(values).__name__
        refuse(op, name, got, "a numpy array of integers with 1 axis")


@lru_cache(maxsize=256)
def _check_ends(numbers: bytes, dtype: str, T: int) -> None:
    ends = np.frombuffer(numbers, dtype).astype(np.int64)
    op, name = "attention_packed", "cu_seqlens"
    if len(ends) < 2 or ends[0] != 0:
        refuse(op, f"the start of {name}", ends[:2].tolist(), "0 and an end for each segment")
    if ends[-1] != T:
        refuse(op, f"the end of {name}", int(ends[-1]), f"{T}, the number of packed tokens of q")
    falls = np.flatnonzero(np.diff(ends) < 0)
    if len(falls):
        at = int(falls[0])
        refuse(op, name, f"falling from {ends[at]} to {ends[at + 1]} at {at + 1}", "numbers that do not fall")


def check_decode(q: Tensor, k: Tensor, v: Tensor, lengths_B: np.ndarray) -> None:
    op = "attention_decode"
    of_q, of_k, of_v = q.shape, k.shape, v.shape
    if len(of_q) != 3:
        _refuse_shape(op, "q", of_q, "3 axes (B, N, H)")
    if len(of_k) != 4 or of_k[0] != of_q[0]:
        _refuse_shape(op, "k", of_k, f"4 axes (B, K, C, H) with B = {of_q[0]}")
    if of_v != of_k:
        _refuse_shape(op, "v", of_v, f"{list(of_k)} as k has")
    _heads(op, of_q[1], of_k[1], of_q[2], of_k[3])
    _one_dtype(op, "q", q, k=k, v=v)
    _host_integers(op, "lengths_B", lengths_B)
    _check_lengths(op, lengths_B.tobytes(), lengths_B.dtype.str, of_q[0], of_k[2])


@lru_cache(maxsize=8)
def _check_lengths(op: str, numbers: bytes, dtype: str, B: int, C: int) -> None:
    lengths = np.frombuffer(numbers, dtype).astype(np.int64)
    if len(lengths) != B:
        refuse(op, "lengths_B", f"{len(lengths)} numbers", f"{B}, one a row")
    wrong = lengths[(lengths < 1) | (lengths > C)]
    if len(wrong):
        refuse(op, "a length in lengths_B", int(wrong[0]), f"1 to {C}, the slots of the cache")


def check_rms_norm(x: Tensor, weight: Tensor) -> None:
    of_x = x.shape
    if not of_x or weight.shape != of_x[-1:]:
        _refuse_vectors("rms_norm", "last axis", of_x, 1, weight=weight)


def check_add_rms_norm(x: Tensor, branch: Tensor, weight: Tensor) -> None:
    of_x, of_branch = x.shape, branch.shape
    if of_branch != of_x:
        _refuse_shape("add_rms_norm", "branch", of_branch, f"{list(of_x)} as x has")
    if not of_x or weight.shape != of_x[-1:]:
        _refuse_vectors("add_rms_norm", "last axis", of_x, 1, weight=weight)


def check_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    of_x = x.shape
    length = of_x[-1:]
    fits = (weight is None or weight.shape == length) and (bias is None or bias.shape == length)
    if not of_x or not fits:
        _refuse_vectors("layer_norm", "last axis", of_x, 1, weight=weight, bias=bias)
    if bias is not None:
        _one_dtype(
            "layer_norm", "x" if weight is None else "weight", x if weight is None else weight, bias=bias
        )


def check_group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None) -> None:
    op, of_x = "group_norm", x.shape
    length = of_x[1:2]
    fits = (weight is None or weight.shape == length) and (bias is None or bias.shape == length)
    if not length or not fits:
        _refuse_vectors(op, "channels", of_x, 2, weight=weight, bias=bias)
    if groups < 1 or length[0] % groups != 0:
        refuse(op, "groups", groups, f"a divisor of x's {length[0]} channels")
    if bias is not None:
        _one_dtype(op, "x" if weight is None else "weight", x if weight is None else weight, bias=bias)


def _refuse_vectors(op: str, axis: str, of_x: Sequence[int], axes: int, **vectors: Tensor | None) -> NoReturn:
    """Say what is wrong with x, or with the first of the vectors that is not as long as this axis of it."""
    if len(of_x) < axes:
        _refuse_shape(op, "x", of_x, "1 axis or more (..., D)" if axes == 1 else "2 axes or more (B, C, ...)")
    expected = list(of_x[-1:] if axes == 1 else of_x[1:2])
    wrong = [(k, v.shape) for k, v in vectors.items() if v is not None and list(v.shape) != expected]
    name, of_vector = wrong[0]
    _refuse_shape(op, name, of_vector, f"{expected} as x's {axis}")


def check_gelu(x: Tensor) -> None:
    if x.dtype not in FLOATING:
        refuse("gelu", "the dtype of x", _plain(x.dtype), "a floating one")


def check_geglu(x: Tensor) -> None:
    if x.dtype not in FLOATING:
        refuse("geglu", "the dtype of x", _plain(x.dtype), "a floating one")
    of_x = x.shape
    if not of_x or of_x[-1] % 2:
        _refuse_shape("geglu", "x", of_x, "an even last axis (values, then gates)")


def check_swiglu(gate: Tensor, up: Tensor) -> None:
    of_gate, of_up = gate.shape, up.shape
    if of_up != of_gate:
        _refuse_shape("swiglu", "up", of_up, f"{list(of_gate)} as gate has")
    _one_dtype("swiglu", "gate", gate, up=up)


def check_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    op, of_q, of_k = "rotary", q.shape, k.shape
    if len(of_q) < 2 or of_q[-1] % 2 != 0:
        _refuse_shape(op, "q", of_q, "(..., N, H) with H even")
    H, lead = of_q[-1], of_q[:-2]
    if len(of_k) != len(of_q) or of_k[:-2] != lead or of_k[-1] != H:
        _refuse_shape(op, "k", of_k, f"{[*lead, 'K', H]} to go with q")
    _one_dtype(op, "q", q, k=k)
    size = prod(lead) * H  # a tensor's own `size` costs more than all of this
    of_cos, of_sin = cos.shape, sin.shape
    for name, of_table in (("cos", of_cos),) if of_sin == of_cos else (("cos", of_cos), ("sin", of_sin)):
        if not of_table or of_table[-1] != H or prod(of_table) != size:
            _refuse_shape(op, name, of_table, f"{[*lead, 1, H]}: a row for each token of q")


def check_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    op, of_x, of_weight = "linear", x.shape, weight.shape
    if len(of_weight) != 2:
        _refuse_shape(op, "weight", of_weight, "2 axes (I, O)")
    if not of_x or of_x[-1] != of_weight[0]:
        _refuse_shape(op, "x", of_x, f"(..., {of_weight[0]}) to go with the weight {list(of_weight)}")
    if bias is not None and bias.shape != of_weight[1:]:
        _refuse_shape(op, "bias", bias.shape, f"[{of_weight[1]}] to go with the weight")
    _one_dtype(op, "x", x, weight=weight, bias=bias)


def check_conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: Sequence[int]) -> None:
    op, of_x, of_weight = "conv2d", x.shape, weight.shape
    if len(of_weight) != 4 or of_weight[2] != of_weight[3]:
        _refuse_shape(op, "weight", of_weight, "4 axes (O, C, K, K)")
    if len(of_x) != 4 or of_x[1] != of_weight[1]:
        _refuse_shape(op, "x", of_x, f"(B, {of_weight[1]}, H, W) to go with the weight {list(of_weight)}")
    if bias.shape not in (of_weight[:1], [of_x[0], of_weight[0]]):
        _refuse_shape(op, "bias", bias.shape, f"[{of_weight[0]}] or {[of_x[0], of_weight[0]]} (O or B, O)")
    if stride < 1:
        refuse(op, "stride", stride, "at least 1")
    if len(padding) != 4 or min(padding) < 0:
        refuse(op, "padding", list(padding), "4 numbers from 0 on: above, below, left, right")
    K, (above, below, left, right) = of_weight[2], padding
    if of_x[2] + above + below < K or of_x[3] + left + right < K:
        _refuse_shape(op, "x", of_x, f"{K} rows and columns at least, with the padding {list(padding)}")
    _one_dtype(op, "x", x, weight=weight, bias=bias)


def check_qkv(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] | None) -> None:
    for at, weight in enumerate(weights):
        _check_map("qkv", "qkv"[at], x, weight, None if biases is None else biases[at])


def check_gated_mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] | None) -> None:
    op, (gate, up, down) = "gated_mlp", weights
    gate_bias, up_bias, down_bias = biases or (None, None, None)
    _check_map(op, "gate", x, gate, gate_bias)
    if up.shape != gate.shape:
        _refuse_shape(op, "the weight of up", up.shape, f"{list(gate.shape)} as gate has")
    _check_map(op, "up", x, up, up_bias)
    of_down = down.shape
    if len(of_down) != 2 or of_down[0] != gate.shape[1]:
        _refuse_shape(op, "the weight of down", of_down, f"({gate.shape[1]}, O) to go with gate")
    if down_bias is not None and down_bias.shape != of_down[1:]:
        _refuse_shape(op, "the bias of down", down_bias.shape, f"[{of_down[1]}] to go with its weight")
    _one_dtype(op, "x", x, down=down, bias=down_bias)


def _check_map(op: str, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    of_x, of_weight = x.shape, weight.shape
    if len(of_weight) != 2:
        _refuse_shape(op, f"the weight of {name}", of_weight, "2 axes (I, O)")
    if not of_x or of_x[-1] != of_weight[0]:
        _refuse_shape(op, "x", of_x, f"(..., {of_weight[0]}) to go with {name}'s weight {list(of_weight)}")
    if bias is not None and bias.shape != of_weight[1:]:
        _refuse_shape(op, f"the bias of {name}", bias.shape, f"[{of_weight[1]}] to go with its weight")
    _one_dtype(op, "x", x, weight=weight, bias=bias)


def check_adapted_linear(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] | None, adapters: Sequence[Any]
) -> None:
    op = "adapted_linear"
    if not 1 <= len(weights) <= 3 or len(adapters) != len(weights):
        refuse(op, "weights", f"{len(weights)} with {len(adapters)} adapters", "1 to 3 and as many adapters")
    for at, (weight, adapter) in enumerate(zip(weights, adapters)):
        _check_map(op, f"map {at}", x, weight, None if biases is None else biases[at])
        check_adapter(op, weight, adapter)


def check_adapter(op: str, weight: Tensor, adapter: Any) -> None:
    """`adapter`: (down (I, R), up (R, O), scale) for a weight (I, O), or None."""
    if adapter is None:
        return
    inputs, outputs = weight.shape
    of_down, of_up = adapter[0].shape, adapter[1].shape
    if len(of_down) != 2 or of_down[0] != inputs or of_down[1] < 1:
        _refuse_shape(op, "an adapter's down", of_down, f"({inputs}, R) to go with the weight")
    if list(of_up) != [of_down[1], outputs]:
        _refuse_shape(op, "an adapter's up", of_up, f"[{of_down[1]}, {outputs}] to go with its down")
    _one_dtype(op, "an adapter's down", adapter[0], up=adapter[1], weight=weight)


def check_decode_layers(op: str, x: Tensor, layers: Sequence[Any], caches: Sequence[Any]) -> None:
    """Of all layers the number and the caches, of the first the rest: a token asks this of each layer."""
    of_x = x.shape
    if len(layers) != len(caches):
        refuse(op, "caches", f"{len(caches)} layers", f"{len(layers)}, one for each of layers")
    weights, (keys, _, lengths_B, _) = layers[0].qkv, caches[0]
    of_keys = keys.shape
    if len(of_x) != 2:
        _refuse_shape(op, "x", of_x, "2 axes (B, D)")
    q_outputs, k_outputs = _outputs(weights[0]), _outputs(weights[1])
    wanted = f"(B * K * C, H) as values have, with K * H = {k_outputs}"
    if len(of_keys) != 2 or k_outputs % of_keys[1]:
        _refuse_shape(op, "keys", of_keys, wanted)
    for cache in caches:
        if cache.keys.shape != of_keys or cache.values.shape != of_keys:
            _refuse_shape(op, "keys", cache.keys.shape, wanted + ", the same for all layers")
    _heads(op, q_outputs // of_keys[1], k_outputs // of_keys[1], of_keys[1], of_keys[1])
    slots = of_keys[0] * of_keys[1] // (of_x[0] * k_outputs)
    _host_integers(op, "lengths_B", lengths_B)
    _check_lengths(op, lengths_B.tobytes(), lengths_B.dtype.str, of_x[0], slots)


def _outputs(matrix: Any) -> int:
    """Of a matrix (I, O), or of one in 8 bits (O, I)."""
    return int(matrix.shape[-1] if isinstance(matrix, Tensor) else matrix.steps_OI.shape[0])


def check_linear_int8(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
    op, of_x, of_weight = "linear_int8", x.shape, weight.shape
    if len(of_weight) != 2:
        _refuse_shape(op, "weight", of_weight, "2 axes (O, I)")
    if weight.dtype != paddle.int8:
        refuse(op, "the dtype of weight", _plain(weight.dtype), "int8")
    if not of_x or of_x[-1] != of_weight[1]:
        _refuse_shape(op, "x", of_x, f"(..., {of_weight[1]}) to go with the weight {list(of_weight)}")
    if scale.shape != of_weight[:1]:
        _refuse_shape(op, "scale", scale.shape, f"[{of_weight[0]}], one number a row of the weight")
    if scale.dtype != paddle.float32:
        refuse(op, "the dtype of scale", _plain(scale.dtype), "float32")
    if bias is not None and bias.shape != of_weight[:1]:
        _refuse_shape(op, "bias", bias.shape, f"[{of_weight[0]}] to go with the weight")
    _one_dtype(op, "x", x, bias=bias)


def check_head_logits(hidden: Tensor, weight: Tensor) -> None:
    _check_head("head_logits", hidden.shape, weight.shape)
    _one_dtype("head_logits", "hidden", hidden, weight=weight)


def _check_head(op: str, of_hidden: Sequence[int], of_weight: Sequence[int]) -> None:
    if len(of_hidden) != 2:
        _refuse_shape(op, "hidden", of_hidden, "2 axes (T, D)")
    if len(of_weight) != 2 or of_weight[1] != of_hidden[1]:
        _refuse_shape(op, "weight", of_weight, f"(V, {of_hidden[1]}) to go with hidden {list(of_hidden)}")


def check_head_loss(hidden: Tensor, weight: Tensor, labels: np.ndarray) -> None:
    op, of_hidden = "linear_cross_entropy", hidden.shape
    _check_head(op, of_hidden, weight.shape)
    _one_dtype(op, "hidden", hidden, weight=weight)
    _host_integers(op, "labels_T", labels)
    if len(labels) != of_hidden[0]:
        refuse(op, "labels_T", f"{len(labels)} numbers", f"{of_hidden[0]}, one a row of hidden")


def check_adamw(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
) -> None:
    op, count, dtype = "adamw", len(parameters), parameters[0].dtype
    for name, tensors in (("gradients", gradients), ("means", means), ("squares", squares)):
        if len(tensors) != count:
            refuse(op, name, f"{len(tensors)} tensors", f"{count}, one a parameter")
    wide = (paddle.float32,)
    kinds = (dtype,), (dtype, paddle.float32), wide, wide
    names = ("parameters", "gradients", "means", "squares")
    for i, row in enumerate(zip(parameters, gradients, means, squares)):
        shape = row[0].shape
        for name, tensor, kind in zip(names, row, kinds):
            of_tensor = tensor.shape
            if of_tensor != shape:
                _refuse_shape(op, f"{name}[{i}]", of_tensor, f"{list(shape)} as the parameter has")
            if tensor.dtype not in kind:
                words = " or ".join(sorted({_plain(one) for one in kind}))
                refuse(op, f"the dtype of {name}[{i}]", _plain(tensor.dtype), words)
