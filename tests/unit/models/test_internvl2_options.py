"""The keys of InternVL2's trainer: each changes what happens, and what contradicts the model is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mix_core.config import load_config
from mix_core.errors import ConfigError
from mix_core.models.internvl2 import FAMILY
from mix_core.models.registry import load_model
from mix_core.training.processors import (
    lost_with_adapters,
    make_processor,
    model_options,
    processor_options,
)
from tests.builders.internvl2_checkpoints import write_folder

WIDE = Image.new("RGB", (140, 28), (200, 10, 10))
"""Five tiles of 28 pixels."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def processor_with(folder: Path, **keys: Any) -> Any:
    """As a run has it; keys as on the command line."""
    config = load_config(arguments={key: str(value).lower() for key, value in keys.items()})
    return make_processor(folder, processor_options(config))


def tiles_of(folder: Path, image: Image.Image = WIDE, **keys: Any) -> np.ndarray:
    processor = processor_with(folder, **keys)
    message = {"role": "user", "content": [{"type": "image", "image": image}]}
    text = processor.apply_chat_template([message])
    batch = processor(text, images=[image])
    places = int((batch["input_ids"] == processor.context_id).sum())
    assert places == len(batch["pixel_values"]) * processor.config.num_image_token
    return batch["pixel_values"]


@pytest.mark.parametrize(
    "keys,tiles,side",
    [
        ({}, 6, 28),
        ({"use_thumbnail": False}, 5, 28),
        ({"max_dynamic_patch": 3}, 4, 28),
        ({"max_dynamic_patch": 2, "use_thumbnail": False}, 2, 28),
        ({"min_dynamic_patch": 6}, 7, 28),
        ({"dynamic_image_size": False}, 1, 28),
        ({"force_image_size": 14}, 6, 14),
    ],
)
def test_a_picture_is_cut_as_the_keys_say(folder: Path, keys: dict[str, Any], tiles: int, side: int) -> None:
    assert tiles_of(folder, **keys).shape == (tiles, 3, side, side)


def test_pad2square_keeps_the_ratio_of_an_uncut_picture(folder: Path) -> None:
    still, padded = (tiles_of(folder, dynamic_image_size=False, pad2square=on)[0] for on in (False, True))
    # 140 x 28 in a square of 140: the picture is the middle fifth, bars of ImageNet's mean are 0
    assert (still[0] > 1).all()
    assert (padded[0, 12:16] > 1).all() and abs(padded[:, [0, -1]]).max() < 0.02


def test_conv_style_names_another_template(folder: Path, tmp_path: Path) -> None:
    message = [{"role": "user", "content": "hello"}]
    own, other = (processor_with(folder, **keys) for keys in ({}, {"conv_style": "internvl2_5"}))
    assert own.apply_chat_template(message) != other.apply_chat_template(message)
    assert "书生·万象" in other.apply_chat_template(message)
    other.save(tmp_path)
    assert not (tmp_path / "chat_template.jinja").exists(), "config.json names it"


def changed(folder: Path, **keys: Any) -> tuple[Any, Any, Any]:
    config = load_config(arguments={key: str(value).lower() for key, value in keys.items()})
    return load_model(folder, random_init=True, keys=model_options(config))


def test_the_model_follows_the_keys_and_config_json_says_so(folder: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).standard_normal((1, 3, 28, 28), dtype=np.float32)
    _, plain, model = changed(folder)
    assert model.random is None
    before = model.image_tokens(pixels).numpy()
    for keys in ({"ps_version": "v1"}, {"vision_select_layer": "-2"}):
        other = changed(folder, **keys)[2].image_tokens(pixels).numpy()
        assert other.shape == before.shape and abs(other - before).max() > 1e-4, keys
    keys = {"drop_path_rate": 0.5, "force_image_size": 56, "max_dynamic_patch": 4, "pad2square": True}
    family, config, model = changed(folder, **keys)
    assert model.vision_model.drop_rates[-1] == 0.5 and model.random is not None
    assert model.image_tokens(np.zeros((1, 3, 56, 56), np.float32)).shape[1] == 4 * before.shape[1]
    family.write_config(config, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["force_image_size"], written["max_dynamic_patch"], written["pad2square"]) == (56, 4, True)
    assert written["vision_config"]["drop_path_rate"] == 0.5
    assert FAMILY.config_from_dict(written) == config != plain


@pytest.mark.parametrize(
    "keys,says",
    [
        (
            {"down_sample_ratio": 0.25},
            "down_sample_ratio is 0.25, but config.json has downsample_ratio",
        ),
        ({"conv_style": "phi3-chat"}, "conv_style is 'phi3-chat'; built are internlm2-chat"),
        (
            {"force_image_size": 30},
            "force_image_size do not fit the model: .* the side of a tile = 30",
        ),
        (
            {"vision_select_layer": "-9"},
            "vision_select_layer do not fit the model: .* select_layer = -9",
        ),
        ({"min_dynamic_patch": 9}, "expected 1 <= min <= max"),
        (
            {"dynamic_image_size": False, "max_dynamic_patch": 4},
            "max_dynamic_patch asks for tiles, and",
        ),
        ({"dynamic_image_size": False, "image_max_pixels": 999}, "dynamic_image_size is false; leave one"),
        ({"image_max_pixels": 999, "max_dynamic_patch": 4}, "max_dynamic_patch too says how many"),
    ],
)
def test_contradictions_are_refused(folder: Path, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        processor_with(folder, **keys)


def test_the_folder_s_own_ratio_and_template_may_be_named(folder: Path) -> None:
    keys = {"down_sample_ratio": 0.5, "conv_style": "internlm2-chat", "ps_version": "v2"}
    assert processor_with(folder, **keys).config == processor_with(folder).config
    assert tiles_of(folder, **keys).shape[0] == 6


def test_limits_in_pixels_go_with_the_size_of_tiles(folder: Path) -> None:
    assert tiles_of(folder, image_max_pixels=3 * 14 * 14, force_image_size=14).shape[0] == 4


def test_what_an_adapter_does_not_keep_is_said(folder: Path) -> None:
    as_it_is = FAMILY.load_processor(folder).config
    same = {"max_dynamic_patch": as_it_is.max_dynamic_patch, "use_thumbnail": as_it_is.use_thumbnail}
    chosen = {"max_dynamic_patch": as_it_is.max_dynamic_patch - 1, "allow_private_urls": True}
    said = [
        lost_with_adapters(load_config(arguments={k: str(v).lower() for k, v in keys.items()}), folder)
        for keys in (same, chosen, {"image_max_pixels": 1000, "new_special_tokens": "<a>"})
    ]
    assert said[0] is None
    assert said[1] is not None and "does not keep max_dynamic_patch: merged or asked" in said[1]
    assert said[2] is not None and "does not keep image_max_pixels: " in said[2]
