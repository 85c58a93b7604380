"""Which function serves an operator: the device is asked once for each request, then a dictionary answers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import mix_core.device as device
from mix_core import ops
from mix_core.device import Kernel, KernelRequest
from mix_core.device.operators import USUAL_REQUESTS
from mix_core.ops.decode_layers import LayerCache, LayerWeights
from mix_core.ops.low_rank import LowRank
from mix_core.ops.matmul_int8 import Int8Matrix


class Asked:
    """Stands for an activation: answers some operators and notes every question."""

    def __init__(self, **kernels) -> None:
        self.kernels = kernels
        self.questions: list[tuple[str, KernelRequest]] = []

    def kernel(self, op: str, request: KernelRequest) -> Kernel | None:
        self.questions.append((op, request))
        return Kernel(self.kernels[op], "test") if op in self.kernels else None


@pytest.fixture
def activate(monkeypatch: pytest.MonkeyPatch):
    def use(asked: Asked | None) -> Asked | None:
        monkeypatch.setattr(device, "active", lambda: asked)
        return asked

    return use


X = np.ones((2, 4), np.float32)


def test_without_a_device_the_reference_runs(activate) -> None:
    activate(None)
    assert ops.gelu(paddle.to_tensor(X)).shape == [2, 4]


def test_a_kernel_is_asked_for_once_and_called_each_time(activate) -> None:
    calls = []
    asked = activate(Asked(rms_norm=lambda *arguments: calls.append(arguments) or "result"))
    x, weight = paddle.to_tensor(X), paddle.ones([4])
    assert [ops.rms_norm(x, weight, 1e-6) for _ in range(3)] == ["result"] * 3
    assert asked.questions == [("rms_norm", KernelRequest(dtype="float32"))]
    assert calls == [(x, weight, 1e-6)] * 3


def test_no_kernel_is_remembered_too(activate) -> None:
    asked = activate(Asked())
    for _ in range(3):
        assert ops.swiglu(paddle.to_tensor(X), paddle.to_tensor(X)).shape == [2, 4]
    assert [op for op, _ in asked.questions] == ["swiglu"]


def test_another_device_is_asked_again(activate) -> None:
    x = paddle.to_tensor(X)
    activate(Asked(gelu=lambda x, form: "first"))
    assert ops.gelu(x) == "first"
    activate(Asked(gelu=lambda x, form: "second"))
    assert ops.gelu(x) == "second"


def test_requests_tell_the_uses_of_an_operator_apart(activate) -> None:
    asked = activate(Asked())
    q = paddle.ones([1, 3, 2, 8])
    learning = paddle.ones([1, 3, 2, 8])
    learning.stop_gradient = False
    ops.attention(q, q, q, causal=True)
    ops.attention(q, q, q, causal=True, window=2)
    ops.attention(learning, q, q, causal=False)
    ops.attention_packed(q[0], q[0], q[0], np.array([0, 3], np.int32), causal=True)
    ops.gelu(q, "tanh")
    ops.linear(q.astype("float64"), paddle.ones([8, 2], "float64"))
    assert asked.questions == [
        ("attention", KernelRequest(dtype="float32", head_dim=8, causal=True)),
        ("attention", KernelRequest(dtype="float32", head_dim=8, causal=True, windowed=True)),
        ("attention", KernelRequest(dtype="float32", head_dim=8, training=True)),
        ("attention_packed", KernelRequest(dtype="float32", head_dim=8, causal=True, packed=True)),
        ("gelu", KernelRequest(dtype="float32", size_class="tanh")),
        ("linear", KernelRequest(dtype="float64", training=False)),
    ]


def test_kernels_are_not_asked_to_drop_weights(activate) -> None:
    asked = activate(Asked(attention=None, attention_packed=None))
    q, keys = paddle.ones([1, 3, 2, 8]), np.array([[1, 2]], np.uint32)
    ops.attention(q, q, q, causal=True, dropout=0.5, dropout_keys=keys)
    ops.attention_packed(
        q[0], q[0], q[0], np.array([0, 3], np.int32), causal=True, dropout=0.5, dropout_keys=keys
    )
    assert asked.questions == []


def test_every_operator_of_the_contract_asks(activate) -> None:
    asked = activate(Asked())
    x = paddle.to_tensor(X)
    q = paddle.ones([2, 2, 4])
    cache = paddle.ones([2, 2, 3, 4])
    ops.layer_norm(x, None, None, 1e-6)
    ops.group_norm(x.reshape([2, 2, 2]), 2, None, None, 1e-6)
    ops.conv2d(x.reshape([1, 2, 2, 2]), paddle.ones([3, 2, 1, 1]), paddle.ones([3]))
    ops.rms_norm(x, paddle.ones([4]), 1e-6)
    ops.add_rms_norm(x, x, paddle.ones([4]), 1e-6)
    ops.rotary(q, q, paddle.ones([2, 1, 4]), paddle.ones([2, 1, 4]))
    ops.swiglu(x, x)
    ops.gelu(x)
    ops.geglu(x)
    ops.linear(x, paddle.ones([4, 4]))
    ops.qkv(x, (paddle.ones([4, 4]),) * 3)
    ops.gated_mlp(x, (paddle.ones([4, 4]),) * 3)
    adapter = LowRank(paddle.ones([4, 2]), paddle.ones([2, 4]), 1.0)
    ops.adapted_linear(x, (paddle.ones([4, 4]),), None, (adapter,))
    ops.adapted_mlp(x, (paddle.ones([4, 4]),) * 3, None, (adapter, None, adapter))
    ops.linear_int8(x, paddle.ones([3, 4], "int8"), paddle.ones([3]))
    ops.head_logits(x, paddle.ones([3, 4]))
    ops.linear_cross_entropy(x, paddle.ones([3, 4]), np.array([0, 1]))
    ops.attention(q[None], q[None], q[None], causal=True)
    ops.attention_packed(q, q, q, np.array([0, 2], np.int32), causal=True)
    ops.attention_decode(q, cache, cache, lengths_B=np.array([1, 2], np.int32))
    weights = LayerWeights(
        x[0], (paddle.ones([4, 8]),) * 3, None, paddle.ones([8, 4]), x[0], (paddle.ones([4, 4]),) * 3, 1e-6
    )
    kept = LayerCache(
        paddle.ones([12, 4]), paddle.ones([12, 4]), np.array([1, 2], np.int32), paddle.arange(4)
    )
    tables = paddle.ones([2, 1, 4]), paddle.ones([2, 1, 4])
    ops.decode_layers(x, [weights], [kept], *tables)
    to_heads, back = (Int8Matrix(paddle.ones(s, "int8"), paddle.ones(s[:1])) for s in ([8, 4], [4, 8]))
    narrow = Int8Matrix(paddle.ones([4, 4], "int8"), paddle.ones([4]))
    rounded = weights._replace(qkv=(to_heads,) * 3, out=back, mlp=(narrow,) * 3)
    ops.decode_layers_int8(x, [rounded], [kept], *tables)
    rates = dict(learning_rate=0.1, beta1=0.9, beta2=0.9, epsilon=1e-8, weight_decay=0.0)
    ops.adamw([x], [x * 1], [x * 0], [x * 0], step=1, **rates)
    ops.sampling(x, temperature=0.0)
    tables = {name for name in ops.__all__ if name.startswith("rotary_tables")}
    assert {op for op, _ in asked.questions} == set(ops.__all__) - tables


def test_doctor_asks_for_every_operator() -> None:
    tables = {name for name in ops.__all__ if name.startswith("rotary_tables")}
    assert set(USUAL_REQUESTS) == set(ops.__all__) - tables


def test_the_contract_names_every_operator() -> None:
    from pathlib import Path

    contract = (Path(__file__).parents[3] / "docs" / "operators.md").read_text(encoding="utf-8")
    missing = [name for name in ops.__all__ if f"`{name}" not in contract]
    assert missing == []


def test_add_rms_norm_asks_only_for_one_dtype(activate) -> None:
    asked = activate(Asked(add_rms_norm=lambda *arguments: arguments))
    x, weight = paddle.to_tensor(X), paddle.ones([4])
    wide = x.astype("float64")
    seen = ops.add_rms_norm(x, wide, weight, 1e-6)
    assert seen[0] is x and seen[1].dtype == paddle.float32 and seen[2:] == (weight, 1e-6)
    ops.add_rms_norm(wide, x, weight, 1e-6)
    assert asked.questions == [
        ("add_rms_norm", KernelRequest(dtype="float32")),
        ("rms_norm", KernelRequest(dtype="float32")),
    ]


def test_a_kernel_gets_the_arguments_of_the_contract(activate) -> None:
    seen = {}
    activate(
        Asked(
            attention=lambda *a, **k: seen.update(dense=(len(a), sorted(k))),
            attention_packed=lambda *a, **k: seen.update(packed=(len(a), sorted(k))),
            attention_decode=lambda *a, **k: seen.update(decode=(len(a), sorted(k))),
        )
    )
    q, ends = paddle.ones([1, 3, 2, 8]), np.array([0, 3], np.int32)
    ops.attention(q, q, q, causal=True)
    ops.attention_packed(q[0], q[0], q[0], ends, causal=True)
    cache = paddle.ones([1, 2, 3, 8])
    ops.attention_decode(q[:, 0], cache, cache, lengths_B=ends[1:])
    assert seen == {
        "dense": (3, ["causal", "mask_BNSS", "scale", "window"]),
        "packed": (4, ["causal", "scale", "window"]),
        "decode": (3, ["lengths_B", "scale"]),
    }
