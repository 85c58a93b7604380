"""Qwen-VL in figures, and the published size (its config.json on the hub)."""

from __future__ import annotations

from mix_core.models.outline import LinearMap, Outline, PublishedSize, Stack, tower_stack
from mix_core.models.qwen_vl.config import TABLE_SIDE, QwenVLConfig

SIZES = (
    PublishedSize(
        "qwen_vl-7b",
        {
            "model_type": "qwen",
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "layer_norm_epsilon": 1e-6,
            "rotary_emb_base": 10000,
            "seq_length": 2048,
            "use_dynamic_ntk": True,
            "use_logn_attn": True,
            "max_position_embeddings": 8192,
            "attn_dropout_prob": 0.0,
            "initializer_range": 0.02,
            "kv_channels": 128,
            "no_bias": True,
            "rotary_pct": 1.0,
            "scale_attn_weights": True,
            "emb_dropout_prob": 0.0,
            "tie_word_embeddings": False,
            "visual": {
                "heads": 16,
                "image_size": 448,
                "image_start_id": 151857,
                "layers": 48,
                "mlp_ratio": 4.9231,
                "output_dim": 4096,
                "patch_size": 14,
                "width": 1664,
            },
        },
    ),
)


def outline(config: QwenVLConfig) -> Outline:
    vision = config.vision
    patches, queries = vision.grid**2, vision.n_queries
    width, wide = vision.width, vision.output_dim
    tower = tower_stack(
        layers=vision.layers,
        width=width,
        heads=vision.heads,
        head_dim=vision.head_dim,
        inner=vision.mlp_width,
    )
    decoder = Stack(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        inner=config.intermediate_size // 2,
        gated=True,
        rotary=True,
        rms=True,
        qkv_bias=True,
        out_bias=False,
        mlp_bias=False,
    )
    resampler = (patches, patches, queries, queries)  # keys, values; queries, and what they found
    kv = [LinearMap(inputs=width, outputs=wide, bias=False, rows=patches, part="projector")]
    return Outline(
        decoder=decoder,
        tower=tower,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
        maps=(
            LinearMap(inputs=3 * vision.patch_size**2, outputs=width, bias=False, rows=patches, part="tower"),
            *(kv if width != wide else ()),
            *(
                LinearMap(inputs=wide, outputs=wide, bias=True, rows=rows, part="projector")
                for rows in resampler
            ),
            # `visual.proj` freezes with the tower, though it comes last
            LinearMap(inputs=wide, outputs=wide, bias=False, rows=queries, part="tower"),
        ),
        loose={
            # positions, the norm before the blocks, and the one before `visual.proj`
            "tower": (TABLE_SIDE**2 + 2) * width + 2 * wide,
            # learned queries, and the norms of queries and keys
            "projector": (queries + 4) * wide,
            "decoder": config.hidden_size,
        },
        tile_patches=patches,
        tile_tokens=queries,
    )
