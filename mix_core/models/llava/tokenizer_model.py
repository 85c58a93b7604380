"""Llama's tokenizer.model (SentencePiece) as the pipeline that its published tokenizer.json has.

LLaVA's authors publish the SentencePiece file only. What is written has to be a tokenizer.json, so the file
is turned into one; that takes neither the SentencePiece library nor protobuf's. Kudo and Richardson,
"SentencePiece", 2018; field numbers from its sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, processors

from mix_core.errors import BadInputError
from mix_core.models.common.protobuf import fields

FILE = "tokenizer.model"
_PIECES, _TRAINER = 1, 2
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK = 3, 35
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_BPE = 2
_BLANK = "\u2581"


def read_tokenizer_model(path: Path) -> Tokenizer:
    """The tokenizer of a file. Raises BadInputError for anything but byte pairs with byte fallback.

    As in Llama's tokenizer.json a blank goes before each stretch of text between special tokens, and the
    begin token before all.
    """
    try:
        pieces, trainer = _read(path.read_bytes())
    except (OSError, IndexError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise BadInputError(f"{path} is no SentencePiece model: {error or type(error).__name__}") from None
    unknown = [piece for piece, _, kind in pieces if kind == _UNKNOWN]
    if trainer.get(_MODEL_TYPE) != _BPE or not trainer.get(_BYTE_FALLBACK) or len(unknown) != 1:
        raise BadInputError(
            f"{path} holds model type {trainer.get(_MODEL_TYPE)} with byte fallback "
            f"{bool(trainer.get(_BYTE_FALLBACK))}; expected Llama's: byte-pair encoding ({_BPE}) with it"
        )
    ids = {piece: place for place, (piece, _, _) in enumerate(pieces)}
    bpe = models.BPE(
        ids, _merges(pieces, ids), unk_token=unknown[0], fuse_unk=True, byte_fallback=True, dropout=None
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([piece for piece, _, kind in pieces if kind in (_UNKNOWN, _CONTROL)])
    tokenizer.add_tokens([piece for piece, _, kind in pieces if kind == _USER_DEFINED])
    if "<s>" in ids:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", ids["<s>"])]
        )
    return tokenizer


def _merges(pieces: list[tuple[str, float, int]], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, those of the best pieces first: SentencePiece joins by score."""
    found = []
    for piece, score, kind in pieces:
        if kind != _NORMAL:
            continue
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        ways = [(left, right) for left, right in halves if left in ids and right in ids]
        ways.sort(key=lambda way: (ids[way[0]], ids[way[1]]))
        found += [(-score, way) for way in ways]
    found.sort(key=lambda entry: entry[0])
    return [way for _, way in found]


def _read(data: bytes) -> tuple[list[tuple[str, float, int]], dict[int, Any]]:
    """(text, score, type) of each piece, and the fields of the trainer's settings."""
    pieces, trainer = [], {}
    for number, value in fields(data):
        if number == _PIECES:
            piece = dict(fields(value))
            score = struct.unpack("<f", piece.get(_SCORE, bytes(4)))[0]
            pieces.append((piece[_PIECE].decode("utf-8"), score, piece.get(_TYPE, _NORMAL)))
        elif number == _TRAINER:
            trainer = dict(fields(value))
    return pieces, trainer
