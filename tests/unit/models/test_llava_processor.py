"""LLaVA's processor: training samples, packed batches, templates, the authors' folders, bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mix_core.errors import BadInputError, DataError
from mix_core.models.llava.processor import load_processor
from mix_core.models.llava.tokenizer_model import read_tokenizer_model
from tests.builders.llava import MISTRAL_TEMPLATE, write_llava, write_tokenizer


def picture(height: int = 30, width: int = 60) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def chat(*turns: str, image: Image.Image | None = None) -> list[dict]:
    messages = []
    for i, text in enumerate(turns):
        parts = [{"type": "text", "text": text}]
        if i == 0 and image is not None:
            parts.insert(0, {"type": "image", "image": image})
        messages.append({"role": "assistant" if i % 2 else "user", "content": parts})
    return messages


def learned(processor, sample) -> str:
    return processor.tokenizer.decode(sample["labels"][sample["labels"] >= 0].tolist(), False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_llava(tmp_path_factory.mktemp("llava"), anyres=True)


@pytest.fixture(scope="module")
def processor(folder):
    return load_processor(folder)


def test_an_answer_ends_with_the_end_token_where_the_template_writes_none(processor) -> None:
    messages = chat("Which digit?", "it is 7", "And where?", "there", image=picture())
    sample = processor.encode(messages, max_length=None)
    ids, labels, image = sample["input_ids"], sample["labels"], processor.config.image_token_id
    whole = processor.tokenizer.decode(ids[ids != image].tolist(), False)
    assert whole.count("</s>") == 2 and "it is 7</s>" in whole and whole.endswith("there</s>")
    assert learned(processor, sample).split("</s>")[:2] == ["it is 7", " there"]
    assert (labels[ids == image] == -100).all() and (ids == image).sum() > 16
    only_last = processor.encode(messages, max_length=None, mask_history=True)
    assert learned(processor, only_last) == "there</s>"
    np.testing.assert_array_equal(only_last["input_ids"], ids)
    everything = processor.encode(messages, max_length=None, train_on_prompt=True)
    assert ((everything["labels"] == -100) == (ids == image))[1:].all()


def test_a_template_with_end_tokens_stays_as_it_is(tmp_path: Path) -> None:
    processor = load_processor(write_llava(tmp_path, template=MISTRAL_TEMPLATE))
    sample = processor.encode(chat("Which digit?", "it is 7"), max_length=None)
    assert learned(processor, sample) == "it is 7</s>"
    assert (sample["input_ids"] == 2).sum() == 1


def test_text_as_plain_content_is_not_lost(processor) -> None:
    plain = [{"role": "user", "content": "Which digit?"}]
    assert processor.apply_chat_template(plain) == processor.apply_chat_template(chat("Which digit?"))
    assert "Which digit?" in processor.apply_chat_template(plain)


def test_packed_and_padded_batches(processor) -> None:
    images = picture(30, 60), picture(100, 20)
    samples = [processor.encode(chat("What?", "it", image=image), max_length=None) for image in images]
    samples.insert(1, processor.encode(chat("What?", "it is what it is"), max_length=None))
    lengths = [len(sample["input_ids"]) for sample in samples]
    packed = processor.collate(samples, packing=True)
    assert packed["cu_seqlens"].tolist() == [0, *np.cumsum(lengths)]
    assert packed["image_sizes"].tolist() == [[30, 60], [100, 20]]
    starts = [0, *np.cumsum(lengths)[:-1]]
    assert (
        packed["position_ids"].shape == (1, 1, sum(lengths))
        and not packed["position_ids"][0, 0, starts].any()
    )
    padded = processor.collate(samples, padding_side="left")
    assert padded["input_ids"].shape == (3, max(lengths))
    np.testing.assert_array_equal(padded["pixel_values"], packed["pixel_values"])
    assert packed["pixel_values"].shape == (sum((3, 4)), 3, 28, 28)


def test_too_long_rows_are_refused_or_counted(folder: Path) -> None:
    processor = load_processor(folder)
    messages = chat("What?", "it", image=picture())
    with pytest.raises(DataError, match=r"row 3: it has \d+ tokens .* max_length is 20"):
        processor.encode(messages, max_length=20, describe="row 3")
    assert processor.encode(messages, max_length=20, on_too_long="skip") is None
    assert processor.skipped == 1


@pytest.mark.parametrize(
    "messages,says",
    [
        (
            [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}],
            "'video'; LLaVA takes text and images",
        ),
        ([{"role": "user", "content": [{"type": "image"}]}, *chat("", "a")[1:]], "names no image"),
        (chat("<image> twice", "a", image=picture()), "2 image placeholder(s) and 1 image(s)"),
        (chat("no answer"), "no message has the role assistant"),
        (chat("What?", "it", image="missing.png"), "there is no such file"),
    ],
)
def test_bad_messages_are_named(processor, messages, says) -> None:
    with pytest.raises(DataError) as caught:
        processor.encode(messages, max_length=None, describe="train.json row 7")
    assert says in str(caught.value) and str(caught.value).startswith("train.json row 7: ")


def test_limits_that_llava_has_not_are_refused(processor) -> None:
    assert processor.with_options(image_max_pixels=None, allow_private_urls=True).allow_private_urls
    with pytest.raises(BadInputError, match=r"has no image_max_pixels, video_fps: LLaVA's tiles"):
        processor.with_options(image_max_pixels=100, video_fps=2.0)


@pytest.mark.parametrize(
    "file,change,says",
    [
        ("processor_config.json", {"patch_size": 14}, "patch_size 14, config.json has 7"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 56}}, "expected one side"),
        ("config.json", {"image_token_index": 7}, "the id 447, config.json says 7"),
        ("config.json", {"image_grid_pinpoints": [[28, 28]]}, "but config.json has 28 and ((28, 28),)"),
    ],
)
def test_files_that_contradict_each_other_are_refused(tmp_path: Path, file, change, says) -> None:
    path = write_llava(tmp_path, anyres=True) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInputError) as caught:
        load_processor(tmp_path)
    assert says in str(caught.value)


# Folders of the authors

AUTHORS = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "image_aspect_ratio": "pad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "model_type": "llava_llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


def write_authors(folder: Path, **keys) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer = write_tokenizer(folder, with_image=False)
    config = {**AUTHORS, "vocab_size": tokenizer.get_vocab_size(), **keys}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_built_in_templates(tmp_path: Path) -> None:
    vicuna = load_processor(write_authors(tmp_path / "vicuna"))
    messages = chat("Which digit?", "it is 7", "Where?", image=picture())
    assert vicuna.apply_chat_template(messages, add_generation_prompt=True) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. USER: <image>\nWhich digit? "
        "ASSISTANT: it is 7</s>USER: Where? ASSISTANT:"
    )
    own = [{"role": "system", "content": "Be brief."}, *messages[:1]]
    assert vicuna.apply_chat_template(own) == "Be brief. USER: <image>\nWhich digit? "
    mistral = load_processor(
        write_authors(tmp_path / "mistral", model_type="llava_mistral", num_key_value_heads=2)
    )
    assert mistral.apply_chat_template(messages, add_generation_prompt=True) == (
        "[INST] <image>\nWhich digit? [/INST] it is 7 </s>[INST] Where? [/INST]"
    )


def test_an_authors_folder_becomes_a_published_one(tmp_path: Path) -> None:
    ours = load_processor(write_authors(tmp_path / "authors"))
    stored = AUTHORS | {"vocab_size": ours.config.image_token_id}
    assert ours.tokenizer.token_id("<image>") == stored["vocab_size"]
    assert ours.tokenizer.pad_token_id == stored["vocab_size"] + 1
    assert (ours.images.side, ours.images.pad_to_square) == (336, True)
    ours.save(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    assert (settings["image_processor_type"], settings["do_pad"]) == ("LlavaImageProcessor", True)


@pytest.fixture(scope="module")
def spm(tmp_path_factory) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece", reason="it trains the small model of these tests")
    model = io.BytesIO()
    lines = ["What is in this picture? it is what it is", "USER: ASSISTANT: a curious user", "7 8 9 10"] * 5
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
    )
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def test_tokenizer_model_gives_sentencepiece_s_ids(spm: Path) -> None:
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    ours = read_tokenizer_model(spm)
    for text in (
        "What is it?",
        "  two  blanks\n\nlines",
        "7890 ünï 图片 🙂",
        "USER: picture ASSISTANT:",
        "\t",
    ):
        assert ours.encode(text).ids == [1, *theirs.encode(text)], text
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text)), text


def test_an_authors_folder_with_tokenizer_model_only(tmp_path: Path, spm: Path) -> None:
    write_authors(tmp_path, vocab_size=320)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(spm.read_bytes())
    processor = load_processor(tmp_path)
    assert processor.tokenizer.token_id("<image>") == 320
    ids = processor(text="USER: <image>\nWhat is it? ASSISTANT:", images=[picture()])["input_ids"][0]
    assert (ids == 320).sum() == 576 and ids[0] == 1
    after = read_tokenizer_model(spm).encode("\nWhat is it? ASSISTANT:").ids[1:]
    assert ids.tolist()[-len(after) :] == after, "a stretch after a picture is a text of its own"


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05\x0a\x03abc"])
def test_what_is_no_tokenizer_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"tokenizer\.model (is no SentencePiece|holds model type)"):
        read_tokenizer_model(path)
