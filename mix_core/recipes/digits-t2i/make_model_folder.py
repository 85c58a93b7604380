"""Makes the folders of two recipes: small models of SD3's form without weights, in diffusers' layout.

Run: python mix_core/recipes/digits-t2i/make_model_folder.py

digits-t2i/model works in pixel space, with one CLIP text encoder, which learns with the transformer.
wiring-sd3/model has all parts of SD3: an autoencoder, two CLIP encoders and T5. The tokenizers know all
bytes, or letters, and make each word of the captions one token.
"""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from mix_core.data.digit_captions import CAPTION, NAMES, SIDE_PX

PATCH_PX = 8
HEADS, HEAD_DIM, LAYERS = 4, 32, 4
TEXT = 64
"""Width of the text encoder."""
T5_WIDTH = 96
TOKENS = 8
"""Of a prompt, with the marks at its ends."""
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """Of the captions."""
    return [*CAPTION.format("").split(), *NAMES]


def merges() -> list[tuple[str, str]]:
    """Pairs that build each word from its left."""
    found: dict[tuple[str, str], None] = {}
    for word in words():
        letters = [*word[:-1], f"{word[-1]}</w>"]
        for end in range(1, len(letters)):
            found["".join(letters[:end]), letters[end]] = None
    return list(found)


def vocabulary() -> dict[str, int]:
    alphabet = sorted(ByteLevel.alphabet())
    joined = ["".join(pair) for pair in merges()]
    names = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *joined, BEGIN, END]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _index(*left_out: str) -> dict[str, Any]:
    """model_index.json without these parts."""
    parts = {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    given = {name: [None, None] if name in left_out else classes for name, classes in parts.items()}
    return {"_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.42.1", **given}


def _transformer(side: int, patch: int, channels: int, **more: int) -> dict[str, Any]:
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": side,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": channels,
        "caption_projection_dim": more["num_attention_heads"] * more["attention_head_dim"],
        "pos_embed_max_size": side // patch,
        "qk_norm": "rms_norm",
        **more,
    }


def _clip(width: int, layers: int, act: str = "gelu") -> dict[str, Any]:
    ids = vocabulary()
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": len(ids),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "projection_dim": width,
        "hidden_act": act,
        "pad_token_id": ids[END],
        "bos_token_id": ids[BEGIN],
        "eos_token_id": ids[END],
    }


def _clip_tokenizer(folder: str) -> dict[str, str]:
    roles = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
    pairs = ["#version: 0.2", *(" ".join(pair) for pair in merges())]
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **roles}
    return {
        f"{folder}/tokenizer_config.json": _text(settings),
        f"{folder}/vocab.json": json.dumps(vocabulary(), ensure_ascii=False) + "\n",
        f"{folder}/merges.txt": "\n".join(pairs) + "\n",
    }


def _scheduler(shift: float) -> str:
    kind = "FlowMatchEulerDiscreteScheduler"
    return _text({"_class_name": kind, "num_train_timesteps": 1000, "shift": shift})


def pixel_files() -> dict[str, str]:
    """The folder of digits-t2i: its files and what they hold."""
    sizes = {"num_layers": LAYERS, "num_attention_heads": HEADS, "attention_head_dim": HEAD_DIM}
    sizes |= {"joint_attention_dim": TEXT, "pooled_projection_dim": TEXT}
    left_out = ("vae", *(f"{part}_{number}" for part in ("text_encoder", "tokenizer") for number in (2, 3)))
    return {
        "model_index.json": _text(_index(*left_out)),
        "transformer/config.json": _text(_transformer(SIDE_PX, PATCH_PX, 1, **sizes)),
        "text_encoder/config.json": _text(_clip(TEXT, 2)),
        "scheduler/scheduler_config.json": _scheduler(1.0),
        **_clip_tokenizer("tokenizer"),
    }


def latent_files() -> dict[str, str]:
    """The folder of wiring-sd3."""
    first, second = 32, 48
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
    sizes |= {"joint_attention_dim": T5_WIDTH, "pooled_projection_dim": first + second}
    vae = {
        "_class_name": "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [8, 16, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 16,
        "sample_size": SIDE_PX,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    pieces = ["<pad>", "</s>", "<unk>", *(f"\u2581{word}" for word in words()), "\u2581", *ascii_lowercase]
    scores = [0.0, 0.0, 0.0, *[-1.0] * len(words()), *[-9.0] * (1 + len(ascii_lowercase))]
    t5 = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": len(pieces),
        "d_model": T5_WIDTH,
        "d_kv": 16,
        "d_ff": 2 * T5_WIDTH,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    }
    unigram = {"type": "Unigram", "unk_id": 2, "vocab": [list(pair) for pair in zip(pieces, scores)]}
    roles = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return {
        "model_index.json": _text(_index()),
        "transformer/config.json": _text(_transformer(SIDE_PX // 4, 2, 16, **sizes)),
        "vae/config.json": _text(vae),
        "text_encoder/config.json": _text(_clip(first, 2, "quick_gelu")),
        "text_encoder_2/config.json": _text(_clip(second, 2)),
        "text_encoder_3/config.json": _text(t5),
        "scheduler/scheduler_config.json": _scheduler(3.0),
        **_clip_tokenizer("tokenizer"),
        **_clip_tokenizer("tokenizer_2"),
        "tokenizer_3/tokenizer.json": json.dumps({"model": unigram}, ensure_ascii=False) + "\n",
        "tokenizer_3/tokenizer_config.json": _text({"tokenizer_class": "T5TokenizerFast", **roles}),
    }


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def make(folder: Path, files: dict[str, str]) -> None:
    """Write the folder; files that it has already are replaced."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main(recipes: Path = Path(__file__).parents[1]) -> None:
    make(recipes / "digits-t2i/model", pixel_files())
    make(recipes / "wiring-sd3/model", latent_files())


if __name__ == "__main__":
    main()
