"""Rows of every form in one batch, with the processor and folder of the digits recipe: what is learned."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mix_core.recipes
from mix_core.data.loader import BatchLoader, BatchSettings
from mix_core.data.mixing import RowOrder
from mix_core.data.readers import read_dataset
from mix_core.errors import DataError
from mix_core.models.registry import get_family

FOLDER = Path(mix_core.recipes.__file__).parent / "digits" / "model"
make_processor = functools.partial(get_family("qwen2_5_vl").load_processor, FOLDER)

ROWS = {
    "llava.json": [
        {
            "image": "a.png",
            "conversations": [
                {"from": "human", "value": "<image>\nRead the number."},
                {"from": "gpt", "value": "48"},
                {"from": "human", "value": "Which digit is this?"},
                {"from": "gpt", "value": "9"},
            ],
        }
    ],
    "qwen.json": [
        {
            "conversations": [
                {"from": "user", "value": "Picture 1: <img>a.png</img>\nWhere is the 7?"},
                {"from": "assistant", "value": "<ref>digit</ref><box>(1,2),(3,4)</box>"},
            ]
        }
    ],
    "text.json": [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "7"}]}],
}


@pytest.fixture
def rows(tmp_path):
    Image.fromarray(np.full((24, 24), 200, np.uint8)).save(tmp_path / "a.png")
    for name, content in ROWS.items():
        (tmp_path / name).write_text(json.dumps(content))
    return read_dataset(",".join(str(tmp_path / name) for name in ROWS))


def batch_of(rows, workers=0, **options):
    settings = BatchSettings(**{"batch_size": len(rows), "max_length": 128, **options})
    order = RowOrder((len(rows),), shuffle=False)
    with BatchLoader(
        rows, make_processor(), settings, order=order, num_workers=workers, make_processor=make_processor
    ) as loader:
        return next(loader)


def learned(batch):
    """Each sample's learned text, its spans parted by |; prints the mask of all tokens."""
    tokenizer = make_processor().tokenizer
    found = []
    for ids, labels, keep in zip(batch["input_ids"], batch["labels"], batch["attention_mask"]):
        spans, line = [], []
        for place, (token, label) in enumerate(zip(ids[keep == 1], labels[keep == 1])):
            text = tokenizer.decode([token], skip_special_tokens=False)
            line.append(f"[{text}]" if label != -100 else text)
            if label == -100:
                continue
            assert label == token
            if place == 0 or labels[place - 1] == -100:
                spans.append("")
            spans[-1] += text
        print("".join(line))
        assert (labels[keep == 0] == -100).all() and (ids[keep == 0] == tokenizer.pad_token_id).all()
        found.append("|".join(spans))
    return found


def test_only_answers_are_learned(rows):
    assert learned(batch_of(rows)) == [
        "48<|im_end|>|9<|im_end|>",
        "<ref>digit</ref><box>(1,2),(3,4)</box><|im_end|>",
        "7<|im_end|>",
    ]


def test_history_may_be_masked_and_prompts_learned(rows):
    assert learned(batch_of(rows, mask_history=True))[0] == "9<|im_end|>"
    text = learned(batch_of(rows, train_on_prompt=True))
    assert text[2] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n7<|im_end|>\n"
    assert "<|image_pad|>" not in text[0] and "Read the number.<|im_end|>" in text[0]


def test_pictures_belong_to_the_rows_that_have_them(rows):
    batch = batch_of(rows)
    image_id = make_processor().tokenizer.token_id("<|image_pad|>")
    cells = (batch["input_ids"] == image_id).sum(axis=1)
    merge = make_processor().images.merge_size
    assert cells.tolist() == [*(batch["image_grid_thw"].prod(axis=1) // merge**2).tolist(), 0]
    assert len(batch["pixel_values"]) == batch["image_grid_thw"].prod(axis=1).sum()


def test_a_batch_without_pictures_has_no_pixel_key(rows):
    batch = batch_of([rows[2], rows[2]])
    assert set(batch) == {"sample_ids", "input_ids", "labels", "position_ids", "attention_mask"}


@pytest.mark.parametrize("packing", [False, True])
def test_workers_make_the_same_batch(rows, packing):
    here, there = batch_of(rows, packing=packing), batch_of(rows, workers=1, packing=packing)
    assert here.keys() == there.keys()
    for key in here:
        np.testing.assert_array_equal(here[key], there[key], strict=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_picture_names_its_row(rows, tmp_path, workers):
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"llava\.json row 1: .*a\.png") as caught:
        batch_of(rows, workers=workers)
    assert "\n" not in str(caught.value)


def test_a_picture_that_makes_a_row_too_long_is_counted(rows):
    with pytest.raises(
        DataError, match=r"row 1: it has \d+ tokens \(\d+ of them added by pictures\), max_length"
    ):
        batch_of(rows, max_length=20)
    batch = batch_of(rows, max_length=20, on_too_long="skip")
    assert len(batch["input_ids"]) == 1 and "pixel_values" not in batch
