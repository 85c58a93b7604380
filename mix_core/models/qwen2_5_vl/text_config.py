"""What config.json of Qwen2-VL and of Qwen2.5-VL have alike: the decoder, the tokens, both forms of the file.

Nothing here has a default: libraries disagree on them, so a value that the network needs and the file lacks
is an error that names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.common.config_values import check_multiple, check_sizes, take


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The decoder: top-level keys of the published file. Qwen2.5-VL's values (3B, 7B) in brackets."""

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
class QwenVLConfig:
    """The whole file; each family has its own class of tower."""

    text: TextConfig
    vision: Any
    """The tower: `patch_width`, `in_channels`, `patch_size`, `temporal_patch_size`, `spatial_merge_size`, and
    `tokens_per_second`, None where a step of a video is one position whatever time it takes."""
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


_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_shared(source: dict[str, Any]) -> dict[str, Any]:
    """The fields of `QwenVLConfig` from a parsed config.json of either form. Raises BadInputError."""
    nested = source.get("text_config") or {}
    tie = source.get("tie_word_embeddings")
    tie = nested.get("tie_word_embeddings") if tie is None else tie
    return {
        "text": _text(nested, "text_config.") if nested else _text(source, ""),
        "tie_word_embeddings": take({"tie_word_embeddings": tie}, "tie_word_embeddings", "", bool),
        **{key: take(source, key, "", int) for key in _TOKENS},
        **{key: source.get(key, nested.get(key)) for key in _ENDS},
    }


def vision_source(source: dict[str, Any]) -> dict[str, Any]:
    """The tower's part of a parsed config.json, with `in_channels` under that name."""
    vision: dict[str, Any] = take(source, "vision_config", "", dict)
    if "in_channels" not in vision and "in_chans" in vision:
        return {**vision, "in_channels": vision["in_chans"]}
    return vision


def write_flat(
    config: QwenVLConfig, vision: dict[str, Any], *, architecture: str, model_type: str, dtype: str
) -> dict[str, Any]:
    """The published flat form, which transformers reads too; `vision` is the tower's part."""
    text = config.text
    flat = {
        "architectures": [architecture],
        "model_type": model_type,
        "attention_dropout": text.attention_dropout,
        **{key: getattr(config, key) for key in (*_ENDS, *_TOKENS)},
        "hidden_act": text.hidden_act,
        "initializer_range": text.initializer_range,
        **{key: getattr(text, key) for key in _TEXT_SIZES},
        "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": text.rope_theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(text.mrope_section)},
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {**vision, "in_chans": vision["in_channels"], "model_type": model_type},
    }
    return {key: value for key, value in flat.items() if value is not None}


def check_text(text: TextConfig) -> None:
    """Refuse a decoder whose sizes do not fit each other, with the values."""
    check_sizes(text, _TEXT_SIZES, "")
    check_multiple("hidden_size", text.hidden_size, text.num_attention_heads)
    check_multiple("num_attention_heads", text.num_attention_heads, text.num_key_value_heads)
    if len(text.mrope_section) != 3 or sum(text.mrope_section) != text.head_dim // 2:
        raise BadInputError(
            f"config.json has mrope_section {list(text.mrope_section)}: expected three numbers that add "
            f"up to half the head dim, {text.head_dim // 2}"
        )
    check_activation("hidden_act", text.hidden_act, "silu")


def check_vision_heads(head_dim: int) -> None:
    if head_dim % 4:
        raise BadInputError(f"the vision head dim is {head_dim}; 2-D rotary needs a multiple of 4")


def check_activation(what: str, found: str, built: str) -> None:
    if found != built:
        raise BadInputError(f"config.json has {what} = {found!r}, expected {built!r}")


def _text(source: dict[str, Any], where: str) -> TextConfig:
    rope = source.get("rope_parameters") or source.get("rope_scaling") or {}
    theta = rope if rope.get("rope_theta") is not None else source
    if source.get("use_sliding_window"):
        raise BadInputError(f"config.json has {where}use_sliding_window = true; only full attention is built")
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in ("mrope", "default"):
        raise BadInputError(f"config.json has rope type {kind!r} in {where}rope_scaling, expected 'mrope'")
    return TextConfig(
        **{key: take(source, key, where, int) for key in _TEXT_SIZES},
        rms_norm_eps=take(source, "rms_norm_eps", where, float),
        rope_theta=take(theta, "rope_theta", where, float),
        mrope_section=tuple(take(rope, "mrope_section", f"{where}rope_scaling.", list)),
        attention_dropout=take(source, "attention_dropout", where, float),
        initializer_range=take(source, "initializer_range", where, float),
        hidden_act=take(source, "hidden_act", where, str),
    )
