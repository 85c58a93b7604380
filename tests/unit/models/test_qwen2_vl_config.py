"""config.json of Qwen2-VL: all the forms that are published, sizes that do not fit refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from mix_core.errors import BadInputError
from mix_core.models.qwen2_vl import FAMILY
from mix_core.models.qwen2_vl.config import VisionConfig, config_from_dict
from tests.builders.qwen2_vl import flat_config
from tests.parity.batches import IDS

PUBLISHED_TOWER = VisionConfig(hidden_size=1536)
PUBLISHED = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "num_hidden_layers": 28,
    "vocab_size": 151936,
}
FORMS = {
    "as Qwen published it": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 1536,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
    "as transformers 4 saved a fine-tuned 2B": {
        "hidden_size": 1536,
        "in_chans": 3,
        "model_type": "qwen2_vl",
        "spatial_patch_size": 14,
    },
    "as transformers 4 saved a model of its default width": {"in_chans": 3, "model_type": "qwen2_vl"},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_published_tower_in_each_form(form: str) -> None:
    source = flat_config(IDS, 320, text=PUBLISHED) | {"vision_config": FORMS[form]}
    config = config_from_dict(source)
    assert config.vision == PUBLISHED_TOWER
    assert (config.vision.head_dim, config.vision.inner_dim, config.vision.patch_width) == (80, 5120, 1176)
    # transformers 4.46 and later renamed the type of the rotary positions in the files that they saved
    source["rope_scaling"] = {"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]}
    assert config_from_dict(source) == config


@pytest.mark.parametrize("tied", [True, False])
def test_both_forms_here_and_in_transformers(tied: bool, tmp_path: Path) -> None:
    flat = flat_config(IDS, 64, tie_word_embeddings=tied, vision={"mlp_ratio": 2.5})
    config = config_from_dict(flat)
    FAMILY.write_config(config, tmp_path)
    assert config_from_dict(json.loads((tmp_path / "config.json").read_text())) == config
    transformers = pytest.importorskip("transformers", reason="its config class writes the nested form")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "Qwen2VLConfig" and theirs.tie_word_embeddings is tied
    nested = theirs.to_dict()
    assert "text_config" in nested and "hidden_size" not in nested
    assert config_from_dict(copy.deepcopy(nested)) == config


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("hidden_size", 32, "hidden_size = 32, but the decoder's hidden_size is 64; .* embed_dim"),
        ("embed_dim", 33, "embed_dim = 33, which must be a multiple of 2"),
        ("num_heads", 16, "the vision head dim is 2"),
        ("mlp_ratio", 0, "mlp_ratio = 0.0, expected > 0"),
        ("mlp_ratio", "4", "mlp_ratio = '4', expected float"),
        ("depth", None, "lacks vision_config.depth"),
        ("hidden_act", "silu", "hidden_act = 'silu', expected 'quick_gelu'"),
        ("patch_size", 0, "patch_size = 0, expected 1 or more"),
    ],
)
def test_towers_that_cannot_be_built(key: str, value, message: str) -> None:
    source = flat_config(IDS, 64)
    source["vision_config"][key] = value
    with pytest.raises(BadInputError, match=message):
        config_from_dict(source)


@pytest.mark.parametrize("key", ["rms_norm_eps", "vision_config", "image_token_id", "tie_word_embeddings"])
def test_nothing_else_is_assumed(key: str) -> None:
    source = flat_config(IDS, 64)
    del source[key]
    with pytest.raises(BadInputError, match=f"lacks {key}; the model needs it, and no default is assumed"):
        config_from_dict(source)
