"""transformers' processors beside ours: how to make one, and what must be equal. Needs transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def their_processor(folder: Path) -> Any:
    """transformers' processor of a Qwen folder, with its PIL image processor.

    Its video processor exists only where torchvision is installed; an empty one stands in for it.
    """
    import transformers

    class NoVideos(transformers.BaseVideoProcessor):
        def __init__(self):
            self.merge_size = 2

    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    return getattr(transformers, settings["processor_class"])(
        image_processor=transformers.Qwen2VLImageProcessor.from_pretrained(folder),
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
        video_processor=NoVideos(),
        chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
    )


def compare(ours: dict, theirs: dict, tolerance: float = 1e-6) -> None:
    for key, value in theirs.items():
        if key == "mm_token_type_ids":  # derived from input_ids; our model derives it itself
            continue
        assert ours[key].shape == np.asarray(value).shape, key
        if key == "pixel_values":
            assert np.abs(ours[key] - np.asarray(value)).max() <= tolerance
        else:
            np.testing.assert_array_equal(ours[key], np.asarray(value), err_msg=key)


def noise(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes and noise, so that resizing and JPEG both have something to do."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [
        np.sin(rows / (3 + c) + c) * np.cos(columns / (5 + c)) * 90 + 128 for c in range(max(1, channels))
    ]
    pixels = np.stack(waves, -1) + rng.normal(0, 20, (height, width, max(1, channels)))
    return np.clip(pixels, 0, 255).astype(np.uint8)
