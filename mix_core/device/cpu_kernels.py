"""The CPU's kernels for replaceable operators: thin calls of the C++ operators in csrc (docs/operators.md).

Shapes: B batch, S sequence, T packed tokens, N query heads, K key/value heads, H head dim, D model dim.
All take float32. A machine that cannot build csrc runs the references, and says why once.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from mix_core.device import native_build, simulate
from mix_core.device.cpu_head_loss import linear_cross_entropy
from mix_core.device.values import Kernel, KernelRequest, NoKernel

ADAMW_SETTINGS = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "grad_scale")
GELU_FORMS = ("erf", "tanh", "quick")
"""In the order of GeluForm in csrc/ops/gelu.h."""
FEW = 1 << 15
"""Below so many numbers Paddle's one operator is done before an operator of ours has begun."""
REASON = "fused, threaded and without a transposed copy (docs/performance.md)"


def select(op: str, request: KernelRequest) -> Kernel | NoKernel:
    """The kernel for this operator, or why the reference has to run."""
    fn = _KERNELS.get(op)
    if fn is None:
        return NoKernel("csrc has no kernel for it")
    if request.dtype != "float32":
        return NoKernel(f"the kernels of csrc take float32, this is {request.dtype}")
    built = native_build.load()
    if built.library is None:
        return NoKernel(built.reason)
    if request.products == "bfloat16":
        if op == "conv2d" and request.size_class == "few channels":
            return NoKernel("its tiles would be mostly empty")
        return _narrow(op)
    return Kernel(fn, f"csrc {op}", reason=REASON)


def _narrow(op: str) -> Kernel | NoKernel:
    """The kernel that multiplies in bfloat16, where the processor does (and MIX_CPU_ISA does not hide it)."""
    library = native_build.load().kernels
    if op not in _NARROW:
        return NoKernel("csrc has no kernel for it with bfloat16 products")
    if library is None or not library.mix_has_bfloat16_products():
        why = f"instruction set {native_build.instruction_set()}"
        return NoKernel(f"this processor has no bfloat16 products, or they are hidden: {why}")
    return Kernel(partial(_KERNELS[op], narrow=True), f"csrc {op}, bfloat16 products", reason=REASON)


def _run(name: str, *arguments: Any) -> Any:
    return _run_all(name, *arguments)[0]


def _run_all(name: str, *arguments: Any) -> Any:
    return _paddle()[0](name, *arguments)


@lru_cache(maxsize=1)
def _paddle() -> tuple[Any, Any]:
    """Paddle's call of a custom operator, and its tracer: a decoded token asks a hundred times."""
    from paddle.base import core, framework

    return core.eager._run_custom_op, framework._dygraph_tracer


@lru_cache(maxsize=512)
def _segments(starts: tuple[int, ...]) -> Any:
    import paddle

    return paddle.to_tensor(np.asarray(starts, dtype=np.int32), place="cpu")


def _uniform(count: int, length: int) -> Any:
    return _segments(tuple(i * length for i in range(count + 1)))


def attention(
    q_BSNH: Any,
    k_BSKH: Any,
    v_BSKH: Any,
    *,
    causal: bool,
    window: int | None,
    scale: float | None,
    mask_BNSS: Any = None,
    narrow: bool = False,
) -> Any:
    B, S, N, H = q_BSNH.shape
    keys, K = k_BSKH.shape[1], k_BSKH.shape[2]
    scale = H**-0.5 if scale is None else scale
    if mask_BNSS is not None:
        heads = mask_BNSS.shape[1]
        mask_BNSS = mask_BNSS.expand([B, heads, S, keys]).contiguous()
    q_TNH, k_TKH, v_TKH = (
        q_BSNH.reshape([-1, N, H]),
        k_BSKH.reshape([-1, K, H]),
        v_BSKH.reshape([-1, K, H]),
    )
    of_q, of_k = _uniform(B, S), _uniform(B, keys)
    how = (causal, window or 0, float(scale), narrow)
    out = _run("mix_attention", q_TNH, k_TKH, v_TKH, of_q, of_k, mask_BNSS, *how)
    return out.reshape([B, S, N, H])


def attention_packed(
    q_TNH: Any,
    k_TKH: Any,
    v_TKH: Any,
    cu_seqlens: np.ndarray,
    *,
    causal: bool,
    window: int | None,
    scale: float | None,
    narrow: bool = False,
) -> Any:
    scale = q_TNH.shape[-1] ** -0.5 if scale is None else scale
    starts = _segments(tuple(cu_seqlens.tolist()))
    how = (causal, window or 0, float(scale), narrow)
    return _run("mix_attention", q_TNH, k_TKH, v_TKH, starts, starts, None, *how)


@lru_cache(maxsize=8)
def _lengths(lengths: tuple[int, ...]) -> Any:
    import paddle

    return paddle.to_tensor(np.asarray(lengths, dtype=np.int64), place="cpu")


def attention_decode(
    q_BNH: Any, k_BKCH: Any, v_BKCH: Any, *, lengths_B: np.ndarray, scale: float | None
) -> Any:
    scale = q_BNH.shape[-1] ** -0.5 if scale is None else scale
    lengths = _lengths(tuple(lengths_B.tolist()))  # the same for all layers of a step
    return _run("mix_attention_decode", q_BNH, k_BKCH, v_BKCH, lengths, float(scale))


def decode_layers(x_BD: Any, layers: Any, caches: Any, cos_B1H: Any, sin_B1H: Any) -> Any:
    parameters: list[Any] = []
    for norm, maps, biases, out, post_norm, mlp, _ in layers:
        parameters += [norm, *maps, out, post_norm, *mlp, *(biases or ())]
    return _through_layers(x_BD, layers, caches, cos_B1H, sin_B1H, parameters)


def decode_layers_int8(x_BD: Any, layers: Any, caches: Any, cos_B1H: Any, sin_B1H: Any) -> Any:
    parameters: list[Any] = []
    for norm, maps, biases, out, post_norm, mlp, _ in layers:
        (*to_heads, out_OI, gate_OI, up_OI, down_OI), scales = zip(*maps, out, *mlp)
        parameters += [norm, *to_heads, out_OI, post_norm, gate_OI, up_OI, down_OI, *(biases or ()), *scales]
    return _through_layers(x_BD, layers, caches, cos_B1H, sin_B1H, parameters)


def _through_layers(
    x_BD: Any, layers: Any, caches: Any, cos_B1H: Any, sin_B1H: Any, parameters: list[Any]
) -> Any:
    keys, values = ([cache[i] for cache in caches] for i in (0, 1))
    lengths = _lengths(tuple(caches[0].lengths_B.tolist()))
    how = (layers[0].qkv_biases is not None, layers[0].eps, keys[0].shape[1] ** -0.5)
    return _run("mix_decode_layers", x_BD, keys, values, lengths, cos_B1H, sin_B1H, parameters, *how)


def rms_norm(x: Any, weight_D: Any, eps: float) -> Any:
    return _run("mix_rms_norm", x, weight_D, float(eps))


def add_rms_norm(x: Any, branch: Any, weight_D: Any, eps: float) -> tuple[Any, Any]:
    total, normed, _ = _run_all("mix_add_rms_norm", x, branch, weight_D, float(eps))
    return total, normed


def layer_norm(x: Any, weight_D: Any, bias_D: Any, eps: float) -> Any:
    # Paddle's gradient of x is wrong where the weight has none of its own (3.3.1)
    right = weight_D is not None and not weight_D.stop_gradient
    if right and x.ndim > 1 and math.prod(x.shape) < FEW:
        import paddle.nn.functional as F

        return F.layer_norm(x, x.shape[-1], weight_D, bias_D, eps)
    return _run("mix_layer_norm", x, weight_D, bias_D, float(eps))


def group_norm(x: Any, groups: int, weight_C: Any, bias_C: Any, eps: float, *, silu: bool = False) -> Any:
    right = weight_C is not None  # without a weight Paddle's gradient of x is wrong (3.3.1)
    if right and math.prod(x.shape) < FEW and not silu:
        import paddle.nn.functional as F

        return F.group_norm(x, groups, eps, weight_C, bias_C)
    return _run("mix_group_norm", x, weight_C, bias_C, groups, float(eps), silu)


def gelu(x: Any, form: str) -> Any:
    if math.prod(x.shape) < FEW and form != "quick":
        import paddle.nn.functional as F

        return F.gelu(x, form == "tanh")
    return _run("mix_gelu", x, GELU_FORMS.index(form))


def geglu(x: Any) -> Any:
    return _run("mix_geglu", x)


def swiglu(gate: Any, up: Any) -> Any:
    return _run("mix_swiglu", gate, up)


def rotary(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """q (..., N, H), k (..., K, H), tables (..., 1, H) that hold one row a token."""
    return _turn(q, cos, sin), _turn(k, cos, sin)


def _turn(x: Any, cos: Any, sin: Any) -> Any:
    shape = x.shape
    if len(shape) == 3:
        return _run("mix_rotary", x, cos, sin)
    return _run("mix_rotary", x.reshape([-1, *shape[-2:]]), cos, sin).reshape(shape)


def linear(x: Any, weight_IO: Any, bias_O: Any, *, narrow: bool = False) -> Any:
    """`narrow`: both factors rounded to bfloat16, sums in float32."""
    if bias_O is None:
        return _run("mix_product", x, weight_IO, narrow, _wanted(x, weight_IO))
    return _run("mix_linear", x, weight_IO, bias_O, narrow, _wanted(x, weight_IO, bias_O))


def _wanted(*inputs: Any) -> int:
    """A bit for each input that takes a gradient."""
    return sum(1 << place for place, tensor in enumerate(inputs) if not tensor.stop_gradient)


def qkv(x: Any, weights: Any, biases: Any, *, narrow: bool = False) -> tuple[Any, Any, Any]:
    parameters = [*weights, *(biases or ())]
    q, k, v = _run_all("mix_qkv", x, parameters, narrow, _wanted(x, *parameters))
    return q, k, v


def gated_mlp(x: Any, weights: Any, biases: Any, *, narrow: bool = False) -> Any:
    parameters = [*weights, *(biases or ())]
    wanted = _wanted(x, *parameters)
    return _run("mix_gated_mlp", x, parameters, narrow, bool(wanted) and _learning(), wanted)


def adapted_linear(x: Any, weights: Any, biases: Any, adapters: Any, *, narrow: bool = False) -> Any:
    parameters, scales = _with_adapters(weights, biases, adapters)
    wanted = _wanted(x, *parameters)
    outs = _run_all("mix_adapted_linear", x, parameters, scales, biases is not None, narrow, wanted)
    return outs[: len(scales)]


def adapted_mlp(x: Any, weights: Any, biases: Any, adapters: Any, *, narrow: bool = False) -> Any:
    parameters, scales = _with_adapters(weights, biases, adapters)
    wanted = _wanted(x, *parameters)
    keeps = bool(wanted) and _learning()
    return _run("mix_adapted_mlp", x, parameters, scales, narrow, keeps, wanted)


def _with_adapters(weights: Any, biases: Any, adapters: Any) -> tuple[list[Any], list[float]]:
    """All matrices and vectors, and a scale for each map, 0 where it has no adapter (csrc/ops/adapters.h)."""
    there = [one for one in adapters if one is not None]
    parameters = [*weights, *(biases or ()), *(matrix for one in there for matrix in one[:2])]
    return parameters, [0.0 if one is None else float(one.scale) for one in adapters]


def head_logits(hidden_TD: Any, weight_VD: Any) -> Any:
    if not _learning():
        return _run("mix_output_head", hidden_TD, weight_VD)
    from paddle import _C_ops

    return _C_ops.matmul(hidden_TD, weight_VD, False, True)


def conv2d(
    x_BCHW: Any, weight: Any, bias_O: Any, *, stride: int, padding: Sequence[int], narrow: bool = False
) -> Any:
    wanted = _wanted(x_BCHW, weight, bias_O)
    return _run("mix_conv2d", x_BCHW, weight, bias_O, stride, list(padding), narrow, wanted)


def linear_int8(x: Any, weight_OI: Any, scale_O: Any, bias_O: Any, *, narrow: bool = False) -> Any:
    return _run("mix_linear_int8", x, weight_OI, scale_O, bias_O, narrow)


def _learning() -> bool:
    """Whether autograd records, at a fraction of what `paddle.is_grad_enabled` costs."""
    tracer = _paddle()[1]()
    return bool(tracer is not None and tracer._has_grad)


def _in_order(tensor: Any) -> Any:
    """The tensor, or a copy if it has strides: Paddle's `contiguous` cuts a view off from what it shows."""
    return tensor if tensor.is_contiguous() else tensor.clone()


class _AdamWSettings(ctypes.Structure):
    """MixAdamW of csrc/ops/adamw.h."""

    _fields_ = (*((name, ctypes.c_double) for name in ADAMW_SETTINGS), ("step", ctypes.c_int64))


def _addresses(tensors: Sequence[Any]) -> list[int]:
    """Where the host finds the tensors' numbers, also those of a simulated device."""
    found, device = [int(tensor.data_ptr()) for tensor in tensors], simulate.loaded()
    if device is None:
        return found
    start, size, distance, _ = device.host_view()
    return [address + distance if start <= address < start + size else address for address in found]


def adamw(
    parameters: Sequence[Any],
    gradients: Sequence[Any],
    means: Sequence[Any],
    squares: Sequence[Any],
    *,
    step: int,
    **settings: float,
) -> None:
    """Update all tensors in place in one call; `settings` are those of ADAMW_SETTINGS."""
    count = len(parameters)
    changed = (parameters, means, squares)
    parameters, gradients, means, squares = (
        [_in_order(tensor) for tensor in tensors] for tensors in (parameters, gradients, means, squares)
    )
    pointers = [
        (ctypes.c_void_p * count)(*_addresses(tensors)) for tensors in (parameters, gradients, means, squares)
    ]
    sizes = (ctypes.c_int64 * count)(*(math.prod(tensor.shape) for tensor in parameters))
    update = _AdamWSettings(**settings, step=step)
    library = native_build.load().kernels
    assert library is not None, "select() offers this kernel only where it was built"
    library.mix_adamw(ctypes.byref(update), ctypes.c_int64(count), sizes, *pointers)
    for views, dense in zip(changed, (parameters, means, squares)):
        for view, tensor in zip(views, dense):
            if tensor is not view:
                view.copy_(tensor, True)


_NARROW = frozenset(
    {"adapted_linear", "adapted_mlp", "attention", "attention_packed", "conv2d", "gated_mlp", "linear"}
    | {"linear_cross_entropy", "linear_int8", "qkv"}
)
_KERNELS: dict[str, Callable[..., Any]] = {
    "adamw": adamw,
    "adapted_linear": adapted_linear,
    "adapted_mlp": adapted_mlp,
    "add_rms_norm": add_rms_norm,
    "attention": attention,
    "attention_decode": attention_decode,
    "attention_packed": attention_packed,
    "conv2d": conv2d,
    "decode_layers": decode_layers,
    "decode_layers_int8": decode_layers_int8,
    "gated_mlp": gated_mlp,
    "geglu": geglu,
    "gelu": gelu,
    "group_norm": group_norm,
    "head_logits": head_logits,
    "layer_norm": layer_norm,
    "linear": linear,
    "linear_cross_entropy": linear_cross_entropy,
    "linear_int8": linear_int8,
    "qkv": qkv,
    "rms_norm": rms_norm,
    "rotary": rotary,
    "swiglu": swiglu,
}
