"""Configuration of SD3's transformer; imports no paddle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.models.diffusion.config_file import check, read, written

CLASS_NAME = "SD3Transformer2DModel"
BUILT: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """Published values (SD3 medium) in brackets."""

    sample_size: int = 128
    """Side of the latents (128) whose places have the distance 1 in the table of positions."""
    patch_size: int = 2
    """Side of a patch of latents, which is one token."""
    in_channels: int = 16
    """Of the latents."""
    out_channels: int | None = 16
    """Of the result; None: as many."""
    num_layers: int = 18
    """Blocks (24)."""
    attention_head_dim: int = 64
    """Width of a head."""
    num_attention_heads: int = 18
    """(24); heads times their width is the network's width (1536)."""
    joint_attention_dim: int = 4096
    """Width of the text's vectors."""
    caption_projection_dim: int = 1152
    """What they are mapped to: the network's width (1536)."""
    pooled_projection_dim: int = 2048
    """Width of the pooled text."""
    pos_embed_max_size: int = 96
    """Side of the table of positions, tokens (192); smaller pictures take the middle of it."""
    dual_attention_layers: tuple[int, ...] | tuple[()] = ()
    """Blocks in which the picture also attends to itself alone (none; the first 13 of SD3.5 medium)."""
    qk_norm: str | None = None
    """`rms_norm`: of queries and keys (SD3.5)."""

    def __post_init__(self) -> None:
        width = self.width
        check(
            self.caption_projection_dim == width,
            CLASS_NAME,
            f"caption_projection_dim = {self.caption_projection_dim}",
            f"num_attention_heads * attention_head_dim = {width}",
        )
        check(width % 4 == 0, CLASS_NAME, f"a width of {width}", "a multiple of 4, for the positions")
        check(self.qk_norm in (None, "rms_norm"), CLASS_NAME, f"qk_norm = {self.qk_norm!r}", "'rms_norm'")
        for name in ("sample_size", "patch_size", "num_layers", "pos_embed_max_size"):
            check(getattr(self, name) >= 1, CLASS_NAME, f"{name} = {getattr(self, name)}", "1 or more")

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def outputs(self) -> int:
        """Channels of the result."""
        return self.in_channels if self.out_channels is None else self.out_channels


def config_from_dict(source: dict[str, Any]) -> MMDiTConfig:
    """From a parsed config.json. Raises BadInputError."""
    return read(MMDiTConfig, source, CLASS_NAME, BUILT)


def config_to_dict(config: MMDiTConfig) -> dict[str, Any]:
    return written(config, CLASS_NAME, BUILT)
