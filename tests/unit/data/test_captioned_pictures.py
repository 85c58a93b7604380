"""Folders of pictures with captions, how pictures are cut, and buckets of like shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mix_core.data.buckets import bucket_batches, bucket_of, make_buckets
from mix_core.data.captions import read_captions
from mix_core.data.pictures import Augmentation, Drawn, cut_picture, draw_for
from mix_core.errors import ConfigError, DataError

NAMES = ("b.png", "a.jpg", "deep/c.webp")
MIDDLE = Drawn(0.5, 0.5, False, 0, False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), (i * 40, 0, 0)).save(tmp_path / name)
    return tmp_path


def write_rows(folder: Path, rows: list[object]) -> Path:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_captions_from_every_kind_of_file(folder: Path) -> None:
    for name in NAMES:
        (folder / name).with_suffix(".txt").write_text(f"of {name}\n")
    beside = read_captions(folder)
    assert [str(one.path.relative_to(folder)) for one in beside] == sorted(NAMES)
    assert beside[0].captions == ("of a.jpg",)
    (folder / "metadata.csv").write_text('file_name,caption\nb.png,"a cat, sitting"\na.jpg,a dog\n')
    assert [one.captions for one in read_captions(folder, "caption")] == [("a cat, sitting",), ("a dog",)]
    rows = [{"file_name": "deep/c.webp", "text": ["one", "two"]}, {"file_name": "b.png", "text": ""}]
    found = read_captions(write_rows(folder, rows))
    assert [one.captions for one in found] == [("one", "two"), ("",)]
    assert found[0].path == folder / "deep" / "c.webp"
    everything = read_captions(folder, prompt="a photo of sks dog")
    assert len(everything) == 3 and {one.captions for one in everything} == {("a photo of sks dog",)}


def test_missing_pictures_are_counted_and_named_with_their_lines(folder: Path) -> None:
    rows = [{"file_name": name, "text": "x"} for name in ("b.png", *(f"gone{i}.png" for i in range(7)))]
    with pytest.raises(DataError) as caught:
        read_captions(write_rows(folder, rows))
    said = str(caught.value)
    assert (
        "names 8 pictures, of which" in said
        and "lacks 7: " in said
        and "gone0.png (line 2), gone1.png (line 3)" in said
    )
    assert "gone4.png (line 6) and 2 more; add them, or take their lines out" in said and "\n" not in said


@pytest.mark.parametrize(
    "rows,says",
    [
        (
            [{"file_name": "b.png", "caption": "x", "tags": 1}],
            "no column 'text'; give caption_column as one of: cap",
        ),
        ([{"file_name": "b.png", "text": 3}], "jsonl:1: text is 3, expected a text or a list of texts"),
        ([{"file_name": "b.png", "text": []}], r"text is \[\], expected a text or a list of texts"),
        ([{"text": "x"}], "jsonl:1: file_name is None, expected the name of a picture"),
        ([{"file_name": "../b.png", "text": "x"}], "../b.png lies outside of"),
        (["x"], "jsonl:1: a str, expected an object with file_name"),
        ([], "names no picture; expected one line for each"),
    ],
)
def test_rows_that_cannot_be_used(folder: Path, rows: list[object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_captions(write_rows(folder, rows))


def test_folders_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"2 of 3 pictures have no text file .*\(the first: b.png\)"):
        read_captions(folder)
    (folder / "metadata.jsonl").write_text('{"file_name"\n')
    with pytest.raises(DataError, match="jsonl:1: not valid JSON"):
        read_captions(folder)
    (folder / "metadata.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        read_captions(folder)
    empty = tmp_path / "empty"
    with pytest.raises(DataError, match="there is no folder"):
        read_captions(empty)
    empty.mkdir()
    with pytest.raises(DataError, match="holds no picture"):
        read_captions(empty, prompt="x")


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    rows, columns = np.mgrid[:height, :width]
    values = np.stack([columns * 255 // (width - 1), rows * 255 // (height - 1), 0 * rows], axis=-1)
    return Image.fromarray(values.astype(np.uint8))


def test_a_picture_is_covered_cut_and_mirrored() -> None:
    image = gradient(64, 32)
    cut = cut_picture(image, (16, 16), MIDDLE)
    assert cut.pixels.shape == (3, 16, 16) and cut.pixels.dtype == np.float32
    assert cut.original == (32, 64) and cut.corner == (0, 8) and cut.time_ids == (32, 64, 0, 8, 16, 16)
    assert np.abs(cut.pixels[0].mean()) < 0.05, "the middle of a picture that grows from -1 to 1"
    assert cut.pixels[1, 0, 0] == pytest.approx(-1, abs=0.06) and cut.pixels[1, -1, 0] == pytest.approx(
        1, abs=0.06
    )
    left = cut_picture(image, (16, 16), Drawn(0, 0, False, 0, False))
    mirrored = cut_picture(image, (16, 16), Drawn(0, 0, True, 0, False))
    np.testing.assert_array_equal(mirrored.pixels, left.pixels[:, :, ::-1])
    assert left.corner == (0, 0) and mirrored.corner == (0, 16)
    assert cut_picture(gradient(10, 10), (16, 24), MIDDLE).pixels.shape == (3, 16, 24)


def test_draws_change_with_the_epoch_and_with_nothing_else() -> None:
    augmentation = Augmentation(random_flip=True, empty_prompts=0.2)
    first = [draw_for(augmentation, 3, 7, 0, sample) for sample in range(500)]
    assert first == [draw_for(augmentation, 3, 7, 0, sample) for sample in range(500)]
    assert first != [draw_for(augmentation, 3, 7, 1, sample) for sample in range(500)]
    assert 0.4 < np.mean([one.flip for one in first]) < 0.6
    assert 0.15 < np.mean([one.empty for one in first]) < 0.25
    assert {one.caption for one in first} == {0, 1, 2} and np.std([one.top for one in first]) > 0.2
    still = draw_for(Augmentation(center_crop=True), 1, 7, 0, 3)
    assert (still.top, still.left, still.flip, still.empty) == (0.5, 0.5, False, False)
    with pytest.raises(ConfigError, match=r"proportion_empty_prompts is 1.5, expected 0 to 1"):
        Augmentation(empty_prompts=1.5)


def test_buckets_have_the_area_of_the_square_or_less() -> None:
    buckets = make_buckets(512, 64)
    assert (512, 512) in buckets and (704, 320) not in buckets
    for height, width in buckets:
        assert height % 64 == width % 64 == 0 and height * width <= 512 * 512
        assert max(height, width) <= 2 * min(height, width)
        assert (width, height) in buckets
    assert buckets[bucket_of((100, 100), buckets)] == (512, 512)
    tall, wide = buckets[bucket_of((3000, 10), buckets)], buckets[bucket_of((10, 3000), buckets)]
    assert tall == buckets[0] and wide == buckets[-1] and tall == wide[::-1] and tall[0] > tall[1]
    with pytest.raises(ConfigError, match="resolution is 500, expected a multiple of 64"):
        make_buckets(500, 64)


def test_batches_are_of_one_bucket_and_hold_every_sample_once() -> None:
    of_sample = np.random.default_rng(0).integers(0, 3, 50).tolist()
    batches = bucket_batches(of_sample, 4, seed=1, epoch=0)
    assert sorted(sample for batch in batches for sample in batch) == list(range(50))
    assert all(len({of_sample[sample] for sample in batch}) == 1 and len(batch) <= 4 for batch in batches)
    assert (
        batches
        == bucket_batches(of_sample, 4, seed=1, epoch=0)
        != bucket_batches(of_sample, 4, seed=1, epoch=1)
    )
    order = [of_sample[batch[0]] for batch in batches]
    assert order != sorted(order)
