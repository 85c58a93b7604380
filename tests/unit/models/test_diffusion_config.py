"""config.json of diffusion networks: what is not built, does not fit or is missing is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mix_core.errors import BadInputError
from mix_core.models.diffusion.network import load_network, network
from mix_core.models.diffusion.published import SD3_MEDIUM, SD15_UNET, SD15_VAE, SDXL_UNET

LACKING: dict[str, Any] = {key: value for key, value in SD15_UNET.items() if key != "block_out_channels"}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a lacking key": (LACKING, "lacks block_out_channels; no default is assumed"),
    "another type": ({**SD15_UNET, "norm_eps": "small"}, "norm_eps = 'small', expected float"),
    "not built": ({**SD15_UNET, "dual_cross_attention": True}, "dual_cross_attention = True; only None"),
    "not built, by value": ({**SD15_UNET, "act_fn": "gelu"}, "act_fn = 'gelu'; only 'silu' is built"),
    "another block": (
        {**SD15_UNET, "up_block_types": ["AttnUpBlock2D"] * 4},
        "expected 4 of CrossAttnUpBlock2D or UpBlock2D",
    ),
    "heads": ({**SD15_UNET, "attention_head_dim": 7}, "block_out_channels 320 with 7 heads"),
    "levels": ({**SDXL_UNET, "transformer_layers_per_block": [1, 2]}, "expected one number or 3"),
    "pooled": ({**SDXL_UNET, "projection_class_embeddings_input_dim": 1536}, "more than six times"),
    "embedding": ({**SDXL_UNET, "addition_embed_type": "image"}, "addition_embed_type = 'image'"),
    "vae blocks": ({**SD15_VAE, "up_block_types": ["UpDecoderBlock2D"]}, "expected 4 times UpDecoderBlock2D"),
    "vae groups": ({**SD15_VAE, "norm_num_groups": 48}, "a multiple of norm_num_groups = 48"),
    "mmdit width": ({**SD3_MEDIUM, "caption_projection_dim": 1152}, "attention_head_dim = 1536"),
    "mmdit norm": ({**SD3_MEDIUM, "qk_norm": "layer_norm"}, "qk_norm = 'layer_norm'; expected 'rms_norm'"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_with_the_values(name: str) -> None:
    source, message = BAD[name]
    with pytest.raises(BadInputError) as raised:
        network(source["_class_name"]).config_from_dict(source)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "source", [SD15_UNET, SDXL_UNET, SD15_VAE, SD3_MEDIUM], ids=lambda s: s["_class_name"]
)
def test_written_and_read_again(source: dict[str, Any]) -> None:
    kind = network(source["_class_name"])
    config = kind.config_from_dict(source)
    written = json.loads(json.dumps(kind.config_to_dict(config)))
    assert kind.config_from_dict(written) == config
    assert {key: written[key] for key in source} == source


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"has no config\.json"):
        load_network(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(BadInputError, match="has no _class_name"):
        load_network(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(BadInputError, match="'FluxTransformer2DModel'; expected one of AutoencoderKL, SD3"):
        load_network(tmp_path)
