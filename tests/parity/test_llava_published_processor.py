"""LLaVA's processor against transformers': the same ids, sizes and pixels, for pictures of any aspect.

transformers' processors with Pillow are the measure: both sides resize with it, so pixels agree exactly. (Its
torchvision processors resize otherwise, within a grey level; they are not compared.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="live parity needs torch")
transformers = pytest.importorskip("transformers", reason="live parity needs transformers")

from mix_core.models.llava.processor import load_processor  # noqa: E402
from tests.builders.llava import MISTRAL_TEMPLATE, VICUNA_TEMPLATE, write_llava  # noqa: E402

SIZES = [(28, 28), (56, 56), (20, 20), (31, 84), (90, 25), (100, 101), (7, 300), (300, 7), (1, 1), (2, 200)]
SIZES += [(1, 400), (500, 1), (640, 481), (57, 55), (28, 29)]
"""Heights and widths: of pinpoints, between them, larger than all, very wide, very tall, one pixel."""


def picture(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height * 1000 + width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))


def their_processor(folder: Path, *, anyres: bool, padded: bool = False):
    kind = "LlavaNextImageProcessor" if anyres else "LlavaImageProcessor" if padded else "CLIPImageProcessor"
    name = "LlavaNextProcessor" if anyres else "LlavaProcessor"
    return getattr(transformers, name)(
        image_processor=getattr(transformers, kind).from_pretrained(folder),
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA_TEMPLATE,
    )


CASES = {"1.5": {}, "1.5 padded": {"image": {"do_pad": True}}, "1.6": {"anyres": True}}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = write_llava(tmp_path_factory.mktemp("processor"), **CASES[request.param])
    theirs = their_processor(folder, anyres=request.param == "1.6", padded="padded" in request.param)
    return load_processor(folder), theirs


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_and_ids(pair, size: tuple[int, int]) -> None:
    ours, theirs = pair
    text, image = "USER: <image>\nWhat is it? ASSISTANT:", picture(*size)
    found = ours(text=text, images=[image])
    if ours.config.anyres and ours.images.target_size(*size)[0] in (1, 3):
        # transformers takes such a height for the colours where it pads; test_llava_images.py has these
        rows = theirs._get_num_multimodal_tokens([size]).num_image_tokens[0]
        assert (found["input_ids"] == ours.config.image_token_id).sum() == rows
        return
    expected = theirs(text=text, images=image, return_tensors="np", input_data_format="channels_last")
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].shape == value.shape, key
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_many_pictures_in_many_rows(pair) -> None:
    ours, theirs = pair
    texts = ["<image><image>\nCompare.", "none here", "<image> a <image>"]
    images = [picture(*size) for size in ((28, 28), (640, 481), (7, 300), (56, 56))]
    found = ours(text=texts, images=[images[:2], images[2:]], padding_side="left")
    theirs.tokenizer.padding_side = "left"
    expected = theirs(text=texts, images=images, padding=True, return_tensors="np")
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "it is 7"}]},
    {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
]


@pytest.mark.parametrize("template", [VICUNA_TEMPLATE, MISTRAL_TEMPLATE], ids=["vicuna", "mistral"])
@pytest.mark.parametrize("prompt", [False, True])
def test_chat_templates(tmp_path: Path, template: str, prompt: bool) -> None:
    folder = write_llava(tmp_path, template=template)
    ours, theirs = load_processor(folder), their_processor(folder, anyres=False)
    expected = theirs.apply_chat_template(
        MESSAGES, chat_template=template, add_generation_prompt=prompt, tokenize=False
    )
    assert ours.apply_chat_template(MESSAGES, add_generation_prompt=prompt) == expected
    assert "<image>\nWhich digit is this?" in expected


@pytest.mark.parametrize("anyres", [False, True], ids=["1.5", "1.6"])
def test_transformers_reads_what_we_save(tmp_path: Path, anyres: bool) -> None:
    """AutoProcessor itself wants torchvision here; its parts and their settings are read one by one."""
    folder = write_llava(tmp_path / "from", anyres=anyres)
    ours = load_processor(folder)
    saved = tmp_path / "to"
    ours.save(saved)
    (saved / "config.json").write_text((folder / "config.json").read_text())
    theirs = their_processor(saved, anyres=anyres)
    image, text = picture(50, 90), "USER: <image>\nWhat? ASSISTANT: it</s>"
    expected = theirs(text=text, images=image, return_tensors="np")
    for processor in (ours, load_processor(saved)):
        found = processor(text=text, images=[image])
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)
    assert load_processor(saved).chat_template.source == VICUNA_TEMPLATE
