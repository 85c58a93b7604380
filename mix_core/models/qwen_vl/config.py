"""Configuration of Qwen-VL and Qwen-VL-Chat: config.json as published, a `qwen` with a `visual` section.

Nothing has a silent default: a value that the network needs and the file lacks is an error that names it.
What the published code can be set to and the published models do not use is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.common.config_values import check_multiple, check_sizes, take, whole

HEAD_WIDTH = 128
"""Width of the resampler's heads; fixed in the architecture."""
TABLE_SIDE = 16
"""Side of the grid of the tower's position table, in patches; fixed in the architecture."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The tower and its resampler, `visual` in the file. Published values in brackets."""

    image_size: int
    """Side to which every picture is brought, pixels (448)."""
    patch_size: int
    """Side of a patch, pixels (14)."""
    width: int
    """Width of a patch's vector (1664)."""
    layers: int
    """Number of blocks (48)."""
    heads: int
    """Attention heads of a block (16)."""
    mlp_ratio: float
    """Width of the feed-forward over `width`, rounded down after the product (4.9231: 8192)."""
    output_dim: int
    """Width of the resampler: the decoder's hidden size (4096)."""
    n_queries: int
    """Tokens of a picture, a square number. The published files leave it out: 256, the published code's."""

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        return int(self.width * self.mlp_ratio)

    @property
    def grid(self) -> int:
        """Side of a picture in patches."""
        return self.image_size // self.patch_size

    @property
    def query_grid(self) -> int:
        """Side of the square of queries."""
        return isqrt(self.n_queries)


@dataclass(frozen=True, kw_only=True)
class QwenVLConfig:
    """Published values in brackets."""

    vocab_size: int
    """Rows of the embedding (151936)."""
    hidden_size: int
    """Width of a token's vector (4096)."""
    intermediate_size: int
    """Width of both halves of the gated feed-forward together (22016)."""
    num_hidden_layers: int
    """(32)"""
    num_attention_heads: int
    """Heads of queries, keys and values alike (32)."""
    layer_norm_epsilon: float
    """Of the decoder's norms (1e-6)."""
    rotary_emb_base: float
    """Base of the rotary frequencies within `seq_length` (10000)."""
    seq_length: int
    """Trained length, tokens (2048): beyond it the two keys that follow apply."""
    use_dynamic_ntk: bool
    """Whether a longer prompt raises the rotary base (true)."""
    use_logn_attn: bool
    """Whether queries further on are scaled by log(position, seq_length) (true)."""
    max_position_embeddings: int
    """Greatest length that the publisher names, tokens (8192); it limits nothing here."""
    attn_dropout_prob: float
    """Share of attention weights dropped in training (0)."""
    initializer_range: float
    """Standard deviation of random first weights (0.02)."""
    tie_word_embeddings: bool
    """Whether the head is the embedding's matrix (no)."""
    image_start_id: int
    """<img>; </img> and <imgpad> are the next two (151857, `visual.image_start_id`)."""
    vision: VisionConfig

    def __post_init__(self) -> None:
        _check(self)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "seq_length",
    "max_position_embeddings",
)
_VISION_SIZES = ("image_size", "patch_size", "width", "layers", "heads", "output_dim", "n_queries")
_FIXED = {"no_bias": True, "rotary_pct": 1.0, "scale_attn_weights": True, "emb_dropout_prob": 0.0}
"""Keys that the published code knows, and the only value of each that is built."""


def config_from_dict(source: dict[str, Any]) -> QwenVLConfig:
    """Build the configuration from a parsed config.json. Raises BadInputError."""
    if source.get("visual") is None:
        raise BadInputError(
            "config.json has no section visual: this is a Qwen model without pictures, which is not built; "
            "give a folder of Qwen-VL or Qwen-VL-Chat"
        )
    if source.get("quantization_config"):
        raise BadInputError(
            "config.json has quantization_config: packed integer weights are not read; give the folder of "
            "the model in bfloat16 (Qwen-VL, Qwen-VL-Chat)"
        )
    for key, only in _FIXED.items():
        if source.get(key, only) != only:
            raise BadInputError(f"config.json has {key} = {source[key]!r}; only {only!r} is built")
    visual = take(source, "visual", "", dict)
    config = QwenVLConfig(
        **{key: take(source, key, "", int) for key in _SIZES},
        **{key: take(source, key, "", bool) for key in ("use_dynamic_ntk", "use_logn_attn")},
        layer_norm_epsilon=take(source, "layer_norm_epsilon", "", float),
        rotary_emb_base=take(source, "rotary_emb_base", "", float),
        attn_dropout_prob=take(source, "attn_dropout_prob", "", float),
        initializer_range=take(source, "initializer_range", "", float),
        tie_word_embeddings=take(source, "tie_word_embeddings", "", bool),
        image_start_id=take(visual, "image_start_id", "visual.", int),
        vision=_vision(visual),
    )
    kv_channels = take(source, "kv_channels", "", int)
    if kv_channels != config.head_dim:
        raise BadInputError(
            f"config.json has kv_channels = {kv_channels}, expected hidden_size / num_attention_heads = "
            f"{config.head_dim}"
        )
    return config


def _vision(source: dict[str, Any]) -> VisionConfig:
    source = {"n_queries": TABLE_SIDE**2, **source}
    return VisionConfig(
        **{key: take(source, key, "visual.", int) for key in _VISION_SIZES},
        mlp_ratio=take(source, "mlp_ratio", "visual.", float),
    )


def config_to_dict(config: QwenVLConfig, dtype: str) -> dict[str, Any]:
    """Write the published form; the publisher's Python files, which auto_map names, are not part of it."""
    vision = config.vision
    visual = {key: getattr(vision, key) for key in _VISION_SIZES if key != "n_queries"}
    if vision.n_queries != TABLE_SIDE**2:
        visual["n_queries"] = vision.n_queries
    return {
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "attn_dropout_prob": config.attn_dropout_prob,
        "bf16": False,
        "fp16": False,
        "fp32": False,
        "initializer_range": config.initializer_range,
        "kv_channels": config.head_dim,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "model_type": "qwen",
        "onnx_safe": None,
        "rotary_emb_base": whole(config.rotary_emb_base),
        "tie_word_embeddings": config.tie_word_embeddings,
        "tokenizer_type": "QWenTokenizer",
        "torch_dtype": dtype,
        "use_cache": True,
        "use_dynamic_ntk": config.use_dynamic_ntk,
        "use_flash_attn": "auto",
        "use_logn_attn": config.use_logn_attn,
        **{key: getattr(config, key) for key in _SIZES},
        **_FIXED,
        "visual": visual | {"mlp_ratio": vision.mlp_ratio, "image_start_id": config.image_start_id},
    }


def _check(config: QwenVLConfig) -> None:
    """Refuse sizes that do not fit each other, with the values."""
    vision = config.vision
    check_sizes(config, _SIZES, "")
    check_sizes(vision, _VISION_SIZES, "visual.")
    for what, size, divisor in (
        ("hidden_size", config.hidden_size, config.num_attention_heads),
        ("intermediate_size", config.intermediate_size, 2),
        ("visual.width", vision.width, vision.heads),
        ("visual.image_size", vision.image_size, vision.patch_size),
        ("visual.output_dim", vision.output_dim, HEAD_WIDTH),
    ):
        check_multiple(what, size, divisor)
    if config.head_dim % 2:
        raise BadInputError(f"the decoder's head dim is {config.head_dim}; rotary needs an even one")
    if vision.query_grid**2 != vision.n_queries:
        raise BadInputError(
            f"config.json has visual.n_queries = {vision.n_queries}, expected a square number"
        )
    if vision.output_dim != config.hidden_size:
        raise BadInputError(
            f"config.json has visual.output_dim = {vision.output_dim}, but the decoder's hidden_size is "
            f"{config.hidden_size}"
        )
    if not 0 <= config.image_start_id < config.vocab_size - 2:
        raise BadInputError(
            f"config.json has visual.image_start_id = {config.image_start_id}, which with the two ids after "
            f"it must lie within the vocabulary of {config.vocab_size}"
        )
