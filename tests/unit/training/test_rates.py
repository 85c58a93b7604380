"""Learning rates by module and by depth of the tower."""

from __future__ import annotations

import pytest

from mix_core.config import load_config
from mix_core.errors import ConfigError
from mix_core.training.rates import rate_factors

EMBED, FIRST, SECOND = (
    "visual.patch_embed.proj.weight",
    "visual.blocks.0.norm1.weight",
    "visual.blocks.1.a.weight",
)
MERGER, LAYER, HEAD = "visual.merger.mlp.0.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"
NAMES = (EMBED, FIRST, SECOND, MERGER, LAYER, HEAD)


def factors(names=NAMES, **keys: str) -> dict[str, float]:
    return rate_factors(names, load_config(arguments={"learning_rate": "2e-4", **keys}))


def test_each_key_has_its_module():
    assert factors() == {}
    assert factors(mm_projector_lr="1e-4") == {MERGER: 0.5}
    assert factors(vit_lr="2e-5") == pytest.approx({EMBED: 0.1, FIRST: 0.1, SECOND: 0.1})
    assert factors(vision_tower_lr="2e-5") == factors(vit_lr="2e-5")
    assert factors(llm_lr="4e-4") == {LAYER: 2.0, HEAD: 2.0}


def test_lower_blocks_learn_more_slowly():
    found = factors(vit_layer_decay="0.5", vit_lr="4e-4")
    assert found == pytest.approx({EMBED: 2 * 0.25, SECOND: 2.0}), "2 * 0.5 of the first block is 1"
    clip = [
        "vision_model.embeddings.class_embedding",
        "vision_model.pre_layrnorm.weight",
        "vision_model.encoder.layers.0.mlp.fc1.weight",
        "vision_model.encoder.layers.1.mlp.fc1.weight",
        "vision_model.post_layernorm.weight",
    ]
    assert factors(clip, vit_layer_decay="0.5") == dict(zip(clip, (0.25, 0.25, 0.5)))


def test_a_rate_without_parameters_is_refused():
    with pytest.raises(ConfigError, match="vit_lr is 1e-05, but none of its parameters learns"):
        factors([LAYER], vit_lr="1e-5")
    with pytest.raises(ConfigError, match="learning_rate is 0"):
        factors(learning_rate="0", vit_lr="1e-5")
