"""Norms of each module's gradients and parameters."""

from __future__ import annotations

import numpy as np
import pytest


def test_modules_are_blocks_or_layers():
    from mix_core.training.module_stats import module_of

    assert module_of("model.layers.3.mlp.up_proj.weight") == "model.layers.3"
    assert module_of("visual.merger.mlp.0.weight") == "visual.merger.mlp.0"
    assert module_of("lm_head.weight") == "lm_head"
    assert module_of("model.embed_tokens.weight") == "model.embed_tokens"


def test_norms_by_hand():
    import paddle

    from mix_core.training.module_stats import module_stats

    parameters = [
        ("a.layers.0.w", paddle.to_tensor([[3.0, 0.0]])),
        ("a.layers.0.b", paddle.to_tensor([4.0])),
        ("a.layers.1.w", paddle.to_tensor([2.0])),
        ("head.w", paddle.to_tensor([1.0]).astype("bfloat16")),
    ]
    gradients = {
        "a.layers.0.w": paddle.to_tensor([[6.0, 0.0]]),
        "a.layers.0.b": paddle.to_tensor([8.0]),
        "a.layers.1.w": None,
        "head.w": paddle.to_tensor([-4.0]),
    }
    found = module_stats(parameters, gradients, scale=2.0)
    assert found == {
        "a.layers.0": {"grad_norm": 5.0, "weight_norm": 5.0},
        "a.layers.1": {"grad_norm": 0.0, "weight_norm": 2.0},
        "head": {"grad_norm": 2.0, "weight_norm": 1.0},
    }
    total = np.sqrt(sum(row["grad_norm"] ** 2 for row in found.values()))
    assert total == pytest.approx(np.sqrt(6**2 + 8**2 + 4**2) / 2)
    assert module_stats([], {}, scale=1.0) == {}
