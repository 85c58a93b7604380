"""What plans and reports of speed need to know of a model: its stacks of blocks, its other maps, its sizes.

A family gives an `Outline` of its configuration (`ModelFamily.outline`); nothing here imports paddle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Equal transformer blocks one after the other: norm, attention, norm, feed-forward."""

    layers: int
    width: int
    """D, of a token's or a patch's vector."""
    heads: int
    """N query heads."""
    kv_heads: int
    """K heads of keys and values."""
    head_dim: int
    """H."""
    inner: int
    """F, width of the feed-forward."""
    gated: bool
    """Whether the feed-forward has a gate: three matrices instead of two."""
    rotary: bool
    """Whether queries and keys turn with their position."""
    rms: bool
    """Whether norms are RMS norms; else layer norms, with a bias."""
    qkv_bias: bool
    out_bias: bool
    """Of attention's output map."""
    mlp_bias: bool
    joined_qkv: bool = False
    """Whether one map gives queries, keys and values."""
    scaled: bool = False
    """Whether each branch is multiplied by a learned vector (layer scale)."""
    norm_qk: bool = False
    """Whether all heads of q, and of k, pass an RMS norm together."""
    window: int | None = None
    """Tokens that see each other in the layers without full attention."""
    full_layers: int = 0
    """Layers with full attention, where there is a window."""

    @property
    def attention_width(self) -> int:
        """Numbers of a token's queries, keys and values."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def attention_matrices(self) -> int:
        """Numbers in the matrices of a block's attention."""
        return self.width * (self.attention_width + self.heads * self.head_dim)

    @property
    def mlp_matrices(self) -> int:
        """Numbers in the matrices of a block's feed-forward."""
        return (3 if self.gated else 2) * self.width * self.inner

    @property
    def split_vectors(self) -> int:
        """Biases of a block that tensor parallelism splits: those of the maps that are split by output."""
        return self.qkv_bias * self.attention_width + self.mlp_bias * (1 + self.gated) * self.inner

    @property
    def whole_vectors(self) -> int:
        """Norms, scales and biases of a block that every rank of a tensor-parallel group has."""
        norms = 2 * (1 if self.rms else 2) + 2 * self.scaled + 2 * self.norm_qk
        return (norms + self.out_bias + self.mlp_bias) * self.width

    @property
    def block_parameters(self) -> int:
        return self.attention_matrices + self.mlp_matrices + self.split_vectors + self.whole_vectors


def decoder_stack(text: Any, *, qkv_bias: bool) -> Stack:
    """The blocks of a decoder whose configuration bears Llama's names, as Llama's and Qwen2's do."""
    return Stack(
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        inner=text.intermediate_size,
        gated=True,
        rotary=True,
        rms=True,
        qkv_bias=qkv_bias,
        out_bias=False,
        mlp_bias=False,
    )


def tower_stack(*, heads: int, **others: Any) -> Stack:
    """The blocks of a tower: as many heads of keys as of queries, a bias everywhere, and, unless `others`
    say so, two plain matrices in the feed-forward, layer norms and no rotation."""
    usual = {"gated": False, "rotary": False, "rms": False, "joined_qkv": True}
    biases = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
    return Stack(**{"heads": heads, "kv_heads": heads, **usual, **biases, **others})


def text_sizes(width: int, inner: int, layers: int, heads: int, kv_heads: int, words: int) -> dict[str, int]:
    """Sizes of a decoder under Llama's names."""
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": words,
    }


@dataclass(frozen=True, kw_only=True)
class LinearMap:
    """A map outside of the stacks."""

    inputs: int
    outputs: int
    bias: bool
    rows: int
    """Vectors that pass it for one picture tile."""
    part: str
    """`tower` or `projector`: what of the model it freezes with."""

    @property
    def parameters(self) -> int:
        return (self.inputs + self.bias) * self.outputs


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A model in figures."""

    decoder: Stack
    tower: Stack
    vocabulary: int
    """V, rows of the embedding."""
    tied: bool
    """Whether the head is the embedding's matrix."""
    maps: tuple[LinearMap, ...]
    """Patch embedding, projector and the like, in the order in which a picture passes them."""
    loose: Mapping[str, int]
    """Other parameters (norms, position tables...) by part: `tower`, `projector`, `decoder`."""
    tile_patches: int
    """Rows of the tower for one tile: a picture of the model's usual size, or a part of one."""
    tile_tokens: int
    """Tokens that the tile gives the decoder."""

    def parameters_of(self, part: str) -> int:
        """Numbers in `tower`, `projector` or `decoder` (embedding and head included)."""
        own = sum(one.parameters for one in self.maps if one.part == part) + self.loose.get(part, 0)
        stack = {"tower": self.tower, "decoder": self.decoder}.get(part)
        if stack is not None:
            own += stack.layers * stack.block_parameters
        if part == "decoder":
            own += (1 if self.tied else 2) * self.vocabulary * self.decoder.width
        return own

    @property
    def parameters(self) -> int:
        return sum(self.parameters_of(part) for part in PARTS)


PARTS = ("tower", "projector", "decoder")


@dataclass(frozen=True)
class PublishedSize:
    """A published member of a family."""

    name: str
    """As users type it: qwen2_5_vl-7b."""
    config: dict[str, Any]
    """Its config.json, as far as `config_from_dict` reads it."""
