"""The three forms of tokenizer that InternVL2 folders have."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mix_core.errors import BadInputError
from mix_core.models.internvl2.tokenizer import load_tokenizer
from tests.builders.internvl2_checkpoints import SHADOWED, write_bpe, write_folder, write_sentencepiece

TEXTS = (
    "<|im_start|>user\n<img><IMG_CONTEXT></img>\nWhich digit is this?<|im_end|>",
    "  two  blanks, ça va? 图片 🙂\n\n",
    "<ref>the seven</ref><box>(12,345),(678,999)</box>",
    "",
)


@pytest.fixture
def pieces(tmp_path: Path):
    pytest.importorskip("sentencepiece", reason="an extra")
    write_sentencepiece(tmp_path)
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_ids(pieces, text: str, tmp_path: Path) -> None:
    """Added tokens by their own ids, what stands between them by the library itself."""
    import re

    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    expected = [pieces.token_id("<s>")]
    for part in re.split(r"(<\|?/?\w+\|?>)", text):
        if re.fullmatch(r"<\|?/?\w+\|?>", part):
            expected.append(pieces.token_id(part))
        else:
            expected += model.encode(part)
    assert pieces.encode(text) == expected
    assert pieces.decode(expected[1:], skip_special_tokens=False) == text


def test_sentencepiece_offsets_cover_the_text(pieces) -> None:
    for text in TEXTS:
        ids, offsets = pieces.encode_with_offsets(text)
        assert ids == pieces.encode(text) and len(ids) == len(offsets)
        assert offsets[0] == (0, 0), "<s> stands for no character"
        assert {i for start, end in offsets for i in range(start, end)} == set(range(len(text)))
        assert all(end > start for start, end in offsets[1:]), "each byte of a character has its place"
        assert offsets == sorted(offsets)


def test_added_tokens_take_the_ids_of_pieces(pieces) -> None:
    assert pieces.decode([pieces.token_id(SHADOWED[4])], skip_special_tokens=False) == "<|im_end|>"
    assert pieces.decode([pieces.token_id(SHADOWED[4])]) == ""
    assert len(pieces) == pieces.token_id("</box>") + 1
    assert (pieces.eos_token_id, pieces.pad_token_id) == (2, 2)
    with pytest.raises(BadInputError, match="no token '<nothing>'"):
        pieces.token_id("<nothing>")


def test_blanks_beside_an_added_token(tmp_path: Path) -> None:
    import json

    pytest.importorskip("sentencepiece", reason="an extra")
    write_sentencepiece(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    (entry,) = (e for e in config["added_tokens_decoder"].values() if e["content"] == "<ref>")
    entry |= {"lstrip": True, "rstrip": True}
    path.write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode("one  <ref>  two")
    assert ids == tokenizer.encode("one<ref>two")
    assert (3, 12) in tokenizer.encode_with_offsets("one  <ref>  two")[1]


def test_a_saved_sentencepiece_tokenizer_is_the_same(pieces, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    pieces.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert [again.encode(text) for text in TEXTS] == [pieces.encode(text) for text in TEXTS]
    assert again.special_tokens == pieces.special_tokens


def test_two_files_of_a_bpe_give_what_the_one_file_gives(tmp_path: Path) -> None:
    for form in ("tokenizer.json", "vocab.json"):
        (tmp_path / form).mkdir()
        write_bpe(tmp_path / form, form)
    one, two = (load_tokenizer(tmp_path / form) for form in ("tokenizer.json", "vocab.json"))
    for text in TEXTS:
        assert two.encode_with_offsets(text) == one.encode_with_offsets(text)
        assert two.decode(one.encode(text)) == one.decode(one.encode(text))


def test_transformers_reads_the_two_files_alike(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
    write_bpe(tmp_path, "vocab.json")
    theirs = transformers.Qwen2Tokenizer.from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch) -> None:
    write_folder(tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "tokenizer.model")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(BadInputError, match=r"pip install 'mix-core\[sentencepiece\]'"):
        load_tokenizer(tmp_path)


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no vocab\.json"):
        load_tokenizer(tmp_path)
    pytest.importorskip("sentencepiece", reason="an extra")
    (tmp_path / "tokenizer.model").write_bytes(b"<html>not found</html>")
    with pytest.raises(BadInputError, match="is no SentencePiece model"):
        load_tokenizer(tmp_path)
