"""Configuration of the U-Net of SD 1.5 and SDXL; imports no paddle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.models.diffusion.config_file import check, read, written

CLASS_NAME = "UNet2DConditionModel"
BUILT: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type_num_heads": 64,
    "attention_type": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dropout": 0.0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_out_scale_factor": 1.0,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}
ATTENDING = {"CrossAttnDownBlock2D", "CrossAttnUpBlock2D"}
DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Published values (SD 1.5, SDXL) in brackets. Levels are counted from the picture inward."""

    sample_size: int | None = None
    """Side of the latents that the network was trained with (64, 128); it limits nothing here."""
    in_channels: int = 4
    """Of the latents (4); 9 where a mask and a masked picture go in beside them."""
    out_channels: int = 4
    flip_sin_to_cos: bool = True
    """Whether cosines stand before sines in the embedding of the time step."""
    freq_shift: int = 0
    """Taken from the number of frequencies before it divides their exponents."""
    down_block_types: tuple[str, ...]
    """Of each level, on the way in: with attention (`CrossAttnDownBlock2D`) or without (`DownBlock2D`)."""
    up_block_types: tuple[str, ...]
    """Of each level, on the way out, the innermost first."""
    block_out_channels: tuple[int, ...]
    """Channels of each level (320, 640, 1280, 1280; 320, 640, 1280); all but the last halve the map."""
    layers_per_block: int = 2
    """Residual blocks of a level on the way in; one more on the way out."""
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    """Of the group norms of residual blocks and of the last one."""
    cross_attention_dim: int = 1280
    """Width of the text's vectors (768, 2048)."""
    transformer_layers_per_block: int | tuple[int, ...] = 1
    """Transformer blocks after each residual block of a level (1; 1, 2, 10)."""
    attention_head_dim: int | tuple[int, ...] = 8
    """Number of heads of each level (8; 5, 10, 20); the name is an old mistake that files have kept."""
    use_linear_projection: bool = False
    """Whether the maps around transformer blocks are stored as linear ones (SDXL) or as convolutions."""
    addition_embed_type: str | None = None
    """`text_time`: the pooled text and six sizes add to the time step's embedding (SDXL)."""
    addition_time_embed_dim: int | None = None
    """Width of the embedding of each size (256)."""
    projection_class_embeddings_input_dim: int | None = None
    """Width of the pooled text and of all sizes together (2816)."""
    upcast_attention: bool = False
    """Kept for the file: attention takes its statistics in float32 anyway."""

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        for key, kinds in (("down_block_types", DOWN), ("up_block_types", UP)):
            found = getattr(self, key)
            right = len(found) == levels and set(found) <= set(kinds)
            check(right, CLASS_NAME, f"{key} = {list(found)}", f"{levels} of {' or '.join(kinds)}")
        for key in ("transformer_layers_per_block", "attention_head_dim"):
            found = getattr(self, key)
            right = isinstance(found, int) or len(found) == levels
            check(right, CLASS_NAME, f"{key} = {found}", f"one number or {levels}")
        for channels, heads in zip(self.block_out_channels, self.heads):
            check(
                channels % heads == 0 and channels % self.norm_num_groups == 0,
                CLASS_NAME,
                f"block_out_channels {channels} with {heads} heads and {self.norm_num_groups} groups",
                "a multiple of both",
            )
        self._check_addition()

    def _check_addition(self) -> None:
        kind = self.addition_embed_type
        check(kind in (None, "text_time"), CLASS_NAME, f"addition_embed_type = {kind!r}", "'text_time'")
        if kind is not None:
            check(
                self.addition_time_embed_dim is not None and self.pooled_width > 0,
                CLASS_NAME,
                f"projection_class_embeddings_input_dim = {self.projection_class_embeddings_input_dim} and "
                f"addition_time_embed_dim = {self.addition_time_embed_dim}",
                "the first to be more than six times the second",
            )

    @property
    def heads(self) -> tuple[int, ...]:
        """Of each level."""
        return _for_levels(self.attention_head_dim, len(self.block_out_channels))

    @property
    def depths(self) -> tuple[int, ...]:
        """Transformer blocks of each level."""
        return _for_levels(self.transformer_layers_per_block, len(self.block_out_channels))

    @property
    def embedding_width(self) -> int:
        """Of the time step's embedding."""
        return 4 * self.block_out_channels[0]

    @property
    def pooled_width(self) -> int:
        """Of the pooled text that adds to it."""
        return (self.projection_class_embeddings_input_dim or 0) - 6 * (self.addition_time_embed_dim or 0)


def _for_levels(value: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    return (value,) * levels if isinstance(value, int) else value


def config_from_dict(source: dict[str, Any]) -> UNetConfig:
    """From a parsed config.json. Raises BadInputError."""
    return read(UNetConfig, source, CLASS_NAME, BUILT)


def config_to_dict(config: UNetConfig) -> dict[str, Any]:
    return written(config, CLASS_NAME, BUILT)
