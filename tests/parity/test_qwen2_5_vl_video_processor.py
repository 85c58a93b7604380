"""Videos against transformers' own processor, which exists only where torchvision is installed.

Ids, grids and seconds are identical. torchvision resizes bytes with other roundings than Pillow: pixels may
differ by one level of 255, in few places.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mix_core.models.qwen2_5_vl.processor import load_processor
from tests.builders.checkpoints import write_checkpoint

transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
pytest.importorskip("torchvision", reason="transformers' video processor needs torchvision")
av = pytest.importorskip("av", reason="decoding video files needs the extra [video] (PyAV)")

ONE_LEVEL = 1 / 255 / 0.26130258
"""One level of a byte after normalisation, in the colour that it weighs most."""


def write_film(path: Path, frames: np.ndarray, rate: int) -> str:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def film(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    small = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    still = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.stack([np.clip(still + 10 * i % 60, 0, 255) for i in range(count)]).astype(np.uint8)


@pytest.mark.parametrize(
    ("count", "rate", "height", "width", "options"),
    [
        (35, 10, 90, 122, {"fps": 2.0}),
        (50, 25, 33, 200, {"fps": 4.0}),
        (20, 30, 64, 64, {"num_frames": 6}),
        (9, 24, 100, 60, {"fps": 2.0}),
    ],
)
def test_a_film(tmp_path, count, rate, height, width, options):
    import torch

    folder = write_checkpoint(tmp_path / "model")
    frames = film(count, height, width)
    text = "<|vision_start|><|video_pad|><|vision_end|>What happens?"
    ours = load_processor(folder)(text, videos=[write_film(tmp_path / "a.mkv", frames, rate)], **options)
    theirs = transformers.AutoProcessor.from_pretrained(folder, use_fast=False)(
        text=[text],
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        video_metadata=[transformers.video_utils.VideoMetadata(total_num_frames=count, fps=float(rate))],
        do_sample_frames=True,
        return_tensors="pt",
        **options,
    )
    for key in ("input_ids", "attention_mask", "video_grid_thw", "second_per_grid_ts"):
        np.testing.assert_array_equal(ours[key], np.asarray(theirs[key]), err_msg=key)
    difference = np.abs(ours["pixel_values_videos"] - np.asarray(theirs["pixel_values_videos"]))
    assert difference.max() <= 1.01 * ONE_LEVEL
    assert difference.mean() <= 0.01 * ONE_LEVEL
