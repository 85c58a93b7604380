"""Small but complete Qwen2.5-VL folders in the published layout (Qwen2-VL: `tests.builders.qwen2_vl`).

    write_checkpoint(folder)                   # files a processor needs, and config.json
    write_checkpoint(folder, weights=True)     # and random weights, made through transformers
    write_checkpoint(folder, text={"num_key_value_heads": 1}, vision={"patch_size": 4},
                     layout="nested", weights=True, max_shard_size="50KB")

Shapes by default: decoder 2 layers, D 64, 4 heads of 16, 2 key/value heads; vision tower 4 blocks (full
attention in blocks 1 and 3), D 32, 2 heads of 16, patch 14, merge 2, window 56 (two merged cells a side).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.builders.tokenizer import write_tokenizer

CHAT_TEMPLATE = """\
{%- set seen = namespace(images=0, videos=0) -%}
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
{%- set seen.images = seen.images + 1 -%}
{%- if add_vision_id -%}{{ 'Picture ' ~ seen.images ~ ': ' }}{%- endif -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type == 'video' or 'video' in part -%}
{%- set seen.videos = seen.videos + 1 -%}
{%- if add_vision_id -%}{{ 'Video ' ~ seen.videos ~ ': ' }}{%- endif -%}
{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
"""Renders what the published template renders: default system text, one pad token a picture or video."""

MODEL = "ForConditionalGeneration"
"""How the published classes' names end."""
IMAGE_MEAN = [0.48145466, 0.4578275, 0.40821073]
IMAGE_STD = [0.26862954, 0.26130258, 0.27577711]


def write_checkpoint(
    folder: Path,
    *,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    image: dict[str, Any] | None = None,
    tie_word_embeddings: bool = True,
    layout: str = "flat",
    weights: bool = False,
    seed: int = 0,
    max_shard_size: str = "5GB",
    chat_template_in: str = "chat_template.jinja",
    vocab_size: int = 384,
    config_of: Callable[..., dict[str, Any]] | None = None,
) -> Path:
    """Write a folder and return it.

    ``text``, ``vision`` and ``image`` override keys of the decoder's, the vision tower's and the
    preprocessor's configuration. ``layout``: "flat" (as published) or "nested" (as transformers 5 writes it).
    ``chat_template_in``: "chat_template.jinja", "tokenizer_config.json", "chat_template.json" or "" for none.
    ``config_of`` stands in for `flat_config` where another family's folder is wanted.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    in_tokenizer_config = CHAT_TEMPLATE if chat_template_in == "tokenizer_config.json" else None
    tokenizer = write_tokenizer(folder, vocab_size=vocab_size, chat_template=in_tokenizer_config)
    if chat_template_in == "chat_template.jinja":
        (folder / chat_template_in).write_text(CHAT_TEMPLATE, encoding="utf-8")
    elif chat_template_in == "chat_template.json":
        _write_json(folder / chat_template_in, {"chat_template": CHAT_TEMPLATE})
    ids = {token: tokenizer.token_to_id(token) for token in tokenizer.get_vocab() if token.startswith("<|")}
    config = (config_of or flat_config)(
        ids, tokenizer.get_vocab_size(), text=text, vision=vision, tie_word_embeddings=tie_word_embeddings
    )
    image = {"processor_class": config["architectures"][0].replace(MODEL, "Processor"), **(image or {})}
    _write_json(folder / "preprocessor_config.json", preprocessor_config(config["vision_config"], image))
    _write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": ids["<|endoftext|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "do_sample": True,
            "repetition_penalty": 1.05,
            "temperature": 1e-6,
        },
    )
    if weights:
        _write_weights(folder, config, seed, max_shard_size)
    if layout == "nested":
        _write_json(
            folder / "config.json", transformers_class(config).config_class.from_dict(config).to_dict()
        )
    elif layout == "flat":
        _write_json(folder / "config.json", config)
    else:
        raise ValueError(f"layout {layout!r} is neither 'flat' nor 'nested'")
    return folder


def flat_config(
    ids: dict[str, int],
    tokens: int,
    *,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    tie_word_embeddings: bool = True,
) -> dict[str, Any]:
    """config.json with the keys and the flat shape that Qwen publishes; the vocabulary is padded likewise."""
    config: dict[str, Any] = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 176,
        "max_position_embeddings": 4096,
        "max_window_layers": 70,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": tie_word_embeddings,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": -(-tokens // 64) * 64,
        **(text or {}),
    }
    config.setdefault("rope_scaling", {"type": "mrope", "mrope_section": _mrope_section(config)})
    config["vision_config"] = {
        "depth": 4,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 84,
        "num_heads": 2,
        "in_chans": 3,
        "out_hidden_size": config["hidden_size"],
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
        **(vision or {}),
    }
    config["vision_config"].setdefault("spatial_patch_size", config["vision_config"]["patch_size"])
    return config


def preprocessor_config(vision: dict[str, Any], image: dict[str, Any] | None = None) -> dict[str, Any]:
    """preprocessor_config.json; pixel limits as published, in units of merged cells (4 to 16384)."""
    cell = (vision["patch_size"] * vision["spatial_merge_size"]) ** 2
    return {
        "min_pixels": 4 * cell,
        "max_pixels": 16384 * cell,
        "patch_size": vision["patch_size"],
        "temporal_patch_size": vision["temporal_patch_size"],
        "merge_size": vision["spatial_merge_size"],
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        **(image or {}),
    }


def transformers_class(config: dict[str, Any]) -> Any:
    """The class that the configuration names."""
    import transformers

    return getattr(transformers, config["architectures"][0])


def transformers_model(config: dict[str, Any], seed: int = 0) -> Any:
    """transformers' model in float32 with random weights; biases and norms differ from 0 and 1 too."""
    import torch

    kind = transformers_class(config)
    model = kind(kind.config_class.from_dict(config)).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(noise * (0.3 if "embed_tokens" in name else fan_in**-0.5))
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(1 + 0.1 * noise)
    return model


def _write_weights(folder: Path, config: dict[str, Any], seed: int, max_shard_size: str) -> None:
    generation_config = (folder / "generation_config.json").read_text(encoding="utf-8")
    transformers_model(config, seed).save_pretrained(folder, max_shard_size=max_shard_size)
    (folder / "generation_config.json").write_text(generation_config, encoding="utf-8")


def _mrope_section(config: dict[str, Any]) -> list[int]:
    """Temporal, height and width shares of the rotary frequencies, as 16:24:24 in the published sizes."""
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    temporal = half // 4
    height = (half - temporal) // 2
    return [temporal, height, half - temporal - height]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
