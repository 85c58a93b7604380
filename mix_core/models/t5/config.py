"""Configuration of T5's encoder: `config.json` of a published `text_encoder_3` folder, or of a whole T5.

Files leave out what has its default in transformers; these defaults stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.errors import BadInputError

MODEL_TYPE = "t5"
FEED_FORWARDS = ("gated-gelu", "relu")

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "dropout_rate": 0.1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
}
_SIZES = tuple(_DEFAULTS)[:8]


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """The encoder. Values of T5-XXL v1.1 (SD3) in brackets."""

    vocab_size: int
    """Rows of the embedding (32128)."""
    d_model: int
    """Width (4096)."""
    d_kv: int
    """Width of a head (64); heads need not fill up the width."""
    d_ff: int
    """Width of the feed-forward (10240)."""
    num_layers: int
    """(24)"""
    num_heads: int
    """(64)"""
    relative_attention_num_buckets: int
    """Distances that attention tells apart, of both directions (32)."""
    relative_attention_max_distance: int
    """Tokens; what is farther away is one bucket (128)."""
    layer_norm_epsilon: float
    """(1e-6)"""
    feed_forward_proj: str
    """"gated-gelu" (v1.1) or "relu" (v1.0)."""
    dropout_rate: float
    """Kept for the file. Not applied: text to image runs the encoder as it was published."""
    pad_token_id: int
    eos_token_id: int
    tie_word_embeddings: bool
    """Of the decoder's head, which is not here; kept for the file."""


def config_from_dict(source: dict[str, Any]) -> T5Config:
    """Parsed config.json -> configuration. Raises BadInputError."""
    if source.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise BadInputError(f"config.json has model_type {source['model_type']!r}, expected {MODEL_TYPE!r}")
    values = {key: source.get(key, default) for key, default in _DEFAULTS.items()}
    for key in _SIZES:
        if not isinstance(values[key], int) or values[key] < 1:
            raise BadInputError(
                f"config.json has {key} = {values[key]!r}, expected a whole number of 1 or more"
            )
    buckets, farthest = values["relative_attention_num_buckets"], values["relative_attention_max_distance"]
    if buckets % 4 or farthest <= buckets // 4:
        raise BadInputError(
            f"config.json has relative_attention_num_buckets = {buckets} up to a distance of {farthest}; "
            "expected a multiple of 4, and a distance above a quarter of it"
        )
    if values["feed_forward_proj"] not in FEED_FORWARDS:
        raise BadInputError(
            f"config.json has feed_forward_proj {values['feed_forward_proj']!r}; built are "
            f"{', '.join(FEED_FORWARDS)}"
        )
    return T5Config(**values)


def config_to_dict(config: T5Config, dtype: str = "float32") -> dict[str, Any]:
    """config.json as transformers writes and reads it for T5EncoderModel; `dtype` is that of the weights."""
    gated = config.feed_forward_proj == "gated-gelu"
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": MODEL_TYPE,
        **{key: getattr(config, key) for key in _DEFAULTS},
        "dense_act_fn": "gelu_new" if gated else "relu",
        "is_gated_act": gated,
        "is_encoder_decoder": True,
        "torch_dtype": dtype,
    }
