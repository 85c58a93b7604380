"""Our processor against transformers': on files of every kind the same ids and grids, pixels within 1e-6."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mix_core.errors import DataError
from mix_core.models.qwen2_5_vl.image_processor import smart_resize
from mix_core.models.qwen2_5_vl.processor import load_processor
from tests.builders.checkpoints import write_checkpoint
from tests.parity.processors import compare, noise, their_processor

transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
pytest.importorskip("torch", reason="live parity needs torch")

TEXTS = [
    "What is in this picture?",
    "图片里有什么？这是数字七。Überraschung, naïve café",
    "e\u0301 ﬁ Å and \ufffd, tabs\tand  many   blanks \n\n\n and breaks\r\n",
    "<ref>the seven</ref><box>(12,345),(678,999)</box> 3.14159 1234567890",
    "<|im_start|>user inside<|im_end|><|endoftext|><tool_call>{}</tool_call>",
    "👩‍👩‍👧 🏳️‍🌈 \u200b zero width",
    "",
    " ",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def processors(folder):
    return load_processor(folder), their_processor(folder)


# Pictures


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


FILES = {
    "even.png": lambda p: Image.fromarray(noise(84, 112, 3)).save(p),
    "odd.png": lambda p: Image.fromarray(noise(101, 133, 3)).save(p),
    "odd.jpg": lambda p: Image.fromarray(noise(211, 97, 3)).save(p, quality=85),
    "progressive.jpg": lambda p: Image.fromarray(noise(120, 77, 3)).save(p, quality=60, progressive=True),
    "cmyk.jpg": lambda p: Image.fromarray(noise(64, 65, 4), "CMYK").save(p),
    "gray.jpg": lambda p: Image.fromarray(noise(90, 91, 1)[..., 0]).save(p),
    "gray.png": lambda p: Image.fromarray(noise(33, 200, 1)[..., 0]).save(p),
    "gray_alpha.png": lambda p: Image.fromarray(noise(64, 70, 2), "LA").save(p),
    "gray16.png": lambda p: Image.fromarray(noise(64, 70, 1)[..., 0].astype(np.uint16) * 200).save(p),
    "alpha.png": lambda p: Image.fromarray(noise(75, 60, 4), "RGBA").save(p),
    "palette.png": lambda p: Image.fromarray(noise(80, 80, 3)).quantize(32).save(p),
    "palette_transparent.png": lambda p: (
        Image.fromarray(noise(80, 81, 3)).quantize(32).save(p, transparency=3)
    ),
    "bilevel.png": lambda p: Image.fromarray(noise(80, 81, 1)[..., 0]).convert("1").save(p),
    "tiny.png": lambda p: Image.fromarray(noise(5, 7, 3)).save(p),
    "dot.png": lambda p: Image.fromarray(noise(2, 2, 3)).save(p),
    "wide.png": lambda p: Image.fromarray(noise(6, 1190, 3)).save(p),
    "tall.jpg": lambda p: Image.fromarray(noise(1500, 9, 3)).save(p),
    "large.jpg": lambda p: Image.fromarray(noise(900, 1400, 3)).save(p, quality=90),
    "picture.webp": lambda p: Image.fromarray(noise(90, 60, 3)).save(p),
    "picture.bmp": lambda p: Image.fromarray(noise(61, 60, 3)).save(p),
    "first_of_two.gif": lambda p: Image.fromarray(noise(61, 60, 3)).save(
        p, save_all=True, append_images=[Image.fromarray(noise(61, 60, 3, 1))]
    ),
    **{
        f"turned{value}.jpg": lambda p, v=value: Image.fromarray(noise(60, 131, 3)).save(p, exif=oriented(v))
        for value in range(1, 9)
    },
    "turned6.png": lambda p: Image.fromarray(noise(60, 131, 3)).save(p, exif=oriented(6)),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file(processors, tmp_path, name):
    ours, theirs = processors
    path = str(tmp_path / name)
    FILES[name](path)
    text = "a <|vision_start|><|image_pad|><|vision_end|> b"
    compare(ours(text, [path]), theirs(text=text, images=[path], return_tensors="np"))


@pytest.mark.parametrize("name", ["odd.jpg", "gray.png", "alpha.png", "palette.png", "turned6.jpg"])
def test_an_opened_image(processors, tmp_path, name):
    """An image that the caller opened is taken as it is, by both: neither turns it."""
    ours, theirs = processors
    FILES[name](str(tmp_path / name))
    image = Image.open(tmp_path / name)
    text = "<|image_pad|>"
    compare(ours(text, [image]), theirs(text=text, images=[image], return_tensors="np"))


@pytest.mark.parametrize(
    "image",
    [
        {"min_pixels": 28 * 28 * 16, "max_pixels": 28 * 28 * 64},
        {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 5},
        {"patch_size": 4, "min_pixels": 64, "max_pixels": 64 * 30},
        {"patch_size": 8, "merge_size": 1, "temporal_patch_size": 1, "min_pixels": 64, "max_pixels": 10**6},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"do_normalize": False},
        {"do_rescale": False},
        {"resample": 2, "rescale_factor": 1 / 127.5},
        {
            "size": {"shortest_edge": 28 * 28 * 9, "longest_edge": 28 * 28 * 12},
            "min_pixels": None,
            "max_pixels": None,
        },
    ],
    ids=str,
)
def test_other_settings(tmp_path, image):
    vision = {key: image[key] for key in ("patch_size", "temporal_patch_size") if key in image}
    vision |= {"spatial_merge_size": image["merge_size"]} if "merge_size" in image else {}
    folder = write_checkpoint(tmp_path / "model", image=image, vision={**vision, "window_size": 56})
    ours, theirs = load_processor(folder), transformers.Qwen2VLImageProcessor.from_pretrained(folder)
    for height, width in ((31, 47), (200, 133), (28, 28), (9, 300)):
        pixels = Image.fromarray(noise(height, width, 3))
        scale = 255 if image.get("do_rescale") is False else 1
        compare(ours(None, [pixels]), theirs(images=[pixels], return_tensors="np"), 1e-6 * scale)


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    factor=st.sampled_from([2, 8, 12, 28]),
    cells=st.tuples(st.integers(1, 200), st.integers(1, 20000)),
)
def test_sizes(height, width, factor, cells):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as theirs

    limits = {
        "factor": factor,
        "min_pixels": min(cells) * factor**2,
        "max_pixels": max(cells) * factor**2,
    }
    try:
        wanted = theirs(height, width, **limits)
    except ValueError:
        with pytest.raises(DataError, match="side ratio"):
            smart_resize(height, width, **limits)
        return
    assert smart_resize(height, width, **limits) == wanted


# Text


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_token_ids_and_text_back(processors, text):
    ours, theirs = processors
    ids = theirs.tokenizer(text).input_ids
    assert ours.tokenizer.encode(text) == ids
    for skip in (False, True):
        assert ours.tokenizer.decode(ids, skip_special_tokens=skip) == theirs.tokenizer.decode(
            ids, skip_special_tokens=skip
        )


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_token_ids_of_any_text(processors, text):
    ours, theirs = processors
    assert ours.tokenizer.encode(text) == theirs.tokenizer(text).input_ids


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_several_pictures(processors, side):
    ours, theirs = processors
    first, second, third = (Image.fromarray(noise(h, w, 3)) for h, w in ((90, 150), (200, 61), (56, 56)))
    chats = [
        [
            {"role": "system", "content": "Be brief. 请简短"},
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": first},
                    {"type": "text", "text": "and"},
                    {"type": "image", "image": second},
                    {"type": "text", "text": "Compare."},
                ],
            },
        ],
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": ""},
        ],
        [{"role": "user", "content": [{"type": "image", "image": third}, {"type": "text", "text": "What?"}]}],
    ]
    texts = [ours.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    assert texts == theirs.apply_chat_template(chats, add_generation_prompt=True)
    got = ours(texts, [first, second, third], padding_side=side)
    wanted = theirs(
        text=texts, images=[first, second, third], padding=True, padding_side=side, return_tensors="np"
    )
    compare(got, wanted)


def test_training_ids_equal_the_tokenised_conversation(processors):
    ours, theirs = processors
    image = Image.fromarray(noise(90, 150, 3))
    chat = [
        {
            "role": "user",
            "content": [{"type": "image", "image": image}, {"type": "text", "text": "Which? 图"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": " It's 7.\n\n"}]},
        {"role": "user", "content": [{"type": "text", "text": "\nSure?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "é"}]},
    ]
    wanted = theirs.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="np")
    sample = ours.encode(chat, max_length=None)
    compare(
        {"attention_mask": np.ones_like(wanted["attention_mask"]), **ours.collate([sample])}, dict(wanted)
    )


# Files that we write


def test_what_we_save_loads_in_transformers(processors, tmp_path):
    ours, theirs = processors
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    again = their_processor(tmp_path)
    assert again.chat_template == theirs.chat_template
    assert type(again.tokenizer) is type(theirs.tokenizer)
    for text in TEXTS:
        assert again.tokenizer(text).input_ids == theirs.tokenizer(text).input_ids
    assert again.tokenizer.all_special_tokens == theirs.tokenizer.all_special_tokens
    image = Image.fromarray(noise(90, 150, 3))
    one, two = (p.image_processor(images=[image], return_tensors="np") for p in (theirs, again))
    np.testing.assert_array_equal(one["pixel_values"], two["pixel_values"])


@pytest.mark.slow
def test_what_we_save_loads_through_the_auto_classes(processors, tmp_path):
    """In a process of its own, without network."""
    ours, _ = processors
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    code = (
        "import sys\n"
        "from transformers import AutoImageProcessor, AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "images = AutoImageProcessor.from_pretrained(sys.argv[1], use_fast=False)\n"
        "print(type(tokenizer).__name__, type(images).__name__, images.max_pixels)\n"
        "print(tokenizer.chat_template is None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.stdout.split() == ["Qwen2Tokenizer", "Qwen2VLImageProcessor", "12845056", "False"]
