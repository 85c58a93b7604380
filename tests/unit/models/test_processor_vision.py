"""Sizes, patches, limits and seconds of pictures and videos, against values worked out here."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mix_core.errors import BadInputError, DataError
from mix_core.models.qwen2_5_vl.image_processor import ImageProcessor, smart_resize
from mix_core.models.qwen2_5_vl.processor import load_processor
from mix_core.models.qwen2_5_vl.video_processor import VideoProcessor
from tests.builders.checkpoints import write_checkpoint
from tests.builders.videos import frame_level, write_video

RNG = np.random.default_rng(0)


def cutter(**changes) -> ImageProcessor:
    values = {
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 3136,
        "max_pixels": 12845056,
    }
    return ImageProcessor(**{**values, **changes})


@pytest.mark.parametrize(
    ("height", "width", "limits", "wanted"),
    [
        (28, 28, (784, 10**6), (28, 28)),
        (42, 70, (784, 10**6), (56, 56)),  # 1.5 -> 2, 2.5 -> 2: halves go to the even number
        (100, 131, (784, 10**6), (112, 140)),
        (13, 100, (784, 10**6), (28, 84)),  # 0 rows: times sqrt(784 / 1300), rounded up
        (10, 10, (3136, 10**6), (56, 56)),  # grown by 5.6
        (1000, 1000, (784, 100_000), (308, 308)),  # shrunk to 316.2, down to the multiple
        (20, 4000, (784, 28 * 28 * 20), (28, 1764)),  # shrunk to 8.9 rows, but one cell at least
    ],
)
def test_sizes(height, width, limits, wanted):
    size = smart_resize(height, width, factor=28, min_pixels=limits[0], max_pixels=limits[1])
    assert size == wanted


@pytest.mark.parametrize(("height", "width"), [(1, 201), (3000, 14), (5, 100_000)])
def test_extreme_ratios_are_refused(height, width):
    with pytest.raises(DataError, match=f"{width} x {height} pixels has a side ratio of .* at most 200"):
        smart_resize(height, width, factor=28, min_pixels=784, max_pixels=10**6)
    assert smart_resize(1, 200, factor=28, min_pixels=784, max_pixels=10**6) == (28, 420)


@pytest.mark.parametrize("patch", [2, 4, 14])
@pytest.mark.parametrize("merge", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 2])
def test_patches_stand_cell_by_cell(patch, merge, frames):
    """Every number of every patch against its place in the picture, by loops."""
    cell = patch * merge
    processor = cutter(
        patch_size=patch, merge_size=merge, temporal_patch_size=frames, min_pixels=0, rescale_factor=1 / 255
    )
    picture = RNG.integers(0, 256, (2 * cell, 3 * cell, 3), dtype=np.uint8)
    patches, grids = processor.patches([Image.fromarray(picture)])
    values = processor.normalize(patches).reshape(-1, 3, frames, patch, patch)
    assert grids.tolist() == [[1, 2 * merge, 3 * merge]]
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    wanted = ((picture / 255 - mean) / std).transpose(2, 0, 1)
    place = 0
    for cell_row in range(2):
        for cell_column in range(3):
            for row in range(cell_row * merge, (cell_row + 1) * merge):
                for column in range(cell_column * merge, (cell_column + 1) * merge):
                    part = wanted[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
                    for frame in range(frames):
                        np.testing.assert_allclose(values[place, :, frame], part, atol=1e-6)
                    place += 1
    assert place == len(values)


def test_pictures_of_mixed_sizes_keep_their_order():
    processor = cutter()
    pictures = [
        Image.fromarray(RNG.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for h, w in ((56, 56), (84, 56), (56, 56), (60, 90), (84, 56))
    ]
    together, grids = processor.patches(pictures)
    alone = [processor.patches([picture]) for picture in pictures]
    np.testing.assert_array_equal(together, np.concatenate([patches for patches, _ in alone]))
    np.testing.assert_array_equal(grids, np.concatenate([grid for _, grid in alone]))


def test_without_rescaling_or_normalising():
    picture = Image.fromarray(RNG.integers(0, 256, (56, 56, 3), dtype=np.uint8))
    raw = cutter(rescale_factor=None, do_normalize=False)
    patches, _ = raw.patches([picture])
    assert raw.normalize(patches).max() > 200
    unit = cutter(do_normalize=False)
    np.testing.assert_allclose(unit.normalize(patches), raw.normalize(patches) / 255, atol=1e-6)


def test_without_resizing_sides_must_fit():
    processor = cutter(do_resize=False)
    assert processor.patches([Image.new("RGB", (28, 56))])[1].tolist() == [[1, 4, 2]]
    with pytest.raises(DataError, match="multiples of 28, got 30 x 56"):
        processor.patches([Image.new("RGB", (30, 56))])


def test_settings_survive_their_file():
    processor = cutter(image_mean=(0.5, 0.5, 0.5), do_normalize=False, rescale_factor=None)
    assert ImageProcessor.from_dict(processor.to_dict()) == processor
    size_only = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "image_mean": 0.5}
    read = ImageProcessor.from_dict({**size_only, "size": {"shortest_edge": 64, "longest_edge": 640}})
    assert (read.min_pixels, read.max_pixels, read.image_mean) == (64, 640, (0.5, 0.5, 0.5))


# Videos


def videos(**changes) -> VideoProcessor:
    return VideoProcessor(frames=cutter(**changes))


def test_frames_pair_up_in_time():
    """Two frames make one step; a patch holds, per colour, its part of the first, then of the second."""
    frames = RNG.integers(0, 256, (4, 56, 84, 3), dtype=np.uint8)
    processor = videos()
    patches, grid, _ = processor.patches(frames)
    assert grid.tolist() == [2, 4, 6]
    values = patches.reshape(2, 24, 3, 2, 14, 14)
    for step in range(2):
        for frame in range(2):
            alone, _ = processor.frames.patches([Image.fromarray(frames[2 * step + frame])])
            np.testing.assert_array_equal(values[step, :, :, frame].reshape(24, -1), alone)


def test_an_odd_last_frame_is_repeated():
    frames = RNG.integers(0, 256, (3, 56, 56, 3), dtype=np.uint8)
    patches, grid, _ = videos().patches(frames)
    assert grid.tolist() == [2, 4, 4]
    last = patches.reshape(2, 16, 3, 2, 196)[1]
    np.testing.assert_array_equal(last[:, :, 0], last[:, :, 1])


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({}, 1.0), ({"fps": 4.0}, 0.5), ({"fps": 0.5}, 4.0), ({"num_frames": 4}, 2.5)],
)
def test_seconds_of_a_step_for_frames_given(options, seconds):
    """Frames count as taken at 2 a second, or at the rate given; 4 of 10 of them at 2 * 4 / 10."""
    frames = np.zeros((10, 56, 56, 3), np.uint8)
    assert videos().patches(frames, **options)[2] == pytest.approx(seconds)


def test_seconds_of_a_step_for_a_file(tmp_path):
    """35 frames at 10 a second are 3.5 s; 2 a second are 7, in pairs 6, so a step is 2 * 3.5 / 6 s."""
    pytest.importorskip("av", reason="decoding video files needs the extra [video] (PyAV)")
    processor = load_processor(write_checkpoint(tmp_path / "model"))
    path = write_video(tmp_path / "a.mkv", 35)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video", "video": str(path)}]}]
    )
    batch = processor(text, videos=[str(path)])
    # 36 x 52 is brought to 28 x 56, and as that is less than 3136 pixels to ceil(36 * 1.2943 / 28) = 2 by 3
    assert batch["video_grid_thw"].tolist() == [[3, 4, 6]]
    assert batch["second_per_grid_ts"].tolist() == [pytest.approx(7 / 6)]
    assert (batch["input_ids"] == processor.tokenizer.token_id("<|video_pad|>")).sum() == 3 * 2 * 3
    # frames 0, 5, 11, 17, 23, 29 in pairs; red of the first patch of each step
    pixels = batch["pixel_values_videos"].reshape(3, 24, 3, 2, 196)[:, 0, 0, :, 0]
    levels = np.array([[frame_level(i) for i in pair] for pair in ((0, 5), (11, 17), (23, 29))])
    np.testing.assert_allclose(pixels, (levels / 255 - 0.48145466) / 0.26862954, atol=1e-5)


def test_positions_of_a_video_follow_its_seconds(tmp_path):
    processor = load_processor(write_checkpoint(tmp_path))
    frames = np.zeros((6, 56, 56, 3), np.uint8)
    messages = [
        {"role": "user", "content": [{"type": "video", "video": frames, "fps": 1.0}]},
        {"role": "assistant", "content": "x"},
    ]
    sample = processor.encode(messages, max_length=None)
    pads = sample["input_ids"] == processor.tokenizer.token_id("<|video_pad|>")
    time = sample["position_ids"][0, pads].reshape(3, 4)
    # 2 frames at 1 a second are 2 s a step, and config.json has 2 positions a second: 4 a step
    assert (time - time[0, 0]).tolist() == [[0] * 4, [4] * 4, [8] * 4]


@pytest.mark.parametrize(
    ("frames", "height", "width", "wanted"),
    [
        (4, 100, 131, (112, 140)),  # within the limits
        (4, 2000, 2000, (280, 280)),  # at most 100 cells a frame: 280.0
        (40, 2000, 2000, (168, 168)),  # 800 cells for 20 steps: 40 a frame, 6.3 a side
        (2000, 560, 560, (28, 28)),  # 1,000 steps: one cell each, whatever the lower limit says
    ],
)
def test_a_long_video_gets_smaller_frames(frames, height, width, wanted):
    processor = VideoProcessor(frames=cutter(max_pixels=100 * 784), max_cells=800)
    assert processor.target_size(frames, height, width) == wanted


def test_the_default_budget_is_that_of_the_published_models():
    """115,200 cells: 768 frames of 1080p must fit into 128,000 positions."""
    height, width = videos().target_size(768, 1080, 1920)
    assert 384 * (height // 28) * (width // 28) <= 115_200
    assert videos().target_size(8, 1080, 1920) == (1092, 1932)


@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [
        (768, 100, (756, 112)),  # no side above the limit: as without it
        (1000, 2000, (392, 756)),  # 384 x 768, then to multiples of 28
        (3333, 1500, (756, 336)),  # 768 x 345: the fraction falls away
        (5, 500, (28, 560)),  # 0 rows: times sqrt(3136 / 2500), as without it
    ],
)
def test_the_longer_side_is_limited_before_the_area(height, width, wanted):
    processor = cutter(longest_side=768)
    assert processor.target_size(height, width) == wanted
    assert VideoProcessor(frames=processor).target_size(2, height, width) == wanted


def test_resolutions_of_a_run(tmp_path):
    processor = load_processor(write_checkpoint(tmp_path / "model"))
    limited = processor.with_options(image_resolution=112, video_resolution=112)
    picture = Image.fromarray(RNG.integers(0, 256, (560, 1120, 3), dtype=np.uint8))
    assert limited.images.patches([picture])[1].tolist() == [[1, 4, 8]]
    assert limited.videos.target_size(2, 560, 1120) == (56, 112)
    assert limited.images.to_dict()["max_pixels"] == 112**2
    assert limited.with_options(image_resolution=10**6).images.to_dict() == processor.images.to_dict()
    smaller = cutter(longest_side=28).to_dict()
    assert smaller["max_pixels"] == smaller["min_pixels"] == 3136
    with pytest.raises(BadInputError, match="do_resize off, so no resolution"):
        cutter(longest_side=28, do_resize=False)
