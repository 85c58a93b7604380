"""New tokens: ids, rows at the mean, a folder that transformers loads with the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mix_core.config import load_config
from mix_core.errors import ConfigError
from mix_core.models.registry import load_model, read_config
from mix_core.training.processors import make_processor, processor_options
from mix_core.training.vocabulary import MULTIPLE, fit_vocabulary, with_rows
from tests.builders.checkpoints import write_checkpoint

TOKENS = tuple(f"<|cell_{i}|>" for i in range(70))


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_checkpoint(folder, tie_word_embeddings=request.param, weights=True)


def fitted(folder: Path, count: int, **keys: str) -> tuple[Any, Any, Any, Any]:
    """(family, configuration, model, processor) with so many new tokens."""
    config = load_config(arguments={"new_special_tokens": ",".join(TOKENS[:count]), **keys})
    family, model_config, model = load_model(folder)
    processor = make_processor(folder, processor_options(config))
    resized = fit_vocabulary(family, read_config(folder), model, processor.tokenizer, config)
    return family, resized or model_config, model, processor


def test_tokens_are_whole_and_stand_at_the_end(folder):
    _, _, model, processor = fitted(folder, 70, resize_vocab="true")
    before = make_processor(folder, {}).tokenizer
    first = len(before)
    assert processor.tokenizer.encode("a<|cell_1|>b") == [*before.encode("a"), first + 1, *before.encode("b")]
    assert len(processor.tokenizer) == first + 70 and processor.tokenizer.new_tokens == list(TOKENS)
    assert model.head.weight.shape[0] % MULTIPLE == 0 and model.head.weight.shape[0] >= first + 70


def test_new_rows_are_the_mean_and_old_ones_stay(folder):
    _, old_config, old = load_model(folder)
    _, config, model, processor = fitted(folder, 70, resize_vocab="true")
    known, rows = len(processor.tokenizer) - 70, old_config.text.vocab_size
    assert config.text.vocab_size == model.config.text.vocab_size == model.head.weight.shape[0] > rows
    layers = [(model.model.embed_tokens, old.model.embed_tokens), (model.head, old.head)]
    for layer, before in layers:
        values, kept = layer.weight.numpy(), before.weight.numpy()
        np.testing.assert_array_equal(values[:known], kept[:known])
        mean = np.broadcast_to(kept[:known].mean(0), values[known:].shape)
        np.testing.assert_allclose(values[known:], mean, atol=1e-6)
    assert not layer.weight.stop_gradient and [n for n, _ in model.named_parameters()] == [
        name for name, _ in old.named_parameters()
    ]


def test_rows_to_spare_are_used_first(folder):
    _, config, model, processor = fitted(folder, 2)
    assert config.text.vocab_size == read_config(folder)["vocab_size"]
    known = len(processor.tokenizer) - 2
    values = model.head.weight.numpy()
    np.testing.assert_allclose(values[known + 1], values[:known].mean(0), atol=1e-6)


def test_too_few_rows_are_refused(folder):
    with pytest.raises(
        ConfigError, match=r"the tokenizer has \d+ tokens and the model \d+ rows.*resize_vocab"
    ):
        fitted(folder, 70)


def test_transformers_loads_the_folder(folder, tmp_path):
    import torch
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    family, config, model, processor = fitted(folder, 70, resize_vocab="true")
    family.save_weights(model, tmp_path)
    family.write_config(config, tmp_path)
    processor.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "What is<|cell_69|> it?<|cell_0|><|im_end|>"
    ids = processor.tokenizer.encode(text)
    assert tokenizer(text)["input_ids"] == ids and len(tokenizer) == len(processor.tokenizer)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "What is it?"
    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert theirs.get_input_embeddings().weight.shape[0] == config.text.vocab_size
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([ids])).logits.numpy()
    found = model.logits({"input_ids": np.array([ids])}).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Training from the saved folder with the same key changes nothing.
    again = fitted(tmp_path, 70, resize_vocab="true")
    assert again[3].tokenizer.new_tokens == []
    np.testing.assert_array_equal(again[2].head.weight.numpy(), model.head.weight.numpy())


def test_vocab_size_wherever_it_stands():
    nested = {"vocab_size": 1, "text_config": {"vocab_size": 1}, "vision_config": {"depth": 1}}
    changed = with_rows(nested, 64)
    assert json.dumps(changed).count("64") == 2 and nested["vocab_size"] == 1
    assert with_rows({"llm_config": {"vocab_size": 3}}, 64) == {"llm_config": {"vocab_size": 64}}
    with pytest.raises(ConfigError, match="names no vocab_size"):
        with_rows({"text_config": {}}, 64)
