"""Configuration of CLIP's text encoders: `config.json` of a published `text_encoder` folder.

Published files leave out what has its default in transformers, so these defaults belong to the format: they
stand here, and what is written names every value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.errors import BadInputError

MODEL_TYPE = "clip_text_model"
PLAIN, PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"
ACTIVATIONS = ("quick_gelu", "gelu")
LEGACY_EOS = 2
"""An end token's id that stands in files written before it was used: rows then end at their highest id."""

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "projection_dim": 512,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
_SIZES = tuple(key for key, value in _DEFAULTS.items() if isinstance(value, int) and "token" not in key)


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    """One text encoder. Values of ViT-L (SD 1.5, SDXL, SD3) and ViT-bigG (SDXL, SD3) in brackets."""

    vocab_size: int
    """Rows of the token embedding (49408)."""
    hidden_size: int
    """(768, 1280)"""
    intermediate_size: int
    """Width of the feed-forward (3072, 5120)."""
    num_hidden_layers: int
    """(12, 32)"""
    num_attention_heads: int
    """(12, 20)"""
    max_position_embeddings: int
    """Longest row, in tokens (77)."""
    projection_dim: int
    """Width of the pooled vector's projection (768, 1280)."""
    hidden_act: str
    """Of the feed-forward ("quick_gelu", "gelu")."""
    layer_norm_eps: float
    """(1e-5)"""
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int
    """Where a row is pooled: at its first such token; `LEGACY_EOS` at its highest id (2, 2)."""
    projected: bool
    """Whether the pooled vector is projected: class CLIPTextModelWithProjection (bigG; both in SD3)."""


def config_from_dict(source: dict[str, Any]) -> ClipTextConfig:
    """Parsed config.json -> configuration. Raises BadInputError."""
    if source.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise BadInputError(f"config.json has model_type {source['model_type']!r}, expected {MODEL_TYPE!r}")
    names = source.get("architectures") or [None]
    if names[0] not in (PLAIN, PROJECTED):
        raise BadInputError(f"config.json has architectures {names}, expected {PLAIN} or {PROJECTED}")
    values = {key: source.get(key, default) for key, default in _DEFAULTS.items()}
    config = ClipTextConfig(**values, projected=names[0] == PROJECTED)
    for key in _SIZES:
        if not isinstance(values[key], int) or values[key] < 1:
            raise BadInputError(
                f"config.json has {key} = {values[key]!r}, expected a whole number of 1 or more"
            )
    if config.hidden_size % config.num_attention_heads:
        raise BadInputError(
            f"config.json has hidden_size = {config.hidden_size}, which must be a multiple of "
            f"num_attention_heads = {config.num_attention_heads}"
        )
    if config.hidden_act not in ACTIVATIONS:
        raise BadInputError(
            f"config.json has hidden_act {config.hidden_act!r}; built are {', '.join(ACTIVATIONS)}"
        )
    for key in ("attention_dropout", "use_attention_mask"):
        if source.get(key):
            raise BadInputError(f"config.json has {key} = {source[key]!r}, which is not built; leave it out")
    return config


def config_to_dict(config: ClipTextConfig, dtype: str = "float32") -> dict[str, Any]:
    """config.json as transformers writes and reads it; `dtype` is that of the weights."""
    return {
        "architectures": [PROJECTED if config.projected else PLAIN],
        "model_type": MODEL_TYPE,
        **{key: getattr(config, key) for key in _DEFAULTS},
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "torch_dtype": dtype,
    }
