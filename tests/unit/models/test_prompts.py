"""Prompts: rows of ids, what is cut from a long one, and what three models make of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mix_core.errors import BadInputError
from mix_core.models.clip_text.tokenizer import load_clip_tokenizer
from mix_core.models.clip_text.weights import load_clip_text, save_clip_text
from mix_core.models.prompt_encoders.weights import load_prompt_encoder, save_prompt_encoder
from mix_core.models.t5.tokenizer import load_t5_tokenizer
from tests.builders.text_encoders import LONG, write_clip_tokenizer

SIZES: dict[str, Any] = {
    "model_type": "clip_text_model",
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "eos_token_id": 2,
}
PIPELINES = {
    "sd15": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two CLIP encoders and their tokenizers, without a T5; model_index.json is each test's own."""
    made = tmp_path_factory.mktemp("pipeline")
    for suffix, width, pad in (("", 16, "<|endoftext|>"), ("_2", 20, "!")):
        rows = write_clip_tokenizer(made / f"tokenizer{suffix}", pad=pad)
        part = made / f"text_encoder{suffix}"
        part.mkdir()
        config = {**SIZES, "hidden_size": width, "projection_dim": width, "vocab_size": rows}
        config["architectures"] = ["CLIPTextModelWithProjection"]
        (part / "config.json").write_text(json.dumps(config))
        save_clip_text(load_clip_text(part, random_init=True, seed=width), part)
    (made / "transformer").mkdir()
    (made / "transformer" / "config.json").write_text('{"joint_attention_dim": 50}')
    return made


def encoder(folder: Path, kind: str, **index: Any) -> Any:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": PIPELINES[kind], **index}))
    return load_prompt_encoder(folder)


def test_a_long_prompt_is_cut_with_one_warning_that_names_the_words_lost(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_clip_tokenizer(folder / "tokenizer", "the first text encoder (CLIP)")
    words = ["harbour"] * 40 + ["unforgettable", "lighthouse"]
    full = tokenizer.ids(" ".join(words), 1000)
    for _ in range(2):
        row = tokenizer([" ".join(words)], length=len(full) - 3)[0]
    assert row[-1] == full[-1] and row[:-1].tolist() == full[: len(row) - 1]
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.WARNING
    said = caplog.records[0].getMessage()
    assert said.startswith(
        f"the first text encoder (CLIP) reads {len(full) - 3} tokens, and the prompt has {len(full)}"
    )
    assert said.endswith("these words are lost: lighthouse"), said
    caplog.clear()
    assert tokenizer(["a cat"]).shape == (1, 77) and not caplog.records


def test_rows_are_filled_up_with_the_folders_pad_token(folder: Path) -> None:
    first, second = (load_clip_tokenizer(folder / f"tokenizer{suffix}") for suffix in ("", "_2"))
    assert (first(["a cat"])[0, 10:] == first.end_id).all()
    assert (second(["a cat"])[0, 10:] == 0).all()
    assert second.ids("wow!", 77)[-2] == 0, "the pad token, where a prompt has it"


def test_each_model_joins_its_encoders(folder: Path) -> None:
    prompts = ["a cat", "a photo of an astronaut"]
    for kind, width, tokens, pooled in (
        ("sd15", 16, 77, None),
        ("sdxl", 36, 77, 20),
        ("sd3", 50, 77 + 256, 36),
    ):
        model = encoder(folder, kind)
        positive, negative = model.pair(prompts, images=3)
        for one in (positive, negative):
            assert one.embeds.shape == [6, tokens, width]
            assert (one.pooled is None and pooled is None) or one.pooled.shape == [6, pooled]
        np.testing.assert_array_equal(positive.embeds[0].numpy(), positive.embeds[2].numpy())
        assert np.abs(positive.embeds[0].numpy() - positive.embeds[3].numpy()).max() > 1e-3
        assert bool(negative.embeds.abs().max() == 0) == (kind == "sdxl")
        if kind == "sd3":
            assert not positive.embeds[:, 77:].numpy().any() and not positive.embeds[:, :, 36:].numpy().any()


def test_a_prompt_of_its_own_for_the_second_encoder(folder: Path) -> None:
    model = encoder(folder, "sdxl")
    both = model(model.tokens(["a cat"], ["a horse"])).embeds.numpy()
    cat, horse = (model(model.tokens([text])).embeds.numpy() for text in ("a cat", "a horse"))
    np.testing.assert_array_equal(both[..., :16], cat[..., :16])
    np.testing.assert_array_equal(both[..., 16:], horse[..., 16:])


def test_what_cannot_be_encoded_is_refused(folder: Path) -> None:
    model = encoder(folder, "sdxl")
    with pytest.raises(
        BadInputError, match="3 prompts were given and 2 negative ones; give one, or one for each"
    ):
        model.pair(["a"] * 3, ["b"] * 2)
    with pytest.raises(BadInputError, match="2 prompts were given, and 1 for another encoder"):
        model.tokens(["a", "b"], ["c"])
    with pytest.raises(
        BadInputError, match="clip_skip leaves out 9 layers in all, and the text encoder has 3"
    ):
        model.pair(["a"], clip_skip=8)


def test_what_is_saved_gives_the_same_conditioning(folder: Path, tmp_path: Path) -> None:
    model = encoder(folder, "sdxl")
    save_prompt_encoder(model, tmp_path)
    (tmp_path / "model_index.json").write_text((folder / "model_index.json").read_text())
    again = load_prompt_encoder(tmp_path)
    for one, other in zip(model.pair([LONG], ["!"]), again.pair([LONG], ["!"])):
        np.testing.assert_array_equal(one.embeds.numpy(), other.embeds.numpy())
        np.testing.assert_array_equal(one.pooled.numpy(), other.pooled.numpy())


def test_folders_that_cannot_be_read_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"has no model_index.json"):
        load_prompt_encoder(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(BadInputError, match="is of FluxPipeline; built are StableDiffusionPipeline"):
        load_prompt_encoder(tmp_path)
    for load, says in (
        (load_clip_tokenizer, "no tokenizer.json and no vocab.json with merges.txt"),
        (load_t5_tokenizer, "no tokenizer.json and no spiece.model"),
    ):
        with pytest.raises(BadInputError, match=says):
            load(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"\x0a\xff")
    with pytest.raises(BadInputError, match="holds no readable tokenizer of T5"):
        load_t5_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("[]")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(BadInputError, match="holds no readable tokenizer of CLIP"):
        load_clip_tokenizer(tmp_path)
