"""The model folder of the digits recipe: what its script makes, and the same to transformers as to us."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mix_core.recipes
from mix_core.data import digits
from mix_core.models.registry import family_of_folder

RECIPE = Path(mix_core.recipes.__file__).parent / "digits"
FOLDER = RECIPE / "model"
TEXTS = [
    "".join(f"<|im_start|>user\n{prompt}<|im_end|>\n" for prompt in digits.PROMPTS.values()),
    "<|im_start|>assistant\n<box>(12,345),(678,999)</box><|im_end|>\n",
    "你好, wörld!  It's\t\n\n 42 %s <ref>巴士</ref> e\u0301 🙂",
]


@pytest.fixture(scope="module")
def processor():
    return family_of_folder(FOLDER).load_processor(FOLDER)


def chat(image):
    question = [{"type": "image", "image": image}, {"type": "text", "text": digits.PROMPTS["digit"]}]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "7"}]


def test_files_are_what_the_script_makes(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("make_model_folder", RECIPE / "make_model_folder.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    script.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in FOLDER.iterdir())
    for path in tmp_path.iterdir():
        made, kept = path.read_text(), (FOLDER / path.name).read_text()
        if path.name == "tokenizer.json":  # its layout may differ with the tokenizers package
            made, kept = (json.loads(text)["model"]["vocab"] for text in (made, kept))
        assert made == kept, f"{path.name}: run python mix_core/recipes/digits/make_model_folder.py"


def test_words_of_the_recipe_are_single_tokens(processor):
    for prompt in digits.PROMPTS.values():
        for word in prompt.rstrip("?.").split():
            assert (
                len(processor.tokenizer.encode(word)) == 1 or len(processor.tokenizer.encode(f" {word}")) == 1
            )
    assert len(processor.tokenizer.encode("7048")) == 4
    for text in TEXTS:
        assert processor.tokenizer.decode(processor.tokenizer.encode(text), skip_special_tokens=False) in (
            text,
            text.replace("e\u0301", "é"),
        )


def test_ids_fill_the_vocabulary(processor):
    config = json.loads((FOLDER / "config.json").read_text())
    assert len(processor.tokenizer) == config["vocab_size"]
    assert processor.stop_token_ids == (
        processor.tokenizer.token_id("<|im_end|>"),
        processor.tokenizer.token_id("<|endoftext|>"),
    )


def test_template_has_no_system_prompt_and_goes_on_from_prefixes(processor):
    image = Image.new("RGB", (24, 24))
    whole = processor.apply_chat_template(chat(image))
    question = processor.apply_chat_template(chat(image)[:1], add_generation_prompt=True)
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert question == f"<|im_start|>user\n{picture}Which digit is this?<|im_end|>\n<|im_start|>assistant\n"
    assert whole == f"{question}7<|im_end|>\n"


def test_transformers_reads_the_folder_alike(processor):
    transformers = pytest.importorskip("transformers", reason="transformers is the reading to compare with")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    assert len(tokenizer) == len(processor.tokenizer)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    for text in TEXTS:
        assert tokenizer.encode(text) == processor.tokenizer.encode(text)
    messages = chat(Image.new("RGB", (24, 24)))
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered == processor.apply_chat_template(messages)
    images = transformers.Qwen2VLImageProcessor.from_pretrained(FOLDER)
    for size in ((24, 84), (24, 24), (48, 48), (28, 28), (280, 280), (8, 8), (300, 100)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        ours = processor(images=[Image.fromarray(pixels)])
        theirs = images(images=[Image.fromarray(pixels)], return_tensors="np")
        np.testing.assert_array_equal(ours["image_grid_thw"], theirs["image_grid_thw"])
        np.testing.assert_allclose(ours["pixel_values"], theirs["pixel_values"], atol=1e-6)


def test_foreign_pictures_are_scaled_to_the_size_of_the_data(processor):
    sizes = {processor.images.target_size(*size) for size in ((28, 28), (1000, 1000), (3, 3), (600, 900))}
    largest = max(digits.BOX_CANVAS_PX, *digits.DIGIT_CANVASES_PX) ** 2
    assert all(min(digits.DIGIT_CANVASES_PX) ** 2 <= height * width <= largest for height, width in sizes)
