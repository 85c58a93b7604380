"""Small networks of text to image twice, ours and diffusers', with equal random weights; inputs for both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel

from mix_core.models.diffusion.network import load_network
from tests.parity.agreement import note

OUTPUTS, GRADIENTS = 1e-5, 1e-4
"""Limits: relative in norm."""

SD15: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32, 32, 32),
    "norm_num_groups": 8,
    "attention_head_dim": 2,
    "cross_attention_dim": 20,
    "layers_per_block": 1,
}
SDXL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32, 48),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
    "attention_head_dim": (1, 2, 3),
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": 24,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 10,
}
SD3: dict[str, Any] = {
    "sample_size": 16,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 20,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 12,
    "pos_embed_max_size": 12,
}
SD35: dict[str, Any] = {**SD3, "qk_norm": "rms_norm", "dual_attention_layers": (0,)}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 16,
}
VAE16: dict[str, Any] = {
    **VAE,
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "SD 1.5": (UNet2DConditionModel, SD15),
    "SDXL": (UNet2DConditionModel, SDXL),
    "SD3": (SD3Transformer2DModel, SD3),
    "SD3.5": (SD3Transformer2DModel, SD35),
    "VAE of 4 channels": (AutoencoderKL, VAE),
    "VAE of 16 channels": (AutoencoderKL, VAE16),
}


def random_peer(kind: str, seed: int = 0, **changes: Any) -> Any:
    """diffusers' model with weights of which every one matters; `changes`: of its configuration."""
    torch.manual_seed(seed)
    make, config = KINDS[kind]
    model = make(**{**config, **changes}).eval()
    for name, parameter in model.named_parameters():
        deviation = 0.3 * parameter[0].numel() ** -0.5 * 3 if parameter.ndim > 1 else 0.2
        mean = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, mean, deviation)
    return model


class Peers:
    """Both models, ours read from the folder that diffusers wrote."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.theirs = random_peer(kind)
        self.theirs.save_pretrained(folder)
        self.ours = load_network(folder)

    def arguments(self, height: int = 8, width: int = 12) -> dict[str, np.ndarray]:
        """By the names of our forward pass."""
        rng = np.random.default_rng(0)
        config = KINDS[self.kind][1]

        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, dtype=np.float32)

        if self.kind.startswith("SD3"):
            return {
                "hidden_states": draw(2, 16, height, width),
                "encoder_hidden_states": draw(2, 7, config["joint_attention_dim"]),
                "pooled_projections": draw(2, config["pooled_projection_dim"]),
                "timestep": np.array([100.0, 523.5], np.float32),
            }
        given = {
            "sample": draw(2, 4, height, width),
            "timestep": np.array([3, 997]),
            "encoder_hidden_states": draw(2, 7, config["cross_attention_dim"]),
        }
        if self.kind == "SDXL":
            sizes = np.array([[64, 48, 0, 3, 32, 32], [512, 512, 16, 0, 512, 512]], np.float32)
            given |= {"text_embeds": draw(2, 10), "time_ids": sizes}
        return given

    def their_call(self, given: dict[str, torch.Tensor]) -> torch.Tensor:
        given = dict(given)
        if "time_ids" in given:
            given["added_cond_kwargs"] = {name: given.pop(name) for name in ("text_embeds", "time_ids")}
        return self.theirs(**given).sample

    def gradients(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Ours and theirs, by published name and in the published shapes."""
        ours = {}
        for name, slot in type(self.ours).network.slots(self.ours).items():
            parameter = getattr(slot, "parameter", None)
            if parameter is not None:
                ours[name] = slot.to_published(parameter.grad.numpy())
        return ours, {name: p.grad.numpy() for name, p in self.theirs.named_parameters()}


def distance(found: Any, expected: Any) -> float:
    found, expected = (one.detach().numpy() if hasattr(one, "detach") else one for one in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def as_ours(given: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    return {name: learning(paddle.to_tensor(value)) for name, value in given.items()}


def learning(tensor: paddle.Tensor) -> paddle.Tensor:
    tensor.stop_gradient = tensor.dtype != paddle.float32
    return tensor


def as_theirs(given: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    tensors = {name: torch.tensor(value) for name, value in given.items()}
    for tensor in tensors.values():
        tensor.requires_grad_(tensor.is_floating_point())
    return tensors


def assert_gradients(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], still: tuple[str, ...] = (), *, kind: str
) -> None:
    """Every parameter's within the limit; those that end as one of `still` are zero but for rounding."""
    assert set(ours) == set(theirs)
    whole = np.sqrt(sum((gradient**2).sum() for gradient in theirs.values()))
    for name, gradient in theirs.items():
        if name.endswith(still):
            assert max(np.linalg.norm(gradient), np.linalg.norm(ours[name])) < 1e-6 * whole, name
            continue
        assert np.linalg.norm(gradient) > 1e-6 * whole, f"{name} does not learn"
        away = float(np.linalg.norm(ours[name] - gradient) / np.linalg.norm(gradient))
        assert note(f"{kind}, gradients", away) <= GRADIENTS, name
