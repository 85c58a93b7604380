"""Messages to inputs: OpenGVLab's prompts, the places of tiles and frames, labels, options, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mix_core.data.worker import for_row
from mix_core.errors import BadInputError, ConfigError, DataError
from mix_core.models.internvl2 import FAMILY
from tests.builders.internvl2_checkpoints import write_folder

SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。"
)
SYSTEM_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及"
    "多家合作单位联合开发的多模态大语言模型。"
)
IMG = "<img><IMG_CONTEXT></img>"


def published_prompt(
    turns: list[tuple[str, str | None]], system: str = SYSTEM, after: str = "<|im_end|>"
) -> str:
    """The style that OpenGVLab's conversation.py calls MPT: role, text, separator."""
    text = f"<|im_start|>system\n{system}{after}"
    for role, message in turns:
        text += f"<|im_start|>{role}\n" + (message + after if message else "")
    return text


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory):
    return FAMILY.load_processor(write_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("sentencepiece", reason="an extra")
    return FAMILY.load_processor(write_folder(tmp_path_factory.mktemp("pieces"), tokenizer="tokenizer.model"))


def picture(width: int = 28, height: int = 28) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def user(*parts: Any) -> dict[str, Any]:
    kinds = [p if isinstance(p, dict) else {"type": "text", "text": p} for p in parts]
    return {"role": "user", "content": kinds}


def image(source: Any) -> dict[str, Any]:
    return {"type": "image", "image": source}


def test_prompts_are_the_published_ones(tmp_path: Path, processor) -> None:
    messages = [user("Hello"), {"role": "assistant", "content": "Hi."}, user("And?")]
    turns = [("user", "Hello"), ("assistant", "Hi."), ("user", "And?"), ("assistant", None)]
    render = processor.apply_chat_template
    assert render(messages, add_generation_prompt=True) == published_prompt(turns)
    assert render([{"role": "system", "content": "Be brief."}, *messages]) == published_prompt(
        turns[:3], "Be brief."
    )
    hermes = FAMILY.load_processor(write_folder(tmp_path / "hermes", "qwen2"))
    assert hermes.apply_chat_template(messages) == published_prompt(turns[:3])
    newer = FAMILY.load_processor(write_folder(tmp_path / "newer", template="internvl2_5"))
    assert newer.apply_chat_template(messages) == published_prompt(turns[:3], SYSTEM_2_5, "<|im_end|>\n")


@pytest.mark.parametrize(
    "parts,expected",
    [
        ((image("a.png"), "What?"), f"{IMG}\nWhat?"),
        ((image("a.png"), "\nWhat?"), f"{IMG}\nWhat?"),
        (
            ("Image-1: ", image("a"), "\nImage-2: ", image("b"), "\nBoth?"),
            f"Image-1: {IMG}\nImage-2: {IMG}\nBoth?",
        ),
        (("Is ", image("a"), " like ", image("b")), f"Is {IMG} like {IMG}"),
        ((image("a"), image("b")), IMG + IMG),
        (({"type": "video", "video": "v"}, "What?"), "<video>\nWhat?"),
        (("not an <image> of mine",), "not an <image> of mine"),
    ],
)
def test_the_place_of_a_picture(processor, parts, expected: str) -> None:
    assert processor.apply_chat_template([user(*parts)]) == published_prompt([("user", expected)])


def test_tiles_take_the_place_of_their_token(processor) -> None:
    """28 pixels a side, 4 tokens a tile: 56 x 28 is 2 tiles and a thumbnail, 28 x 28 one tile."""
    text = processor.apply_chat_template([user(image("x"), "a", image("y"), "b")])
    batch = processor(text, images=[picture(56, 28), picture()])
    ids = batch["input_ids"][0]
    (places,) = np.nonzero(ids == processor.context_id)
    assert batch["pixel_values"].shape == (4, 3, 28, 28) and len(places) == 16
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    assert [len(run) for run in runs] == [12, 4]
    for run in runs:
        around = processor.tokenizer.decode([ids[run[0] - 1], ids[run[-1] + 1]], skip_special_tokens=False)
        assert around == "<img></img>"
    assert batch["img_context_token_id"].tolist() == [processor.context_id]
    first = processor.vision.tiler.tiles(picture(56, 28))
    np.testing.assert_allclose(
        batch["pixel_values"][0, 0], (first[0, ..., 0] / 255 - 0.485) / 0.229, atol=1e-6
    )


def test_frames_of_a_video_are_numbered_lines(processor, tmp_path: Path) -> None:
    frames = [picture(40, 30)] * 3
    messages = [user({"type": "video", "video": frames}, "What happens?")]
    batch = processor(processor.apply_chat_template(messages), videos=[frames])
    expected = "".join(f"Frame{i}: <img>{'<IMG_CONTEXT>' * 4}</img>\n" for i in (1, 2, 3)) + "What happens?"
    found = processor.tokenizer.decode(batch["input_ids"][0], skip_special_tokens=False)
    assert found == published_prompt([("user", expected)])
    assert batch["pixel_values"].shape == (3, 3, 28, 28)
    answer = {"role": "assistant", "content": "Nothing."}
    sample = processor.encode([*messages, answer], max_length=None)
    assert learned(processor, sample) == "Nothing.<|im_end|>"
    np.testing.assert_array_equal(sample["input_ids"][: batch["input_ids"].shape[1]], batch["input_ids"][0])


def test_pictures_and_videos_of_several_rows_keep_their_order(processor) -> None:
    rows = [[user(image("x"), "a", {"type": "video", "video": "v"})], [user("b")], [user(image("y"))]]
    texts = [processor.apply_chat_template(row) for row in rows]
    batch = processor(texts, images=[picture(28), picture(29)], videos=[[picture(30)] * 2])
    tiles = [processor.vision.tiler.tiles(picture(w))[0] for w in (28, 30, 30, 29)]
    shown = batch["pixel_values"][:, 0]
    for found, tile in zip(shown, tiles, strict=True):
        np.testing.assert_allclose(found, (tile[..., 0] / 255 - 0.485) / 0.229, atol=1e-6)
    assert [(row == processor.context_id).sum() for row in batch["input_ids"]] == [12, 0, 4]


def learned(processor, sample) -> str:
    labels = sample["labels"]
    return processor.tokenizer.decode(labels[labels != -100], skip_special_tokens=False)


@pytest.mark.parametrize("kind", ["processor", "pieces"])
def test_only_answers_are_learned(request, kind: str) -> None:
    processor = request.getfixturevalue(kind)
    messages = [
        user(image(picture()), "Which digit is this?"),
        {"role": "assistant", "content": "图 it is one"},
        user("And now?"),
        {"role": "assistant", "content": " two \n"},
    ]
    sample = processor.encode(messages, max_length=None)
    assert learned(processor, sample) == "图 it is one<|im_end|>two<|im_end|>"
    last = processor.encode(messages, max_length=None, mask_history=True)
    assert learned(processor, last) == "two<|im_end|>"
    whole = processor.encode(messages, max_length=None, train_on_prompt=True)["labels"]
    assert (whole != processor.context_id).all() and (whole != -100).sum() >= len(whole) - 5
    prompt = processor(processor.apply_chat_template(messages), images=[picture()])
    np.testing.assert_array_equal(prompt["input_ids"][0], sample["input_ids"])
    assert prompt["input_ids"][0, 0] == processor.tokenizer.encode("")[0] if kind == "pieces" else True


def test_batches_are_padded_or_packed(processor) -> None:
    answer = {"role": "assistant", "content": "it is one"}
    samples = [
        processor.encode([user(image(picture(56, 28)), "What?"), answer], max_length=None),
        processor.encode([user("Hello, which digit is it?"), answer], max_length=None),
    ]
    padded, packed = processor.collate(samples), processor.collate(samples, packing=True)
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert padded["input_ids"].shape == (2, max(lengths)) and padded["attention_mask"].sum() == sum(lengths)
    assert packed["cu_seqlens"].tolist() == [0, lengths[0], sum(lengths)]
    assert padded["pixel_values"].shape == packed["pixel_values"].shape == (3, 3, 28, 28)
    assert "pixel_values" not in processor.collate(samples[1:])


def test_where_answers_end(processor, pieces) -> None:
    assert processor.stop_token_ids == (processor.tokenizer.token_id("<|im_end|>"),)
    end, start = (pieces.tokenizer.token_id(token) for token in ("<|im_end|>", "<|im_start|>"))
    assert pieces.stop_token_ids == (end, start, 2)


def test_a_saved_processor_is_the_same(processor, pieces, tmp_path: Path) -> None:
    for place, one in (("bpe", processor), ("pieces", pieces)):
        one.save(tmp_path / place)
        FAMILY.write_config(one.config, tmp_path / place)
        again = FAMILY.load_processor(tmp_path / place)
        text = one.apply_chat_template([user(image("x"), "What is it?")])
        assert again.apply_chat_template([user(image("x"), "What is it?")]) == text
        ours, theirs = one(text, images=[picture(80, 40)]), again(text, images=[picture(80, 40)])
        assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in theirs.items()}
        assert (again.config, again.stop_token_ids) == (one.config, one.stop_token_ids)
        assert not (tmp_path / place / "chat_template.jinja").exists()


def test_the_folder_s_own_template_wins(tmp_path: Path) -> None:
    write_folder(tmp_path, template="someone-s-own")
    with pytest.raises(BadInputError, match="built are internlm2-chat, Hermes-2, internvl2_5"):
        FAMILY.load_processor(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    processor = FAMILY.load_processor(tmp_path)
    assert processor.apply_chat_template([user(image("x"), "a")]) == f"[{IMG}\na]"
    processor.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "chat_template.jinja").is_file()


def test_rows_of_a_set_may_have_fewer_tiles(processor) -> None:
    asked = {"messages": [user(image(picture(80, 40)), "a"), {"role": "assistant", "content": "b"}]}
    lengths = []
    for tiles in (None, 1, 2):
        chosen = for_row(processor, asked | {"max_dynamic_patch": tiles})
        lengths.append(len(chosen.encode(asked["messages"], max_length=None)["input_ids"]))
    tile = processor.config.num_image_token
    assert lengths[1] < lengths[2] and (lengths[2] - lengths[1]) % tile == 0
    assert lengths[0] >= lengths[2] and processor.images.max_tiles > 2, "the run's own stays"
    plain = processor.with_options(dynamic_image_size=False)
    with pytest.raises(
        ConfigError, match="max_dynamic_patch asks for tiles, and dynamic_image_size is false"
    ):
        for_row(plain, {"max_dynamic_patch": 2})


def test_limits_in_pixels_are_limits_on_tiles(processor) -> None:
    assert processor.images.target_size(28, 280) == (28, 168)
    assert processor.with_options(image_max_pixels=3 * 784).images.target_size(28, 280) == (28, 84)
    assert processor.with_options(image_max_pixels=10).images.target_size(28, 280) == (28, 28)
    assert processor.with_options(image_min_pixels=3 * 784 + 1).images.min_tiles == 4
    assert processor.with_options(use_thumbnail=False, max_dynamic_patch=2).images.max_tiles == 2
    with pytest.raises(ConfigError, match="each frame is one tile of 28 x 28"):
        processor.with_options(video_max_pixels=1000)
    with pytest.raises(BadInputError, match="7 to 6 tiles"):
        processor.with_options(image_min_pixels=7 * 784)


def test_a_picture_is_one_tile_where_tiling_is_off(tmp_path: Path) -> None:
    still = FAMILY.load_processor(write_folder(tmp_path, dynamic_image_size=False))
    text = still.apply_chat_template([user(image("x"))])
    assert still(text, images=[picture(200, 50)])["pixel_values"].shape == (1, 3, 28, 28)


def test_bad_input(processor) -> None:
    with pytest.raises(DataError, match=r"1 image placeholder\(s\) and 2 image\(s\)"):
        processor(processor.apply_chat_template([user(image("x"))]), images=[picture()] * 2)
    answer = {"role": "assistant", "content": "one"}
    with pytest.raises(DataError, match="row 3: the text holds <IMG_CONTEXT> 1 times, and 0 pictures"):
        processor.encode([user("a token <IMG_CONTEXT> of mine"), answer], max_length=None, describe="row 3")
    long = [user(image(picture(56, 28)), "What?"), answer]
    with pytest.raises(DataError, match=r"row 4: it has \d+ tokens \(11 of them added by pictures\)"):
        processor.encode(long, max_length=20, describe="row 4")
    assert processor.encode(long, max_length=20, on_too_long="skip") is None and processor.skipped == 1
