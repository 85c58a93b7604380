"""diffusers' pipelines for Stable Diffusion 1.5, SDXL and SD3, with text encoders and tokenizers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.builders.text_encoders import write_clip_tokenizer, write_t5_tokenizer

WIDTH = 96
"""Of SD3's conditioning."""


def clip_config(rows: int, **changes: Any) -> Any:
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
    ids = {"bos_token_id": rows - 2, "eos_token_id": 2, "vocab_size": rows, "projection_dim": 24}
    return transformers.CLIPTextConfig(**{**sizes, **ids, "initializer_factor": 5.0, **changes})


def make_pipeline(kind: str, folder: Path, **options: Any) -> Any:
    """One of "sd15", "sdxl", "sd3" and "sd3 without t5", saved to `folder`; nothing that makes pictures."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    rows = write_clip_tokenizer(folder / "own")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "own")
    if kind == "sd15":
        encoder = transformers.CLIPTextModel(clip_config(rows)).eval()
        parts = {
            "text_encoder": encoder,
            "tokenizer": tokenizer,
            "vae": None,
            "unet": None,
            "safety_checker": None,
        }
        made = diffusers.StableDiffusionPipeline(
            **parts, scheduler=None, feature_extractor=None, requires_safety_checker=False
        )
        made.save_pretrained(folder)
        return made
    write_clip_tokenizer(folder / "own_2", pad="!")
    big = clip_config(rows, hidden_size=40, projection_dim=40, hidden_act="gelu")
    first = transformers.CLIPTextModel if kind == "sdxl" else transformers.CLIPTextModelWithProjection
    parts = {
        "text_encoder": first(clip_config(rows)).eval(),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(big).eval(),
        "tokenizer": tokenizer,
        "tokenizer_2": transformers.CLIPTokenizer.from_pretrained(folder / "own_2"),
        "vae": None,
        "scheduler": None,
    }
    if kind == "sdxl":
        made = diffusers.StableDiffusionXLPipeline(**parts, unet=None, add_watermarker=False, **options)
    else:
        made = _sd3(parts, folder, with_t5=kind == "sd3")
    made.save_pretrained(folder)
    return made


def _sd3(parts: dict[str, Any], folder: Path, *, with_t5: bool) -> Any:
    import diffusers
    import transformers

    third, tokenizer = None, None
    if with_t5:
        rows = write_t5_tokenizer(folder / "own_3")
        tokenizer = transformers.T5Tokenizer.from_pretrained(folder / "own_3")
        sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        config = transformers.T5Config(vocab_size=rows, feed_forward_proj="gated-gelu", **sizes)
        third = transformers.T5EncoderModel(config).eval()
    sizes = {"sample_size": 8, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    transformer = diffusers.SD3Transformer2DModel(
        **sizes,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=64,
        pos_embed_max_size=8,
    )
    return diffusers.StableDiffusion3Pipeline(
        **parts, transformer=transformer, text_encoder_3=third, tokenizer_3=tokenizer
    )
