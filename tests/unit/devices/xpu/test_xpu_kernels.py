"""The exact calls that the kernels make, by recorders, and Paddle's signatures for them."""

from __future__ import annotations

import inspect
from importlib.util import find_spec

import numpy as np
import paddle
import pytest
from mix_device_xpu.kernels import MASKED, Functions, KunlunKernels

from mix_core import ops
from mix_core.plugin_api import KernelRequest
from mix_device_xpu import kernels

B, S, M, N, K, H = 2, 3, 5, 4, 2, 8


@pytest.fixture
def made(recorder):
    """Kernels over recorders that answer like the functions: (kernels, functions)."""
    functions = Functions(
        scaled_dot_product_attention=recorder(lambda q, k, v, **_: q),
        fused_rotary_position_embedding=recorder(lambda q, k, v, **_: (q, k, None)),
        swiglu=recorder(lambda gate, up: gate),
        xpu_rms_norm=recorder(lambda x, weight, eps: [x, None]),
        loss=kernels.published().loss,
    )
    return KunlunKernels(functions), functions


def draw(*shape: int, dtype: str = "bfloat16"):
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32)).astype(dtype)


def attend(made, *, queries: int = S, **given):
    kernel, functions = made
    q, k, v = draw(B, queries, N, H), draw(B, M, K, H), draw(B, M, K, H)
    arguments = {"causal": False, "window": None, "scale": None, "mask_BNSS": None} | given
    kernel.attention(q, k, v, **arguments)
    ((positional, keywords),) = functions.scaled_dot_product_attention.calls
    assert positional[1] is k and positional[2] is v
    assert list(keywords) == ["attn_mask", "dropout_p", "is_causal"] and keywords["dropout_p"] == 0.0
    return q, positional[0], keywords


def test_attention_without_a_mask_is_left_to_the_function(made):
    q, given, keywords = attend(made, queries=M, causal=True)
    assert given is q and keywords["attn_mask"] is None and keywords["is_causal"] is True


@pytest.mark.parametrize("scale", [None, H**-0.5])
def test_the_usual_scale_leaves_the_queries_alone(made, scale):
    q, given, keywords = attend(made, scale=scale)
    assert given is q and keywords["is_causal"] is False and keywords["attn_mask"] is None


def test_another_scale_goes_into_the_queries(made):
    q, given, _ = attend(made, scale=1.0)
    assert given.dtype == paddle.bfloat16
    assert np.allclose(given.astype("float32"), q.astype("float32") * H**0.5, rtol=1e-2)


def test_a_mask_becomes_a_bias_for_every_head(made):
    mask = np.random.default_rng(1).random((B, 1, S, M)) < 0.5
    _, _, keywords = attend(made, mask_BNSS=paddle.to_tensor(mask))
    bias = keywords["attn_mask"]
    assert bias.dtype == paddle.bfloat16 and list(bias.shape) == [B, N, S, M] and bias.is_contiguous()
    expected = np.broadcast_to(np.where(mask, 0.0, MASKED), [B, N, S, M])
    assert np.allclose(bias.astype("float32").numpy(), expected, rtol=1e-2)
    assert keywords["is_causal"] is False


@pytest.mark.parametrize("masked", [False, True])
def test_causal_positions_are_aligned_at_the_end(made, masked: bool):
    mask = np.ones((B, 1, S, M), bool)
    mask[..., 0] = not masked
    _, _, keywords = attend(made, causal=True, mask_BNSS=paddle.to_tensor(mask) if masked else None)
    reach = np.arange(M)[None, :] <= np.arange(S)[:, None] + M - S
    seen = keywords["attn_mask"].astype("float32").numpy() == 0.0
    assert (seen == np.broadcast_to(reach & mask, seen.shape)).all()
    assert keywords["is_causal"] is False, "the function would drop the mask"


def test_the_arguments_mean_what_the_contract_says(recorder):
    """Over Paddle's own function, which has a form for the CPU, attention agrees with the reference."""
    published = kernels.published()
    functions = Functions(published.scaled_dot_product_attention, *[None] * 4)
    kernel = KunlunKernels(functions)
    q, k, v = (draw(B, n, h, H, dtype="float32") for n, h in ((S, N), (M, K), (M, K)))
    mask = paddle.to_tensor(np.random.default_rng(1).random((B, N, S, M)) < 0.7)
    for given in (
        {"causal": True, "scale": 0.5},
        {"causal": False, "scale": None, "mask_BNSS": mask},
        {"causal": True, "scale": None, "mask_BNSS": mask},
    ):
        attended = (mask.numpy() if "mask_BNSS" in given else np.ones([B, N, S, M], bool)).copy()
        if given["causal"]:
            attended &= np.arange(M)[None, :] <= np.arange(S)[:, None] + M - S
        sees = attended.any(-1).transpose(0, 2, 1)[..., None]  # a query that sees nothing may get anything
        found = kernel.attention(q, k, v, window=None, **given).numpy() * sees
        expected = ops.attention(q, k, v, **given).numpy() * sees
        assert np.allclose(found, expected, atol=1e-5), given


def test_rotary_gives_all_tokens_as_one_sequence(made):
    kernel, functions = made
    q, k = draw(B, S, N, H), draw(B, S, K, H)
    cos, sin = (paddle.to_tensor(np.random.default_rng(i).random((B, S, 1, H), np.float32)) for i in (1, 2))
    out_q, out_k = kernel.rotary(q, k, cos, sin)
    ((positional, keywords),) = functions.fused_rotary_position_embedding.calls
    assert [list(x.shape) for x in positional[:2]] == [[1, B * S, N, H], [1, B * S, K, H]]
    assert positional[2] is None
    assert list(keywords) == ["sin", "cos", "use_neox_rotary_style"]
    assert keywords["use_neox_rotary_style"] is False
    for name, table in (("sin", sin), ("cos", cos)):
        assert list(keywords[name].shape) == [1, B * S, 1, H] and keywords[name].dtype == paddle.bfloat16
        flat = table.reshape([-1, H]).numpy()
        assert np.allclose(keywords[name].astype("float32").numpy()[0, :, 0], flat, atol=4e-3)
    assert list(out_q.shape) == [B, S, N, H] and list(out_k.shape) == [B, S, K, H]


def test_rms_norm_and_swiglu_hand_their_arguments_on(made):
    kernel, functions = made
    x, weight = draw(S, H), draw(H)
    assert kernel.rms_norm(x, weight, 1e-6) is x
    assert functions.xpu_rms_norm.calls == [((x, weight, 1e-6), {})]
    assert kernel.swiglu(x, x) is x
    assert functions.swiglu.calls == [((x, x), {})]


def test_what_is_offered(made):
    kernel, _ = made
    for op, dtypes in (
        ("attention", ("float16", "bfloat16")),
        ("linear_cross_entropy", ("float16", "bfloat16")),
        ("rms_norm", ("float32", "float16", "bfloat16")),
        ("rotary", ("float32", "float16", "bfloat16")),
        ("swiglu", ("float32", "float16", "bfloat16")),
    ):
        offered = [d for d in ("float32", "float16", "bfloat16") if kernel.select(op, KernelRequest(d, H))]
        assert sorted(offered) == sorted(dtypes), op
        for dtype in dtypes:
            found = kernel.select(op, KernelRequest(dtype, H))
            assert found.needs_silicon == (dtype == "float32" or op not in kernels.SIMULATED), op
            assert "not run on hardware" in found.reason
    assert kernel.select("attention", KernelRequest("bfloat16", H, windowed=True)) is None
    for op in ("attention_packed", "attention_decode", "linear", "adamw", "sampling", "gelu"):
        assert kernel.select(op, KernelRequest("bfloat16", H, packed=True)) is None


def test_rms_norm_needs_kunlun_s_extension(made):
    _, functions = made
    without = Functions(functions.scaled_dot_product_attention, *[None] * 4)
    assert KunlunKernels(without).select("rms_norm", KernelRequest("bfloat16")) is None
    assert (kernels.published().xpu_rms_norm is None) == (find_spec(kernels.EXTENSION) is None)


def test_the_hook_answers_over_the_installed_functions():
    from mix_device_xpu import plugin

    found = plugin.mix_kernel("swiglu", KernelRequest("float32"))
    assert found is not None and found.name == "paddle swiglu" and found.needs_silicon
    assert plugin.mix_kernel("linear", KernelRequest("float32")) is None


def test_paddle_s_functions_take_these_arguments():
    """The signatures of the Paddle that is installed, which the calls above must fit."""
    published = kernels.published()
    x = object()
    for function, arguments, keywords in (
        (
            published.scaled_dot_product_attention,
            (x, x, x),
            {"attn_mask": x, "dropout_p": 0.0, "is_causal": True},
        ),
        (
            published.fused_rotary_position_embedding,
            (x, x, None),
            {"sin": x, "cos": x, "use_neox_rotary_style": False},
        ),
        (published.swiglu, (x, x), {}),
    ):
        inspect.signature(function).bind(*arguments, **keywords)
    names = list(inspect.signature(published.scaled_dot_product_attention).parameters)
    assert names[:6] == ["query", "key", "value", "attn_mask", "dropout_p", "is_causal"]
    assert list(inspect.signature(published.fused_rotary_position_embedding).parameters)[:3] == [
        "q",
        "k",
        "v",
    ]
