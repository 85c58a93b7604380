"""Names and shapes of the published weights of each family whose weights can be converted, by config.json.

Shapes: D decoder width, F its feed-forward, W tower width, P its feed-forward, E resampler width. Linear maps
are (out, in). A tied head is not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mix_core.models.internvl2.config import INTERNLM2, QKV_BIAS
from mix_core.models.llava.names import stored_name as llava_stored_name
from mix_core.models.qwen_vl.config import TABLE_SIDE

Shapes = dict[str, tuple[int, ...]]


def _linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Shapes:
    weight: Shapes = {f"{name}.weight": (outputs, inputs)}
    return weight | ({f"{name}.bias": (outputs,)} if bias else {})


def _norm(name: str, width: int, bias: bool = True) -> Shapes:
    weight: Shapes = {f"{name}.weight": (width,)}
    return weight | ({f"{name}.bias": (width,)} if bias else {})


def _llama(text: Any, at: str, *, qkv_bias: bool) -> Shapes:
    """A decoder with the names of Llama and Qwen2, below `at`."""
    D, F = text.hidden_size, text.intermediate_size
    q, kv = (heads * text.head_dim for heads in (text.num_attention_heads, text.num_key_value_heads))
    shapes: Shapes = {f"{at}embed_tokens.weight": (text.vocab_size, D)}
    for i in range(text.num_hidden_layers):
        layer = f"{at}layers.{i}."
        shapes |= _norm(f"{layer}input_layernorm", D, False)
        shapes |= _norm(f"{layer}post_attention_layernorm", D, False)
        for name, width in (("q", q), ("k", kv), ("v", kv)):
            shapes |= _linear(f"{layer}self_attn.{name}_proj", width, D, qkv_bias)
        shapes |= _linear(f"{layer}self_attn.o_proj", D, q, False)
        shapes |= _linear(f"{layer}mlp.gate_proj", F, D, False) | _linear(f"{layer}mlp.up_proj", F, D, False)
        shapes |= _linear(f"{layer}mlp.down_proj", D, F, False)
    return shapes | _norm(f"{at}norm", D, False)


def _internlm2(text: Any, at: str) -> Shapes:
    D, F = text.hidden_size, text.intermediate_size
    wqkv = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    shapes: Shapes = {f"{at}tok_embeddings.weight": (text.vocab_size, D)}
    for i in range(text.num_hidden_layers):
        layer = f"{at}layers.{i}."
        shapes |= _norm(f"{layer}attention_norm", D, False) | _norm(f"{layer}ffn_norm", D, False)
        shapes |= _linear(f"{layer}attention.wqkv", wqkv, D, False)
        shapes |= _linear(f"{layer}attention.wo", D, text.num_attention_heads * text.head_dim, False)
        shapes |= _linear(f"{layer}feed_forward.w1", F, D, False)
        shapes |= _linear(f"{layer}feed_forward.w3", F, D, False)
        shapes |= _linear(f"{layer}feed_forward.w2", D, F, False)
    return shapes | _norm(f"{at}norm", D, False)


def _qwen2_tower(
    vision: Any, width: int, maps: dict[str, tuple[int, int]], norm_bias: bool, out: int
) -> Shapes:
    """The towers of Qwen2-VL and Qwen2.5-VL; `maps`: the feed-forward's, (outputs, inputs)."""
    kernel = (vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    shapes: Shapes = {"visual.patch_embed.proj.weight": (width, vision.in_channels, *kernel)}
    for i in range(vision.depth):
        at = f"visual.blocks.{i}."
        shapes |= _norm(f"{at}norm1", width, norm_bias) | _norm(f"{at}norm2", width, norm_bias)
        shapes |= _linear(f"{at}attn.qkv", 3 * width, width) | _linear(f"{at}attn.proj", width, width)
        for name, (outputs, inputs) in maps.items():
            shapes |= _linear(f"{at}mlp.{name}", outputs, inputs)
    wide = width * vision.spatial_merge_size**2
    shapes |= _norm("visual.merger.ln_q", width, norm_bias)
    return shapes | _linear("visual.merger.mlp.0", wide, wide) | _linear("visual.merger.mlp.2", out, wide)


def _qwen2_5_vl(config: Any, source: dict[str, Any]) -> Shapes:
    vision = config.vision
    W, P = vision.hidden_size, vision.intermediate_size
    maps = {"gate_proj": (P, W), "up_proj": (P, W), "down_proj": (W, P)}
    tower = _qwen2_tower(vision, W, maps, False, vision.out_hidden_size)
    return tower | _llama(config.text, "model.", qkv_bias=True)


def _qwen2_vl(config: Any, source: dict[str, Any]) -> Shapes:
    vision = config.vision
    W, P = vision.embed_dim, vision.inner_dim
    tower = _qwen2_tower(vision, W, {"fc1": (P, W), "fc2": (W, P)}, True, vision.hidden_size)
    return tower | _llama(config.text, "model.", qkv_bias=True)


def _qwen2_stored_name(name: str) -> str:
    """transformers 5 writes `model.visual.` and `model.language_model.` in memory's own names."""
    for inside, published in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if name.startswith(inside):
            return published + name.removeprefix(inside)
    return name


def _internvl2(config: Any, source: dict[str, Any]) -> Shapes:
    text, vision = config.text, config.vision
    W, P, at = vision.hidden_size, vision.intermediate_size, "vision_model.embeddings."
    layer_norm = vision.norm_type == "layer_norm"
    kernel = (vision.num_channels, vision.patch_size, vision.patch_size)
    positions = (vision.image_size // vision.patch_size) ** 2 + 1
    shapes: Shapes = {
        f"{at}class_embedding": (1, 1, W),
        f"{at}patch_embedding.weight": (W, *kernel),
        f"{at}patch_embedding.bias": (W,),
        f"{at}position_embedding": (1, positions, W),
    }
    for i in range(vision.num_hidden_layers):
        at = f"vision_model.encoder.layers.{i}."
        shapes |= {f"{at}ls1": (W,), f"{at}ls2": (W,)}
        shapes |= _linear(f"{at}attn.qkv", 3 * W, W, vision.qkv_bias) | _linear(f"{at}attn.proj", W, W)
        if vision.qk_normalization:
            shapes |= _norm(f"{at}attn.q_norm", W, False) | _norm(f"{at}attn.k_norm", W, False)
        shapes |= _linear(f"{at}mlp.fc1", P, W) | _linear(f"{at}mlp.fc2", W, P)
        shapes |= _norm(f"{at}norm1", W, layer_norm) | _norm(f"{at}norm2", W, layer_norm)
    wide = W * config.shuffle**2
    shapes |= _norm("mlp1.0", wide) | _linear("mlp1.1", text.hidden_size, wide)
    shapes |= _linear("mlp1.3", text.hidden_size, text.hidden_size)
    if text.architecture == INTERNLM2:
        return shapes | _internlm2(text, "language_model.model.")
    return shapes | _llama(text, "language_model.model.", qkv_bias=QKV_BIAS[text.architecture])


def _internvl2_head(config: Any) -> str:
    name = "output" if config.text.architecture == INTERNLM2 else "lm_head"
    return f"language_model.{name}.weight"


def _llava(config: Any, source: dict[str, Any]) -> Shapes:
    """llava-hf's names. An authors' folder has the decoder's own vocabulary, without the added tokens."""
    text, vision = config.text, config.vision
    D, W, at = text.hidden_size, vision.hidden_size, "vision_tower.vision_model."
    shapes: Shapes = {
        f"{at}embeddings.class_embedding": (W,),
        f"{at}embeddings.patch_embedding.weight": (W, vision.num_channels, *[vision.patch_size] * 2),
        f"{at}embeddings.position_embedding.weight": (vision.grid**2 + 1, W),
    }
    shapes |= _norm(f"{at}pre_layrnorm", W)
    for i in range(vision.num_hidden_layers):
        layer = f"{at}encoder.layers.{i}."
        shapes |= _norm(f"{layer}layer_norm1", W) | _norm(f"{layer}layer_norm2", W)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= _linear(f"{layer}self_attn.{name}", W, W)
        shapes |= _linear(f"{layer}mlp.fc1", vision.intermediate_size, W)
        shapes |= _linear(f"{layer}mlp.fc2", W, vision.intermediate_size)
    shapes |= _norm(f"{at}post_layernorm", W)
    shapes |= _linear("multi_modal_projector.linear_1", D, W, config.projector_bias)
    shapes |= _linear("multi_modal_projector.linear_2", D, D, config.projector_bias)
    shapes |= {"image_newline": (D,)} if config.anyres else {}
    shapes |= _llama(text, "language_model.model.", qkv_bias=False)
    if by_authors(source):
        shapes["language_model.model.embed_tokens.weight"] = (source["vocab_size"], D)
    return shapes


def by_authors(source: dict[str, Any]) -> bool:
    """Whether a config.json is of the form that LLaVA's authors write, and tools that follow them."""
    return "mm_vision_tower" in source


def _qwen_vl(config: Any, source: dict[str, Any]) -> Shapes:
    D, half, vision = config.hidden_size, config.intermediate_size // 2, config.vision
    shapes: Shapes = {"transformer.wte.weight": (config.vocab_size, D)}
    for i in range(config.num_hidden_layers):
        at = f"transformer.h.{i}."
        shapes |= _norm(f"{at}ln_1", D, False) | _norm(f"{at}ln_2", D, False)
        shapes |= _linear(f"{at}attn.c_attn", 3 * D, D) | _linear(f"{at}attn.c_proj", D, D, False)
        shapes |= _linear(f"{at}mlp.w1", half, D, False) | _linear(f"{at}mlp.w2", half, D, False)
        shapes |= _linear(f"{at}mlp.c_proj", D, half, False)
    shapes |= _norm("transformer.ln_f", D, False)
    W, E, at = vision.width, vision.output_dim, "transformer.visual."
    shapes[f"{at}conv1.weight"] = (W, 3, vision.patch_size, vision.patch_size)
    shapes[f"{at}positional_embedding"] = (TABLE_SIDE**2, W)
    shapes |= _norm(f"{at}ln_pre", W)
    for i in range(vision.layers):
        block = f"{at}transformer.resblocks.{i}."
        shapes |= _norm(f"{block}ln_1", W) | _norm(f"{block}ln_2", W)
        shapes |= _linear(f"{block}attn.in_proj", 3 * W, W) | _linear(f"{block}attn.out_proj", W, W)
        shapes |= _linear(f"{block}mlp.c_fc", vision.mlp_width, W)
        shapes |= _linear(f"{block}mlp.c_proj", W, vision.mlp_width)
    pool = f"{at}attn_pool."
    shapes |= {f"{pool}pos_embed": (vision.n_queries, E), f"{pool}query": (vision.n_queries, E)}
    shapes |= _linear(f"{pool}kv_proj", E, W, False) if W != E else {}
    shapes |= {f"{pool}attn.in_proj_weight": (3 * E, E), f"{pool}attn.in_proj_bias": (3 * E,)}
    shapes |= _linear(f"{pool}attn.out_proj", E, E) | _norm(f"{pool}ln_q", E) | _norm(f"{pool}ln_kv", E)
    return shapes | _norm(f"{at}ln_post", E) | {f"{at}proj": (E, E)}


@dataclass(frozen=True)
class Published:
    """What is published of a family."""

    shapes: Callable[[Any, dict[str, Any]], Shapes]
    """(configuration, parsed config.json) -> every weight but the head."""
    head: Callable[[Any], str] = lambda config: "lm_head.weight"
    tied: Callable[[Any], bool] = lambda config: config.tie_word_embeddings
    stored_name: Callable[[str], str] = str
    """A name in a published file, in any of its forms -> the name here."""


FAMILIES: dict[str, Published] = {
    "internvl2": Published(_internvl2, _internvl2_head, lambda config: config.text.tie_word_embeddings),
    "llava": Published(_llava, lambda config: "language_model.lm_head.weight", stored_name=llava_stored_name),
    "qwen2_5_vl": Published(_qwen2_5_vl, stored_name=_qwen2_stored_name),
    "qwen2_vl": Published(_qwen2_vl, stored_name=_qwen2_stored_name),
    "qwen_vl": Published(_qwen_vl),
}
_EMBEDDING = ("embed_tokens.weight", "tok_embeddings.weight", "wte.weight")


def embedding_of(shapes: Shapes) -> str:
    """The name of the decoder's embedding."""
    return next(name for name in shapes if name.endswith(_EMBEDDING))
