"""Small folders of every family whose weights can be converted: config.json, random weights, a few files.

Four tower layers and five decoder layers, so that pipelines of one, two and four stages cut them unevenly.
The weights' bits are random, which includes what is no number: a conversion moves bits.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.convert.published import read_model
from mix_core.models.common.tensor_files import Outgoing, read_folder, write_folder
from tests.builders import checkpoints, qwen2_vl
from tests.builders.internvl2_checkpoints import config_of
from tests.builders.llava import llava_config
from tests.builders.qwen_vl import tiny_config

VIT, LLM = 4, 5
_IDS: Mapping[str, int] = defaultdict(int)
_DEEP = {"num_hidden_layers": LLM, "hidden_size": 32, "intermediate_size": 48}
_INTERN = {**_DEEP, "vocab_size": 91}
_SIX_B = {"norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False}


def _qwen2_vl(**keys: Any) -> dict[str, Any]:
    text = {**_DEEP, "num_key_value_heads": 2}
    return qwen2_vl.flat_config(_IDS, 64, text=text, vision={"depth": VIT, "hidden_size": 32}, **keys)


def _qwen2_5_vl(**keys: Any) -> dict[str, Any]:
    text = {**_DEEP, "num_key_value_heads": 2}
    return checkpoints.flat_config(_IDS, 64, text=text, vision={"depth": VIT}, **keys)


def _internvl2(decoder: str, tied: bool = False, **vision: Any) -> dict[str, Any]:
    tower = {"num_hidden_layers": VIT, **vision}
    return config_of(decoder, text={**_INTERN, "tie_word_embeddings": tied}, vision=tower)


def _llava(*, anyres: bool = False, **keys: Any) -> dict[str, Any]:
    return llava_config(
        anyres=anyres, image_token=60, tokens=62, text=_DEEP, vision={"num_hidden_layers": VIT}, **keys
    )


def authors_config(tower: Path) -> dict[str, Any]:
    """config.json in the form of LLaVA's authors, which tools that follow them have too."""
    text = {"rms_norm_eps": 1e-5, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 61}
    return {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        **_DEEP,
        **text,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str(tower),
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": _qwen2_5_vl(tie_word_embeddings=False),
    "qwen2_vl": _qwen2_vl(tie_word_embeddings=False),
    "qwen2_vl tied": _qwen2_vl(tie_word_embeddings=True),
    "internvl2 internlm2": _internvl2("internlm2"),
    "internvl2 internlm2 tied": _internvl2("internlm2", True),
    "internvl2 qwen2": _internvl2("qwen2"),
    "internvl2 qwen2 tied": _internvl2("qwen2", True),
    "internvl2 6B tower": _internvl2("llama", hidden_size=48, num_attention_heads=3, **_SIX_B),
    "llava-1.5": _llava(),
    "llava-1.6 tied": _llava(anyres=True, tie_word_embeddings=True),
    "qwen_vl": tiny_config(60, intermediate_size=64),
    "qwen_vl one width": tiny_config(
        60, intermediate_size=64, tie_word_embeddings=True, visual={"width": 128, "heads": 4}
    ),
}


def random_bits(shape: tuple[int, ...], rng: np.random.Generator, dtype: str) -> np.ndarray:
    bits = rng.integers(0, 1 << (16 if dtype == "BF16" else 32), shape, np.uint32)
    return bits.astype(np.uint16) if dtype == "BF16" else bits.view(np.float32)


def write_model(folder: Path, config: dict[str, Any], dtype: str = "BF16", seed: int = 0) -> Path:
    """Write a published folder in two shards and return it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "None"}')
    rng = np.random.default_rng(seed)
    outgoing = []
    for name, shape in read_model(folder).shapes.items():
        values = random_bits(shape, rng, dtype)
        outgoing.append(Outgoing(name, dtype, shape, lambda values=values: values))
    write_folder(folder, outgoing, sum(one.size_bytes for one in outgoing) * 2 // 3)
    return folder


def tensors_of(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Everything that a published folder says of its weights, to compare."""
    return {
        name: (one.dtype, one.shape, np.ascontiguousarray(one.read()).tobytes())
        for name, one in read_folder(folder).items()
    }
