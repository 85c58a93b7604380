"""MindSpeed-MM's names of the published weights, family by family, as tables.

A Megatron layer is the same six parts everywhere; `Layer` says which published weights they are made of.

Names: MindSpeed-MM's mm-convert (checkpoint/vlm_model/converters: qwen2vl, qwen2_5vl, internvl; the form it
calls not canonical), and for LLaVA-1.5, which it had until 2.3.0, examples/llava1.5 and the modules there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

from mix_core.convert.mindspeed_entries import (
    COLUMNS,
    ROWS,
    WHOLE,
    Entry,
    Form,
    Share,
    Tower,
    of_model,
    weight_and_bias,
)
from mix_core.convert.published import Model
from mix_core.errors import BadInputError

_ENCODER, _PROJECTOR = "image_encoder.encoder.", "image_encoder.projector."


@dataclass(frozen=True)
class Layer:
    """Published names of the parts of a layer, without `.weight` and `.bias`."""

    at: str
    """What comes before them; `{}` stands for the layer."""
    norms: tuple[str, str]
    """Before the attention, before the feed-forward."""
    qkv: tuple[str, ...]
    proj: str
    fc1: tuple[str, ...]
    """The first map of the feed-forward, or gate and up."""
    fc2: str
    more: tuple[tuple[str, str], ...] = ()
    """Theirs and the published name of what only this kind of layer has, in full."""

    def entries(self, qkv_form: Form, qkv_share: Share, proj_share: Share = COLUMNS) -> tuple[Entry, ...]:
        at = self.at
        fc1: Form = "stacked" if len(self.fc1) > 1 else "same"
        return (
            *weight_and_bias("input_layernorm", (at + self.norms[0],)),
            *weight_and_bias("pre_mlp_layernorm", (at + self.norms[1],)),
            *weight_and_bias(
                "self_attention.linear_qkv", (at + part for part in self.qkv), qkv_form, qkv_share
            ),
            *weight_and_bias("self_attention.linear_proj", (at + self.proj,), share=proj_share),
            *weight_and_bias(
                "mlp.linear_fc1", (at + part for part in self.fc1), fc1, Share(0, blocks=len(self.fc1))
            ),
            *weight_and_bias("mlp.linear_fc2", (at + self.fc2,), share=COLUMNS),
            *(Entry(theirs, (at + ours,)) for theirs, ours in self.more),
        )


_SPLIT = tuple(f"self_attn.{part}_proj" for part in "qkv")
_LLAMA = Layer(
    at="layers.{}.",
    norms=("input_layernorm", "post_attention_layernorm"),
    qkv=_SPLIT,
    proj="self_attn.o_proj",
    fc1=("mlp.gate_proj", "mlp.up_proj"),
    fc2="mlp.down_proj",
)
_INTERNLM2 = Layer(
    at="layers.{}.",
    norms=("attention_norm", "ffn_norm"),
    qkv=("attention.wqkv",),
    proj="attention.wo",
    fc1=("feed_forward.w1", "feed_forward.w3"),
    fc2="feed_forward.w2",
)
_QWEN2_BLOCK = Layer(
    at="visual.blocks.{}.",
    norms=("norm1", "norm2"),
    qkv=("attn.qkv",),
    proj="attn.proj",
    fc1=("mlp.fc1",),
    fc2="mlp.fc2",
)
_QWEN2_5_BLOCK = Layer(
    at="visual.blocks.{}.",
    norms=("norm1", "norm2"),
    qkv=("attn.qkv",),
    proj="attn.proj",
    fc1=("mlp.gate_proj", "mlp.up_proj"),
    fc2="mlp.down_proj",
)
_INTERN_VIT = Layer(
    at="vision_model.encoder.layers.{}.",
    norms=("norm1", "norm2"),
    qkv=("attn.qkv",),
    proj="attn.proj",
    fc1=("mlp.fc1",),
    fc2="mlp.fc2",
    more=(
        ("ls1", "ls1"),
        ("ls2", "ls2"),
        ("self_attention.q_layernorm.weight", "attn.q_norm.weight"),
        ("self_attention.k_layernorm.weight", "attn.k_norm.weight"),
    ),
)
_CLIP = Layer(
    at="vision_tower.vision_model.encoder.layers.{}.",
    norms=("layer_norm1", "layer_norm2"),
    qkv=_SPLIT,
    proj="self_attn.out_proj",
    fc1=("mlp.fc1",),
    fc2="mlp.fc2",
)


def _text(model: Model, layers: int, groups: int, staged: bool, uneven: bool = False) -> Tower:
    """The decoder, whose name for the embedding says of which kind it is."""
    at = model.embedding.rpartition(".weight")[0].rpartition(".")[0] + "."
    layer = _INTERNLM2 if model.embedding.endswith("tok_embeddings.weight") else _LLAMA
    # InternLM2's matrix of queries, keys and values is Megatron's already
    qkv_form: Form = "grouped" if len(layer.qkv) > 1 else "same"
    vocabulary = Share(0, uneven=uneven)
    head: tuple[Entry, ...] = ()
    if staged or not model.tied:
        source = model.embedding if model.tied else model.head
        head = (Entry("text_decoder.output_layer.weight", (source,), share=vocabulary),)
    entries = layer.entries(qkv_form, Share(0, groups=groups))
    return Tower(
        kind="llm",
        layer_prefix="text_decoder.decoder.layers.",
        layers=layers,
        first=(Entry("text_decoder.embedding.word_embeddings.weight", (model.embedding,), share=vocabulary),),
        layer=of_model(
            (replace(one, parts=tuple(at + part for part in one.parts)) for one in entries), model.shapes
        ),
        last=(Entry("text_decoder.decoder.final_layernorm.weight", (f"{at}norm.weight",)), *head),
    )


def _vit(
    model: Model,
    layers: int,
    inner: str,
    entries: tuple[Entry, ...],
    first: tuple[Entry, ...],
    last: tuple[Entry, ...],
) -> Tower:
    parts = (of_model(some, model.shapes) for some in (first, entries, last))
    return Tower("vit", f"{_ENCODER}{inner}", layers, *parts)


def _projector_maps(first: str, second: str) -> tuple[Entry, ...]:
    return (
        *weight_and_bias(f"{_PROJECTOR}encoder.linear_fc1", (first,), share=ROWS),
        *weight_and_bias(f"{_PROJECTOR}encoder.linear_fc2", (second,), share=COLUMNS),
    )


def _qwen2(model: Model, block: Layer, staged: bool) -> tuple[Tower, Tower]:
    text, vision = model.config.text, model.config.vision
    tower = _vit(
        model,
        vision.depth,
        "blocks.layers.",
        block.entries("regrouped", Share(0, groups=vision.num_heads)),
        weight_and_bias(f"{_ENCODER}patch_embed.proj", ("visual.patch_embed.proj",)),
        (
            *weight_and_bias(f"{_PROJECTOR}layernorm", ("visual.merger.ln_q",)),
            *_projector_maps("visual.merger.mlp.0", "visual.merger.mlp.2"),
        ),
    )
    return tower, _text(model, text.num_hidden_layers, text.num_key_value_heads, staged)


def _internvl2(model: Model, staged: bool) -> tuple[Tower, Tower]:
    """InternViT keeps queries, keys and values one below the other, each cut by heads; 25 do not divide."""
    text, vision = model.config.text, model.config.vision
    heads = vision.num_attention_heads
    embeddings, theirs = "vision_model.embeddings.", f"{_ENCODER}embeddings."
    tower = _vit(
        model,
        vision.num_hidden_layers,
        "encoder.layers.",
        _INTERN_VIT.entries("same", Share(0, 3, heads, True), Share(1, 1, heads, True)),
        (
            *(
                Entry(theirs + name, (embeddings + name,))
                for name in ("class_embedding", "position_embedding")
            ),
            *weight_and_bias(f"{theirs}patch_embedding", (f"{embeddings}patch_embedding",)),
        ),
        tuple(
            chain(
                weight_and_bias(f"{_PROJECTOR}norm", ("mlp1.0",)),
                weight_and_bias(f"{_PROJECTOR}linear_fc1", ("mlp1.1",)),
                weight_and_bias(f"{_PROJECTOR}linear_fc2", ("mlp1.3",)),
            )
        ),
    )
    return tower, _text(model, text.num_hidden_layers, text.num_key_value_heads, staged, uneven=True)


def _llava(model: Model, staged: bool) -> tuple[Tower, Tower]:
    """LLaVA-1.5, without the layers of the tower that do not run."""
    config = model.config
    if config.anyres:
        raise BadInputError("MindSpeed-MM has LLaVA-1.5 and no LLaVA-1.6; this config.json has tiles")
    if staged:
        raise BadInputError("MindSpeed-MM's LLaVA-1.5 runs on one stage; leave the lists of layers out")
    at = "vision_tower.vision_model."
    tower = _vit(
        model,
        config.tower_layers,
        "decoder.layers.",
        _CLIP.entries("grouped", Share(0, groups=config.vision.num_attention_heads)),
        (
            Entry(f"{_ENCODER}class_token", (f"{at}embeddings.class_embedding",), axes=2),
            Entry(f"{_ENCODER}position_embeddings.weight", (f"{at}embeddings.position_embedding.weight",)),
            Entry(f"{_ENCODER}conv1.weight", (f"{at}embeddings.patch_embedding.weight",), share=WHOLE),
            *weight_and_bias(f"{_ENCODER}ln_pre", (f"{at}pre_layrnorm",)),
        ),
        _projector_maps("multi_modal_projector.linear_1", "multi_modal_projector.linear_2"),
    )
    return tower, _text(model, config.text.num_hidden_layers, config.text.num_key_value_heads, False)


_FAMILIES: dict[str, Callable[[Model, bool], tuple[Tower, Tower]]] = {
    "qwen2_vl": lambda model, staged: _qwen2(model, _QWEN2_BLOCK, staged),
    "qwen2_5_vl": lambda model, staged: _qwen2(model, _QWEN2_5_BLOCK, staged),
    "internvl2": _internvl2,
    "llava": _llava,
}
FAMILIES = tuple(_FAMILIES)


def towers(model: Model, *, staged: bool) -> tuple[Tower, Tower]:
    """Vision and text of a model whose family is among `FAMILIES`.

    Args:
        staged: there is more than one stage; a tied head is then a weight of its own on the last one, since
            that stage has no embedding.
    Raises:
        BadInputError: MindSpeed-MM has the family, but not this kind of it.
    """
    return _FAMILIES[model.family](model, staged)


def absent(model: Model) -> frozenset[str]:
    """Published weights that MindSpeed-MM's layout has no place for."""
    placed = set()
    for tower in towers(model, staged=False):
        for entry in (*tower.first, *tower.last):
            placed.update(entry.sources(None))
        for layer in range(tower.layers):
            placed.update(*(entry.sources(layer) for entry in tower.layer))
    return frozenset(model.shapes) - placed
