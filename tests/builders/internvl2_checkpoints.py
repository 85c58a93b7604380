"""Small but complete InternVL2 folders in the published layout.

    write_folder(folder)                          # config.json and tokenizer files
    write_folder(folder, decoder="qwen2", weights=True, text={"num_key_value_heads": 1})

Sizes by default: decoder 2 layers, D 64, 4 heads of 16, 2 key/value heads; tower 2 layers, D 32, 2 heads,
learned positions of 28 pixels with patches of 7; a tile has 28 pixels and 4 tokens.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders.tokenizer import build_tokenizer

ARCHITECTURES = {
    "internlm2": "InternLM2ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
}
ADDED = (
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
)
"""The last nine added tokens of all published sizes, in their order."""
SHADOWED = (
    "<|plugin|>",
    "<|interpreter|>",
    "<|action_end|>",
    "<|action_start|>",
    "<|im_end|>",
    "<|im_start|>",
)
"""Tokens of InternLM2 that take the ids of the SentencePiece model's last six pieces."""


def config_of(
    decoder: str = "internlm2",
    *,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    **top: Any,
) -> dict[str, Any]:
    """config.json with the published keys that matter, in small."""
    own = {"bias": False} if decoder == "internlm2" else {"attention_dropout": 0.0}
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": "Hermes-2" if decoder == "qwen2" else "internlm2-chat",
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "force_image_size": 28,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 6,
        "pad2square": False,
        "llm_config": {
            "architectures": [ARCHITECTURES[decoder]],
            "model_type": decoder,
            **own,
            "hidden_act": "silu",
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 96,
            "max_position_embeddings": 4096,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 2.0, "type": "dynamic"},
            "rope_theta": 1000000,
            "tie_word_embeddings": False,
            "vocab_size": 448,
            **(text or {}),
        },
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "attention_dropout": 0.0,
            "drop_path_rate": 0.0,
            "dropout": 0.0,
            "hidden_act": "gelu",
            "hidden_size": 32,
            "image_size": 28,
            "initializer_factor": 1.0,
            "intermediate_size": 48,
            "layer_norm_eps": 1e-06,
            "norm_type": "layer_norm",
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_hidden_layers": 2,
            "patch_size": 7,
            "qk_normalization": False,
            "qkv_bias": True,
            **(vision or {}),
        },
        **top,
    }


def write_folder(
    folder: Path,
    decoder: str = "internlm2",
    *,
    tokenizer: str = "tokenizer.json",
    weights: bool = False,
    **keys: Any,
) -> Path:
    """Write a folder and return it; `keys` as of `config_of`.

    ``tokenizer``: "tokenizer.json", "tokenizer.model" (SentencePiece) or "vocab.json" (with merges.txt).
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(decoder, **keys)
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer == "tokenizer.model":
        write_sentencepiece(folder)
    else:
        write_bpe(folder, tokenizer)
    if weights:
        from safetensors.numpy import save_file

        save_file(published_weights(config), str(folder / "model.safetensors"), {"format": "pt"})
    return folder


def write_bpe(folder: Path, form: str = "tokenizer.json") -> None:
    """A byte-level BPE as InternVL2-1B's: Qwen2's tokens, then ADDED."""
    backend = build_tokenizer()
    known = backend.get_vocab_size()
    backend.add_special_tokens(list(ADDED))
    added = {number: entry for number, entry in backend.get_added_tokens_decoder().items()}
    assert {entry.content for number, entry in added.items() if number >= known} == set(ADDED)
    if form == "tokenizer.json":
        backend.save(str(folder / "tokenizer.json"))
    else:
        model = json.loads(backend.to_str())["model"]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
        lines = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
    _write_config(
        folder,
        {number: (entry.content, entry.special) for number, entry in added.items()},
        tokenizer_class="Qwen2Tokenizer",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template="{{ 'not what the published code uses' }}",
    )


@cache
def sentencepiece_model() -> bytes:
    """A SentencePiece BPE with byte fallback; its last six pieces are placeholders, as InternLM2's are."""
    import sentencepiece

    lines = [
        "Which digit is this? Read the number. Where is the 7? it is one, it is two, it is three.",
        "system user assistant Frame1: Frame2: Picture 1: <ref>seven</ref><box>(12,345),(678,999)</box>",
        "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL",
    ]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 4),
        model_writer=written,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=[f"[UNUSED_TOKEN_{i}]" for i in range(6)],
        character_coverage=0.98,
        minloglevel=2,
    )
    return written.getvalue()


def write_sentencepiece(folder: Path) -> None:
    """tokenizer.model and its configuration, with added tokens over and after its pieces."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    first = model.piece_to_id("[UNUSED_TOKEN_0]")
    added = {0: "<unk>", 1: "<s>", 2: "</s>"}
    added |= {first + i: token for i, token in enumerate(SHADOWED)}
    added |= {len(model) + i: token for i, token in enumerate(ADDED)}
    _write_config(
        folder,
        {number: (token, True) for number, token in added.items()},
        tokenizer_class="InternLM2Tokenizer",
        add_bos_token=True,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
    )
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [first + 4, first + 5], "transformers_version": "4.37.2"})
    )


def _write_config(folder: Path, added: dict[int, tuple[str, bool]], **keys: Any) -> None:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    decoder = {str(i): {"content": text, "special": special, **plain} for i, (text, special) in added.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder, **keys}))


def published_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Published names and shapes, written out from OpenGVLab's modules."""
    text, vision = config["llm_config"], config["vision_config"]
    D, F, V = vision["hidden_size"], vision["intermediate_size"], text["hidden_size"]
    p, side = vision["patch_size"], vision["image_size"] // vision["patch_size"]
    k = round(1 / config["downsample_ratio"]) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, D),
        "vision_model.embeddings.position_embedding": (1, side * side + 1, D),
        "vision_model.embeddings.patch_embedding.weight": (D, 3, p, p),
        "vision_model.embeddings.patch_embedding.bias": (D,),
        "mlp1.0.weight": (D * k,),
        "mlp1.0.bias": (D * k,),
        "mlp1.1.weight": (V, D * k),
        "mlp1.1.bias": (V,),
        "mlp1.3.weight": (V, V),
        "mlp1.3.bias": (V,),
    }
    for i in range(vision["num_hidden_layers"]):
        at = f"vision_model.encoder.layers.{i}."
        shapes |= {
            at + "attn.qkv.weight": (3 * D, D),
            at + "attn.proj.weight": (D, D),
            at + "attn.proj.bias": (D,),
        }
        shapes |= {at + "mlp.fc1.weight": (F, D), at + "mlp.fc1.bias": (F,)}
        shapes |= {at + "mlp.fc2.weight": (D, F), at + "mlp.fc2.bias": (D,)}
        shapes |= dict.fromkeys([at + "ls1", at + "ls2", at + "norm1.weight", at + "norm2.weight"], (D,))
        if vision["qkv_bias"]:
            shapes[at + "attn.qkv.bias"] = (3 * D,)
        if vision["norm_type"] == "layer_norm":
            shapes |= dict.fromkeys([at + "norm1.bias", at + "norm2.bias"], (D,))
        if vision["qk_normalization"]:
            shapes |= dict.fromkeys([at + "attn.q_norm.weight", at + "attn.k_norm.weight"], (D,))
    return shapes | _decoder_shapes(text)


def _decoder_shapes(text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    D, F, N, K = (
        text[key]
        for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    H, V = D // N, text["vocab_size"]
    fused = text["architectures"] == ["InternLM2ForCausalLM"]
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(text["num_hidden_layers"]):
        at = f"language_model.model.layers.{i}."
        if fused:
            shapes |= {at + "attention.wqkv.weight": ((N + 2 * K) * H, D), at + "attention.wo.weight": (D, D)}
            shapes |= dict.fromkeys([at + "feed_forward.w1.weight", at + "feed_forward.w3.weight"], (F, D))
            shapes[at + "feed_forward.w2.weight"] = (D, F)
            shapes |= dict.fromkeys([at + "attention_norm.weight", at + "ffn_norm.weight"], (D,))
            continue
        for name, rows in (("q", N * H), ("k", K * H), ("v", K * H)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, D)
            if text["architectures"] == ["Qwen2ForCausalLM"]:
                shapes[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        shapes |= {at + "self_attn.o_proj.weight": (D, D), at + "mlp.down_proj.weight": (D, F)}
        shapes |= dict.fromkeys([at + "mlp.gate_proj.weight", at + "mlp.up_proj.weight"], (F, D))
        shapes |= dict.fromkeys([at + "input_layernorm.weight", at + "post_attention_layernorm.weight"], (D,))
    head, table = ("output", "tok_embeddings") if fused else ("lm_head", "embed_tokens")
    shapes |= {f"language_model.model.{table}.weight": (V, D), "language_model.model.norm.weight": (D,)}
    return shapes if text["tie_word_embeddings"] else shapes | {f"language_model.{head}.weight": (V, D)}


def published_weights(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights; biases and norms differ from 0 and 1 too."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in sorted(published_shapes(config).items()):
        noise = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            weights[name] = 0.1 * noise if name.endswith("bias") else 1 + 0.1 * noise
        elif name.endswith("embedding"):
            weights[name] = 0.5 * noise
        else:
            weights[name] = noise * np.float32(0.3 if "embed" in name else np.prod(shape[1:]) ** -0.5)
    return {name: value.astype(np.float32) for name, value in weights.items()}
