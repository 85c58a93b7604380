"""Rows whose set brings its own chat template, beside rows with the run's: here, in a worker, held out."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from mix_core.config import load_config
from mix_core.data.loader import BatchLoader, BatchSettings
from mix_core.errors import BadInputError
from mix_core.training.processors import make_processor, processor_options
from mix_core.training.rows import read_rows
from tests.builders.checkpoints import write_checkpoint

TEMPLATE = {
    "system": "",
    "conversation": ["Q: {{user}} A:", " {{bot}}<|im_end|>"],
    "query": "Q: {{query}} A:",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_checkpoint(folder / "model")
    (folder / "short.json").write_text(json.dumps(TEMPLATE))
    for name in ("own", "other"):
        question, answer = {"role": "user", "content": name}, {"role": "assistant", "content": "a cat"}
        (folder / f"{name}.json").write_text(json.dumps([{"messages": [question, answer]}]))
    train = [
        {"data_files": str(folder / "own.json"), "chat_template": str(folder / "short.json")},
        {"data_files": str(folder / "other.json")},
    ]
    config = {"dataset": {"train": train, "eval": train[:1]}, "model_name_or_path": str(folder / "model")}
    (folder / "run.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_each_row_is_written_by_the_template_of_its_set(folder: Path, workers: int) -> None:
    config = load_config(folder / "run.json")
    make = partial(make_processor, str(folder / "model"), processor_options(config))
    rows, processor = read_rows(config), make()
    settings = BatchSettings(batch_size=2, max_length=200)
    loader = BatchLoader(rows.train, processor, settings, num_workers=workers, make_processor=make)
    try:
        batch = next(loader)
    finally:
        loader.close()
    present = batch["attention_mask"] == 1
    texts = sorted(
        processor.tokenizer.decode(ids[mask].tolist(), False)
        for ids, mask in zip(batch["input_ids"], present)
    )
    assert "<|im_start|>user\nother<|im_end|>" in texts[0]
    assert texts[1] == "Q: own A: a cat<|im_end|>"
    learned = [processor.tokenizer.decode([i for i in row.tolist() if i >= 0]) for row in batch["labels"]]
    assert [text.strip() for text in learned] == ["a cat", "a cat"]


def test_a_held_out_row_is_asked_by_its_set_s_template(folder: Path) -> None:
    from mix_core.data.worker import for_row

    config = load_config(folder / "run.json")
    processor = make_processor(folder / "model", processor_options(config))
    (row,) = read_rows(config).eval
    asked = for_row(processor, row).apply_chat_template(row["messages"][:1], add_generation_prompt=True)
    assert asked == "Q: own A:"
    assert processor.apply_chat_template(row["messages"][:1]) != asked, "the run's is the folder's"


def test_a_template_that_is_not_there_is_refused_at_once(folder: Path) -> None:
    options = {"chat_templates_of_sets": ["nowhere.json"]}
    with pytest.raises(BadInputError, match=r"nowhere\.json"):
        make_processor(folder / "model", options)
