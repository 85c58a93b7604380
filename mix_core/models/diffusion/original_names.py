"""What the authors of latent diffusion call the weights that diffusers publishes under other names.

The originals number their blocks in one row and their layers by place: `input_blocks.4.0.in_layers.2` is the
first convolution (`conv1`) of a residual block. Facts of the names, as the files of SD 1.5 (CompVis
latent-diffusion, `openaimodel.py` and `model.py`) and SDXL (Stability-AI generative-models) have them.
Imports no paddle.
"""

from __future__ import annotations

from collections.abc import Callable

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."

_UNET_PLACES = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_UNET_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_MIDDLE = {("resnets", 0): 0, ("attentions", 0): 1, ("resnets", 1): 2}
_VAE_LAYERS = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_names(layers_per_block: int, attends: tuple[bool, ...]) -> Callable[[str], str]:
    """Published name -> original one; `attends`: whether the levels do, on the way out."""
    stride = layers_per_block + 1

    def original(name: str) -> str:
        module, kind = name.rsplit(".", 1)
        if module in _UNET_PLACES:
            return f"{_UNET_PLACES[module]}.{kind}"
        if module.startswith("mid_block."):
            _, part, place, rest = module.split(".", 3)
            return f"middle_block.{_MIDDLE[part, int(place)]}.{_residual(part, rest)}.{kind}"
        side, level, part, place, rest = module.split(".", 4)
        first = int(level) * stride
        if side == "down_blocks":
            if part == "downsamplers":
                return f"input_blocks.{first + stride}.0.op.{kind}"
            number = 1 + first + int(place)
            return f"input_blocks.{number}.{_seat(part)}.{_residual(part, rest)}.{kind}"
        if part == "upsamplers":
            seat = 2 if attends[int(level)] else 1
            return f"output_blocks.{first + layers_per_block}.{seat}.conv.{kind}"
        return f"output_blocks.{first + int(place)}.{_seat(part)}.{_residual(part, rest)}.{kind}"

    return original


def _seat(part: str) -> int:
    return 0 if part == "resnets" else 1


def _residual(part: str, rest: str) -> str:
    return _UNET_RESIDUAL[rest] if part == "resnets" else rest


def vae_names(levels: int) -> Callable[[str], str]:
    """Published name -> original one; the decoder's levels are counted the other way round there."""

    def original(name: str) -> str:
        module, kind = name.rsplit(".", 1)
        half, _, inner = module.partition(".")
        if not inner:
            return name
        block, _, rest = inner.partition(".")
        if block == "mid_block":
            part, place, layer = rest.split(".", 2)
            if part == "resnets":
                return f"{half}.mid.block_{int(place) + 1}.{layer}.{kind}"
            return f"{half}.mid.attn_{int(place) + 1}.{_VAE_ATTENTION[layer]}.{kind}"
        if block not in ("down_blocks", "up_blocks"):
            return f"{half}.{_VAE_LAYERS.get(inner, inner)}.{kind}"
        level, part, place, layer = rest.split(".", 3)
        side = "down" if block == "down_blocks" else "up"
        number = int(level) if side == "down" else levels - 1 - int(level)
        if part.endswith("samplers"):
            return f"{half}.{side}.{number}.{side}sample.conv.{kind}"
        return f"{half}.{side}.{number}.block.{place}.{_VAE_LAYERS.get(layer, layer)}.{kind}"

    return original
