"""Configuration of Qwen2-VL: read from the published flat form or the nested form of transformers 5.

The decoder is Qwen2.5-VL's, and so is its rule: nothing is assumed. The tower is the same in every published
size, and folders that transformers 4 saved leave out of it what equals its class's defaults (a fine-tuned 7B
keeps "in_chans" alone), which are that tower: so an absent value of the tower is the published one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.common.config_values import check_multiple, check_sizes, take, whole
from mix_core.models.qwen2_5_vl.text_config import (
    QwenVLConfig,
    check_activation,
    check_text,
    check_vision_heads,
    read_shared,
    vision_source,
    write_flat,
)


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The tower, `vision_config` in the file. The published values are the defaults."""

    depth: int = 32
    """Number of blocks."""
    embed_dim: int = 1280
    """Width of a patch's vector."""
    mlp_ratio: float = 4.0
    """Width of the feed-forward over `embed_dim`."""
    num_heads: int = 16
    """Attention heads."""
    in_channels: int = 3
    """Colour channels; `in_chans` in the published file."""
    patch_size: int = 14
    """Side of a patch, pixels."""
    temporal_patch_size: int = 2
    """Frames in a patch; a still image is repeated."""
    spatial_merge_size: int = 2
    """Side of a cell in patches: the merger makes one decoder token of each cell."""
    hidden_act: str = "quick_gelu"
    """Between the two maps of the feed-forward; "quick_gelu" is the only one built."""
    hidden_size: int
    """Width of the merger's output: the decoder's hidden size (1536, 3584, 8192); assumed where absent."""

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def inner_dim(self) -> int:
        """Width of the feed-forward."""
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def patch_width(self) -> int:
        """Numbers in one flattened patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def tokens_per_second(self) -> None:
        """A step of a video is one position on the time axis, whatever time it takes."""
        return None


@dataclass(frozen=True, kw_only=True)
class Qwen2VLConfig(QwenVLConfig):
    vision: VisionConfig

    def __post_init__(self) -> None:
        check_text(self.text)
        _check_vision(self.vision, self.text.hidden_size)


_VISION_KINDS: dict[str, type] = {
    "depth": int,
    "embed_dim": int,
    "mlp_ratio": float,
    "num_heads": int,
    "in_channels": int,
    "patch_size": int,
    "temporal_patch_size": int,
    "spatial_merge_size": int,
    "hidden_act": str,
    "hidden_size": int,
}


def config_from_dict(source: dict[str, Any]) -> Qwen2VLConfig:
    """Build the configuration from a parsed config.json of either form. Raises BadInputError."""
    shared = read_shared(source)
    vision = {"hidden_size": shared["text"].hidden_size, **vision_source(source)}
    kinds = {key: kind for key, kind in _VISION_KINDS.items() if key in vision}
    given = {key: take(vision, key, "vision_config.", kind) for key, kind in kinds.items()}
    return Qwen2VLConfig(**shared, vision=VisionConfig(**given))


def config_to_dict(config: Qwen2VLConfig, dtype: str) -> dict[str, Any]:
    """Write the published flat form, which transformers reads too."""
    vision = config.vision
    written = {key: getattr(vision, key) for key in _VISION_KINDS}
    written |= {"mlp_ratio": whole(vision.mlp_ratio), "spatial_patch_size": vision.patch_size}
    return write_flat(
        config, written, architecture="Qwen2VLForConditionalGeneration", model_type="qwen2_vl", dtype=dtype
    )


def _check_vision(vision: VisionConfig, decoder_width: int) -> None:
    """Refuse sizes that do not fit each other, with the values."""
    sizes = tuple(key for key, kind in _VISION_KINDS.items() if kind is int)
    check_sizes(vision, sizes, "vision_config.")
    check_multiple("vision_config.embed_dim", vision.embed_dim, vision.num_heads)
    check_vision_heads(vision.head_dim)
    if vision.inner_dim < 1:
        raise BadInputError(f"config.json has vision_config.mlp_ratio = {vision.mlp_ratio}, expected > 0")
    if vision.hidden_size != decoder_width:
        raise BadInputError(
            f"config.json has vision_config.hidden_size = {vision.hidden_size}, but the decoder's "
            f"hidden_size is {decoder_width}; the tower's own width is embed_dim"
        )
    check_activation("vision_config.hidden_act", vision.hidden_act, "quick_gelu")
