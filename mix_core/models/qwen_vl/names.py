"""The published names of the model's parameters. Imports no paddle."""

from __future__ import annotations

import re

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_IN_LAYER = {
    "input_layernorm": "ln_1",
    "self_attn.q_proj": "attn.c_attn",
    "self_attn.k_proj": "attn.c_attn",
    "self_attn.v_proj": "attn.c_attn",
    "self_attn.o_proj": "attn.c_proj",
    "post_attention_layernorm": "ln_2",
    # c_proj(w1(x) * silu(w2(x)))
    "mlp.up_proj": "mlp.w1",
    "mlp.gate_proj": "mlp.w2",
    "mlp.down_proj": "mlp.c_proj",
}
_TOP = {"model.embed_tokens.weight": "transformer.wte.weight", "model.norm.weight": "transformer.ln_f.weight"}
_JOINED = re.compile(r"visual\.attn_pool\.attn\.[qkv]_proj\.(weight|bias)")


def published_name(name: str) -> str:
    """The published name of a parameter; q, k and v each bear that of the matrix which joins them."""
    if name in _TOP:
        return _TOP[name]
    if joined := _JOINED.fullmatch(name):
        return f"transformer.visual.attn_pool.attn.in_proj_{joined[1]}"
    if layer := _LAYER.fullmatch(name):
        part, _, kind = layer[2].rpartition(".")
        return f"transformer.h.{layer[1]}.{_IN_LAYER[part]}.{kind}"
    return f"transformer.{name}" if name.startswith("visual.") else name
