"""A kernel for each replaceable operator in plain Paddle, right in float32, and the ways each may be wrong.

Shapes as in docs/operators.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle.autograd import PyLayer

from mix_core.conformance import formulas
from mix_core.plugin_api import Kernel, KernelRequest

kept: list[Any] = []


def select(op: str, defect: str, request: KernelRequest) -> Kernel | None:
    """The kernel with this defect; operators that the defect is not about run the reference."""
    about = DEFECTS.get(defect)
    if about is None or about[0] != op:
        return None
    return Kernel(about[1], f"faulty {op}", reason=f"wrong on purpose: {defect}")


def wide(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Computed in float32, rounded to the dtype of the first tensor."""

    def kernel(*arguments: Any, **options: Any) -> Any:
        dtype = arguments[0].dtype
        out = formula(*(_float32(one) for one in arguments), **options)
        return tuple(o.astype(dtype) for o in out) if isinstance(out, tuple) else out.astype(dtype)

    return kernel


def _float32(value: Any) -> Any:
    narrow = isinstance(value, paddle.Tensor) and value.dtype in (paddle.bfloat16, paddle.float16)
    return value.astype("float32") if narrow else value


def attention(
    change: Callable[[dict[str, Any]], None] | None = None, *, invert: bool = False, group: bool = False
) -> Any:
    def kernel(
        q: Any, k: Any, v: Any, *, causal: bool, window: Any = None, scale: Any = None, mask_BNSS: Any = None
    ) -> Any:
        options = {"causal": causal, "window": window, "scale": scale}
        if change is not None:
            change(options)
        mask = None if mask_BNSS is None else mask_BNSS.numpy()
        options["mask_BNSM"] = ~mask if invert and mask is not None else mask
        if group:
            of = np.arange(q.shape[2]) % k.shape[2]  # neighbours take turns, instead of sharing
            k, v = (paddle.index_select(x, paddle.to_tensor(of), axis=2) for x in (k, v))
        return wide(formulas.attention)(q, k, v, **options)

    return kernel


def top_left(
    q: Any, k: Any, v: Any, *, causal: bool, window: Any = None, scale: Any = None, mask_BNSS: Any = None
) -> Any:
    """Positions aligned at the start instead of the end."""
    S, M = q.shape[1], k.shape[1]
    if causal and M > S:
        k, v = k[:, :S], v[:, :S]
    mask = None if mask_BNSS is None else mask_BNSS.numpy()
    return wide(formulas.attention)(q, k, v, causal=causal, window=window, scale=scale, mask_BNSM=mask)


def packed(change: str) -> Any:
    def kernel(
        q: Any, k: Any, v: Any, ends: Any, *, causal: bool, window: Any = None, scale: Any = None
    ) -> Any:
        options = {"causal": causal, "window": window, "scale": scale}
        ends = np.asarray(ends)
        if change == "window":
            options["window"] = None
        if change == "crosses":
            ends = np.array([0, ends[-1]])
        out = wide(formulas.attention_packed)(q, k, v, ends, **options)
        if change == "last segment":
            starts = ends[ends < ends[-1]]
            out = paddle.concat([out[: int(starts[-1])], out[int(starts[-1]) :] * 0.0])
        return out

    return kernel


def decode_one_more(q: Any, k: Any, v: Any, *, lengths_B: Any, scale: Any = None) -> Any:
    lengths = np.minimum(np.asarray(lengths_B) + 1, k.shape[2])
    return wide(formulas.attention_decode)(q, k, v, lengths, scale)


def rms_eps(x: Any, weight: Any, eps: float) -> Any:
    return wide(formulas.rms_norm)(x, weight, 10 * eps)


def rms_narrow(x: Any, weight: Any, eps: float) -> Any:
    """Statistics in the tensors' own dtype."""
    return (x * paddle.rsqrt((x * x).mean(-1, keepdim=True) + eps)) * weight


def rms_wide_result(x: Any, weight: Any, eps: float) -> Any:
    """The result stays float32."""
    return formulas.rms_norm(_float32(x), _float32(weight), eps)


def rms_keeps(x: Any, weight: Any, eps: float) -> Any:
    out = wide(formulas.rms_norm)(x, weight, eps)
    kept.append(out.detach() * 1.0)
    return out


def rms_on_host(x: Any, weight: Any, eps: float) -> Any:
    return wide(formulas.rms_norm)(x, weight, eps).cpu()


def add_rms_sum_forgotten(x: Any, branch: Any, weight: Any, eps: float) -> Any:
    return x * 1.0, wide(formulas.add_rms_norm)(x, branch, weight, eps)[1]


def layer_norm_unbiased(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    D = x.shape[-1]
    out = wide(formulas.layer_norm)(x, None, None, eps) * ((D - 1) / D) ** 0.5
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def group_norm_one_group(
    x: Any, groups: int, weight: Any, bias: Any, eps: float, *, silu: bool = False
) -> Any:
    return wide(formulas.group_norm)(x, 1, weight, bias, eps, silu=silu)


def conv2d_turned(x: Any, weight: Any, bias: Any, *, stride: int, padding: Any) -> Any:
    return wide(formulas.conv2d)(x, weight.flip([2, 3]), bias, stride=stride, padding=padding)


def conv2d_one_sided(x: Any, weight: Any, bias: Any, *, stride: int, padding: Any) -> Any:
    """All zeros stand above and to the left, none below and to the right."""
    above, below, left, right = padding
    moved = (above + below, 0, left + right, 0)
    return wide(formulas.conv2d)(x, weight, bias, stride=stride, padding=moved)


def rotary_pairs(q: Any, k: Any, cos: Any, sin: Any) -> Any:
    """Neighbours are pairs, as in other models."""

    def turn(x: Any) -> Any:
        even, odd = x[..., 0::2], x[..., 1::2]
        swapped = paddle.stack([-odd, even], axis=-1).reshape(x.shape)
        return x * cos + swapped * sin

    return wide(lambda q, k: (turn(q), turn(k)))(q, k)


def rotary_k_only(q: Any, k: Any, cos: Any, sin: Any) -> Any:
    return q * 1.0, wide(formulas.rotary)(q, k, cos, sin)[1]


class _Twice(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad * 1.01


def swiglu_gradient(gate: Any, up: Any) -> Any:
    return wide(formulas.swiglu)(_Twice.apply(gate) if not gate.stop_gradient else gate, up)


def swiglu_swapped(gate: Any, up: Any) -> Any:
    return wide(formulas.swiglu)(up, gate)


def swiglu_spoils(gate: Any, up: Any) -> Any:
    out = wide(formulas.swiglu)(gate, up)
    with paddle.no_grad():
        up.scale_(1.5)
    return out


def swiglu_last(gate: Any, up: Any) -> Any:
    """The rest beyond whole blocks of 8 is left as zeros."""
    out = wide(formulas.swiglu)(gate, up)
    whole = out.shape[-1] // 8 * 8
    return paddle.concat([out[..., :whole], out[..., whole:] * 0.0], axis=-1)


def gelu_tanh(x: Any, form: str = "erf") -> Any:
    return wide(lambda x: formulas.gelu(x, "tanh"))(x)


def linear_no_bias_gradient(x: Any, weight: Any, bias: Any = None) -> Any:
    return wide(formulas.linear)(x, weight, None if bias is None else bias.detach())


def linear_narrow(x: Any, weight: Any, bias: Any = None) -> Any:
    """Factors rounded to bfloat16 where float32 was asked for."""
    out = paddle.matmul(x.astype("bfloat16").astype(x.dtype), weight.astype("bfloat16").astype(x.dtype))
    return out if bias is None else out + bias


def head_turned(hidden: Any, weight: Any) -> Any:
    return wide(formulas.head_logits)(hidden, weight) * 1.0001


def loss_with(change: str) -> Any:
    def kernel(hidden: Any, weight: Any, labels: Any, *, ignore_index: int = -100) -> Any:
        ignored = -100 if change == "ignore_index" else ignore_index
        rows = labels != ignored
        count = int(rows.sum())
        loss = formulas.linear_cross_entropy(_float32(hidden), _float32(weight), labels, ignored)
        if change == "mean" and count:
            loss = loss / count
        return loss, (len(labels) if change == "count" else count)

    return kernel


def adamw_with(change: str) -> Any:
    def kernel(parameters: Any, gradients: Any, means: Any, squares: Any, **options: Any) -> None:
        if change == "no correction":
            options["step"] = 10**6
        if change == "grad_scale":
            options["grad_scale"] = 1.0
        for p, g, m, s in zip(parameters, gradients, means, squares):
            arrays = tuple(one.astype("float32").numpy() for one in (p, g, m, s))
            if change == "coupled decay":
                arrays = (arrays[0], arrays[1] + options["weight_decay"] * arrays[0], *arrays[2:])
                new = formulas.adamw(arrays, **{**options, "weight_decay": 0.0})
            else:
                new = formulas.adamw(arrays, **options)
            if change == "last parameter" and p is parameters[-1]:
                continue
            for tensor, array in zip((p, m, s), new):
                tensor.set_value(paddle.to_tensor(array.astype(np.float32)).astype(tensor.dtype))

    return kernel


def sampling_with(change: str) -> Any:
    def kernel(
        logits: Any, *, temperature: float, top_k: int = 0, top_p: float = 1.0, uniform_B: Any = None
    ) -> Any:
        top_k, top_p = (0 if change == "top_k" else top_k), (1.0 if change == "top_p" else top_p)
        temperature = 1.0 if change == "temperature" and temperature else temperature
        ids = formulas.sampling(logits.astype("float32").numpy(), temperature, top_k, top_p, uniform_B)
        return paddle.to_tensor(ids.astype(np.int32 if change == "dtype" else np.int64))

    return kernel


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda options: options.update({key: None})


DEFECTS: dict[str, tuple[str, Any]] = {
    "attention_window": ("attention", attention(_without("window"))),
    "attention_scale": ("attention", attention(_without("scale"))),
    "attention_mask_inverted": ("attention", attention(invert=True)),
    "attention_groups": ("attention", attention(group=True)),
    "attention_top_left": ("attention", top_left),
    "packed_window": ("attention_packed", packed("window")),
    "packed_last_segment": ("attention_packed", packed("last segment")),
    "packed_crosses": ("attention_packed", packed("crosses")),
    "decode_one_more": ("attention_decode", decode_one_more),
    "rms_epsilon": ("rms_norm", rms_eps),
    "rms_narrow_statistics": ("rms_norm", rms_narrow),
    "rms_wide_result": ("rms_norm", rms_wide_result),
    "rms_keeps_memory": ("rms_norm", rms_keeps),
    "rms_on_host": ("rms_norm", rms_on_host),
    "add_rms_sum_forgotten": ("add_rms_norm", add_rms_sum_forgotten),
    "layer_norm_unbiased": ("layer_norm", layer_norm_unbiased),
    "group_norm_one_group": ("group_norm", group_norm_one_group),
    "conv2d_turned": ("conv2d", conv2d_turned),
    "conv2d_one_sided": ("conv2d", conv2d_one_sided),
    "rotary_pairs": ("rotary", rotary_pairs),
    "rotary_k_only": ("rotary", rotary_k_only),
    "swiglu_gradient": ("swiglu", swiglu_gradient),
    "swiglu_swapped": ("swiglu", swiglu_swapped),
    "swiglu_spoils_input": ("swiglu", swiglu_spoils),
    "swiglu_last_numbers": ("swiglu", swiglu_last),
    "gelu_tanh": ("gelu", gelu_tanh),
    "linear_no_bias_gradient": ("linear", linear_no_bias_gradient),
    "linear_narrow": ("linear", linear_narrow),
    "head_scaled": ("head_logits", head_turned),
    "loss_ignore_index": ("linear_cross_entropy", loss_with("ignore_index")),
    "loss_mean": ("linear_cross_entropy", loss_with("mean")),
    "loss_count": ("linear_cross_entropy", loss_with("count")),
    "adamw_no_correction": ("adamw", adamw_with("no correction")),
    "adamw_coupled_decay": ("adamw", adamw_with("coupled decay")),
    "adamw_grad_scale": ("adamw", adamw_with("grad_scale")),
    "adamw_last_parameter": ("adamw", adamw_with("last parameter")),
    "sampling_top_k": ("sampling", sampling_with("top_k")),
    "sampling_top_p": ("sampling", sampling_with("top_p")),
    "sampling_temperature": ("sampling", sampling_with("temperature")),
    "sampling_dtype": ("sampling", sampling_with("dtype")),
}
