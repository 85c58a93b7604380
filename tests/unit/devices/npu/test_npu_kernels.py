"""The vendor's operators are called exactly as they were published, and give what docs/operators.md asks.

`Recorder` stands in for the library: it notes every call and computes what the vendor's source computes,
with its peculiarities (backends/npu/custom_op in PaddleCustomDevice, October 2024).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from mix_device_npu.kernels import AscendKernels, count_arguments, swiglu
from mix_device_npu.profile import PROFILE

from mix_core import ops
from mix_core.plugin_api import DeviceError, KernelRequest
from mix_device_npu import attention

NAMES = {
    9: "q k v seed mask dropout causal return_softmax is_test",
    10: "q k v seed mask dropout causal return_softmax is_test triangle",
    13: "q k v seed mask q_ends k_ends dropout causal return_softmax is_test triangle varlen",
}


class Recorder:
    """The library of one wheel: `form` is the number of arguments of its flash_attention_npu."""

    def __init__(self, form: int = 10) -> None:
        self.form, self.calls = form, []

    def count(self, name: str) -> int:
        return {"flash_attention_npu": self.form, "rms_norm_npu": 3, "fused_rope": 3}[name]

    def __call__(self, name: str, *arguments: Any) -> list[Any]:
        self.calls.append((name, arguments))
        return getattr(self, name)(*arguments)

    def named(self, index: int = 0) -> dict[str, Any]:
        """The arguments of one attention call by what they mean."""
        name, arguments = self.calls[index]
        assert name == "flash_attention_npu" and len(arguments) == self.form
        return dict(zip(NAMES[self.form].split(), arguments))

    def flash_attention_npu(self, *arguments: Any) -> list[Any]:
        given = dict(zip(NAMES[self.form].split(), arguments))
        q, k, v = given["q"], given["k"], given["v"]
        if given.get("varlen"):
            assert q.ndim == 3 and given["q_ends"] == given["k_ends"] and not given["causal"]
            starts = [0, *given["q_ends"][:-1]]
            parts = [
                self.dense(q[a:b].unsqueeze(0), k[a:b].unsqueeze(0), v[a:b].unsqueeze(0), None, False, False)
                for a, b in zip(starts, given["q_ends"])
            ]
            return [paddle.concat(parts, axis=1)[0]]
        assert q.ndim == 4 and not given.get("q_ends") and not given.get("k_ends")
        return [self.dense(q, k, v, given["mask"], given["causal"], given.get("triangle", False))]

    @staticmethod
    def dense(q: Any, k: Any, v: Any, mask: Any, causal: bool, triangle: bool) -> Any:
        S, M, N, H = q.shape[1], k.shape[1], q.shape[2], q.shape[3]
        if causal:  # the operator's own square mask; the user's is dropped
            hidden = paddle.to_tensor(~np.tril(np.ones((S, S), bool)))
        else:
            hidden = mask
            assert mask is None or (mask.dtype == paddle.bool and mask.shape[-2:] == [S, M])
        if hidden is not None and (
            causal or triangle
        ):  # next tokens 0: later keys are hidden whatever the mask
            hidden = hidden | paddle.to_tensor(np.arange(M)[None] > np.arange(S)[:, None])
        k, v = (paddle.repeat_interleave(x, N // x.shape[2], axis=2) for x in (k, v))
        scores = paddle.einsum("bsnh,bmnh->bnsm", q, k) * H**-0.5
        if hidden is not None:
            scores = paddle.where(hidden.broadcast_to(scores.shape), paddle.full([], -1e30), scores)
        return paddle.einsum("bnsm,bmnh->bsnh", paddle.nn.functional.softmax(scores), v)

    @staticmethod
    def rms_norm_npu(x: Any, gamma: Any, epsilon: float) -> list[Any]:
        rstd = paddle.rsqrt((x * x).mean(-1, keepdim=True) + epsilon)
        return [x * rstd * gamma, rstd]

    @staticmethod
    def fused_rope(x: Any, cos: Any, sin: Any) -> list[Any]:
        assert x.ndim == 4 and cos.shape == sin.shape == [1, x.shape[1], 1, x.shape[3]]
        assert x.shape[3] % 64 == 0 and cos.dtype == x.dtype
        first, second = paddle.chunk(x, 2, axis=-1)
        return [x * cos + paddle.concat([-second, first], axis=-1) * sin]


def request(**fields: Any) -> KernelRequest:
    return KernelRequest(**{"dtype": "bfloat16", "head_dim": 64} | fields)


def tensor(*shape: int, seed: int = 0) -> Any:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def close(got: Any, want: Any) -> bool:
    return float((got - want).norm() / want.norm()) < 1e-5


def dense(library: Recorder, causal: bool = False, training: bool = False) -> Any:
    kernel = AscendKernels(library, library.count).select(
        "attention", request(causal=causal, training=training)
    )
    assert kernel is not None and kernel.needs_silicon and "not run on hardware" in kernel.reason
    return kernel.fn


@pytest.fixture
def qkv() -> tuple[Any, Any, Any]:
    """(B, S, N, H) and (B, S, K, H): 4 query heads share 2 key/value heads."""
    return tensor(2, 5, 4, 16, seed=1), tensor(2, 5, 2, 16, seed=2), tensor(2, 5, 2, 16, seed=3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", attention.FORMS)
def test_each_published_form_is_called_exactly(form: int, training: bool, qkv):
    q, k, v = qkv
    library = Recorder(form)
    out = dense(library, causal=True, training=training)(
        q, k, v, causal=True, window=None, scale=None, mask_BNSS=None
    )
    ((name, arguments),) = library.calls
    assert name == "flash_attention_npu"
    assert arguments[:3] == (q, k, v)
    tail = {
        9: (None, None, 0.0, True, False, not training),
        10: (None, None, 0.0, True, False, not training, False),
        13: (None, None, [], [], 0.0, True, False, not training, False, False),
    }[form]
    assert arguments[3:] == tail
    assert [type(value) for value in arguments[3:]] == [type(value) for value in tail]
    assert close(out, ops.attention(q, k, v, causal=True))


@pytest.mark.parametrize("form", attention.FORMS)
@pytest.mark.parametrize(
    ("causal", "window", "masked", "scale"),
    [
        (False, None, False, None),
        (False, None, True, None),  # trap a: with is_triangle_upper_mask later keys would be hidden
        (True, None, True, None),  # the operator's causal would drop the mask
        (True, 3, False, None),
        (False, 2, True, None),
        (True, None, False, 0.5),  # trap b: the operator has one scale
        (False, 2, True, 0.03),
    ],
)
def test_attention_is_that_of_the_contract(form, causal, window, masked, scale, qkv):
    q, k, v = qkv
    mask = paddle.to_tensor(np.random.default_rng(4).random((2, 1, 5, 5)) < 0.6) if masked else None
    if masked:
        mask = mask | paddle.eye(5).astype("bool")  # every query sees something
    library = Recorder(form)
    fn = dense(library, causal)
    arguments = dict(causal=causal, window=window, scale=scale, mask_BNSS=mask)
    assert close(fn(q, k, v, **arguments), ops.attention(q, k, v, **arguments))
    given = library.named()
    assert given["dropout"] == 0.0 and not given.get("triangle", False)
    assert not (given["causal"] and given["mask"] is not None)
    if masked and window is None and not causal:
        assert np.array_equal(given["mask"].numpy(), ~mask.numpy()), "True means hidden there"


def test_fewer_queries_than_keys_stand_at_the_end(qkv):
    q, k, v = qkv
    library = Recorder()
    out = dense(library, causal=True)(q[:, :2], k, v, causal=True, window=None, scale=None, mask_BNSS=None)
    assert close(out, ops.attention(q[:, :2], k, v, causal=True))
    given = library.named()
    assert given["causal"] is False and given["mask"].shape == [2, 5]


def test_the_default_scale_leaves_q_alone(qkv):
    q, k, v = qkv
    library = Recorder()
    dense(library)(q, k, v, causal=False, window=None, scale=16**-0.5, mask_BNSS=None)
    assert library.named()["q"] is q


def test_rows_beyond_the_operator_s_reach_are_refused():
    q = paddle.zeros([1, attention.REACH + 1, 1, 16])
    with pytest.raises(DeviceError, match=r"sees 65536 tokens.*65537.*--kernels reference"):
        dense(Recorder())(q, q, q, causal=True, window=None, scale=None, mask_BNSS=None)


STARTS = np.array([0, 3, 3, 7, 11, 12], np.int32)  # segments of 3, 0, 4, 4 and 1 tokens


@pytest.mark.parametrize("form", attention.FORMS)
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 2), (True, 3)])
def test_packed_attention_is_that_of_the_contract(form: int, causal: bool, window: int | None):
    q, k, v = tensor(12, 4, 16, seed=1), tensor(12, 2, 16, seed=2), tensor(12, 2, 16, seed=3)
    library = Recorder(form)
    wanted = request(causal=causal, windowed=window is not None, packed=True)
    kernel = AscendKernels(library, library.count).select("attention_packed", wanted)
    out = kernel.fn(q, k, v, STARTS, causal=causal, window=window, scale=0.2)
    assert close(out, ops.attention_packed(q, k, v, STARTS, causal=causal, window=window, scale=0.2))
    if form == 13 and not causal and window is None:
        given = library.named()
        assert (given["q_ends"], given["k_ends"], given["varlen"]) == ([3, 7, 11, 12], [3, 7, 11, 12], True)
        assert all(type(end) is int for end in given["q_ends"]) and "by the segments' ends" in kernel.reason
    else:
        assert [library.named(i)["q"].shape[:2] for i in range(3)] == [[1, 3], [2, 4], [1, 1]]
        assert len(library.calls) == 3 and "segment by segment" in kernel.reason


def test_gradients_flow_through_the_call(qkv):
    leaves = [x.detach() for x in qkv]
    for leaf in leaves:
        leaf.stop_gradient = False
    arguments = dict(causal=True, window=None, scale=0.3)
    out = dense(Recorder(), True, True)(*leaves, mask_BNSS=None, **arguments)
    got = paddle.grad((out * out).sum(), leaves)
    want = paddle.grad((ops.attention(*leaves, **arguments) ** 2).sum(), leaves)
    assert all(close(a, b) for a, b in zip(got, want))


def test_rms_norm_is_called_as_published():
    x, weight = tensor(3, 5, 32), tensor(32, seed=1)
    library = Recorder()
    kernel = AscendKernels(library, library.count).select("rms_norm", request())
    assert close(kernel.fn(x, weight, 1e-6), ops.rms_norm(x, weight, 1e-6))
    assert library.calls == [("rms_norm_npu", (x, weight, 1e-6))] and type(library.calls[0][1][2]) is float
    assert kernel.needs_silicon


@pytest.mark.parametrize("rows", [(6,), (2, 3)], ids=["packed", "batched"])
def test_rotary_is_called_with_all_tokens_in_one_row(rows: tuple[int, ...]):
    q, k = tensor(*rows, 4, 64), tensor(*rows, 2, 64, seed=1)
    positions = np.arange(6).reshape(rows) * 3  # tables of each row's own: the operator has no positions
    cos, sin = (paddle.to_tensor(t)[..., None, :] for t in ops.rotary_tables_1d(positions, 64, 1e4))
    cos, sin = (t.reshape([*rows, 1, 64]) for t in (cos, sin))
    library = Recorder()
    kernel = AscendKernels(library, library.count).select("rotary", request(head_dim=64))
    for got, want in zip(kernel.fn(q, k, cos, sin), ops.rotary(q, k, cos, sin)):
        assert got.shape == want.shape and close(got, want)
    assert [(name, [list(x.shape) for x in given]) for name, given in library.calls] == [
        ("fused_rope", [[1, 6, 4, 64], [1, 6, 1, 64], [1, 6, 1, 64]]),
        ("fused_rope", [[1, 6, 2, 64], [1, 6, 1, 64], [1, 6, 1, 64]]),
    ]


def test_rotary_tables_take_the_tokens_dtype():
    given: list[Any] = []
    kernels = AscendKernels(
        lambda name, *arguments: given.append(arguments) or [arguments[0]], lambda name: 3
    )
    q, table = tensor(6, 4, 64).astype("bfloat16"), tensor(6, 1, 64)
    kernels.rotary(q, q, table, table)
    assert [[x.dtype for x in arguments] for arguments in given] == [[paddle.bfloat16] * 3] * 2


def test_swiglu_is_paddle_s_own():
    gate, up = tensor(3, 8), tensor(3, 8, seed=1)
    assert close(swiglu(gate, up), ops.swiglu(gate, up))


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("attention", {"dtype": "float32"}),
        ("attention", {"head_dim": 40}),  # SD 1.5's first level
        ("attention", {"head_dim": 512}),  # the autoencoder's
        ("attention_packed", {"dtype": "float32"}),
        ("attention_decode", {"causal": True}),
        ("rms_norm", {"dtype": "float64"}),
        ("rotary", {"head_dim": 80}),  # the vision tower of Qwen2.5-VL
        ("rotary", {"head_dim": None}),
        ("swiglu", {"dtype": "float32"}),
        ("linear_cross_entropy", {"dtype": "float32"}),
        ("adamw", {}),
        ("gelu", {"size_class": "erf"}),
    ],
)
def test_what_the_chip_cannot_serve_is_left_to_the_reference(op: str, fields: dict[str, Any]):
    library = Recorder()
    assert AscendKernels(library, library.count).select(op, request(**fields)) is None


@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_the_seed_models_ask_is_served(head_dim: int, dtype: str):
    kernels = AscendKernels(Recorder(13), Recorder(13).count)
    for op in ("attention", "attention_packed", "rms_norm", "swiglu", "linear_cross_entropy"):
        assert kernels.select(op, request(dtype=dtype, head_dim=head_dim, training=True)) is not None


@pytest.mark.parametrize("count", [0, 8, 11])
def test_an_unknown_form_of_an_operator_is_not_called(count: int):
    kernels = AscendKernels(Recorder(), lambda name: count)
    for op in ("attention", "attention_packed", "rms_norm", "rotary"):
        assert kernels.select(op, request()) is None


def test_without_a_library_every_vendor_operator_needs_silicon(monkeypatch, tmp_path):
    for folder in ("", str(tmp_path)):
        monkeypatch.setenv("CUSTOM_DEVICE_ROOT", folder)
        assert count_arguments("flash_attention_npu") is None
    for op in ("attention", "attention_packed", "rms_norm", "rotary"):
        assert AscendKernels().select(op, request()).needs_silicon


def test_the_library_itself_tells_how_many_arguments_an_operator_takes(start):
    code = """
        import mix_core.device
        mix_core.device.activate("cpu")
        from pathlib import Path
        from mix_core.device import native_build
        from mix_device_npu.kernels import count_arguments
        library = native_build.load().library
        print([count_arguments(n, library) for n in ("mix_rms_norm", "mix_attention", "flash_attention_npu")])
    """
    import textwrap

    done = start(["-c", textwrap.dedent(code)], plugins=["../../mix_device_npu"])
    assert done.stdout.split("\n")[-2] == "[3, 10, 0]", done.stderr


def test_everything_that_needs_silicon_is_listed_as_not_run_on_it():
    listed = " ".join(PROFILE.not_run_on_hardware)
    for op in ("attention", "attention_packed", "rms_norm", "rotary", "swiglu", "linear_cross_entropy"):
        kernel = AscendKernels(Recorder(), Recorder().count).select(op, request())
        assert op in listed and "not run on hardware" in kernel.reason
