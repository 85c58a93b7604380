"""Qwen-VL twice: ours, and one put together here from parts of torch and transformers.

The published model is remote code, which no library carries. So the tower is torch's MultiheadAttention,
LayerNorm and interpolate, the resampler torch's MultiheadAttention, and the decoder transformers'
Qwen2ForCausalLM, which has Qwen's layers and none of its rules for long texts; `long_logits` writes those
out. Both sides get their weights from one set of tensors under the published names.

Shapes: B batch, S sequence, n pictures, P patches, D width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from mix_core.models import load_model
from mix_core.models.qwen_vl.weights import slots
from tests.builders.qwen_vl import tiny_config
from tests.parity.agreement import gradients_of

TEXT = 280
"""Ids of text are below; the three of a picture follow."""


def published_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published checkpoint, written down from its index of weights."""
    D, inner, V = config["hidden_size"], config["intermediate_size"] // 2, config["vocab_size"]
    v = config["visual"]
    W, M, out = v["width"], int(v["width"] * v["mlp_ratio"]), v["output_dim"]
    shapes = {"transformer.wte.weight": (V, D), "transformer.ln_f.weight": (D,), "lm_head.weight": (V, D)}
    for i in range(config["num_hidden_layers"]):
        layer = {
            "ln_1.weight": (D,),
            "attn.c_attn.weight": (3 * D, D),
            "attn.c_attn.bias": (3 * D,),
            "attn.c_proj.weight": (D, D),
            "ln_2.weight": (D,),
            "mlp.w1.weight": (inner, D),
            "mlp.w2.weight": (inner, D),
            "mlp.c_proj.weight": (D, inner),
        }
        shapes |= {f"transformer.h.{i}.{name}": shape for name, shape in layer.items()}
    tower: dict[str, tuple[int, ...]] = {
        "conv1.weight": (W, 3, v["patch_size"], v["patch_size"]),
        "positional_embedding": (256, W),
        "proj": (out, out),
        "attn_pool.pos_embed": (v.get("n_queries", 256), out),
        "attn_pool.query": (v.get("n_queries", 256), out),
        "attn_pool.kv_proj.weight": (out, W),
        "attn_pool.attn.in_proj_weight": (3 * out, out),
        "attn_pool.attn.in_proj_bias": (3 * out,),
        "attn_pool.attn.out_proj.weight": (out, out),
        "attn_pool.attn.out_proj.bias": (out,),
    }
    norms = {"ln_pre": W, "ln_post": out, "attn_pool.ln_q": out, "attn_pool.ln_kv": out}
    for i in range(v["layers"]):
        block = f"transformer.resblocks.{i}"
        norms |= {f"{block}.ln_1": W, f"{block}.ln_2": W}
        for name, outputs, inputs in (
            ("attn.in_proj", 3 * W, W),
            ("attn.out_proj", W, W),
            ("mlp.c_fc", M, W),
            ("mlp.c_proj", W, M),
        ):
            tower |= {f"{block}.{name}.weight": (outputs, inputs), f"{block}.{name}.bias": (outputs,)}
    for name, width in norms.items():
        tower |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes | {f"transformer.visual.{name}": shape for name, shape in tower.items()}


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in sorted(published_shapes(config).items()):
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            is_table = name.endswith(("wte.weight", "positional_embedding", "query"))
            fan_in = math.prod(shape[1:])
            weights[name] = noise * (0.3 if is_table else fan_in**-0.5)
        else:
            weights[name] = 0.1 * noise + (0 if name.endswith("bias") else 1)
    side = math.isqrt(config["visual"].get("n_queries", 256))
    weights["transformer.visual.attn_pool.pos_embed"] = sincos(side, config["visual"]["output_dim"])
    return weights


def sincos(side: int, width: int) -> torch.Tensor:
    """MAE's table, one number at a time; the column's half comes first."""
    table = torch.zeros(side * side, width, dtype=torch.float64)
    for place in range(side * side):
        for half, position in enumerate((place % side, place // side)):
            for i in range(width // 4):
                angle = position / 10000 ** (i / (width / 4))
                table[place, half * width // 2 + i] = math.sin(angle)
                table[place, half * width // 2 + width // 4 + i] = math.cos(angle)
    return table.float()


class Peers:
    """Both models and the configuration they share."""

    def __init__(self, folder: Path, **keys: Any) -> None:
        self.config = tiny_config(TEXT, **keys)
        self.weights = {
            n: w.requires_grad_(n[-9:] != "pos_embed") for n, w in random_weights(self.config).items()
        }
        (folder / "config.json").write_text(json.dumps(self.config))
        stored = {name: weight.detach().contiguous() for name, weight in self.weights.items()}
        save_file(stored, folder / "model.safetensors")
        self.family, _, self.ours = load_model(folder)
        self._decoder = _decoder(self.config)

    def batch(
        self, rows: Sequence[Sequence[int]], *, seed: int = 0, side: str = "left"
    ) -> dict[str, np.ndarray]:
        """Rows as numbers of text tokens with a picture between each two: [3, 5] is text, picture, text."""
        rng = np.random.default_rng(seed)
        visual = self.config["visual"]
        picture = [TEXT, *[TEXT + 2] * visual["n_queries"], TEXT + 1]
        texts = []
        for row in rows:
            ids: list[int] = []
            for i, length in enumerate(row):
                ids += [*(picture if i else ()), *rng.integers(0, TEXT, length).tolist()]
            texts.append(ids)
        longest = max(map(len, texts))
        batch = {
            "input_ids": np.full((len(texts), longest), TEXT + 3),
            "attention_mask": np.zeros((len(texts), longest), np.int64),
        }
        for b, ids in enumerate(texts):
            place = slice(longest - len(ids), None) if side == "left" else slice(len(ids))
            batch["input_ids"][b, place] = ids
            batch["attention_mask"][b, place] = 1
        pictures = sum(len(row) - 1 for row in rows)
        if pictures:
            size = (pictures, 3, visual["image_size"], visual["image_size"])
            batch["pixel_values"] = rng.standard_normal(size).astype(np.float32)
        return batch

    def theirs(self, batch: dict[str, np.ndarray]) -> torch.Tensor:
        """Logits (B, S, V) within the trained length."""
        model = self._decoder
        ids, mask = torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        names = dict(model.named_parameters())
        given = {name: tensor for name, tensor in self._decoder_weights().items() if name in names}
        assert set(given) == set(names)
        arguments = dict(
            inputs_embeds=self.embeddings(batch, ids),
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        )
        return torch.func.functional_call(model, given, (), arguments).logits

    def embeddings(self, batch: dict[str, np.ndarray], ids: torch.Tensor) -> torch.Tensor:
        x_BSD = self.weights["transformer.wte.weight"][ids]
        if "pixel_values" not in batch:
            return x_BSD
        inside = ids == TEXT + 2
        tokens = tower(self.weights, self.config["visual"], torch.tensor(batch["pixel_values"]))
        return x_BSD.masked_scatter(inside[..., None].expand_as(x_BSD), tokens)

    def our_gradients(self) -> dict[str, np.ndarray]:
        """By published name, and in the published shapes."""
        return gradients_of(slots(self.ours))

    def their_gradients(self) -> dict[str, np.ndarray]:
        return {name: w.grad.numpy() for name, w in self.weights.items() if w.grad is not None}

    def zero_grad(self) -> None:
        for weight in self.weights.values():
            weight.grad = None
        self.ours.clear_gradients(set_to_zero=False)

    def _decoder_weights(self) -> dict[str, torch.Tensor]:
        w = self.weights
        mapped = {
            "model.embed_tokens.weight": w["transformer.wte.weight"],
            "model.norm.weight": w["transformer.ln_f.weight"],
            "lm_head.weight": w["lm_head.weight"],
        }
        for i in range(self.config["num_hidden_layers"]):
            theirs, layer = f"transformer.h.{i}.", f"model.layers.{i}."
            for kind in ("weight", "bias"):
                for name, part in zip("qkv", w[f"{theirs}attn.c_attn.{kind}"].chunk(3)):
                    mapped[f"{layer}self_attn.{name}_proj.{kind}"] = part
            for ours, published in (
                ("input_layernorm", "ln_1"),
                ("self_attn.o_proj", "attn.c_proj"),
                ("post_attention_layernorm", "ln_2"),
                ("mlp.up_proj", "mlp.w1"),
                ("mlp.gate_proj", "mlp.w2"),
                ("mlp.down_proj", "mlp.c_proj"),
            ):
                mapped[f"{layer}{ours}.weight"] = w[f"{theirs}{published}.weight"]
        return mapped


def _decoder(c: dict[str, Any]) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=c["vocab_size"],
        hidden_size=c["hidden_size"],
        intermediate_size=c["intermediate_size"] // 2,
        num_hidden_layers=c["num_hidden_layers"],
        num_attention_heads=c["num_attention_heads"],
        num_key_value_heads=c["num_attention_heads"],
        rms_norm_eps=c["layer_norm_epsilon"],
        rope_theta=float(c["rotary_emb_base"]),
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config).float().eval()


def tower(weights: dict[str, torch.Tensor], visual: dict[str, Any], pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, side, side) -> their tokens (n * queries, output_dim)."""
    w = {n.removeprefix("transformer.visual."): t for n, t in weights.items() if ".visual." in n}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    x = F.conv2d(pixels, w["conv1.weight"], stride=visual["patch_size"]).flatten(2).transpose(1, 2)
    side = visual["image_size"] // visual["patch_size"]
    x = norm(x + resize(w["positional_embedding"], side), "ln_pre")
    for i in range(visual["layers"]):
        block = f"transformer.resblocks.{i}"
        normed = norm(x, f"{block}.ln_1")
        in_proj = [w[f"{block}.attn.in_proj.{kind}"] for kind in ("weight", "bias")]
        # the published rows stand head by head, MultiheadAttention's all of q, then all of k, then all of v
        by_part = [t.unflatten(0, (visual["heads"], 3, -1)).transpose(0, 1).flatten(0, 2) for t in in_proj]
        out_proj = [w[f"{block}.attn.out_proj.{kind}"] for kind in ("weight", "bias")]
        x = x + attend(normed, normed, normed, visual["heads"], by_part, out_proj)
        inner = F.linear(norm(x, f"{block}.ln_2"), w[f"{block}.mlp.c_fc.weight"], w[f"{block}.mlp.c_fc.bias"])
        x = x + F.linear(F.gelu(inner), w[f"{block}.mlp.c_proj.weight"], w[f"{block}.mlp.c_proj.bias"])
    keys = norm(F.linear(x, w["attn_pool.kv_proj.weight"]), "attn_pool.ln_kv")
    queries = norm(w["attn_pool.query"], "attn_pool.ln_q") + w["attn_pool.pos_embed"]
    in_proj = [w["attn_pool.attn.in_proj_weight"], w["attn_pool.attn.in_proj_bias"]]
    out_proj = [w["attn_pool.attn.out_proj.weight"], w["attn_pool.attn.out_proj.bias"]]
    placed = keys + resize(w["attn_pool.pos_embed"], side)
    heads = visual["output_dim"] // 128
    x = attend(queries.expand(len(pixels), -1, -1), placed, keys, heads, in_proj, out_proj)
    return (norm(x, "ln_post") @ w["proj"]).flatten(0, 1)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    in_proj: list[torch.Tensor],
    out_proj: list[torch.Tensor],
) -> torch.Tensor:
    module = nn.MultiheadAttention(q.shape[-1], heads, batch_first=True)
    names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    given = dict(zip(names, (*in_proj, *out_proj)))
    return torch.func.functional_call(module, given, (q, k, v), dict(need_weights=False))[0]


def resize(table: torch.Tensor, side: int) -> torch.Tensor:
    source = math.isqrt(len(table))
    square = table.reshape(1, source, source, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).flatten(0, 2)


def long_logits(peers: Peers, ids: Sequence[int], prompt: int) -> torch.Tensor:
    """Logits (S, V) of one row of text, by Qwen's rules for texts beyond the trained length, in plain torch.

    The first `prompt` tokens were given at once: their number sets the rotary base of all.
    """
    c, w = peers.config, peers.weights
    N, H, trained = c["num_attention_heads"], c["kv_channels"], c["seq_length"]
    alpha = max(2 ** math.ceil(math.log(prompt / trained, 2) + 1) - 1, 1) if c["use_dynamic_ntk"] else 1
    base = c["rotary_emb_base"] * alpha ** (H / (H - 2))
    frequencies = 1.0 / base ** (torch.arange(0, H, 2).float() / H)
    angles = torch.outer(torch.arange(len(ids)).float(), frequencies).repeat(1, 2)[:, None]
    scales = [
        math.log(i, trained) if i > trained and c["use_logn_attn"] else 1.0 for i in range(1, len(ids) + 1)
    ]
    hidden = w["transformer.wte.weight"][torch.tensor(ids)]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], w[f"{name}.weight"], c["layer_norm_epsilon"])

    def turn(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()

    for i in range(c["num_hidden_layers"]):
        at = f"transformer.h.{i}"
        mixed = F.linear(
            norm(hidden, f"{at}.ln_1"), w[f"{at}.attn.c_attn.weight"], w[f"{at}.attn.c_attn.bias"]
        )
        q, k, v = (part.unflatten(1, (N, H)) for part in mixed.chunk(3, dim=1))
        q = turn(q) * torch.tensor(scales)[:, None, None]
        scores = torch.einsum("inh,jnh->nij", q, turn(k)) / math.sqrt(H)
        scores = scores.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), -math.inf)
        out = torch.einsum("nij,jnh->inh", scores.softmax(-1), v).flatten(1)
        hidden = hidden + F.linear(out, w[f"{at}.attn.c_proj.weight"])
        normed = norm(hidden, f"{at}.ln_2")
        gated = F.linear(normed, w[f"{at}.mlp.w1.weight"]) * F.silu(
            F.linear(normed, w[f"{at}.mlp.w2.weight"])
        )
        hidden = hidden + F.linear(gated, w[f"{at}.mlp.c_proj.weight"])
    return F.linear(norm(hidden, "transformer.ln_f"), w["lm_head.weight"])
