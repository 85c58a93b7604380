"""Token ids, labels and pixels of Qwen-VL as the publisher's code makes them, which is written anew here."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

tiktoken = pytest.importorskip("tiktoken", reason="the vocabulary is read with tiktoken")

from mix_core.models.qwen_vl.processor import Processor, load_processor  # noqa: E402
from tests.builders.qwen_vl import vocabulary, write_qwen_vl  # noqa: E402

PUBLISHED_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
NAMES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
NAMES += ["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>"]
SPAN = 9
TEXTS = [
    "",
    "it is the picture  in\n\n the user's system",
    "图中的巴士是什么颜色的？你好 naïve café 😀\t\u3000x",
    "12345 6,7),(8,9) it's IT'S we'll\r\n\r\n  end ",
    "<ref>the bus</ref><box>(178,279),(806,884)</box><quad>(1,2)</quad><|extra_7|>",
    "a<|im_end|>\n<|im_start|>assistantb\n<|endoftext|>",
    "<img_ <|im_start <imgpad> </ref",
    " \n \n\n\x00\x7f",
]


def published_encoding() -> Any:
    ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in vocabulary().splitlines())}
    special = {name: len(ranks) + i for i, name in enumerate(NAMES)}
    return tiktoken.Encoding("peer", pat_str=PUBLISHED_PATTERN, mergeable_ranks=ranks, special_tokens=special)


ENCODING = published_encoding()


def ids_of(text: str) -> list[int]:
    """The published tokenizer's ids, with <imgpad> where it writes the bytes of a picture's address."""
    ids, at = [], 0
    start, end, pad = (ENCODING.encode_single_token(name) for name in NAMES[-3:])
    while (opened := text.find("<img>", at)) >= 0:
        closed = text.index("</img>", opened)
        ids += ENCODING.encode(text[at:opened], allowed_special="all")
        ids += [start, *[pad] * SPAN, end]
        at = closed + 6
    return ids + ENCODING.encode(text[at:], allowed_special="all")


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    return load_processor(write_qwen_vl(tmp_path_factory.mktemp("chat")))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a picture.png"
    pixels = np.random.default_rng(0).integers(0, 255, (37, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text(processor: Processor, text: str) -> None:
    ids = processor.tokenizer.encode(text)
    assert ids == ENCODING.encode(text, allowed_special="all")
    assert processor.tokenizer.decode(ids, skip_special_tokens=False) == text
    again, offsets = processor.tokenizer.encode_with_offsets(text)
    assert again == ids
    for i, (start, end) in zip(ids, offsets):
        token = ENCODING.decode_single_token_bytes(i)
        assert token in text[start:end].encode() and end > start
    assert [end for _, end in offsets[-1:]] == [len(text)] * bool(text)


def test_special_ids_follow_the_vocabulary(processor: Processor) -> None:
    assert processor.tokenizer.special_ids == {name: ENCODING.encode_single_token(name) for name in NAMES}
    published = len(NAMES) - 3 + 151643
    assert published == 151857, "image_start_id of the published vocabulary of 151643 tokens"
    assert len(processor.tokenizer) == ENCODING.n_vocab


def sources(picture: Path, *, space: str = "") -> list[dict[str, str]]:
    """Conversations as the publisher's fine-tuning reads them."""
    return [
        {"from": "user", "value": f"Picture 1: <img>{picture}</img>\nwhat is{space} it?"},
        {"from": "assistant", "value": "the bus<ref>巴士</ref><box>(178,279),(806,884)</box>"},
        {"from": "user", "value": "\n\n the picture"},
        {"from": "assistant", "value": "\nit is 12."},
    ]


def publisher_s_labels(turns: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """ids and labels: every turn's begin, end and newline are learned, of the rest the assistant's text."""
    begin, end, (newline,) = ids_of("<|im_start|>"), ids_of("<|im_end|>"), ids_of("\n")
    system = [*ids_of("system"), newline, *ids_of("You are a helpful assistant.")]
    ids = begin + system + end + [newline]
    labels = begin + [-100] * len(system) + end + [newline]
    for turn in turns:
        head, text = [*ids_of(turn["from"]), newline], ids_of(turn["value"])
        ids += begin + head + text + end + [newline]
        shown = text if turn["from"] == "assistant" else [-100] * len(text)
        labels += begin + [-100] * len(head) + shown + end + [newline]
    return ids, labels


def as_messages(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": turn["from"], "content": turn["value"]} for turn in turns]


def test_training_samples_are_the_publisher_s(processor: Processor, picture: Path) -> None:
    turns = sources(picture)
    sample = processor.encode(as_messages(turns), max_length=None)
    ids, labels = publisher_s_labels(turns)
    assert sample["input_ids"].tolist() == ids
    assert sample["labels"].tolist() == labels
    assert sample["image_pixels"].shape == (1, 56, 56, 3)


def test_prompts_are_the_publisher_s(processor: Processor, picture: Path) -> None:
    turns = sources(picture)[:3]
    text = processor.apply_chat_template(as_messages(turns), add_generation_prompt=True)
    found, _ = processor.find_visuals(as_messages(turns))
    assert found == [str(picture)]
    ids, _ = publisher_s_labels(turns)
    ids += ids_of("<|im_start|>") + ids_of("assistant") + ids_of("\n")
    assert processor(text, found)["input_ids"][0].tolist() == ids


def test_a_listed_picture_is_written_as_from_list_format_does(processor: Processor, picture: Path) -> None:
    parts = [{"type": "image", "image": str(picture)}, {"type": "text", "text": "what is it?"}]
    listed = processor.encode(
        [{"role": "user", "content": parts}, {"role": "assistant", "content": "the bus"}], max_length=None
    )
    turns = [
        {"from": "user", "value": f"Picture 1: <img>{picture}</img>\nwhat is it?"},
        {"from": "assistant", "value": "the bus"},
    ]
    assert listed["input_ids"].tolist() == publisher_s_labels(turns)[0]


def test_the_base_model_goes_on_with_its_text(tmp_path: Path, picture: Path) -> None:
    raw = load_processor(write_qwen_vl(tmp_path, chat_format="raw"))
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": str(picture)}, {"type": "text", "text": "the bus:"}],
        },
        {"role": "assistant", "content": "<ref> bus</ref>"},
    ]
    sample = raw.encode(messages, max_length=None)
    ids = ids_of(f"<img>{picture}</img>the bus:<ref> bus</ref><|endoftext|>")
    assert sample["input_ids"].tolist() == ids
    answer = ids_of("<ref> bus</ref><|endoftext|>")
    assert sample["labels"].tolist() == [-100] * (len(ids) - len(answer)) + answer
    assert raw.stop_token_ids == (ENCODING.eot_token,)
    prompt = raw.apply_chat_template(messages[:1], add_generation_prompt=True)
    assert raw(prompt, [str(picture)])["input_ids"][0].tolist() == ids[: -len(answer)]


def test_pixels_are_torchvision_s(processor: Processor, picture: Path) -> None:
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    image = Image.open(picture).convert("RGB").resize((56, 56), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    found = processor(f"<img>{picture}</img>")["pixel_values"]
    assert found.dtype == np.float32 and found.shape == (1, 3, 56, 56)
    np.testing.assert_array_equal(found[0], expected.numpy())
