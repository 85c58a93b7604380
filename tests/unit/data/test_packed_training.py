"""A packed pass learns what its samples learn one by one: loss and gradients, through loader and model."""

from __future__ import annotations

import functools
from itertools import islice
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

import mix_core.recipes
from mix_core.data import digits
from mix_core.data.loader import BatchLoader, BatchSettings
from mix_core.data.mixing import RowOrder
from mix_core.models.registry import get_family, load_model

FOLDER = Path(mix_core.recipes.__file__).parent / "digits" / "model"
make_processor = functools.partial(get_family("qwen2_5_vl").load_processor, FOLDER)


@pytest.fixture(scope="module")
def rows():
    """12 rows, of which two have no picture and one has two."""
    found = []
    for task in digits.COUNTS["train"]:
        for picture in islice(digits.make_pictures("train", task), 3):
            images = [{"type": "image", "image": Image.fromarray(picture.pixels_HW)}]
            found.append((images, digits.PROMPTS[task], picture.answer))
    found += [([], "Which digit is this?", "7"), ([], "Read the number.", "48")]
    found.append(([*found[0][0], *found[4][0]], "Where is the 7?", "<box>(1,2),(30,40)</box>"))
    return [
        {
            "messages": [
                {"role": "user", "content": [*images, {"type": "text", "text": question}]},
                {"role": "assistant", "content": answer},
            ],
            "source": f"row {number}",
        }
        for number, (images, question, answer) in enumerate(found, 1)
    ]


def batches(rows, **options):
    settings = BatchSettings(max_length=128, **options)
    loader = BatchLoader(rows, make_processor(), settings, order=RowOrder((len(rows),), seed=3))
    found = [next(loader)]
    while not loader.ends_epoch:
        found.append(next(loader))
    return found


def learned(model, batches):
    """Summed loss, labels, and all gradients as one vector."""
    model.clear_gradients(set_to_zero=False)
    total, labels = 0.0, 0
    for batch in batches:
        loss, count = model.loss(batch)
        loss.backward()
        total, labels = total + float(loss), labels + count
    gradients = [p.grad.numpy().ravel() for _, p in model.named_parameters() if p.grad is not None]
    return total, labels, np.concatenate(gradients).astype(np.float64)


def test_packed_and_unpacked_agree_to_one_in_a_million(rows):
    paddle.seed(0)
    _, _, model = load_model(FOLDER, random_init=True, seed=0)
    model.eval()
    packed = batches(rows, batch_size=2, packing=True)
    alone = batches(rows, batch_size=1)
    assert len(packed) == 2 and len(alone) == 12  # 417 tokens in passes of 256
    assert sum(batch["input_ids"].size for batch in packed) == sum(b["input_ids"].size for b in alone)
    loss, labels, gradient = learned(model, packed)
    loss_alone, labels_alone, gradient_alone = learned(model, alone)
    assert labels == labels_alone
    assert loss == pytest.approx(loss_alone, rel=1e-6)
    difference = np.linalg.norm(gradient - gradient_alone) / np.linalg.norm(gradient_alone)
    print(f"gradients differ by {difference:.1e}")
    assert difference < 1e-6


def test_segments_do_not_see_each_other(rows):
    """Another neighbour changes nothing in a sample's loss."""
    _, _, model = load_model(FOLDER, random_init=True, seed=0)
    model.eval()
    processor = make_processor()
    samples = [processor.encode(row["messages"], max_length=None, describe=row["source"]) for row in rows[:3]]
    silent = {**samples[1], "labels": np.full_like(samples[1]["labels"], -100)}
    other = {**samples[2], "labels": np.full_like(samples[2]["labels"], -100)}
    beside = [model.loss(processor.collate([one, samples[0]], packing=True))[0] for one in (silent, other)]
    alone = model.loss(processor.collate([samples[0]]))[0]
    assert float(beside[0]) == pytest.approx(float(alone), rel=1e-6)
    assert float(beside[1]) == pytest.approx(float(alone), rel=1e-6)
