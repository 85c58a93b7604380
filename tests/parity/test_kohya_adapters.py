"""Adapters under the names of kohya's sd-scripts: the pictures are those of diffusers with the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft", reason="diffusers puts adapters on with peft")

from safetensors.numpy import save_file

from mix_core.inference.text_to_image import generate
from mix_core.inference.text_to_image.engine import load_engine
from mix_core.models.common.lora import LinearMap, linear_maps
from mix_core.models.diffusion.single_file import original_unet_names
from tests.parity.picture_peer import TheirDraws, farthest, make_whole_pipeline

LIMIT, RANK = 2, 3
ASKED: dict[str, Any] = {"width": 32, "height": 32, "steps": 3, "guidance": 3.0}
THEIRS = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 32, "width": 32}
PROMPT = "a handwritten seven"


def drawn(engine: Any) -> Any:
    return generate(engine.model, PROMPT, draws=TheirDraws(7), progress=False, **ASKED)


def tensors_of(
    one: LinearMap, name: str, rng: np.random.Generator, *, as_convolution: bool
) -> dict[str, np.ndarray]:
    """kohya's three tensors of a map; of a convolution of 1x1 with four axes, as SD 1.5's outer maps are."""
    down = 0.2 * rng.standard_normal((RANK, one.layer.inputs), np.float32)
    up = 0.2 * rng.standard_normal((one.layer.outputs, RANK), np.float32)
    if as_convolution:
        down, up = down[..., None, None], up[..., None, None]
    found = {"lora_down.weight": down, "lora_up.weight": up, "alpha": np.array(1.5, np.float32)}
    return {f"{name}.{kind}": values for kind, values in found.items()}


@pytest.mark.parametrize(
    ("kind", "original"),
    [("sd15", False), pytest.param("sdxl", False, marks=pytest.mark.slow), ("sdxl", True)],
    ids=["SD 1.5", "SDXL under diffusers' names", "SDXL under the original names"],
)
def test_pictures_are_those_of_diffusers(kind: str, original: bool, tmp_path: Path) -> None:
    import torch

    theirs = make_whole_pipeline(kind, tmp_path / "model")
    layers = load_engine(tmp_path / "model", "cpu").model.layers
    rng, found = np.random.default_rng(0), {}
    spelled = original_unet_names(layers["unet"].config) if original else str
    for part, prefix in (
        ("unet", "lora_unet_"),
        ("text_encoder", "lora_te_" if kind == "sd15" else "lora_te1_"),
        ("text_encoder_2", "lora_te2_"),
    ):
        for one in linear_maps(layers[part]) if part in layers else ():
            if ".attentions." in one.name or ".self_attn." in one.name:
                name = one.name
                if part == "unet":
                    name = spelled(f"{name}.weight").removesuffix(".weight")
                outer = kind == "sd15" and name.endswith(("proj_in", "proj_out"))
                found |= tensors_of(one, prefix + name.replace(".", "_"), rng, as_convolution=outer)
    save_file(found, tmp_path / "kohya.safetensors")
    plain = drawn(load_engine(tmp_path / "model", "cpu"))
    ours = drawn(load_engine(tmp_path / "model", "cpu", lora=tmp_path / "kohya.safetensors"))
    assert farthest(plain, ours) > 5 * LIMIT, "the adapter does something"
    theirs.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
    expected = theirs(PROMPT, generator=torch.Generator().manual_seed(7), **THEIRS).images
    assert farthest(ours, expected) <= LIMIT
