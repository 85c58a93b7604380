"""Adapter files of text-to-image models: every form of name, the scale, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix_core.errors import WeightsError
from mix_core.models.common.adapter_files import DOWN, MAGNITUDE, UP
from mix_core.models.common.lora import linear_maps
from mix_core.models.common.tensor_files import Outgoing, write_file
from mix_core.models.diffusion.adapter_files import FILE, METADATA, flat_names, read_picture_adapter
from mix_core.models.diffusion.network import network
from mix_core.models.diffusion.published import SD15_UNET, SDXL_UNET
from mix_core.models.diffusion.single_file import original_unet_names

DOWN_SHAPE, UP_SHAPE = (2, 6), (4, 2)
MODULE = "mid_block.attentions.0.transformer_blocks.0.attn1"
TEXT = "text_encoder.text_model.encoder.layers.3.self_attn"


def write(folder: Path, tensors: dict[str, tuple[int, ...]], **header: str) -> Path:
    made = [
        Outgoing(name, "F32", shape, partial(np.full, shape, np.float32(i + 1)))
        for i, (name, shape) in enumerate(tensors.items())
    ]
    write_file(folder / FILE, made, header)
    return folder


@pytest.mark.parametrize(
    ("down", "up", "part", "module"),
    [
        (f"unet.{MODULE}.to_q.lora_A.weight", f"unet.{MODULE}.to_q.lora_B.weight", "unet", f"{MODULE}.to_q"),
        (
            f"unet.{MODULE}.to_q.lora_A.default.weight",
            f"unet.{MODULE}.to_q.lora_B.default.weight",
            "unet",
            f"{MODULE}.to_q",
        ),
        (
            f"unet.{MODULE}.to_q.lora.down.weight",
            f"unet.{MODULE}.to_q.lora.up.weight",
            "unet",
            f"{MODULE}.to_q",
        ),
        (
            f"unet.{MODULE}.processor.to_out_lora.down.weight",
            f"unet.{MODULE}.processor.to_out_lora.up.weight",
            "unet",
            f"{MODULE}.to_out.0",
        ),
        (
            f"{TEXT}.q_proj.lora_linear_layer.down.weight",
            f"{TEXT}.q_proj.lora_linear_layer.up.weight",
            "text_encoder",
            f"{TEXT.partition('.')[2]}.q_proj",
        ),
        (
            f"{TEXT}.to_v_lora.down.weight",
            f"{TEXT}.to_v_lora.up.weight",
            "text_encoder",
            f"{TEXT.partition('.')[2]}.v_proj",
        ),
    ],
    ids=["PEFT", "PEFT with a name", "to_q.lora", "processor", "lora_linear_layer", "oldest text"],
)
def test_forms_of_names(tmp_path: Path, down: str, up: str, part: str, module: str) -> None:
    found = read_picture_adapter(write(tmp_path, {down: DOWN_SHAPE, up: UP_SHAPE}))
    assert list(found.parts) == [part] and list(found.parts[part].maps) == [module]
    kinds = found.parts[part].maps[module]
    assert (kinds[DOWN].shape, kinds[UP].shape) == (DOWN_SHAPE, UP_SHAPE)
    assert kinds[UP].read_float32()[0, 0] == 2.0
    assert found.parts[part].scale(module) == 1.0


def pair(name: str = f"unet.{MODULE}.to_q") -> dict[str, tuple[int, ...]]:
    return {f"{name}.lora_A.weight": DOWN_SHAPE, f"{name}.lora_B.weight": UP_SHAPE}


def flat(name: str = "lora_unet_mid_block_proj_in") -> dict[str, tuple[int, ...]]:
    return {f"{name}.lora_down.weight": DOWN_SHAPE, f"{name}.lora_up.weight": UP_SHAPE, f"{name}.alpha": (1,)}


def test_names_of_kohya(tmp_path: Path) -> None:
    names = ("lora_unet_mid_block_proj_in", "lora_te1_text_model_q_proj", "lora_te2_text_model_q_proj")
    tensors = {key: shape for name in names for key, shape in flat(name).items()}
    found = read_picture_adapter(write(tmp_path, tensors))
    assert list(found.parts) == ["unet", "text_encoder", "text_encoder_2"]
    part = found.parts["unet"]
    assert (
        part.flat and part.scale("mid_block_proj_in") == 1.5
    )  # the third number written is 3, and the rank 2
    assert list(read_picture_adapter(write(tmp_path, flat("lora_te_q_proj"))).parts) == ["text_encoder"]


def test_flat_names_have_one_module_each() -> None:
    """Of the published U-Nets: no two modules share a name without dots, the original ones included."""
    for config in (SD15_UNET, SDXL_UNET):
        kind = network("UNet2DConditionModel")
        with paddle.LazyGuard():
            model = kind.build(kind.config_from_dict(config))
        modules = [one.name for one in linear_maps(model)]
        original = original_unet_names(model.config)
        names = flat_names(modules, original)
        assert (
            len(names)
            == len({*names.values()}) * 2
            == len(modules) * 2
            - sum(name == original(f"{name}.weight").removesuffix(".weight") for name in modules)
        )
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert names["input_blocks_4_1_transformer_blocks_0_attn1_to_q"] == module


def test_the_scale_of_a_file(tmp_path: Path) -> None:
    module = f"{MODULE}.to_q"
    alpha = read_picture_adapter(write(tmp_path, {**pair(), f"unet.{module}.alpha": (1,)}))
    assert alpha.parts["unet"].scale(module) == 1.5  # the third number written is 3, and the rank 2

    def of(**config: object) -> float:
        text = json.dumps({f"unet.{key}": value for key, value in config.items()})
        return read_picture_adapter(write(tmp_path, pair(), **{METADATA: text})).parts["unet"].scale(module)

    assert of(r=2, lora_alpha=8) == 4.0
    assert of(r=2, lora_alpha=8, use_rslora=True) == pytest.approx(8 / 2**0.5)
    assert of(r=2, lora_alpha=8, alpha_pattern={"attn1.to_q": 1}) == 0.5
    assert of(r=2, lora_alpha=8, alpha_pattern={"attn2.to_q": 1}) == 4.0


def test_convolutions_of_one_place_and_dora(tmp_path: Path) -> None:
    name = "unet.mid_block.attentions.0.proj_in"
    shapes = {f"{name}.lora_A.weight": (2, 6, 1, 1), f"{name}.lora_B.weight": (4, 2, 1, 1)}
    shapes |= {f"{name}.lora_magnitude_vector": (1, 4, 1, 1)}
    part = read_picture_adapter(write(tmp_path, shapes)).parts["unet"]
    (kinds,) = part.maps.values()
    assert part.dora and (kinds[DOWN].shape, kinds[UP].shape) == (DOWN_SHAPE, UP_SHAPE)
    assert kinds[MAGNITUDE].shape == (4,)


def test_a_run_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        write(tmp_path / f"checkpoint-{step}", pair())
    assert read_picture_adapter(tmp_path).file.parent.name == "checkpoint-10"


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"lora_unet_mid_block.lora_down.weight": (2, 6)}, r"unet\.mid_block lacks or has too much: lora_B"),
        ({"lora_unet_mid_block.hada_w1_a": (2, 6)}, "expected names as diffusers writes them.* or kohya's"),
        ({**flat(), **pair()}, "holds unet.* expected names"),
        ({f"unet.{MODULE}.to_q.lora_A.weight": (2, 6)}, r"to_q lacks or has too much: lora_B\.weight"),
        ({**pair(), f"unet.{MODULE}.to_q.lora_B.weight": (4, 3)}, r"lora_A of shape \(2, 6\) and lora_B of"),
        ({"unet.conv_in.lora_A.weight": (2, 4, 3, 3)}, "only linear maps' adapters are built"),
        ({}, "holds no adapter"),
    ],
    ids=["half of kohya's", "LyCORIS", "both", "half", "ranks", "convolution", "empty"],
)
def test_what_is_refused(tmp_path: Path, tensors: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        read_picture_adapter(write(tmp_path, tensors))


def test_no_file_and_a_broken_header(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is no adapter of a text-to-image model; expected a folder with"):
        read_picture_adapter(tmp_path)
    write(tmp_path, pair(), **{METADATA: "[1"})
    with pytest.raises(WeightsError, match="in its header that is no JSON object"):
        read_picture_adapter(tmp_path)
