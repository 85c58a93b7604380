"""Configuration of Qwen2.5-VL: read from the published flat form or the nested form of transformers 5.

Nothing has a silent default: libraries disagree on them (hidden size, eps, tokens per second), so a value
that the network needs and the file lacks is an error that names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.errors import BadInputError


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The tower, `vision_config` in the file. Published values (3B and 7B) in brackets."""

    depth: int
    """Number of blocks (32)."""
    hidden_size: int
    """Width of a patch's vector (1280)."""
    intermediate_size: int
    """Width of the gated feed-forward (3420)."""
    num_heads: int
    """Attention heads (16)."""
    in_channels: int
    """Colour channels (3); `in_chans` in the published file."""
    patch_size: int
    """Side of a patch, pixels (14)."""
    temporal_patch_size: int
    """Frames in a patch (2); a still image is repeated."""
    spatial_merge_size: int
    """Side of a cell in patches (2): the merger makes one decoder token of each cell."""
    window_size: int
    """Side of an attention window, pixels (112)."""
    fullatt_block_indexes: tuple[int, ...]
    """Blocks that attend over the whole frame instead of a window (7, 15, 23, 31)."""
    out_hidden_size: int
    """Width of the merger's output: the decoder's hidden size (2048, 3584)."""
    tokens_per_second: float
    """Positions on the time axis for one second of video (2)."""
    hidden_act: str
    """Gate of the feed-forward; "silu" is the only one built."""

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_width(self) -> int:
        """Numbers in one flattened patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def window_cells(self) -> int:
        """Side of a window in cells."""
        return self.window_size // self.spatial_merge_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The decoder: top-level keys of the published file. Published values (3B, 7B) in brackets."""

    vocab_size: int
    """Rows of the embedding (151936, 152064)."""
    hidden_size: int
    """Width of a token's vector (2048, 3584)."""
    intermediate_size: int
    """Width of the gated feed-forward (11008, 18944)."""
    num_hidden_layers: int
    """(36, 28)"""
    num_attention_heads: int
    """Query heads (16, 28)."""
    num_key_value_heads: int
    """Heads of keys and values (2, 4), each shared by as many query heads."""
    rms_norm_eps: float
    """Added to the mean square in norms (1e-6)."""
    rope_theta: float
    """Base of the rotary frequencies (1e6)."""
    mrope_section: tuple[int, ...]
    """Frequencies that turn with time, row and column (16, 24, 24); they add up to half the head dim."""
    max_position_embeddings: int
    """Greatest length the model was made for, tokens (128000); it limits nothing here."""
    attention_dropout: float
    """Share of attention weights dropped in training (0)."""
    initializer_range: float
    """Standard deviation of random first weights (0.02)."""
    hidden_act: str
    """Gate of the feed-forward; "silu" is the only one built."""

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True)
class Qwen2_5_VLConfig:
    text: TextConfig
    vision: VisionConfig
    tie_word_embeddings: bool
    """Whether the head is the embedding's matrix (3B: yes, 7B: no)."""
    image_token_id: int
    """Stands once for each cell of a picture."""
    video_token_id: int
    """Stands once for each cell of a video."""
    vision_start_token_id: int
    vision_end_token_id: int
    """Stand before and after each picture or video; the network treats them as text."""
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    """Kept for the file; the processor says where answers end."""

    def __post_init__(self) -> None:
        _check(self)


_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
_VISION_SIZES = (
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "in_channels",
    "patch_size",
    "temporal_patch_size",
    "spatial_merge_size",
    "window_size",
    "out_hidden_size",
)
_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def _take(source: dict[str, Any], key: str, where: str, kind: type) -> Any:
    if source.get(key) is None:
        raise BadInputError(f"config.json lacks {where}{key}; Qwen2.5-VL needs it, and no default is assumed")
    value = source[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadInputError(f"config.json has {where}{key} = {value!r}, expected {kind.__name__}")
    return value


def _text(source: dict[str, Any], where: str) -> TextConfig:
    rope = source.get("rope_parameters") or source.get("rope_scaling") or {}
    theta = rope if rope.get("rope_theta") is not None else source
    if source.get("use_sliding_window"):
        raise BadInputError(f"config.json has {where}use_sliding_window = true; only full attention is built")
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in ("mrope", "default"):
        raise BadInputError(f"config.json has rope type {kind!r} in {where}rope_scaling, expected 'mrope'")
    return TextConfig(
        **{key: _take(source, key, where, int) for key in _TEXT_SIZES},
        rms_norm_eps=_take(source, "rms_norm_eps", where, float),
        rope_theta=_take(theta, "rope_theta", where, float),
        mrope_section=tuple(_take(rope, "mrope_section", f"{where}rope_scaling.", list)),
        attention_dropout=_take(source, "attention_dropout", where, float),
        initializer_range=_take(source, "initializer_range", where, float),
        hidden_act=_take(source, "hidden_act", where, str),
    )


def _vision(source: dict[str, Any]) -> VisionConfig:
    where = "vision_config."
    if "in_channels" not in source and "in_chans" in source:
        source = {**source, "in_channels": source["in_chans"]}
    return VisionConfig(
        **{key: _take(source, key, where, int) for key in _VISION_SIZES},
        fullatt_block_indexes=tuple(_take(source, "fullatt_block_indexes", where, list)),
        tokens_per_second=_take(source, "tokens_per_second", where, float),
        hidden_act=_take(source, "hidden_act", where, str),
    )


def config_from_dict(source: dict[str, Any]) -> Qwen2_5_VLConfig:
    """Build the configuration from a parsed config.json of either form. Raises BadInputError."""
    nested = source.get("text_config")
    text = _text(nested, "text_config.") if nested else _text(source, "")
    tie = source.get("tie_word_embeddings")
    if tie is None and nested:
        tie = nested.get("tie_word_embeddings")
    optional = {
        key: source.get(key, (nested or {}).get(key))
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    return Qwen2_5_VLConfig(
        text=text,
        vision=_vision(_take(source, "vision_config", "", dict)),
        tie_word_embeddings=_take({"tie_word_embeddings": tie}, "tie_word_embeddings", "", bool),
        **{key: _take(source, key, "", int) for key in _TOKENS},
        **optional,
    )


def config_to_dict(config: Qwen2_5_VLConfig, dtype: str) -> dict[str, Any]:
    """Write the published flat form, which transformers reads too."""
    text, vision = config.text, config.vision
    flat = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": text.attention_dropout,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "vision_start_token_id": config.vision_start_token_id,
        "vision_end_token_id": config.vision_end_token_id,
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "hidden_act": text.hidden_act,
        "hidden_size": text.hidden_size,
        "initializer_range": text.initializer_range,
        "intermediate_size": text.intermediate_size,
        "max_position_embeddings": text.max_position_embeddings,
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": text.rope_theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(text.mrope_section)},
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": text.vocab_size,
        "vision_config": {
            "depth": vision.depth,
            "hidden_act": vision.hidden_act,
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_heads,
            "in_channels": vision.in_channels,
            "in_chans": vision.in_channels,
            "out_hidden_size": vision.out_hidden_size,
            "patch_size": vision.patch_size,
            "spatial_patch_size": vision.patch_size,
            "spatial_merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "window_size": vision.window_size,
            "fullatt_block_indexes": list(vision.fullatt_block_indexes),
            "tokens_per_second": _whole(vision.tokens_per_second),
            "model_type": "qwen2_5_vl",
        },
    }
    return {key: value for key, value in flat.items() if value is not None}


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _check(config: Qwen2_5_VLConfig) -> None:
    """Refuse sizes that do not fit each other, with the values."""
    text, vision = config.text, config.vision
    for what, part, sizes in (("", text, _TEXT_SIZES), ("vision_config.", vision, _VISION_SIZES)):
        for key in sizes:
            if getattr(part, key) < 1:
                raise BadInputError(f"config.json has {what}{key} = {getattr(part, key)}, expected 1 or more")
    for what, size, heads in (
        ("hidden_size", text.hidden_size, text.num_attention_heads),
        ("vision_config.hidden_size", vision.hidden_size, vision.num_heads),
        ("num_attention_heads", text.num_attention_heads, text.num_key_value_heads),
    ):
        if size % heads:
            raise BadInputError(f"config.json has {what} = {size}, which must be a multiple of {heads}")
    if len(text.mrope_section) != 3 or sum(text.mrope_section) != text.head_dim // 2:
        raise BadInputError(
            f"config.json has mrope_section {list(text.mrope_section)}: expected three numbers that add "
            f"up to half the head dim, {text.head_dim // 2}"
        )
    if vision.head_dim % 4:
        raise BadInputError(f"the vision head dim is {vision.head_dim}; 2-D rotary needs a multiple of 4")
    if vision.out_hidden_size != text.hidden_size:
        raise BadInputError(
            f"config.json has vision_config.out_hidden_size = {vision.out_hidden_size}, but the decoder's "
            f"hidden_size is {text.hidden_size}"
        )
    if vision.window_cells < 1:
        raise BadInputError(f"vision_config.window_size = {vision.window_size} pixels is less than one cell")
    for what, activation in (
        ("hidden_act", text.hidden_act),
        ("vision_config.hidden_act", vision.hidden_act),
    ):
        if activation != "silu":
            raise BadInputError(f"config.json has {what} = {activation!r}, expected 'silu'")
