"""InternVL2 in figures, and the published sizes (their config.json on the hub)."""

from __future__ import annotations

from typing import Any

from mix_core.models.internvl2.config import MODEL_TYPES, QKV_BIAS, InternVL2Config
from mix_core.models.outline import LinearMap, Outline, PublishedSize, decoder_stack, text_sizes, tower_stack

_INTERNLM2, _QWEN2 = "InternLM2ForCausalLM", "Qwen2ForCausalLM"


def _published(size: str, architecture: str, text: dict[str, Any]) -> PublishedSize:
    decoder = {
        "architectures": [architecture],
        "model_type": MODEL_TYPES[architecture],
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6 if architecture == _QWEN2 else 1e-5,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        **text,
    }
    tower = {
        "drop_path_rate": 0.1,
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "image_size": 448,
        "initializer_factor": 1.0,
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-6,
        "norm_type": "layer_norm",
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "qk_normalization": False,
        "qkv_bias": True,
    }
    config = {
        "model_type": "internvl_chat",
        "template": "Hermes-2" if architecture == _QWEN2 else "internlm2-chat",
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "force_image_size": 448,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "llm_config": decoder,
        "vision_config": tower,
    }
    return PublishedSize(f"internvl2-{size}", config)


SIZES = (
    _published("1b", _QWEN2, text_sizes(896, 4864, 24, 14, 2, 151655)),
    _published("2b", _INTERNLM2, text_sizes(2048, 8192, 24, 16, 8, 92553)),
    _published("8b", _INTERNLM2, text_sizes(4096, 14336, 32, 32, 8, 92553)),
)


def outline(config: InternVL2Config) -> Outline:
    text, vision = config.text, config.vision
    patches, tokens = config.grid**2, config.num_image_token
    width = vision.hidden_size * config.shuffle**2
    layers = config.select_layer % (vision.num_hidden_layers + 1)
    tower = tower_stack(
        layers=layers,
        width=vision.hidden_size,
        heads=vision.num_attention_heads,
        head_dim=vision.head_dim,
        inner=vision.intermediate_size,
        rms=vision.norm_type == "rms_norm",
        qkv_bias=vision.qkv_bias,
        scaled=True,
        norm_qk=vision.qk_normalization,
    )
    # layers after the one whose output is taken have parameters and never run
    unused = (vision.num_hidden_layers - layers) * tower.block_parameters
    decoder = decoder_stack(text, qkv_bias=QKV_BIAS[text.architecture])
    positions = (vision.image_size // vision.patch_size) ** 2 + 1
    return Outline(
        decoder=decoder,
        tower=tower,
        vocabulary=text.vocab_size,
        tied=text.tie_word_embeddings,
        maps=(
            LinearMap(inputs=vision.patch_width, outputs=tower.width, bias=True, rows=patches, part="tower"),
            LinearMap(inputs=width, outputs=text.hidden_size, bias=True, rows=tokens, part="projector"),
            LinearMap(
                inputs=text.hidden_size, outputs=text.hidden_size, bias=True, rows=tokens, part="projector"
            ),
        ),
        loose={
            "tower": (positions + 1) * tower.width + unused,
            "projector": 2 * width,
            "decoder": text.hidden_size,
        },
        tile_patches=patches + 1,
        tile_tokens=tokens,
    )
