"""Makes model/, the folder of the digits-t2i recipe: a small SD3 without weights, in pixel space.

Run: python mix_core/recipes/digits-t2i/make_model_folder.py

The layout is diffusers', without autoencoder and with one CLIP text encoder, which learns with the
transformer. The tokenizer knows all bytes, and merges that make each word of the captions one token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from mix_core.data.digit_captions import CAPTION, NAMES, SIDE_PX

FOLDER = Path(__file__).parent / "model"

PATCH_PX = 4
HEADS, HEAD_DIM, LAYERS = 4, 32, 4
TEXT = 64
"""Width of the text encoder."""
TOKENS = 8
"""Of a prompt, with the marks at its ends."""
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def merges() -> list[tuple[str, str]]:
    """Pairs that build each word from its left."""
    found: dict[tuple[str, str], None] = {}
    for word in (*CAPTION.format("").split(), *NAMES):
        letters = [*word[:-1], f"{word[-1]}</w>"]
        for end in range(1, len(letters)):
            found["".join(letters[:end]), letters[end]] = None
    return list(found)


def vocabulary() -> dict[str, int]:
    alphabet = sorted(ByteLevel.alphabet())
    joined = ["".join(pair) for pair in merges()]
    names = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *joined, BEGIN, END]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def files() -> dict[str, str]:
    """The folder's files and what they hold."""
    ids, width = vocabulary(), HEADS * HEAD_DIM
    index: dict[str, Any] = {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": [None, None],
        "text_encoder_3": [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": [None, None],
        "tokenizer_3": [None, None],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": [None, None],
    }
    transformer = {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": SIDE_PX,
        "patch_size": PATCH_PX,
        "in_channels": 1,
        "out_channels": 1,
        "num_layers": LAYERS,
        "num_attention_heads": HEADS,
        "attention_head_dim": HEAD_DIM,
        "joint_attention_dim": TEXT,
        "caption_projection_dim": width,
        "pooled_projection_dim": TEXT,
        "pos_embed_max_size": SIDE_PX // PATCH_PX,
        "qk_norm": "rms_norm",
    }
    encoder = {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": len(ids),
        "hidden_size": TEXT,
        "intermediate_size": 2 * TEXT,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "projection_dim": TEXT,
        "hidden_act": "gelu",
        "pad_token_id": ids[END],
        "bos_token_id": ids[BEGIN],
        "eos_token_id": ids[END],
    }
    scheduler = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
    }
    roles = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **roles}
    pairs = ["#version: 0.2", *(" ".join(pair) for pair in merges())]
    return {
        "model_index.json": _text(index),
        "transformer/config.json": _text(transformer),
        "text_encoder/config.json": _text(encoder),
        "scheduler/scheduler_config.json": _text(scheduler),
        "tokenizer/tokenizer_config.json": _text(tokenizer),
        "tokenizer/vocab.json": json.dumps(ids, ensure_ascii=False) + "\n",
        "tokenizer/merges.txt": "\n".join(pairs) + "\n",
    }


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def make(folder: Path) -> None:
    """Write the folder; files that it has already are replaced."""
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    make(FOLDER)
