"""What stands between a user's data and Qwen-VL: lists, tags, boxes, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tiktoken", reason="the vocabulary is read with tiktoken")

from mix_core.data.readers import read_dataset
from mix_core.errors import BadInputError, ConfigError, DataError
from mix_core.models.qwen_vl.list_format import from_list_format, to_list_format
from mix_core.models.qwen_vl.processor import Processor, load_processor
from mix_core.models.registry import family_of_folder
from tests.builders.qwen_vl import vocabulary, write_qwen_vl

IMAGE = np.full((20, 30, 3), 90, np.uint8)
ANSWER = {"role": "assistant", "content": "the bus"}


@pytest.fixture(scope="module")
def processor(tmp_path_factory) -> Processor:
    return load_processor(write_qwen_vl(tmp_path_factory.mktemp("chat")))


def user(*parts) -> dict:
    return {
        "role": "user",
        "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts],
    }


def picture(source=IMAGE) -> dict:
    return {"type": "image", "image": source}


def test_lists_both_ways():
    elements = [
        {"image": "a b.png"},
        {"image": "https://x.org/b.png"},
        {"text": "What is "},
        {"ref": "the bus", "box": [(1, 2, 30, 40), (5, 6, 7, 999)]},
        {"text": "?"},
    ]
    text = from_list_format(elements)
    assert text == (
        "Picture 1: <img>a b.png</img>\nPicture 2: <img>https://x.org/b.png</img>\nWhat is "
        "<ref>the bus</ref><box>(1,2),(30,40)</box><box>(5,6),(7,999)</box>?"
    )
    read = to_list_format(text)
    keys = ["text", "image", "text", "image", "text", "ref", "box", "box", "text"]
    assert [next(iter(element)) for element in read] == keys
    assert read[1] == {"image": "a b.png"} and read[6] == {"box": "(1,2),(30,40)"}
    assert from_list_format(read[5:]) == text[text.index("<ref>") :]
    with pytest.raises(DataError, match=r"<box> is not closed by </box> in '<box>\(1,2\),'"):
        to_list_format("<ref>a</ref><box>(1,2),")
    with pytest.raises(DataError, match="an element has the keys audio"):
        from_list_format([{"audio": "a.wav"}])


def test_pictures_are_numbered_over_the_conversation(processor):
    messages = [
        user(picture(), picture(), "a"),
        ANSWER,
        user("b", picture(), "Picture 4: ", picture(), "\nc"),
    ]
    place = "<img><imgpad></img>"
    text = processor.apply_chat_template(messages)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\nPicture 1: {place}\nPicture 2: {place}\na<|im_end|>\n"
        "<|im_start|>assistant\nthe bus<|im_end|>\n"
        f"<|im_start|>user\nbPicture 3: {place}\nPicture 4: {place}\nc<|im_end|>\n"
    )
    assert len(processor.find_visuals(messages)[0]) == 4
    assert processor(text, [IMAGE] * 4)["pixel_values"].shape == (4, 3, 56, 56)


def test_a_system_message_replaces_the_published_one(processor):
    text = processor.apply_chat_template([{"role": "system", "content": "Be brief."}, user("a")])
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n")


def test_texts_are_composed_as_the_published_tokenizer_does(processor):
    decomposed, composed = ([user(text), ANSWER] for text in ("cafe\u0301", "café"))
    found = [processor.encode(messages, max_length=None)["input_ids"] for messages in (decomposed, composed)]
    np.testing.assert_array_equal(*found)


def test_answers_keep_the_marks_of_things_and_lose_those_of_turns(processor):
    answer = "<ref>the bus</ref><box>(1,2),(3,4)</box>"
    ids = processor.tokenizer.encode(f"{answer}<|im_end|><|endoftext|>")
    assert processor.tokenizer.decode(ids) == answer
    assert processor.tokenizer.decode([*ids, len(processor.tokenizer) + 5]) == answer, (
        "the head has more rows"
    )
    names = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
    assert processor.stop_token_ids == tuple(processor.tokenizer.token_id(name) for name in names)


def test_mask_history_and_train_on_prompt(processor):
    messages = [user(picture(), "a"), ANSWER, user("b"), {"role": "assistant", "content": "it is"}]
    decode = processor.tokenizer.decode
    last = processor.encode(messages, max_length=None, mask_history=True)
    assert decode(last["input_ids"][last["labels"] != -100].tolist(), False) == "it is<|im_end|>"
    whole = processor.encode(messages, max_length=None, train_on_prompt=True)
    assert decode(whole["input_ids"][whole["labels"] == -100].tolist(), False) == "<imgpad>" * 9


def test_collating(processor):
    samples = [
        processor.encode([user(picture(), "a"), ANSWER], max_length=None),
        processor.encode([user("what is it?"), ANSWER], max_length=None),
    ]
    padded, packed = processor.collate(samples), processor.collate(samples, packing=True)
    assert padded["input_ids"].shape == (2, len(samples[0]["input_ids"])) and "position_ids" not in padded
    assert packed["cu_seqlens"].tolist() == [0, *np.cumsum([len(s["input_ids"]) for s in samples])]
    assert padded["pixel_values"].shape == packed["pixel_values"].shape == (1, 3, 56, 56)
    assert "pixel_values" not in processor.collate(samples[1:])


def test_a_sample_that_is_too_long(processor):
    messages = [user(picture(), "a"), ANSWER]
    with pytest.raises(
        DataError, match=r"row 2: it has \d+ tokens \(8 of them added by pictures\), max_length"
    ):
        processor.encode(messages, max_length=20, describe="row 2")
    assert processor.encode(messages, max_length=20, on_too_long="skip") is None and processor.skipped == 1


@pytest.mark.parametrize(
    "messages,message",
    [
        ([user("<img>a.png\nwhat?"), ANSWER], r"<img> is not closed by </img>, in '<img>a\.png\\nwhat\?'"),
        ([user("<img>a.png <img>b.png</img>"), ANSWER], "<img> is not closed by </img>"),
        ([user("a.png</img>"), ANSWER], "</img> closes no <img>"),
        ([user("<imgpad>"), ANSWER], "<imgpad> stands outside of a picture"),
        ([user("a"), {"role": "assistant", "content": "<img>"}], "<img> is not closed"),
        ([user("a"), {"role": "assistant", "content": [picture()]}], "a message of assistant has a picture"),
        ([user({"type": "video", "video": "a.mp4"}), ANSWER], "Qwen-VL takes pictures only"),
        ([user("<box>(1,2),(1000,4)</box>"), ANSWER], r"has the coordinate 1000; .*in \[0, 1000\)"),
        ([user("a"), {"role": "assistant", "content": "<box>(-1,2),(3,4)</box>"}], "has the coordinate -1"),
        ([user("<img>no such.png</img>"), ANSWER], "image no such.png: there is no such file"),
        ([user("a")], "no message has the role assistant"),
    ],
)
def test_rows_that_are_refused_are_named(processor, messages, message):
    with pytest.raises(DataError, match=f"^train.json row 7: .*{message}"):
        processor.encode(messages, max_length=None, describe="train.json row 7")


def test_boxes_are_checked_in_training_only(processor):
    assert "(1,2),(1000,4)" in processor.apply_chat_template([user("<box>(1,2),(1000,4)</box>")])


def test_pictures_and_places_must_be_equal_in_number(processor):
    text = processor.apply_chat_template([user(picture(), "a")])
    with pytest.raises(DataError, match=r"has 1 image placeholder\(s\) and 2 image\(s\) were given"):
        processor(text, [IMAGE, IMAGE])
    with pytest.raises(DataError, match=r"has 1 image placeholder\(s\) and 0 image\(s\) were given"):
        processor(text, [])
    with pytest.raises(DataError, match=r"1 video\(s\) given"):
        processor(text, [IMAGE], ["a.mp4"])


def test_the_guide_s_rows(processor, tmp_path: Path):
    for name in ("Chongqing.jpeg", "Beijing.jpeg"):
        Image.fromarray(IMAGE).save(tmp_path / name)
    turns = [
        {
            "from": "user",
            "value": "Picture 1: <img>Chongqing.jpeg</img>\nPicture 2: <img>Beijing.jpeg</img>\n图",
        },
        {"from": "assistant", "value": "你好"},
    ]
    (tmp_path / "train.json").write_text(json.dumps([{"id": "identity_2", "conversations": turns}]))
    (row,) = read_dataset(str(tmp_path / "train.json"))
    sample = processor.encode(row["messages"], max_length=None)
    text = processor.tokenizer.decode(sample["input_ids"].tolist(), skip_special_tokens=False)
    place = "<img>" + "<imgpad>" * 9 + "</img>"
    assert f"user\nPicture 1: {place}\nPicture 2: {place}\n图<|im_end|>" in text
    assert sample["image_pixels"].shape == (2, 56, 56, 3)


def test_options(processor):
    assert processor.with_options(allow_private_urls=True, image_max_pixels=None).allow_private_urls
    with pytest.raises(
        ConfigError, match="the model has no image_max_pixels: Qwen-VL brings every picture to 56 x 56"
    ):
        processor.with_options(image_max_pixels=1000)
    assert processor.images.target_size(10, 1000) == (56, 56)


@pytest.mark.parametrize("chat_format", ["chatml", "raw"])
def test_what_is_saved_is_read_again(tmp_path: Path, chat_format: str):
    first = load_processor(write_qwen_vl(tmp_path / "first", chat_format=chat_format))
    first.save(tmp_path / "again")
    config = (tmp_path / "first" / "config.json").read_bytes()
    (tmp_path / "again" / "config.json").write_bytes(config)
    again = load_processor(tmp_path / "again")
    assert family_of_folder(tmp_path / "again").name == "qwen_vl"
    for name in ("qwen.tiktoken", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    messages = [user(picture(), "a"), ANSWER]
    assert again.apply_chat_template(messages) == first.apply_chat_template(messages)
    assert not (tmp_path / "again" / "chat_template.jinja").exists(), "the published folder has none"


def test_a_template_in_the_folder_wins_and_is_kept(tmp_path: Path):
    write_qwen_vl(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    processor = load_processor(tmp_path)
    assert processor.apply_chat_template([user("hi")]) == "hi"
    processor.save(tmp_path / "again")
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == "{{ messages[0].content }}"


@pytest.mark.parametrize(
    "content,message",
    [
        (b"", "has no token for the byte 0"),
        (vocabulary()[:2000].rsplit(b"\n", 1)[0], "has no token for the byte"),
        (b"IQ== 0\nIg== x\n", r"line 2 is b'Ig== x', expected a token in base64 and its rank"),
        (b"\xff\xfe 0\n", "line 1 is "),
        (b"IQ== 0\nIg== 2\n", "ranks do not count from 0 without gaps"),
        (vocabulary() + b"enp6eg== 9999\n", "ranks do not count from 0 without gaps"),
    ],
)
def test_broken_vocabularies(tmp_path: Path, content: bytes, message: str):
    (write_qwen_vl(tmp_path) / "qwen.tiktoken").write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        load_processor(tmp_path)


def test_folders_that_lack_or_contradict(tmp_path: Path, monkeypatch):
    write_qwen_vl(tmp_path)
    (tmp_path / "qwen.tiktoken").write_bytes(vocabulary() + b"enp6eg== %d\n" % len(vocabulary().splitlines()))
    with pytest.raises(BadInputError, match=r"gives <img> the id \d+, visual.image_start_id in config.json"):
        load_processor(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"chat_format": "alpaca"}')
    (tmp_path / "qwen.tiktoken").write_bytes(vocabulary())
    with pytest.raises(BadInputError, match="has chat_format 'alpaca', expected chatml or raw"):
        load_processor(tmp_path)
    (tmp_path / "qwen.tiktoken").unlink()
    with pytest.raises(BadInputError, match=r"has no qwen\.tiktoken; a Qwen-VL folder needs it"):
        load_processor(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", None)
    (tmp_path / "qwen.tiktoken").write_bytes(vocabulary())
    with pytest.raises(BadInputError, match=r"not installed: pip install 'mix-core\[tiktoken\]'"):
        load_processor(tmp_path)
