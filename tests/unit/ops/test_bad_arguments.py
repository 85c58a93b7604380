"""What an operator refuses, with the same words whether a kernel or the reference would have run."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core import ops
from mix_core.ops.low_rank import LowRank


def x(*shape: int, dtype: str = "float32") -> paddle.Tensor:
    return paddle.ones(shape, dtype)


def ends(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def packed(q=(6, 4, 8), k=(6, 2, 8), v=(6, 2, 8), cu_seqlens=(0, 6), **more) -> None:
    cu_seqlens = ends(*cu_seqlens) if isinstance(cu_seqlens, tuple) else cu_seqlens
    ops.attention_packed(*(x(*part) for part in (q, k, v)), cu_seqlens, causal=True, **more)


def dense(q=(2, 3, 4, 8), k=(2, 5, 2, 8), v=(2, 5, 2, 8), **more) -> None:
    ops.attention(*(x(*part) for part in (q, k, v)), causal=True, **more)


def decode(q=(2, 4, 8), k=(2, 2, 5, 8), v=(2, 2, 5, 8), lengths=(1, 5)) -> None:
    ops.attention_decode(*(x(*part) for part in (q, k, v)), lengths_B=ends(*lengths))


def adamw(p=(2, 3), g=(2, 3), m=(2, 3), s=(2, 3), dtypes=("float32",) * 4, counts=(1, 1, 1, 1)) -> None:
    lists = [[x(*shape, dtype=d)] * n for shape, d, n in zip((p, g, m, s), dtypes, counts)]
    rates = dict(learning_rate=0.1, beta1=0.9, beta2=0.9, epsilon=1e-8, weight_decay=0.0)
    ops.adamw(*lists, step=1, **rates)


def head(hidden=(3, 8), weight=(7, 8), labels=(0, 6, 1)) -> None:
    ops.linear_cross_entropy(x(*hidden), x(*weight), np.array(labels))


def int8(shape=(2, 8), weight=(3, 8), scale=(3,), bias=None, dtypes=("int8", "float32", "float32")) -> None:
    others = [None if of is None else x(*of, dtype=d) for of, d in zip((weight, scale, bias), dtypes)]
    ops.linear_int8(x(*shape), *others)


def mixed(operator, *, other: int = 1, count: int = 3, shape=(2, 3, 2, 8), **more) -> None:
    tensors = [x(*shape, dtype="float64" if i == other else "float32") for i in range(count)]
    operator(*tensors, **more)


REFUSED = {
    "k's heads": (lambda: packed(k=(6, 3, 8), v=(6, 3, 8)), "q has 4 heads and k has 3"),
    "no heads of k": (lambda: packed(k=(6, 0, 8), v=(6, 0, 8)), "q has 4 heads and k has 0"),
    "head dims": (lambda: packed(k=(6, 2, 16), v=(6, 2, 16)), "q has the head dim 8 and k has 16"),
    "v unlike k": (lambda: packed(v=(5, 2, 8)), r"shape of v is \[5, 2, 8\], expected \[6, 2, 8\]"),
    "k's tokens": (lambda: packed(k=(5, 2, 8), v=(5, 2, 8)), r"of k is \[5, 2, 8\], .* with T = 6"),
    "rank": (lambda: packed(q=(1, 6, 4, 8)), r"shape of q is \[1, 6, 4, 8\], expected 3 axes"),
    "ends too early": (lambda: packed(cu_seqlens=(0, 5)), "the end of cu_seqlens is 5, expected 6"),
    "ends too late": (lambda: packed(cu_seqlens=(0, 3, 9)), "the end of cu_seqlens is 9, expected 6"),
    "begins late": (lambda: packed(cu_seqlens=(1, 6)), r"the start of cu_seqlens is \[1, 6\], expected 0"),
    "falls": (lambda: packed(cu_seqlens=(0, 5, 3, 6)), "cu_seqlens is falling from 5 to 3 at 2"),
    "below 0": (lambda: packed(cu_seqlens=(0, -4, 6)), "cu_seqlens is falling from 0 to -4 at 1"),
    "no segment": (lambda: packed(cu_seqlens=(0,)), r"the start of cu_seqlens is \[0\]"),
    "ends as floats": (
        lambda: packed(cu_seqlens=np.array([0.0, 6.0])),
        "is float64 with 1 axes",
    ),
    "ends as a list": (lambda: packed(cu_seqlens=[0, 6]), "cu_seqlens is list, expected a numpy array"),
    "window": (lambda: packed(window=0), "window is 0, expected None or at least 1"),
    "dense batch": (lambda: dense(k=(1, 5, 2, 8), v=(1, 5, 2, 8)), r"of k is \[1, 5, 2, 8\], .* with B = 2"),
    "dense heads": (lambda: dense(q=(2, 3, 5, 8)), "q has 5 heads and k has 2"),
    "dense window": (lambda: dense(window=-1), "window is -1"),
    "mask": (
        lambda: dense(mask_BNSS=x(2, 1, 3, 4, dtype="bool")),
        r"of mask is \[2, 1, 3, 4\], expected \[2, 1, 3, 5\] or \[2, 4, 3, 5\]",
    ),
    "heads of a mask": (lambda: dense(mask_BNSS=x(2, 2, 3, 5, dtype="bool")), r"of mask is \[2, 2, 3, 5\]"),
    "rank of a mask": (lambda: dense(mask_BNSS=x(3, 5, dtype="bool")), r"of mask is \[3, 5\]"),
    "mask of floats": (lambda: dense(mask_BNSS=x(2, 1, 3, 5)), "dtype of mask is float32, expected bool"),
    "dtypes": (lambda: mixed(ops.attention, causal=True), "dtype of k is float64, expected float32 as q has"),
    "decode length": (lambda: decode(lengths=(1, 6)), "a length in lengths_B is 6, expected 1 to 5"),
    "decode no length": (lambda: decode(lengths=(0, 5)), "a length in lengths_B is 0, expected 1 to 5"),
    "decode lengths": (lambda: decode(lengths=(1,)), "lengths_B is 1 numbers, expected 2"),
    "decode heads": (lambda: decode(q=(2, 3, 8)), "q has 3 heads and k has 2"),
    "decode rank": (lambda: decode(k=(2, 5, 8)), r"shape of k is \[2, 5, 8\], expected 4 axes"),
    "rms_norm": (lambda: ops.rms_norm(x(2, 8), x(7), 1e-6), r"of weight is \[7\], expected \[8\]"),
    "rms_norm of a number": (lambda: ops.rms_norm(x(), x(1), 1e-6), r"of x is \[\], expected 1 axis or more"),
    "add_rms_norm": (
        lambda: ops.add_rms_norm(x(2, 8), x(2, 8), x(7), 1e-6),
        r"add_rms_norm: the shape of weight is \[7\], expected \[8\] as x's last axis",
    ),
    "add_rms_norm branch": (
        lambda: ops.add_rms_norm(x(2, 8), x(8), x(8), 1e-6),
        r"add_rms_norm: the shape of branch is \[8\], expected \[2, 8\] as x has",
    ),
    "layer_norm": (
        lambda: ops.layer_norm(x(2, 8), x(2, 8), None, 1e-6),
        r"layer_norm: the shape of weight is \[2, 8\], expected \[8\] as x's last axis",
    ),
    "layer_norm bias": (
        lambda: ops.layer_norm(x(2, 8), x(8), x(7), 1e-6),
        r"the shape of bias is \[7\], expected \[8\]",
    ),
    "layer_norm of a number": (lambda: ops.layer_norm(x(), None, None, 1e-6), r"shape of x is \[\]"),
    "layer_norm dtypes": (
        lambda: ops.layer_norm(x(2, 8), x(8), x(8, dtype="float64"), 1e-6),
        "dtype of bias is float64, expected float32 as weight has",
    ),
    "conv2d": (
        lambda: ops.conv2d(x(1, 3, 5, 5), x(4, 2, 3, 3), x(4)),
        r"conv2d: the shape of x is \[1, 3, 5, 5\], expected \(B, 2, H, W\)",
    ),
    "conv2d kernel": (
        lambda: ops.conv2d(x(1, 3, 5, 5), x(4, 3, 3, 1), x(4)),
        r"of weight is \[4, 3, 3, 1\], expected 4 axes \(O, C, K, K\)",
    ),
    "conv2d bias": (
        lambda: ops.conv2d(x(1, 3, 5, 5), x(4, 3, 3, 3), x(3)),
        r"of bias is \[3\], expected \[4\] or \[1, 4\]",
    ),
    "conv2d stride": (
        lambda: ops.conv2d(x(1, 3, 5, 5), x(4, 3, 3, 3), x(4), stride=0),
        "conv2d: stride is 0, expected at least 1",
    ),
    "conv2d padding": (
        lambda: ops.conv2d(x(1, 3, 5, 5), x(4, 3, 3, 3), x(4), padding=(1, 1, -1, 0)),
        r"conv2d: padding is \[1, 1, -1, 0\], expected 4 numbers",
    ),
    "conv2d small": (
        lambda: ops.conv2d(x(1, 3, 2, 5), x(4, 3, 3, 3), x(4)),
        r"of x is \[1, 3, 2, 5\], expected 3 rows and columns at least",
    ),
    "conv2d dtypes": (
        lambda: ops.conv2d(x(1, 3, 5, 5), x(4, 3, 3, 3), x(4, dtype="float64")),
        "conv2d: the dtype of bias is float64, expected float32 as x has",
    ),
    "group_norm": (
        lambda: ops.group_norm(x(2, 8, 3), 3, None, None, 1e-6),
        "group_norm: groups is 3, expected a divisor of x's 8 channels",
    ),
    "group_norm no group": (lambda: ops.group_norm(x(2, 8), 0, None, None, 1e-6), "groups is 0"),
    "group_norm weight": (
        lambda: ops.group_norm(x(2, 8, 3), 2, x(3), None, 1e-6),
        r"the shape of weight is \[3\], expected \[8\] as x's channels",
    ),
    "group_norm bias": (lambda: ops.group_norm(x(2, 8), 2, None, x(7), 1e-6), r"of bias is \[7\]"),
    "group_norm rank": (
        lambda: ops.group_norm(x(8), 2, None, None, 1e-6),
        r"of x is \[8\], expected 2 axes or more \(B, C, ...\)",
    ),
    "group_norm dtypes": (
        lambda: ops.group_norm(x(2, 8), 2, None, x(8, dtype="float64"), 1e-6),
        "dtype of bias is float64, expected float32 as x has",
    ),
    "gelu": (lambda: ops.gelu(x(8, dtype="int64")), "gelu: the dtype of x is int64, expected a floating one"),
    "geglu": (lambda: ops.geglu(x(2, 7)), r"geglu: the shape of x is \[2, 7\], expected an even last axis"),
    "geglu dtype": (
        lambda: ops.geglu(x(2, 8, dtype="int32")),
        "geglu: the dtype of x is int32, expected a floating one",
    ),
    "head_logits": (
        lambda: ops.head_logits(x(3, 8), x(7, 9)),
        r"head_logits: the shape of weight is \[7, 9\], expected \(V, 8\) to go with hidden \[3, 8\]",
    ),
    "head_logits rank": (
        lambda: ops.head_logits(x(1, 3, 8), x(7, 8)),
        r"of hidden is \[1, 3, 8\], expected 2 axes \(T, D\)",
    ),
    "head_logits dtypes": (
        lambda: mixed(ops.head_logits, count=2, shape=(8, 8)),
        "head_logits: the dtype of weight is float64, expected float32 as hidden has",
    ),
    "swiglu": (lambda: ops.swiglu(x(2, 8), x(8)), r"shape of up is \[8\], expected \[2, 8\]"),
    "swiglu dtypes": (lambda: mixed(ops.swiglu, count=2), "dtype of up is float64, expected float32"),
    "rotary table": (
        lambda: ops.rotary(x(3, 2, 8), x(3, 1, 8), x(2, 1, 8), x(3, 1, 8)),
        r"of cos is \[2, 1, 8\], expected \[3, 1, 8\]",
    ),
    "rotary k": (lambda: ops.rotary(x(3, 2, 8), x(4, 1, 8), x(3, 1, 8), x(3, 1, 8)), r"of k is \[4, 1, 8\]"),
    "rotary odd": (lambda: ops.rotary(x(3, 2, 7), x(3, 2, 7), x(3, 1, 7), x(3, 1, 7)), "with H even"),
    "linear": (lambda: ops.linear(x(2, 8), x(7, 3)), r"of x is \[2, 8\], expected \(..., 7\)"),
    "linear rank": (lambda: ops.linear(x(2, 8), x(8)), r"of weight is \[8\], expected 2 axes"),
    "linear bias": (lambda: ops.linear(x(2, 8), x(8, 3), x(4)), r"of bias is \[4\], expected \[3\]"),
    "linear dtypes": (lambda: mixed(ops.linear, count=2, shape=(8, 8)), "dtype of weight is float64"),
    "qkv": (
        lambda: ops.qkv(x(2, 8), (x(8, 3), x(7, 3), x(8, 3))),
        r"qkv: the shape of x is \[2, 8\], expected \(..., 7\) to go with k's weight \[7, 3\]",
    ),
    "qkv bias": (
        lambda: ops.qkv(x(2, 8), (x(8, 3),) * 3, (x(3), x(3), x(4))),
        r"qkv: the shape of the bias of v is \[4\], expected \[3\]",
    ),
    "an adapter's down": (
        lambda: ops.adapted_linear(x(2, 8), (x(8, 3),), None, (LowRank(x(7, 2), x(2, 3), 1.0),)),
        r"adapted_linear: the shape of an adapter's down is \[7, 2\], expected \(8, R\)",
    ),
    "an adapter's up": (
        lambda: ops.adapted_mlp(
            x(2, 8), (x(8, 3), x(8, 3), x(3, 8)), None, (None, LowRank(x(8, 2), x(4, 3), 1.0), None)
        ),
        r"adapted_mlp: the shape of an adapter's up is \[4, 3\], expected \[2, 3\]",
    ),
    "as many adapters as maps": (
        lambda: ops.adapted_linear(x(2, 8), (x(8, 3),) * 2, None, (None,)),
        "adapted_linear: weights is 2 with 1 adapters, expected 1 to 3",
    ),
    "gated_mlp": (
        lambda: ops.gated_mlp(x(2, 8), (x(8, 3), x(8, 4), x(3, 8))),
        r"gated_mlp: the shape of the weight of up is \[8, 4\], expected \[8, 3\] as gate has",
    ),
    "gated_mlp down": (
        lambda: ops.gated_mlp(x(2, 8), (x(8, 3), x(8, 3), x(8, 3))),
        r"the weight of down is \[8, 3\], expected \(3, O\) to go with gate",
    ),
    "gated_mlp bias": (
        lambda: ops.gated_mlp(x(2, 8), (x(8, 3), x(8, 3), x(3, 8)), (x(3), x(3), x(3))),
        r"the bias of down is \[3\], expected \[8\]",
    ),
    "linear_int8": (lambda: int8(shape=(2, 7)), r"of x is \[2, 7\], expected \(..., 8\) .* \[3, 8\]"),
    "linear_int8 of a number": (lambda: int8(shape=()), r"of x is \[\], expected \(..., 8\)"),
    "linear_int8 rank": (lambda: int8(weight=(8,)), r"of weight is \[8\], expected 2 axes \(O, I\)"),
    "linear_int8 weight": (
        lambda: int8(dtypes=("float32",) * 3),
        "linear_int8: the dtype of weight is float32, expected int8",
    ),
    "linear_int8 scale": (lambda: int8(scale=(8,)), r"of scale is \[8\], expected \[3\], one number a row"),
    "linear_int8 scale's dtype": (
        lambda: int8(dtypes=("int8", "float64", "float32")),
        "dtype of scale is float64, expected float32",
    ),
    "linear_int8 bias": (lambda: int8(bias=(8,)), r"of bias is \[8\], expected \[3\]"),
    "linear_int8 dtypes": (
        lambda: int8(bias=(3,), dtypes=("int8", "float32", "float64")),
        "dtype of bias is float64, expected float32 as x has",
    ),
    "head": (lambda: head(weight=(7, 9)), r"of weight is \[7, 9\], expected \(V, 8\)"),
    "head labels": (lambda: head(labels=(0, 1)), "labels_T is 2 numbers, expected 3"),
    "adamw count": (lambda: adamw(counts=(2, 2, 1, 2)), "means is 1 tensors, expected 2"),
    "adamw shape": (lambda: adamw(g=(2, 2)), r"of gradients\[0\] is \[2, 2\], expected \[2, 3\]"),
    "adamw moments": (
        lambda: adamw(dtypes=("float32", "float32", "float16", "float32")),
        r"dtype of means\[0\] is float16, expected float32",
    ),
    "adamw gradient": (
        lambda: adamw(dtypes=("float32", "bfloat16", "float32", "float32")),
        r"dtype of gradients\[0\] is bfloat16, expected float32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, words = REFUSED[case]
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_arguments_of_the_cases_are_accepted_as_they_stand() -> None:
    for call in (packed, dense, decode, adamw, head, int8):
        call()
    for vector in (None, x(8)):
        ops.layer_norm(x(2, 8), vector, vector, 1e-6)
        ops.group_norm(x(2, 8, 3), 4, vector, vector, 1e-6)
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        ops.gelu(x(8, dtype=dtype))
        ops.geglu(x(8, dtype=dtype))
    ops.rms_norm(x(8), x(8), 1e-6)
    ops.add_rms_norm(x(2, 8), x(2, 8), x(8), 1e-6)
    ops.head_logits(x(3, 8), x(7, 8))
    ops.rotary(x(2, 3, 4, 8), x(2, 3, 1, 8), x(2, 3, 1, 8), x(2, 3, 1, 8))
