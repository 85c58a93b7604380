"""CLIP's and T5's tokenizers beside transformers': the same ids for every form of folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

transformers = pytest.importorskip("transformers", reason="live parity needs transformers")

from mix_core.models.clip_text.tokenizer import load_clip_tokenizer  # noqa: E402
from mix_core.models.t5.tokenizer import load_t5_tokenizer  # noqa: E402
from tests.builders.text_encoders import (  # noqa: E402
    END,
    LONG,
    PROMPTS,
    write_clip_tokenizer,
    write_t5_tokenizer,
)

FAST = ("L", "bigG, old settings")
CLIP_FORMS = {
    "L": {},
    "L, old settings": {"flags": False},
    "bigG": {"pad": "!"},
    "bigG, old settings": {"pad": "!", "flags": False},
}


def their_rows(theirs, length: int) -> np.ndarray:
    rows = theirs([*PROMPTS, LONG], padding="max_length", max_length=length, truncation=True)
    return np.array(rows["input_ids"])


@pytest.mark.parametrize("as_json", [False, True], ids=["vocab and merges", "tokenizer.json"])
@pytest.mark.parametrize(
    "form", [form if form in FAST else pytest.param(form, marks=pytest.mark.slow) for form in CLIP_FORMS]
)
def test_clip(tmp_path: Path, form: str, as_json: bool, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "published"
    write_clip_tokenizer(folder, **CLIP_FORMS[form])
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    if as_json:
        folder = tmp_path / "saved"
        theirs.save_pretrained(folder)
        assert (folder / "tokenizer.json").is_file() and not (folder / "merges.txt").exists()
    ours = load_clip_tokenizer(folder)
    with caplog.at_level(logging.WARNING):
        found = ours([*PROMPTS, LONG])
    np.testing.assert_array_equal(found, their_rows(theirs, 77))
    assert len(caplog.records) == 1 and "unforgettable" in caplog.text
    assert found[0, 2] == (0 if "bigG" in form else ours.end_id)
    if as_json:
        return
    ours.save(tmp_path / "copied")
    again = transformers.CLIPTokenizer.from_pretrained(tmp_path / "copied")
    np.testing.assert_array_equal(their_rows(again, 77), found)


@pytest.mark.slow
def test_an_older_folder_with_its_roles_in_a_file_of_their_own(tmp_path: Path) -> None:
    write_clip_tokenizer(tmp_path, flags=False)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!", "eos_token": END}))
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    np.testing.assert_array_equal(load_clip_tokenizer(tmp_path)([*PROMPTS, LONG]), their_rows(theirs, 77))


@pytest.mark.parametrize("as_json", [False, True], ids=["spiece.model", "tokenizer.json"])
def test_t5(tmp_path: Path, as_json: bool, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "published"
    write_t5_tokenizer(folder)
    theirs = transformers.T5Tokenizer.from_pretrained(folder)
    if as_json:
        folder = tmp_path / "saved"
        theirs.save_pretrained(folder)
        (folder / "spiece.model").unlink(missing_ok=True)
    ours = load_t5_tokenizer(folder)
    with caplog.at_level(logging.WARNING):
        found = ours([*PROMPTS, LONG], length=100)
    np.testing.assert_array_equal(found, their_rows(theirs, 100))
    assert len(caplog.records) == 1 and "unforgettable" in caplog.text
    assert found[0].tolist() == [1] + [0] * 99


def test_t5_gives_the_ids_of_sentencepiece_itself(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="the extra [sentencepiece]")
    write_t5_tokenizer(tmp_path)
    pieces = sentencepiece.SentencePieceProcessor(str(tmp_path / "spiece.model"))
    ours = load_t5_tokenizer(tmp_path)
    for prompt in PROMPTS[:4]:
        assert ours.ids(prompt, 500) == [*pieces.encode(prompt), 1], prompt
