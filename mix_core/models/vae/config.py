"""Configuration of the autoencoder; imports no paddle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.models.diffusion.config_file import check, read, written

CLASS_NAME = "AutoencoderKL"
BUILT: dict[str, Any] = {"act_fn": "silu", "latents_mean": None, "latents_std": None}
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Published values (SD 1.5, SDXL, SD3) in brackets."""

    in_channels: int = 3
    """Of a picture."""
    out_channels: int = 3
    """Of the picture that comes back."""
    down_block_types: tuple[str, ...]
    """One `DownEncoderBlock2D` for each level."""
    up_block_types: tuple[str, ...]
    """One `UpDecoderBlock2D` for each level."""
    block_out_channels: tuple[int, ...]
    """Channels of each level, from the picture inward (128, 256, 512, 512); all but the last halve it."""
    layers_per_block: int = 1
    """Residual blocks of a level of the encoder (2); the decoder's have one more."""
    latent_channels: int = 4
    """(4, 4, 16)"""
    norm_num_groups: int = 32
    """Groups of all norms."""
    sample_size: int = 32
    """Side of a picture, and of a tile, pixels (512, 1024, 1024)."""
    scaling_factor: float = 0.18215
    """What latents are multiplied by for the network (0.18215, 0.13025, 1.5305)."""
    shift_factor: float | None = None
    """What is taken from them before (none, none, 0.0609)."""
    force_upcast: bool = True
    """Whether float16 overflows, so that the autoencoder has to run in float32."""
    use_quant_conv: bool = True
    """Whether a convolution follows the encoder (yes, yes, no)."""
    use_post_quant_conv: bool = True
    """Whether one goes before the decoder (yes, yes, no)."""
    mid_block_add_attention: bool = True
    """Whether the innermost level attends."""

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        for key, kind in (("down_block_types", DOWN), ("up_block_types", UP)):
            found = getattr(self, key)
            check(found == (kind,) * levels, CLASS_NAME, f"{key} = {list(found)}", f"{levels} times {kind}")
        for channels in self.block_out_channels:
            check(
                channels % self.norm_num_groups == 0,
                CLASS_NAME,
                f"block_out_channels {channels}",
                f"a multiple of norm_num_groups = {self.norm_num_groups}",
            )

    @property
    def factor(self) -> int:
        """Pixels for each latent, along a side."""
        return int(2 ** (len(self.block_out_channels) - 1))


def config_from_dict(source: dict[str, Any]) -> VAEConfig:
    """From a parsed config.json. Raises BadInputError."""
    return read(VAEConfig, source, CLASS_NAME, BUILT)


def config_to_dict(config: VAEConfig) -> dict[str, Any]:
    return written(config, CLASS_NAME, BUILT)
