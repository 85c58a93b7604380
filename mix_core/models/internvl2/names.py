"""Names of the parameters: ours, which hold the decoder in parts, and the published ones.

A decoder of Qwen2's or Llama's kind bears the published names. InternLM2's stands in the model as
`language_model.decoder`, so that a name alone says which it is.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

FUSED = "attention.wqkv"
PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
"""What `attention.wqkv` holds, group by group: the query heads of a key head, that key head, its values."""
_LAYER = {
    **dict.fromkeys(PARTS, FUSED),
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_TOP = {"embed_tokens": "tok_embeddings", "norm": "norm"}
_INTERNLM2 = re.compile(r"language_model\.decoder\.(?:layers\.(\d+)\.)?(.+)\.(weight|bias)")


def published_name(name: str) -> str:
    """The published name of the weight that a parameter is, or is part of."""
    found = _INTERNLM2.fullmatch(name)
    if not found:
        return name
    layer, inner, kind = found.groups()
    if layer is None:
        return f"language_model.model.{_TOP[inner]}.{kind}"
    return f"language_model.model.layers.{layer}.{_LAYER[inner]}.{kind}"


def part_rows(model: Any, name: str) -> np.ndarray | None:
    """Which rows of `attention.wqkv` a parameter holds, in its own order; None where it is a whole matrix."""
    part = next((part for part in PARTS if f".{part}." in name), None)
    if part is None or FUSED not in published_name(name):
        return None
    text = model.config.text
    groups = text.num_attention_heads // text.num_key_value_heads
    rows = np.arange((groups + 2) * text.num_key_value_heads * text.head_dim)
    by_head = rows.reshape(text.num_key_value_heads, groups + 2, text.head_dim)
    start, end = {PARTS[0]: (0, groups), PARTS[1]: (groups, groups + 1)}.get(part, (groups + 1, groups + 2))
    return by_head[:, start:end].reshape(-1)
