"""The exact calls that the kernels make, by recorders; and over Paddle's CPU forms, what they compute."""

from __future__ import annotations

import inspect
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from mix_device_gpu.kernels import MASKED, Functions, GpuKernels

from mix_core import ops
from mix_core.plugin_api import KernelRequest
from mix_device_gpu import kernels

B, S, M, N, K, H = 2, 3, 5, 4, 2, 16
DTYPES = ("float32", "float16", "bfloat16")


@pytest.fixture
def made(recorder):
    """Kernels over recorders that answer like the functions: (kernels, functions)."""
    functions = Functions(
        scaled_dot_product_attention=recorder(lambda q, k, v, **_: q),
        flash_attn_unpadded=recorder(lambda q, *_, **__: (q, None)),
        fused_rms_norm=recorder(lambda x, *_: (x, None)),
        fused_rotary_position_embedding=recorder(lambda q, k, v, **_: (q, k, None)),
        swiglu=recorder(lambda gate, up: gate),
        fused_adam=recorder(lambda *_: None),
        loss=SimpleNamespace(),
        capability=(9, 0),
        paddle_version="3.3.1",
    )
    return GpuKernels(functions), functions


def draw(*shape: int, dtype: str = "bfloat16", seed: int = 0):
    numbers = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return paddle.to_tensor(numbers).astype(dtype)


def attend(made, *, queries: int = S, **given):
    kernel, functions = made
    q, k, v = draw(B, queries, N, H), draw(B, M, K, H), draw(B, M, K, H)
    arguments = {"causal": False, "window": None, "scale": None, "mask_BNSS": None} | given
    kernel.attention(q, k, v, **arguments)
    ((positional, keywords),) = functions.scaled_dot_product_attention.calls
    assert positional[1] is k and positional[2] is v
    assert list(keywords) == ["attn_mask", "dropout_p", "is_causal"] and keywords["dropout_p"] == 0.0
    return q, positional[0], keywords


@pytest.mark.parametrize("causal", [False, True])
def test_attention_without_a_mask_is_left_to_the_function(made, causal: bool):
    q, given, keywords = attend(made, queries=M, causal=causal, scale=H**-0.5)
    assert given is q and keywords["attn_mask"] is None and keywords["is_causal"] is causal


def test_another_scale_goes_into_the_queries(made):
    q, given, _ = attend(made, scale=1.0)
    assert given.dtype == paddle.bfloat16
    assert np.allclose(given.astype("float32"), q.astype("float32") * H**0.5, rtol=1e-2)


@pytest.mark.parametrize("heads", [1, N])
def test_a_mask_becomes_a_bias(made, heads: int):
    mask = np.random.default_rng(1).random((B, heads, S, M)) < 0.5
    _, _, keywords = attend(made, mask_BNSS=paddle.to_tensor(mask))
    bias = keywords["attn_mask"]
    assert bias.dtype == paddle.bfloat16 and list(bias.shape) == [B, heads, S, M]
    assert np.allclose(bias.astype("float32").numpy(), np.where(mask, 0.0, MASKED), rtol=1e-2)
    assert keywords["is_causal"] is False


def test_causal_positions_are_aligned_at_the_end(made):
    _, _, keywords = attend(made, causal=True)
    reach = np.arange(M)[None, :] <= np.arange(S)[:, None] + M - S
    seen = keywords["attn_mask"].astype("float32").numpy() == 0.0
    assert (seen == np.broadcast_to(reach, [B, 1, S, M])).all()
    assert keywords["is_causal"] is False, "the function would align them at the start"


@pytest.mark.parametrize("scale", [None, 0.5])
def test_packed_attention_gives_borders_and_the_longest_segment(made, scale: float | None):
    kernel, functions = made
    q, k, v = draw(9, N, H), draw(9, K, H), draw(9, K, H)
    starts = np.array([0, 4, 4, 9], np.int32)
    out = kernel.attention_packed(q, k, v, starts, causal=True, window=None, scale=scale)
    ((positional, keywords),) = functions.flash_attn_unpadded.calls
    assert out is q and positional[0] is q and positional[1] is k and positional[2] is v
    for borders in positional[3:5]:
        assert borders.dtype == paddle.int32 and borders.numpy().tolist() == [0, 4, 4, 9]
    assert positional[5:] == (5, 5, 0.25 if scale is None else 0.5)
    assert keywords == {"dropout": 0.0, "causal": True}


def test_rotary_gives_all_tokens_as_one_sequence(made):
    kernel, functions = made
    q, k = draw(B, S, N, H), draw(B, S, K, H)
    cos, sin = (paddle.to_tensor(np.random.default_rng(i).random((B, S, 1, H), np.float32)) for i in (1, 2))
    out_q, out_k = kernel.rotary(q, k, cos, sin)
    ((positional, keywords),) = functions.fused_rotary_position_embedding.calls
    assert [list(x.shape) for x in positional[:2]] == [[1, B * S, N, H], [1, B * S, K, H]]
    assert positional[2] is None and list(keywords) == ["sin", "cos", "use_neox_rotary_style"]
    assert keywords["use_neox_rotary_style"] is False
    for name, table in (("sin", sin), ("cos", cos)):
        assert list(keywords[name].shape) == [1, B * S, 1, H] and keywords[name].dtype == paddle.bfloat16
        flat = table.reshape([-1, H]).numpy()
        assert np.allclose(keywords[name].astype("float32").numpy()[0, :, 0], flat, atol=4e-3)
    assert list(out_q.shape) == [B, S, N, H] and list(out_k.shape) == [B, S, K, H]


def test_rms_norm_and_swiglu_hand_their_arguments_on(made):
    kernel, functions = made
    x, weight = draw(B, S, H), draw(H)
    assert kernel.rms_norm(x, weight, 1e-6) is x
    assert functions.fused_rms_norm.calls == [((x, weight, None, 1e-6, 2), {})]
    assert kernel.swiglu(x, x) is x
    assert functions.swiglu.calls == [((x, x), {})]


SETTINGS = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "weight_decay": 0.1}


def test_adamw_updates_all_parameters_in_one_call(made):
    kernel, functions = made
    parameters = [draw(3), draw(2, 2)]
    gradients = [draw(3), draw(2, 2, dtype="float32")]
    means, squares = ([paddle.zeros(p.shape) for p in parameters] for _ in range(2))
    kernel.adamw(parameters, gradients, means, squares, step=3, grad_scale=1.0, **SETTINGS)
    ((given, keywords),) = functions.fused_adam.calls
    assert not keywords
    assert given[0] == parameters and given[3] == means and given[4] == squares
    assert [g.dtype for g in given[1]] == [p.dtype for p in parameters], "the kernel takes one type for both"
    assert given[1][0] is gradients[0]
    assert given[2].dtype == paddle.float32 and given[2].numpy().tolist() == [np.float32(1e-2)]
    for powers, beta in ((given[6], 0.9), (given[7], 0.99)):
        assert len(powers) == 2
        assert all(p.place.is_cpu_place() and p.dtype == paddle.float32 for p in powers)
        assert powers[0].numpy() == np.float32(beta**3)
    assert (given[5], given[8], given[9]) == (None, None, None)
    assert given[10:] == (0.9, 0.99, 1e-8, 65536, 0.1, True, False, True, False)


@pytest.mark.parametrize("grad_scale", [1.0, 0.25])
def test_adamw_of_paddle_computes_the_reference_s_update(grad_scale: float):
    """fused_adam_ has a float32 form in the CPU wheel, with the arguments of the card's."""
    kernel = GpuKernels(kernels.published())
    states = []
    for update in (kernel.adamw, ops.adamw):
        parameters = [draw(5, dtype="float32"), draw(3, 4, dtype="float32", seed=1)]
        means, squares = ([paddle.zeros(p.shape) for p in parameters] for _ in range(2))
        for step in (1, 2, 3):
            gradients = [draw(*p.shape, dtype="float32", seed=step) for p in parameters]
            update(parameters, gradients, means, squares, step=step, grad_scale=grad_scale, **SETTINGS)
        states.append([t.numpy() for t in (*parameters, *means, *squares)])
    for found, expected in zip(*states):
        assert np.allclose(found, expected, rtol=2e-6, atol=1e-8)


def test_the_arguments_mean_what_the_contract_says():
    """Over Paddle's own functions, which have float32 forms for the CPU."""
    kernel = GpuKernels(kernels.published())
    x, weight = draw(B, S, H, dtype="float32"), draw(H, dtype="float32", seed=1)
    assert np.allclose(kernel.rms_norm(x, weight, 1e-6), ops.rms_norm(x, weight, 1e-6), atol=1e-5)
    assert np.allclose(kernel.swiglu(x, weight + x), ops.swiglu(x, weight + x), atol=1e-5)
    q, k, v = draw(B, S, N, H, dtype="float32"), *(draw(B, M, K, H, dtype="float32", seed=i) for i in (1, 2))
    mask = np.random.default_rng(1).random((B, 1, S, M)) < 0.5
    mask[..., 0] = True
    for given in (
        {"causal": True, "scale": 0.5},
        {"causal": True, "scale": None, "mask_BNSS": paddle.to_tensor(mask)},
    ):
        found = kernel.attention(q, k, v, window=None, **given)
        assert np.allclose(found, ops.attention(q, k, v, **given), atol=1e-5), given


def test_what_is_offered(made):
    kernel, _ = made
    for op, dtypes in (
        ("attention", ("float16", "bfloat16")),
        ("attention_packed", ("float16", "bfloat16")),
        ("rms_norm", DTYPES),
        ("rotary", DTYPES),
        ("swiglu", DTYPES),
        ("adamw", DTYPES),
        ("linear_cross_entropy", DTYPES),
    ):
        offered = [d for d in DTYPES if kernel.select(op, KernelRequest(d, H))]
        assert sorted(offered) == sorted(dtypes), op
        for dtype in dtypes:
            found = kernel.select(op, KernelRequest(dtype, H))
            assert found.needs_silicon == (dtype == "float32" or op not in kernels.SIMULATED), op
            assert "not run on hardware" in found.reason
    for op in ("attention_decode", "linear", "layer_norm", "sampling", "gelu"):
        assert kernel.select(op, KernelRequest("bfloat16", H)) is None


@pytest.mark.parametrize("op", ["attention", "attention_packed"])
def test_flash_attention_is_offered_for_what_it_can(made, op: str):
    kernel, functions = made
    for head_dim, served in ((80, True), (256, True), (72, True), (264, False), (20, False), (None, False)):
        assert (kernel.select(op, KernelRequest("bfloat16", head_dim)) is not None) == served, head_dim
    assert kernel.select(op, KernelRequest("bfloat16", H, windowed=True)) is None
    for capability, served in (((7, 5), False), ((8, 0), True), (None, True)):
        on_card = GpuKernels(replace(functions, capability=capability))
        assert (on_card.select(op, KernelRequest("float16", H)) is not None) == served, capability


def test_rotary_and_adamw_are_offered_for_what_they_can(made):
    kernel, functions = made
    assert kernel.select("rotary", KernelRequest("bfloat16", 80)) is not None
    assert kernel.select("rotary", KernelRequest("bfloat16", 72)) is None
    later = GpuKernels(replace(functions, paddle_version="3.4.0"))
    assert later.select("adamw", KernelRequest("float32")) is None


def test_the_hook_answers_over_the_installed_functions():
    from mix_device_gpu import plugin

    found = plugin.mix_kernel("attention_packed", KernelRequest("bfloat16", 80, packed=True))
    assert found is not None and found.name == "paddle flash_attn_unpadded" and found.needs_silicon
    assert plugin.mix_kernel("linear", KernelRequest("float32")) is None


def test_paddle_s_functions_take_these_arguments():
    """The signatures of the Paddle that is installed, which the calls above must fit."""
    published = kernels.published()
    x = object()
    calls = (
        ("scaled_dot_product_attention", (x, x, x), {"attn_mask": x, "dropout_p": 0.0, "is_causal": True}),
        ("flash_attn_unpadded", (x,) * 8, {"dropout": 0.0, "causal": True}),
        ("fused_rms_norm", (x, x, None, 1e-6, 2), {}),
        (
            "fused_rotary_position_embedding",
            (x, x, None),
            {"sin": x, "cos": x, "use_neox_rotary_style": False},
        ),
        ("swiglu", (x, x), {}),
    )
    for name, arguments, keywords in calls:
        inspect.signature(getattr(published, name)).bind(*arguments, **keywords)
    assert list(inspect.signature(published.flash_attn_unpadded).parameters)[:8] == [
        *("query", "key", "value", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "scale")
    ]
    assert list(inspect.signature(published.fused_rms_norm).parameters)[:5] == [
        *("x", "norm_weight", "norm_bias", "epsilon", "begin_norm_axis")
    ]
