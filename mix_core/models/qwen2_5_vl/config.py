"""Configuration of Qwen2.5-VL: read from the published flat form or the nested form of transformers 5.

Nothing has a silent default: libraries disagree on them (hidden size, eps, tokens per second), so a value
that the network needs and the file lacks is an error that names it.
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
class Qwen2_5_VLConfig(QwenVLConfig):
    vision: VisionConfig

    def __post_init__(self) -> None:
        check_text(self.text)
        _check_vision(self.vision, self.text.hidden_size)


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


def config_from_dict(source: dict[str, Any]) -> Qwen2_5_VLConfig:
    """Build the configuration from a parsed config.json of either form. Raises BadInputError."""
    return Qwen2_5_VLConfig(**read_shared(source), vision=_vision(vision_source(source)))


def _vision(source: dict[str, Any]) -> VisionConfig:
    where = "vision_config."
    return VisionConfig(
        **{key: take(source, key, where, int) for key in _VISION_SIZES},
        fullatt_block_indexes=tuple(take(source, "fullatt_block_indexes", where, list)),
        tokens_per_second=take(source, "tokens_per_second", where, float),
        hidden_act=take(source, "hidden_act", where, str),
    )


def config_to_dict(config: Qwen2_5_VLConfig, dtype: str) -> dict[str, Any]:
    """Write the published flat form, which transformers reads too."""
    vision = config.vision
    written = {
        **{key: getattr(vision, key) for key in _VISION_SIZES},
        "hidden_act": vision.hidden_act,
        "spatial_patch_size": vision.patch_size,
        "fullatt_block_indexes": list(vision.fullatt_block_indexes),
        "tokens_per_second": whole(vision.tokens_per_second),
    }
    return write_flat(
        config,
        written,
        architecture="Qwen2_5_VLForConditionalGeneration",
        model_type="qwen2_5_vl",
        dtype=dtype,
    )


def _check_vision(vision: VisionConfig, decoder_width: int) -> None:
    """Refuse sizes that do not fit each other, with the values."""
    check_sizes(vision, _VISION_SIZES, "vision_config.")
    check_multiple("vision_config.hidden_size", vision.hidden_size, vision.num_heads)
    check_vision_heads(vision.head_dim)
    if vision.out_hidden_size != decoder_width:
        raise BadInputError(
            f"config.json has vision_config.out_hidden_size = {vision.out_hidden_size}, but the decoder's "
            f"hidden_size is {decoder_width}"
        )
    if vision.window_cells < 1:
        raise BadInputError(f"vision_config.window_size = {vision.window_size} pixels is less than one cell")
    check_activation("vision_config.hidden_act", vision.hidden_act, "silu")
