"""Folders and single files of diffusion networks: read as diffusers reads them, and read by it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="live parity needs diffusers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from mix_core.errors import BadInputError, WeightsError  # noqa: E402
from mix_core.models.diffusion.network import load_network, save_network  # noqa: E402
from mix_core.models.diffusion.original_names import (  # noqa: E402
    UNET_PREFIX,
    VAE_PREFIX,
    unet_names,
    vae_names,
)
from mix_core.models.diffusion.single_file import load_single_file  # noqa: E402
from tests.parity.diffusion_peer import KINDS, random_peer  # noqa: E402

SINGLE = "diffusion_pytorch_model.safetensors"
CLASSES = {
    "SD 1.5": UNet2DConditionModel,
    "SDXL": UNet2DConditionModel,
    "SD3.5": SD3Transformer2DModel,
    "VAE of 4 channels": AutoencoderKL,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each kind, as diffusers writes it."""
    made = {}
    for kind in CLASSES:
        made[kind] = tmp_path_factory.mktemp("folder")
        random_peer(kind).save_pretrained(made[kind])
    return made


def state(model: Any) -> dict[str, np.ndarray]:
    """Our model's weights by published name."""
    return {name: slot.values() for name, slot in type(model).network.slots(model).items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, Any], **limit: float) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], np.asarray(values, np.float32), err_msg=name, **limit)


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("SD 1.5", "VAE of 4 channels")]


@pytest.mark.parametrize("kind", ["SDXL", "SD3.5", *SLOW])
def test_what_we_write_diffusers_reads(folders, kind: str, tmp_path: Path) -> None:
    model = load_network(folders[kind])
    stored = load_file(folders[kind] / SINGLE)
    assert_same(state(model), stored, rtol=1e-6, atol=1e-6)

    save_network(model, tmp_path, max_shard_bytes=60_000)
    assert len(list(tmp_path.glob("diffusion_pytorch_model-*-of-*.safetensors"))) > 1
    theirs = CLASSES[kind].from_pretrained(tmp_path, local_files_only=True)
    assert_same(theirs.state_dict(), stored, rtol=1e-6, atol=1e-6)
    written, original = (json.loads((f / "config.json").read_text()) for f in (tmp_path, folders[kind]))
    assert {key: written[key] for key in KINDS[kind][1]} == {key: original[key] for key in KINDS[kind][1]}
    assert_same(state(load_network(tmp_path)), stored, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_half_precision_variants(folders, tmp_path: Path) -> None:
    random_peer("SDXL").half().save_pretrained(tmp_path, variant="fp16", max_shard_size="60KB")
    assert (tmp_path / "diffusion_pytorch_model.safetensors.index.fp16.json").is_file()
    found = state(load_network(tmp_path))
    assert_same(found, {name: p.half() for name, p in load_file(folders["SDXL"] / SINGLE).items()})

    ours = load_network(folders["SDXL"])
    ours.to(dtype="float16")
    save_network(ours, tmp_path / "ours", variant="fp16")
    again = UNet2DConditionModel.from_pretrained(tmp_path / "ours", variant="fp16", torch_dtype=torch.float16)
    assert_same(again.state_dict(), found)
    with pytest.raises(WeightsError, match=r"neither diffusion_pytorch_model\.bf16\.safetensors nor"):
        load_network(tmp_path, variant="bf16")


def test_attention_of_2022_under_its_old_names(folders, tmp_path: Path) -> None:
    folder = folders["VAE of 4 channels"]
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    stored = load_file(folder / SINGLE)

    def renamed(name: str) -> str:
        for new, before in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        return name

    save_file({renamed(name): values for name, values in stored.items()}, tmp_path / SINGLE)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in load_file(tmp_path / SINGLE)
    assert_same(state(load_network(tmp_path)), stored)


def single_file(folders: dict[str, Path], unet: str, path: Path) -> None:
    """A checkpoint under the original names, as diffusers' own converter expects it."""
    config = KINDS[unet][1]
    levels = config.get("up_block_types", ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3))
    unet_name = unet_names(config.get("layers_per_block", 2), tuple("Cross" in kind for kind in levels))
    vae_name = vae_names(3)
    stored = {
        UNET_PREFIX + unet_name(name): values for name, values in load_file(folders[unet] / SINGLE).items()
    }
    for name, values in load_file(folders["VAE of 4 channels"] / SINGLE).items():
        conv = ".attentions." in name and values.ndim == 2
        stored[VAE_PREFIX + vae_name(name)] = values[:, :, None, None].contiguous() if conv else values
    save_file(stored, path)


@pytest.mark.parametrize("unet", ["SDXL", pytest.param("SD 1.5", marks=pytest.mark.slow)])
def test_a_single_file_gives_what_diffusers_converts(folders, unet: str, tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    single_file(folders, unet, path)
    for kind, class_name in ((unet, "UNet2DConditionModel"), ("VAE of 4 channels", "AutoencoderKL")):
        theirs = CLASSES[kind].from_single_file(path, config=str(folders[kind]), local_files_only=True)
        config = json.loads((folders[kind] / "config.json").read_text())
        ours = load_single_file(path, class_name, config=config)
        assert_same(state(ours), theirs.state_dict())
        assert_same(state(ours), load_file(folders[kind] / SINGLE))


def test_a_single_file_that_is_none_is_refused(folders, tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    single_file(folders, "SDXL", path)
    with pytest.raises(BadInputError, match=r"text of width 24; expected .* SD 1\.5 \(768\) or SDXL"):
        load_single_file(path, "UNet2DConditionModel")
    stored = load_file(path)
    lost = UNET_PREFIX + "output_blocks.2.0.in_layers.2.weight"
    save_file({name: values for name, values in stored.items() if name != lost}, path)
    config = json.loads((folders["SDXL"] / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"lacks the weight up_blocks\.0\.resnets\.2\.conv1\.weight"):
        load_single_file(path, "UNet2DConditionModel", config=config)
    save_file({"other": stored[lost]}, path)
    with pytest.raises(WeightsError, match=r"no weight whose name begins with model\.diffusion_model\."):
        load_single_file(path, "UNet2DConditionModel", config=config)


def test_another_table_of_positions_is_refused(folders, tmp_path: Path) -> None:
    folder = folders["SD3.5"]
    stored = load_file(folder / SINGLE)
    stored["pos_embed.pos_embed"] = stored["pos_embed.pos_embed"] * 1.01
    save_file(stored, tmp_path / SINGLE)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"pos_embed\.pos_embed .* away from the sines and cosines"):
        load_network(tmp_path)


def test_adapters_by_published_names(folders) -> None:
    from mix_core.models.common.lora import LoRASettings, add_adapter, init_adapter, linear_maps

    for kind, first in (("SDXL", "down_blocks.1.attentions.0"), ("SD3.5", "transformer_blocks.0")):
        model = load_network(folders[kind])
        targets = ("to_q", "to_k", "to_v", "to_out.0")
        maps = [one for one in linear_maps(model) if one.name.endswith(targets)]
        assert any(one.name.startswith(f"{first}.") for one in maps)
        for parameter in model.parameters():
            parameter.stop_gradient = True
        add_adapter(model, maps, "default", LoRASettings(rank=2, alpha=2))
        init_adapter(maps, "default", 0)
        learning = [name for name, p in model.named_parameters() if not p.stop_gradient]
        assert len(learning) == 2 * len(maps)
        assert not any(name.split(".adapters")[0] + ".weight" in learning for name in learning)
