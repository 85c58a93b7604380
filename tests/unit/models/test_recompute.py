"""What of a block is computed again going back: all, the attention's half, nothing; by number."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from mix_core.config import RunConfig
from mix_core.models.common.clip import ClipLayer
from mix_core.models.common.recompute import Again, asked_of, run_block
from mix_core.models.internvl2.vision import Block as InternBlock
from mix_core.models.qwen2_5_vl.vision import VisionBlock as Qwen25Block
from mix_core.models.qwen2_vl.vision import VisionBlock as Qwen2Block
from mix_core.models.qwen_vl.vision import VisionBlock as QwenBlock
from mix_core.training.assembly import again_of

WIDTH, HEADS, PATCHES = 32, 2, 8


def tables() -> tuple[paddle.Tensor, paddle.Tensor]:
    angles = np.random.default_rng(3).standard_normal((PATCHES, 1, WIDTH // HEADS)).astype("float32")
    return paddle.to_tensor(np.cos(angles)), paddle.to_tensor(np.sin(angles))


def intern_config() -> SimpleNamespace:
    norm = {"norm_type": "layer_norm", "layer_norm_eps": 1e-6, "qk_normalization": False}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": HEADS, "head_dim": 16}
    return SimpleNamespace(**norm, **sizes, qkv_bias=True, initializer_factor=0.1)


ENDS = np.array([0, PATCHES], np.int32)
BLOCKS = {
    "clip": lambda: (
        ClipLayer(WIDTH, HEADS, 64, act="quick_gelu", eps=1e-5, causal=False),
        "self_attn",
        (),
    ),
    "qwen_vl": lambda: (
        QwenBlock(SimpleNamespace(width=WIDTH, heads=HEADS, mlp_width=64, head_dim=16)),
        "attn",
        (1,),
    ),
    "qwen2_vl": lambda: (
        Qwen2Block(SimpleNamespace(embed_dim=WIDTH, num_heads=HEADS, inner_dim=64)),
        "attn",
        (ENDS, tables()),
    ),
    "qwen2_5_vl": lambda: (
        Qwen25Block(SimpleNamespace(hidden_size=WIDTH, num_heads=HEADS, intermediate_size=64)),
        "attn",
        (ENDS, tables()),
    ),
    "internvl2": lambda: (InternBlock(intern_config()), "attn", (None,)),
}


@pytest.mark.parametrize("family", BLOCKS)
def test_gradients_are_the_same_and_only_what_is_asked_for_runs_again(family):
    block, attention, rest = BLOCKS[family]()
    block.train()
    calls: list[str] = []
    for name in (attention, "mlp"):
        getattr(block, name).register_forward_pre_hook(lambda layer, inputs, name=name: calls.append(name))
    shape = [PATCHES, WIDTH] if family.startswith("qwen") else [1, PATCHES, WIDTH]
    values = np.random.default_rng(4).standard_normal(shape).astype("float32")

    def gradients(again: object) -> dict[str, np.ndarray]:
        calls.clear()
        block.clear_gradients(set_to_zero=False)
        x = paddle.to_tensor(values, stop_gradient=False)
        (run_block(owner(again), 0, block, x, *rest) ** 2).sum().backward()
        return {name: p.grad.numpy() for name, p in block.named_parameters()} | {"x": x.grad.numpy()}

    expected = gradients(False)
    assert calls == [attention, "mlp"]
    for again, wanted in (
        (True, [attention, "mlp"] * 2),
        (Again("attention"), [attention, "mlp", attention]),
    ):
        found = gradients(again)
        assert calls == wanted
        for name, gradient in expected.items():
            np.testing.assert_array_equal(found[name], gradient, err_msg=name)


def owner(again: object) -> SimpleNamespace:
    return SimpleNamespace(recompute=again, training=True)


def test_blocks_are_counted_from_the_start():
    some = Again("attention", first=3, kept=frozenset({1}))
    assert [asked_of(owner(some), i) for i in range(5)] == ["attention", "", "attention", "", ""]
    assert asked_of(owner(True), 9) == "all" and asked_of(owner(False), 0) == ""
    assert asked_of(SimpleNamespace(recompute=True, training=False), 0) == ""


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({}, False),
        ({"recompute": True}, True),
        ({"recompute_granularity": "full", "recompute_method": "uniform"}, True),
        ({"recompute_granularity": "selective"}, Again("attention")),
        ({"recompute": True, "recompute_granularity": "full_attn"}, Again("attention")),
        ({"recompute_method": "block", "recompute_num_layers": 2}, Again(first=2)),
        ({"recompute": True, "no_recompute_layers": [0, 3]}, Again(kept=frozenset({0, 3}))),
    ],
)
def test_what_the_keys_mean(keys, wanted):
    assert again_of(RunConfig(**keys)) == wanted
