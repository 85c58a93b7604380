"""T5's tokenizer: the likeliest pieces of each word by a unigram model.

Published folders hold tokenizer.json, or SentencePiece's spiece.model, which is read without its library.
Kudo, "Subword Regularization", 2018 (arXiv 1804.10959); field numbers of sentencepiece_model.proto.
"""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from mix_core.errors import BadInputError
from mix_core.models.common.prompts import PromptTokenizer, add_special, read_settings, role_text
from mix_core.models.common.protobuf import fields
from mix_core.models.common.tokenizer import read_json

LENGTH = 256
"""Tokens of a row: SD3's `max_sequence_length`, where nothing else is asked for."""
EXTRA_IDS = 100
"""Marks of left-out spans that follow the pieces of a spiece.model, the last one first."""
_DEFAULTS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE = 1, 2
_MODEL_TYPE, _UNIGRAM = 3, 1
_CHARSMAP = 2
_UNKNOWN_ID = 2
"""Of `<unk>` in every published T5; `<pad>` is 0 and `</s>` is 1."""


def load_t5_tokenizer(folder: Path, name: str = "T5") -> PromptTokenizer:
    """The tokenizer of a published `tokenizer_3` folder; `name` stands in warnings. Raises BadInputError."""
    folder = Path(folder)
    config = read_settings(folder, _DEFAULTS)
    try:
        pieces, charsmap = (
            _from_json(folder) if (folder / "tokenizer.json").is_file() else _from_model(folder)
        )
        backend = Backend(models.Unigram(pieces, unk_id=_UNKNOWN_ID, byte_fallback=False))
        if charsmap:
            backend.normalizer = normalizers.Precompiled(charsmap)
    except BadInputError:
        raise
    except Exception as error:  # the library raises no narrower type
        raise BadInputError(f"{folder} holds no readable tokenizer of T5: {error!r}") from error
    marks = {"replacement": "\u2581", "prepend_scheme": "always", "split": True}
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**marks)]
    )
    backend.decoder = decoders.Metaspace(**marks)
    extra = [text for text, _ in pieces if text.startswith("<extra_id_")]
    add_special(backend, config, extra)
    end = role_text(config, "eos_token")
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, backend.token_to_id(end))]
    )
    pad_id = backend.token_to_id(role_text(config, "pad_token"))
    return PromptTokenizer(backend, folder, pad_id=pad_id, length=LENGTH, name=name)


def _from_json(folder: Path) -> tuple[list[tuple[str, float]], bytes]:
    """Pieces with their scores, and the compiled table of characters."""
    source = read_json(folder / "tokenizer.json")
    if source["model"].get("type", "Unigram") != "Unigram":
        raise BadInputError(f"{folder}/tokenizer.json is of type {source['model']['type']}, expected Unigram")
    pieces = [(text, float(score)) for text, score in source["model"]["vocab"]]
    normalizer: dict[str, Any] = source.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer])
    tables = [part["precompiled_charsmap"] for part in parts if part.get("type") == "Precompiled"]
    return pieces, base64.b64decode(tables[0]) if tables else b""


def _from_model(folder: Path) -> tuple[list[tuple[str, float]], bytes]:
    path = folder / "spiece.model"
    if not path.is_file():
        raise BadInputError(
            f"{folder} has no tokenizer.json and no spiece.model; a tokenizer folder needs one"
        )
    pieces, charsmap, kind = [], b"", None
    for number, value in fields(path.read_bytes()):
        if number == _PIECES:
            piece = dict(fields(value))
            score = struct.unpack("<f", piece.get(_SCORE, bytes(4)))[0]
            pieces.append((piece[_PIECE].decode("utf-8"), score))
        elif number == _TRAINER:
            kind = dict(fields(value)).get(_MODEL_TYPE, _UNIGRAM)
        elif number == _NORMALIZER:
            charsmap = dict(fields(value)).get(_CHARSMAP, b"")
    if kind != _UNIGRAM:
        raise BadInputError(f"{path} holds model type {kind}, expected T5's: a unigram model ({_UNIGRAM})")
    return pieces + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(EXTRA_IDS))], charsmap
