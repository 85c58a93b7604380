"""Loss and gradients of the same samples, packed and one by one: `packed_gradients.py auto|reference`.

Prints what differs as JSON. Rows are the digits recipe's, with its model's sizes.
"""

from __future__ import annotations

import functools
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import mix_core.device
import mix_core.recipes
from mix_core.data import digits
from mix_core.data.loader import BatchLoader, BatchSettings
from mix_core.data.mixing import RowOrder
from mix_core.models.registry import get_family, load_model

FOLDER = Path(mix_core.recipes.__file__).parent / "digits" / "model"
make_processor = functools.partial(get_family("qwen2_5_vl").load_processor, FOLDER)


def make_rows() -> list[dict[str, Any]]:
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


def batches(rows: list[dict[str, Any]], **options: Any) -> list[dict[str, np.ndarray]]:
    settings = BatchSettings(max_length=128, **options)
    loader = BatchLoader(rows, make_processor(), settings, order=RowOrder((len(rows),), seed=3))
    found = [next(loader)]
    while not loader.ends_epoch:
        found.append(next(loader))
    return found


def learned(model: Any, passes: list[dict[str, np.ndarray]]) -> tuple[float, int, np.ndarray]:
    """Summed loss, labels, and all gradients as one vector."""
    model.clear_gradients(set_to_zero=False)
    total, labels = 0.0, 0
    for batch in passes:
        loss, count = model.loss(batch)
        loss.backward()
        total, labels = total + float(loss), labels + count
    gradients = [p.grad.numpy().ravel() for _, p in model.named_parameters() if p.grad is not None]
    return total, labels, np.concatenate(gradients).astype(np.float64)


def main(kernels: str) -> dict[str, Any]:
    mix_core.device.activate("cpu", kernels=kernels, allow_reexec=True)
    rows = make_rows()
    _, _, model = load_model(FOLDER, random_init=True, seed=0)
    packed, alone = batches(rows, batch_size=2, packing=True), batches(rows, batch_size=1)
    loss, labels, gradient = learned(model, packed)
    loss_alone, labels_alone, gradient_alone = learned(model, alone)
    return {
        "passes": [len(packed), len(alone)],
        "tokens": [sum(batch["input_ids"].size for batch in each) for each in (packed, alone)],
        "labels": [labels, labels_alone],
        "loss": abs(loss - loss_alone) / loss_alone,
        "gradient": float(np.linalg.norm(gradient - gradient_alone) / np.linalg.norm(gradient_alone)),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
