"""MindSpeed-MM's weights: what each is made of, and how tensor-parallel ranks share it.

Megatron's layout joins matrices: gate above up in `linear_fc1`; queries, keys and values in `linear_qkv`,
group by group (the queries that share a key head, that key head, its value head), where the published
layout has them one below the other. Ranks take rows of what is multiplied first, columns of what is
multiplied after it; of a joined gate and up each rank takes its part of both.

Names and forms: MindSpeed-MM's mm-convert (checkpoint/vlm_model), the form it calls not canonical.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Form = Literal["same", "stacked", "grouped", "regrouped"]
"""same: one published weight. stacked: the parts one below the other. grouped: queries, keys and values of
a group together. regrouped: so as well, of one published weight that holds all queries, then keys, then
values."""
Share = Literal["whole", "rows", "columns", "gated rows"]


@dataclass(frozen=True)
class Entry:
    """One weight of theirs; `{}` in names stands for the layer."""

    name: str
    parts: tuple[str, ...]
    """Published names."""
    form: Form = "same"
    share: Share = "whole"
    groups: int = 1
    """Groups of heads, for `grouped` and `regrouped`."""


@dataclass(frozen=True)
class Tower:
    """A stack of layers that a pipeline is cut through."""

    kind: str
    """As the lists of a pipeline are called: vit, llm."""
    layer_prefix: str
    """What comes before a layer's number in their names."""
    layers: int
    first: tuple[Entry, ...]
    """Weights on the stage of the first layer."""
    layer: tuple[Entry, ...]
    """Weights of each layer, named after `layer_prefix` and number."""
    last: tuple[Entry, ...]
    """Weights on the stage of the last layer."""


def towers(config: Any, *, staged: bool) -> tuple[Tower, Tower]:
    """Vision and text of a Qwen2.5-VL configuration.

    Args:
        staged: there is more than one stage; a tied head is then a weight of its own on the last one, since
        that
            stage has no embedding.
    """
    return _vision(config.vision), _text(config.text, _head(config.tie_word_embeddings, staged))


def _head(tied: bool, staged: bool) -> tuple[Entry, ...]:
    if tied and not staged:
        return ()
    source = "model.embed_tokens.weight" if tied else "lm_head.weight"
    return (Entry("text_decoder.output_layer.weight", (source,), share="rows"),)


def _vision(vision: Any) -> Tower:
    at, encoder, projector = "visual.blocks.{}.", "image_encoder.encoder.", "image_encoder.projector."
    gate_up = ("mlp.gate_proj", "mlp.up_proj")
    return Tower(
        kind="vit",
        layer_prefix=f"{encoder}blocks.layers.",
        layers=vision.depth,
        first=(Entry(f"{encoder}patch_embed.proj.weight", ("visual.patch_embed.proj.weight",)),),
        layer=(
            Entry("input_layernorm.weight", (f"{at}norm1.weight",)),
            Entry("pre_mlp_layernorm.weight", (f"{at}norm2.weight",)),
            *(
                Entry(
                    f"self_attention.linear_qkv.{w}",
                    (f"{at}attn.qkv.{w}",),
                    "regrouped",
                    "rows",
                    vision.num_heads,
                )
                for w in ("weight", "bias")
            ),
            Entry("self_attention.linear_proj.weight", (f"{at}attn.proj.weight",), share="columns"),
            Entry("self_attention.linear_proj.bias", (f"{at}attn.proj.bias",)),
            *(
                Entry(
                    f"mlp.linear_fc1.{w}",
                    tuple(f"{at}{part}.{w}" for part in gate_up),
                    "stacked",
                    "gated rows",
                )
                for w in ("weight", "bias")
            ),
            Entry("mlp.linear_fc2.weight", (f"{at}mlp.down_proj.weight",), share="columns"),
            Entry("mlp.linear_fc2.bias", (f"{at}mlp.down_proj.bias",)),
        ),
        last=(
            Entry(f"{projector}layernorm.weight", ("visual.merger.ln_q.weight",)),
            *(
                Entry(f"{projector}encoder.linear_fc1.{w}", (f"visual.merger.mlp.0.{w}",), share="rows")
                for w in ("weight", "bias")
            ),
            Entry(f"{projector}encoder.linear_fc2.weight", ("visual.merger.mlp.2.weight",), share="columns"),
            Entry(f"{projector}encoder.linear_fc2.bias", ("visual.merger.mlp.2.bias",)),
        ),
    )


def _text(text: Any, head: tuple[Entry, ...]) -> Tower:
    at = "model.layers.{}."
    return Tower(
        kind="llm",
        layer_prefix="text_decoder.decoder.layers.",
        layers=text.num_hidden_layers,
        first=(
            Entry(
                "text_decoder.embedding.word_embeddings.weight", ("model.embed_tokens.weight",), share="rows"
            ),
        ),
        layer=(
            Entry("input_layernorm.weight", (f"{at}input_layernorm.weight",)),
            Entry("pre_mlp_layernorm.weight", (f"{at}post_attention_layernorm.weight",)),
            *(
                Entry(
                    f"self_attention.linear_qkv.{w}",
                    tuple(f"{at}self_attn.{part}_proj.{w}" for part in "qkv"),
                    "grouped",
                    "rows",
                    text.num_key_value_heads,
                )
                for w in ("weight", "bias")
            ),
            Entry("self_attention.linear_proj.weight", (f"{at}self_attn.o_proj.weight",), share="columns"),
            Entry(
                "mlp.linear_fc1.weight",
                (f"{at}mlp.gate_proj.weight", f"{at}mlp.up_proj.weight"),
                "stacked",
                "gated rows",
            ),
            Entry("mlp.linear_fc2.weight", (f"{at}mlp.down_proj.weight",), share="columns"),
        ),
        last=(Entry("text_decoder.decoder.final_layernorm.weight", ("model.norm.weight",)), *head),
    )


def join(entry: Entry, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Their weight of the published ones."""
    if entry.form == "same":
        return parts[0]
    if entry.form == "stacked":
        return np.concatenate(parts)
    each = np.split(parts[0], 3) if entry.form == "regrouped" else parts
    grouped = [one.reshape(entry.groups, -1, *one.shape[1:]) for one in each]
    joined = np.concatenate(grouped, axis=1)
    return joined.reshape(-1, *joined.shape[2:])


def part_of(entry: Entry, joined: np.ndarray, place: int, rows: Sequence[int]) -> np.ndarray:
    """The published weight `parts[place]` of theirs. `rows`: of each part (of a regrouped one, its three)."""
    if entry.form == "same":
        return joined
    ends = np.cumsum(rows)
    if entry.form == "stacked":
        return joined[ends[place] - rows[place] : ends[place]]
    grouped = joined.reshape(entry.groups, -1, *joined.shape[1:])
    within = np.cumsum([n // entry.groups for n in rows])[:-1]
    each = [one.reshape(-1, *joined.shape[1:]) for one in np.split(grouped, within, axis=1)]
    return np.concatenate(each) if entry.form == "regrouped" else each[place]


def divide(share: Share, whole: np.ndarray, ranks: int) -> list[np.ndarray]:
    """What each tensor-parallel rank holds."""
    if share == "whole" or ranks == 1:
        return [whole] * ranks
    if share == "columns":
        return np.split(whole, ranks, axis=1)
    if share == "rows":
        return np.split(whole, ranks)
    gate, up = np.split(whole, 2)
    return [np.concatenate(both) for both in zip(np.split(gate, ranks), np.split(up, ranks))]


def unite(share: Share, held: Sequence[np.ndarray]) -> np.ndarray:
    """The whole of what each rank holds."""
    if share == "whole" or len(held) == 1:
        return held[0]
    if share == "columns":
        return np.concatenate(held, axis=1)
    if share == "rows":
        return np.concatenate(held)
    halves = [np.split(one, 2) for one in held]
    return np.concatenate([half[side] for side in (0, 1) for half in halves])
