"""Small text-to-image models with random weights, in diffusers' folder layout, without diffusers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders.text_encoders import write_clip_tokenizer

WIDTH = 16
"""Of the text encoder."""
UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 2,
    "cross_attention_dim": WIDTH,
}
MMDIT: dict[str, Any] = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 3,
    "out_channels": 3,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": WIDTH,
    "caption_projection_dim": 32,
    "pooled_projection_dim": WIDTH,
    "pos_embed_max_size": 24,
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 16, 32],
    "norm_num_groups": 8,
    "sample_size": 32,
    "force_upcast": False,
}
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "unet": {
        **NOISE,
        "_class_name": "PNDMScheduler",
        "skip_prk_steps": True,
        "set_alpha_to_one": False,
        "clip_sample": False,
    },
    "transformer": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
}
PIPELINES = {"unet": "StableDiffusionPipeline", "transformer": "StableDiffusion3Pipeline"}


def write_picture_model(folder: Path, part: str = "transformer", **network: Any) -> Path:
    """`transformer`: SD3's form over pixels, one text encoder, no autoencoder; `unet`: an SD 1.5.

    `network`: changes of the network's configuration.
    """
    from mix_core.models.clip_text.config import config_from_dict
    from mix_core.models.clip_text.model import ClipTextModel
    from mix_core.models.clip_text.weights import save_clip_text
    from mix_core.models.common.weights import fill_random

    rows = write_clip_tokenizer(folder / "tokenizer")
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    source = {"architectures": ["CLIPTextModel"], "vocab_size": rows, "eos_token_id": 2, **sizes}
    encoder = ClipTextModel(config_from_dict(source))
    fill_random(encoder, 0, 0.3)
    (folder / "text_encoder").mkdir()
    save_clip_text(encoder, folder / "text_encoder")
    write_network(folder / part, {**(UNET if part == "unet" else MMDIT), **network})
    if part == "unet":
        write_network(folder / "vae", VAE)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULERS[part]))
    here = ["diffusers", "something"]
    index = {"_class_name": PIPELINES[part], part: here, "text_encoder": here, "tokenizer": here}
    index |= {"scheduler": here, "vae": here if part == "unet" else [None, None]}
    index |= {} if part == "unet" else {"text_encoder_2": [None, None], "tokenizer_2": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_network(folder: Path, source: dict[str, Any], seed: int = 0) -> None:
    """One network with random weights of which every one matters."""
    from mix_core.models.diffusion.network import network, save_network
    from mix_core.models.diffusion.weights import draw_weights

    kind = network(source["_class_name"])
    model = kind.build(kind.config_from_dict(source))
    draw_weights(model, seed, zeros=False)
    save_network(model, folder)


def write_adapter(folder: Path, module: str = "unet.down_blocks.0.attentions.0.proj_in") -> None:
    """One map's, in diffusers' layout, for the `unet` above."""
    from mix_core.models.common.tensor_files import Outgoing, write_file
    from mix_core.models.diffusion.adapter_files import FILE

    folder.mkdir()
    width = UNET["block_out_channels"][0]
    shapes = {"lora_A": (2, width), "lora_B": (width, 2)}
    made = [
        Outgoing(f"{module}.{kind}.weight", "F32", shape, partial(np.full, shape, np.float32(0.1)))
        for kind, shape in shapes.items()
    ]
    write_file(folder / FILE, made)
