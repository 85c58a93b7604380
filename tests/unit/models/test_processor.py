"""The processor: counts, batches, packing, saving, options, and what a broken folder says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mix_core.errors import BadInputError, ConfigError, DataError
from mix_core.models.qwen2_5_vl.processor import Processor, load_processor
from tests.builders.checkpoints import write_checkpoint

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def chat(
    *images: Image.Image, question: str = "Which digit is this?", answer: str = "7", video=None
) -> list[dict]:
    parts: list[dict] = [{"type": "image", "image": image} for image in images]
    if video is not None:
        parts.append({"type": "video", "video": video, "fps": 4.0})
    return [
        {"role": "user", "content": [*parts, {"type": "text", "text": question}]},
        {"role": "assistant", "content": answer},
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="module")
def processor(folder) -> Processor:
    return load_processor(folder)


# Placeholders and pictures


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        ("<|image_pad|>", 0, r"the text has 1 image placeholder\(s\) and 0 image\(s\) were given"),
        ("<|image_pad|>" * 2, 3, r"the text has 2 image placeholder\(s\) and 3 image\(s\) were given"),
        ("nothing", 1, r"the text has 0 image placeholder\(s\) and 1 image\(s\) were given"),
        ("<|video_pad|>", 0, r"the text has 1 video placeholder\(s\) and 0 video\(s\) were given"),
    ],
)
def test_placeholders_must_match_pictures(processor, text, images, message):
    with pytest.raises(DataError, match=message):
        processor(text, [picture(30, 30)] * images)


def test_a_placeholder_written_by_the_user_is_counted(processor):
    messages = chat(picture(30, 30), question="what does <|image_pad|> mean?")
    with pytest.raises(DataError, match=r"row 1: the text has 2 image placeholder\(s\) and 1 image"):
        processor.encode(messages, max_length=None, describe="row 1")


def test_a_bad_picture_names_the_row_and_the_file(processor, tmp_path):
    messages = chat("none.png")
    with pytest.raises(DataError, match=r"row 5 of a\.json: image none\.png: there is no such file"):
        processor.encode(messages, max_length=None, describe="row 5 of a.json")
    with pytest.raises(DataError, match="names no image; expected a key 'image', 'path' or 'url'"):
        processor.encode([{"role": "user", "content": [{"type": "image"}]}, *messages[1:]], max_length=None)


def test_pictures_are_found_under_every_key(processor, tmp_path):
    path = str(tmp_path / "a.png")
    picture(30, 30).save(path)
    parts = [
        {"type": "image", "image": path},
        {"type": "image", "path": path},
        {"type": "image", "url": path},
        {"image": path},
        {"type": "image_url", "image_url": {"url": path}},
        {"type": "image_url", "image_url": path},
        {"type": "video", "video": [path, path], "fps": 1.0},
    ]
    images, videos = processor.find_visuals([{"role": "user", "content": parts}])
    assert images == [path] * 6
    assert videos == [parts[-1]]


def test_pictures_go_to_their_rows_in_order(processor):
    small, large = picture(56, 56), picture(84, 112)
    batch = processor(["a<|image_pad|>", "b<|image_pad|><|image_pad|>"], [[large], [small, small]])
    pad = processor.tokenizer.token_id("<|image_pad|>")
    assert (batch["input_ids"] == pad).sum(axis=1).tolist() == [12, 8]
    assert batch["image_grid_thw"].tolist() == [[1, 6, 8], [1, 4, 4], [1, 4, 4]]
    assert batch["pixel_values"].shape == (48 + 16 + 16, 3 * 2 * 14 * 14)


def test_text_only_has_no_vision_keys(processor):
    assert set(processor("hello")) == {"input_ids", "attention_mask"}
    assert set(processor(None, [picture(30, 30)])) == {"pixel_values", "image_grid_thw"}


def test_padding_on_either_side(processor):
    rows = ["one two three", "one"]
    left, right = processor(rows), processor(rows, padding_side="right")
    short = processor("one")["input_ids"][0]
    assert left["input_ids"][1, -len(short) :].tolist() == short.tolist()
    assert right["input_ids"][1, : len(short)].tolist() == short.tolist()
    pad = processor.tokenizer.pad_token_id
    assert (left["input_ids"][1, : -len(short)] == pad).all()
    assert left["attention_mask"][1].tolist() == right["attention_mask"][1].tolist()[::-1]
    with pytest.raises(ConfigError, match="padding_side is 'both'"):
        processor(rows, padding_side="both")


# Batches for training


@pytest.fixture(scope="module")
def samples(processor) -> list[dict]:
    frames = RNG.integers(0, 256, (4, 60, 60, 3), dtype=np.uint8)
    rows = [
        chat(picture(56, 56), answer="7"),
        chat(question="How are you?", answer="Fine, and you?"),
        chat(picture(84, 56), picture(56, 84), answer="two"),
        chat(video=frames, answer="a film"),
    ]
    return [processor.encode(row, max_length=4096, describe=f"row {i}") for i, row in enumerate(rows)]


def test_a_sample_holds_bytes_and_only_what_it_has(samples):
    text = {"input_ids", "labels", "position_ids"}
    assert set(samples[1]) == text
    assert set(samples[0]) == text | {"image_patches", "image_grid_thw"}
    assert set(samples[3]) == text | {"video_patches", "video_grid_thw", "second_per_grid_ts"}
    assert samples[0]["image_patches"].dtype == np.uint8
    assert samples[0]["image_patches"].shape == (16, 3 * 14 * 14)
    assert samples[3]["second_per_grid_ts"].tolist() == [0.5]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch(processor, samples, side):
    batch = processor.collate(samples, padding_side=side)
    longest = max(len(sample["input_ids"]) for sample in samples)
    assert batch["input_ids"].shape == batch["labels"].shape == (4, longest)
    assert batch["position_ids"].shape == (3, 4, longest)
    assert "cu_seqlens" not in batch
    assert {key: value.dtype.name for key, value in batch.items()} == {
        "sample_ids": "int64",
        "input_ids": "int64",
        "labels": "int64",
        "position_ids": "int64",
        "attention_mask": "int64",
        "pixel_values": "float32",
        "pixel_values_videos": "float32",
        "image_grid_thw": "int64",
        "video_grid_thw": "int64",
        "second_per_grid_ts": "float32",
    }
    for b, sample in enumerate(samples):
        length = len(sample["input_ids"])
        kept = slice(longest - length, None) if side == "left" else slice(0, length)
        np.testing.assert_array_equal(batch["input_ids"][b, kept], sample["input_ids"])
        np.testing.assert_array_equal(batch["labels"][b, kept], sample["labels"])
        np.testing.assert_array_equal(batch["position_ids"][:, b, kept], sample["position_ids"])
        mask = np.zeros(longest, np.int64)
        mask[kept] = 1
        np.testing.assert_array_equal(batch["attention_mask"][b], mask)
        assert (batch["labels"][b][mask == 0] == -100).all()
    assert len(batch["image_grid_thw"]) == 3 and len(batch["video_grid_thw"]) == 1


def test_a_packed_row(processor, samples):
    batch = processor.collate(samples, packing=True)
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert batch["input_ids"].shape == (1, sum(lengths))
    assert batch["cu_seqlens"].dtype == np.int32
    assert batch["cu_seqlens"].tolist() == [0, *np.cumsum(lengths).tolist()]
    for start, end, sample in zip(batch["cu_seqlens"][:-1], batch["cu_seqlens"][1:], samples):
        np.testing.assert_array_equal(batch["input_ids"][0, start:end], sample["input_ids"])
        np.testing.assert_array_equal(batch["position_ids"][:, 0, start:end], sample["position_ids"])
        assert batch["position_ids"][0, 0, start] == 0, "each segment begins at position 0"
    assert batch["attention_mask"].all()


def test_a_batch_without_pictures_has_no_picture(processor, samples):
    batch = processor.collate([samples[1], samples[1]])
    assert not {"pixel_values", "image_grid_thw", "pixel_values_videos"} & set(batch)


def test_pixel_values_equal_those_of_the_inference_path(processor, samples):
    image = picture(84, 56)
    sample = processor.encode(chat(image), max_length=None)
    np.testing.assert_array_equal(
        processor.collate([sample])["pixel_values"], processor(None, [image])["pixel_values"]
    )


def test_sample_ids_are_kept(processor, samples):
    numbered = [{**sample, "sample_id": 10 + i} for i, sample in enumerate(samples)]
    assert processor.collate(numbered)["sample_ids"].tolist() == [10, 11, 12, 13]
    assert processor.collate(samples)["sample_ids"].tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="at least one sample"):
        processor.collate([])


# Folders


def test_saving_and_loading_gives_the_same_inputs(processor, tmp_path):
    changed = processor.with_options(image_max_pixels=28 * 28 * 6, video_max_frames=8)
    changed.save(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text(json.dumps(_config(processor)))
    again = load_processor(tmp_path / "saved")
    image = picture(200, 300)
    messages = chat(image)
    for one, two in ((changed, again),):
        a, b = (p.collate([p.encode(messages, max_length=None)]) for p in (one, two))
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    assert a["image_grid_thw"][0].prod() // 4 <= 6
    assert again.videos == changed.videos
    assert again.stop_token_ids == processor.stop_token_ids
    assert processor(None, [image])["image_grid_thw"][0].prod() // 4 > 6, "the original is unchanged"


def _config(processor: Processor) -> dict:
    from mix_core.models.qwen2_5_vl.config import config_to_dict

    return config_to_dict(processor.config, "float32")


def test_stop_ids_are_the_generation_config_s_and_the_end_token(processor):
    ids = processor.tokenizer.token_id
    assert processor.stop_token_ids == (ids("<|im_end|>"), ids("<|endoftext|>"))


def test_settings_of_videos_fall_back_to_those_of_pictures(folder, tmp_path):
    assert load_processor(folder).videos.frames == load_processor(folder).images
    other = write_checkpoint(tmp_path)
    config = json.loads((other / "preprocessor_config.json").read_text())
    config.update(max_pixels=28 * 28 * 9, max_frames=16, fps=1.0)
    (other / "video_preprocessor_config.json").write_text(json.dumps(config))
    videos = load_processor(other).videos
    assert videos.frames.max_pixels == 28 * 28 * 9
    assert (videos.rules.max_frames, videos.rules.fps) == (16, 1.0)


def test_the_nested_file_of_transformers_is_read(tmp_path):
    folder = write_checkpoint(tmp_path)
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    nested = {"image_processor": {**config, "max_pixels": 28 * 28 * 7}, "video_processor": config}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    processor = load_processor(folder)
    assert processor.images.max_pixels == 28 * 28 * 7
    assert processor.videos.frames.max_pixels == config["max_pixels"]


def break_json(path: Path) -> None:
    path.write_text(path.read_text()[:-20])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda f: break_json(f / "tokenizer.json"), "tokenizer.json is not a readable tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json is not a readable tokenizer"),
        (lambda f: break_json(f / "tokenizer_config.json"), "tokenizer_config.json cannot be read as JSON"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda f: break_json(f / "preprocessor_config.json"), "preprocessor_config.json cannot be read"),
        (lambda f: (f / "generation_config.json").write_text("[]"), "holds a list, expected a JSON object"),
        (lambda f: edit(f, patch_size=16), "has patch_size 16, but the model in config.json has 14"),
        (lambda f: edit(f, merge_size=None), "lacks merge_size"),
        (lambda f: edit(f, max_pixels="many"), "max_pixels = 'many', expected a whole number"),
        (lambda f: edit(f, max_pixels=10), "min_pixels 3136 is more than max_pixels 10"),
        (lambda f: edit(f, image_mean=[0.5]), "three values in image_mean"),
        (lambda f: edit(f, "config.json", image_token_id=1), r"the id \d+, config.json says 1"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
    ],
)
def test_a_broken_folder_says_what_is_wrong(tmp_path, spoil, message):
    folder = write_checkpoint(tmp_path)
    spoil(folder)
    with pytest.raises(BadInputError, match=message) as error:
        load_processor(folder)
    assert "\n" not in str(error.value)


def edit(folder: Path, name: str = "preprocessor_config.json", **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_tokenizer_that_contradicts_its_configuration(tmp_path):
    folder = write_checkpoint(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"]["5"] = {"content": "<|im_end|>", "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match=r"gives '<\|im_end\|>' the id \d+, tokenizer_config.json says 5"):
        load_processor(folder)


def test_none_of_this_imports_paddle(folder):
    code = (
        "import sys\n"
        "from mix_core.models.registry import family_of_folder\n"
        "import mix_core.models.common.hub, mix_core.data.video, mix_core.data.images\n"
        f"processor = family_of_folder({str(folder)!r}).load_processor({str(folder)!r})\n"
        "import numpy\n"
        "image = numpy.zeros((40, 40, 3), 'uint8')\n"
        "messages = [{'role': 'user', 'content': [{'type': 'image', 'image': image}]},\n"
        "            {'role': 'assistant', 'content': 'x'}]\n"
        "processor.collate([processor.encode(messages, max_length=99)])\n"
        "print(sorted({'paddle', 'torch', 'transformers', 'av'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
