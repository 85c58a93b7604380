"""Small but complete Qwen-VL folders in the published layout: vocabulary, configuration, and random weights.

    write_qwen_vl(folder)                      # Qwen-VL-Chat's files
    write_qwen_vl(folder, chat_format="raw")   # the base model's
    write_qwen_vl(folder, seq_length=24, visual={"layers": 1})

Shapes by default: decoder 2 layers, D 128, 4 heads of 32; tower 2 blocks of 3 heads of 16, patches of 14 in
pictures of 56 (a grid of 4), resampled to 9 tokens by one head of 128.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from mix_core.models.qwen_vl.tokenizer import SPECIAL

_WORDS = "the in on it is wha digit picture assistant user system Picture ser ing what ) ),( ,("
MERGES = (
    *_WORDS.split(),
    *(f" {word}" for word in _WORDS.split()[:13]),
    *("?\n", "\n\n", "  ", "你", "好", "图", "巴", "é"),
)
"""Tokens of more than a byte."""


def vocabulary() -> bytes:
    """qwen.tiktoken of a few hundred tokens. Bytes are not in the order of values, as in the published."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    tokens = [bytes([b]) for b in (*printable, *sorted(set(range(256)) - set(printable)))]
    known = set(tokens)
    for merge in MERGES:
        token = merge.encode()
        for end in range(2, len(token) + 1):  # every beginning too, so that merging can reach it
            if token[:end] not in known:
                known.add(token[:end])
                tokens.append(token[:end])
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    return b"".join(lines)


def tiny_config(
    image_start_id: int, *, seq_length: int = 2048, visual: dict[str, Any] | None = None, **keys: Any
) -> dict[str, Any]:
    """config.json with the published keys; `keys` and `visual` override."""
    config: dict[str, Any] = {
        "architectures": ["QWenLMHeadModel"],
        "attn_dropout_prob": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": False,
        "fp32": False,
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 320,
        "layer_norm_epsilon": 1e-06,
        "max_position_embeddings": 8192,
        "model_type": "qwen",
        "no_bias": True,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "onnx_safe": None,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": seq_length,
        "tie_word_embeddings": False,
        "tokenizer_type": "QWenTokenizer",
        "torch_dtype": "float32",
        "use_cache": True,
        "use_dynamic_ntk": True,
        "use_flash_attn": "auto",
        "use_logn_attn": True,
        "vocab_size": -(-(image_start_id + 3) // 64) * 64,
        **keys,
    }
    config.setdefault("kv_channels", config["hidden_size"] // config["num_attention_heads"])
    config["visual"] = {
        "heads": 3,
        "image_size": 56,
        "image_start_id": image_start_id,
        "layers": 2,
        "mlp_ratio": 2.5,
        "n_queries": 9,
        "output_dim": config["hidden_size"],
        "patch_size": 14,
        "width": 48,
        **(visual or {}),
    }
    return config


def write_qwen_vl(folder: Path, *, chat_format: str = "chatml", **keys: Any) -> Path:
    """Write a folder without weights and return it; `keys` go to `tiny_config`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    (folder / "qwen.tiktoken").write_bytes(tokens)
    end = len(tokens.splitlines())
    config = tiny_config(end + SPECIAL.index("<img>"), **keys)
    tokenizer = {"model_max_length": 8192, "tokenizer_class": "QWenTokenizer"}
    tokenizer["auto_map"] = {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]}
    generation = {"chat_format": chat_format, "eos_token_id": end, "pad_token_id": end, "top_p": 0.5}
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", tokenizer),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder
