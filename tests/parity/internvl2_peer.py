"""A small InternVL2 twice with the same random weights: ours, and one put together from transformers' parts.

The original is code that its folders bring along, so the other one is independent of it: transformers' own
InternVL tower, Llama's or Qwen2's decoder and InternVL's pixel shuffle, with the published weights mapped.
The map is differentiable, so their gradients come out by published names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLVisionModel

from mix_core.models import load_model
from tests.builders.internvl2_checkpoints import config_of, published_weights, write_folder
from tests.parity.agreement import gradients_of

CONTEXT = 440
"""Id of <IMG_CONTEXT> in batches made here."""


class Peers:
    def __init__(self, folder: Path, decoder: str = "internlm2", **keys: Any) -> None:
        self.config = config_of(decoder, **keys)
        write_folder(folder, decoder, weights=True, **keys)
        assert json.loads((folder / "config.json").read_text()) == self.config
        self.family, _, self.ours = load_model(folder)
        self.published = {
            name: torch.tensor(value, requires_grad=True)
            for name, value in published_weights(self.config).items()
        }
        self.tower = _tower(self.config["vision_config"])
        self.decoder = _decoder(self.config["llm_config"])

    def side(self) -> int:
        return self.config["force_image_size"]

    def tokens(self) -> int:
        return (self.side() // self.config["vision_config"]["patch_size"] // 2) ** 2

    def batch(self, rows: list[list[Any]], seed: int = 0, side: str = "left") -> dict[str, np.ndarray]:
        """Rows of numbers (so many text tokens) and ("image", tiles)."""
        rng = np.random.default_rng(seed)
        texts, tiles = [], 0
        for row in rows:
            ids: list[int] = []
            for part in row:
                if isinstance(part, int):
                    ids += rng.integers(0, 400, part).tolist()
                else:
                    tiles += part[1]
                    ids += [438, *[CONTEXT] * (part[1] * self.tokens()), 439]
            texts.append(ids)
        S = max(map(len, texts))
        batch: dict[str, np.ndarray] = {
            "input_ids": np.zeros((len(texts), S), np.int64),
            "attention_mask": np.zeros((len(texts), S), np.int64),
        }
        for b, ids in enumerate(texts):
            place = slice(S - len(ids), None) if side == "left" else slice(len(ids))
            batch["input_ids"][b, place], batch["attention_mask"][b, place] = ids, 1
        if tiles:
            pixels = rng.standard_normal((tiles, 3, self.side(), self.side()))
            batch["pixel_values"] = pixels.astype(np.float32)
            batch["img_context_token_id"] = np.array([CONTEXT])
        return batch

    def image_tokens(self, pixels: np.ndarray) -> torch.Tensor:
        """The tokens of tiles (N, tokens, D), differentiable."""
        vision, k = self.config["vision_config"], self.config["downsample_ratio"]
        mapped = vision_map(self.published, vision["num_hidden_layers"])
        given = {"pixel_values": torch.tensor(pixels), "output_hidden_states": True}
        out = functional_call(self.tower, mapped, kwargs=given)
        x = (
            out.last_hidden_state
            if self.config["select_layer"] == -1
            else out.hidden_states[self.config["select_layer"]]
        )
        x = x[:, 1:]
        side = round(x.shape[1] ** 0.5)
        x = InternVLModel.pixel_shuffle(None, x.reshape(len(x), side, side, -1), k)
        if self.config["ps_version"] == "v1":
            x = x.transpose(1, 2)
        x = x.reshape(len(x), -1, x.shape[-1])
        w = self.published
        x = nn.functional.layer_norm(x, x.shape[-1:], w["mlp1.0.weight"], w["mlp1.0.bias"])
        x = nn.functional.gelu(nn.functional.linear(x, w["mlp1.1.weight"], w["mlp1.1.bias"]))
        return nn.functional.linear(x, w["mlp1.3.weight"], w["mlp1.3.bias"])

    def embeddings(self, batch: dict[str, np.ndarray]) -> torch.Tensor:
        mapped = decoder_map(self.published, self.config["llm_config"])
        ids = torch.tensor(batch["input_ids"])
        x = nn.functional.embedding(ids, mapped["model.embed_tokens.weight"])
        if "pixel_values" in batch:
            tokens = self.image_tokens(batch["pixel_values"])
            x = x.masked_scatter((ids == CONTEXT)[..., None], tokens.reshape(-1, x.shape[-1]))
        return x

    def logits(self, batch: dict[str, np.ndarray]) -> torch.Tensor:
        """Their logits (B, S, V), differentiable in `published`. Each call begins with fresh rotary state."""
        mask = torch.tensor(batch["attention_mask"])
        given = {
            "inputs_embeds": self.embeddings(batch),
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        }
        fresh = _decoder(self.config["llm_config"])
        mapped = decoder_map(self.published, self.config["llm_config"])
        return functional_call(fresh, mapped, kwargs=given).logits

    @torch.no_grad()
    def generate(self, batch: dict[str, np.ndarray], new: int) -> np.ndarray:
        fresh = _decoder(self.config["llm_config"])
        fresh.load_state_dict(decoder_map(self.published, self.config["llm_config"]), strict=False)
        fresh.generation_config.eos_token_id = None
        return fresh.generate(
            inputs_embeds=self.embeddings(batch),
            attention_mask=torch.tensor(batch["attention_mask"]),
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        ).numpy()

    def our_gradients(self) -> dict[str, np.ndarray]:
        """By published name and in published form."""
        from mix_core.models.internvl2.weights import slots

        return gradients_of(slots(self.ours))

    def their_gradients(self) -> dict[str, np.ndarray]:
        return {name: weight.grad.numpy() for name, weight in self.published.items()}

    def zero_grad(self) -> None:
        for weight in self.published.values():
            weight.grad = None


def vision_map(published: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Published weights of the tower under the names of transformers' InternVLVisionModel."""
    w = {name.removeprefix("vision_model."): value for name, value in published.items()}
    out = {
        "embeddings.cls_token": w["embeddings.class_embedding"],
        "embeddings.position_embeddings": w["embeddings.position_embedding"],
        "embeddings.patch_embeddings.projection.weight": w["embeddings.patch_embedding.weight"],
        "embeddings.patch_embeddings.projection.bias": w["embeddings.patch_embedding.bias"],
    }
    renamed = {
        "attn.proj": "attention.projection_layer",
        "attn.q_norm": "attention.q_norm",
        "attn.k_norm": "attention.k_norm",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
    }
    for i in range(layers):
        at, to = f"encoder.layers.{i}.", f"encoder.layer.{i}."
        for kind in ("weight", "bias"):
            if at + "attn.qkv." + kind in w:
                for name, part in zip("qkv", w[at + "attn.qkv." + kind].chunk(3)):
                    out[f"{to}attention.{name}_proj.{kind}"] = part
            for name, theirs in renamed.items():
                if f"{at}{name}.{kind}" in w:
                    out[f"{to}{theirs}.{kind}"] = w[f"{at}{name}.{kind}"]
        out |= {to + "lambda_1": w[at + "ls1"], to + "lambda_2": w[at + "ls2"]}
    return out


def decoder_map(published: dict[str, torch.Tensor], text: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Published weights of the decoder under transformers' names; InternLM2's wqkv is taken apart by rows."""
    w = {
        n.removeprefix("language_model."): v for n, v in published.items() if n.startswith("language_model.")
    }
    if text["architectures"] != ["InternLM2ForCausalLM"]:
        return w
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    H, groups = text["hidden_size"] // heads, heads // kv_heads
    names = {
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "tok_embeddings": "embed_tokens",
    }
    out = {}
    for name, value in w.items():
        if "wqkv" not in name:
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            out["lm_head.weight" if name == "output.weight" else name] = value
            continue
        rows: dict[str, list[torch.Tensor]] = {"q": [], "k": [], "v": []}
        for head in range(kv_heads):  # (h gs d): the heads of a group, its key, its value
            block = value[head * (groups + 2) * H : (head + 1) * (groups + 2) * H]
            rows["q"].append(block[: groups * H])
            rows["k"].append(block[groups * H : (groups + 1) * H])
            rows["v"].append(block[(groups + 1) * H :])
        for part, blocks in rows.items():
            out[name.replace("attention.wqkv", f"self_attn.{part}_proj")] = torch.cat(blocks)
    return out


def _tower(vision: dict[str, Any]) -> InternVLVisionModel:
    return InternVLVisionModel(
        InternVLVisionConfig(
            hidden_size=vision["hidden_size"],
            num_hidden_layers=vision["num_hidden_layers"],
            num_attention_heads=vision["num_attention_heads"],
            intermediate_size=vision["intermediate_size"],
            attention_bias=vision["qkv_bias"],
            use_qk_norm=vision["qk_normalization"],
            norm_type=vision["norm_type"],
            layer_norm_eps=vision["layer_norm_eps"],
            image_size=[vision["image_size"]] * 2,
            patch_size=[vision["patch_size"]] * 2,
            use_mean_pooling=True,  # no norm after the last layer, as published
            use_absolute_position_embeddings=True,
            attn_implementation="eager",
        )
    ).eval()


def _decoder(text: dict[str, Any]) -> Any:
    scaling, theta = text["rope_scaling"], float(text["rope_theta"])
    rope = {"rope_type": "dynamic", "factor": scaling["factor"]} if scaling else {"rope_type": "default"}
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    kept += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")
    qwen2 = text["architectures"] == ["Qwen2ForCausalLM"]
    config = (Qwen2Config if qwen2 else LlamaConfig)(
        **{key: text[key] for key in kept},
        rope_parameters={**rope, "rope_theta": theta},
        attn_implementation="eager",
        bos_token_id=None,
        eos_token_id=None,
    )
    return (Qwen2ForCausalLM if qwen2 else LlamaForCausalLM)(config).float().eval()
