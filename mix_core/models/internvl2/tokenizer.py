"""The tokenizer of an InternVL2 folder, in whichever form it was published.

InternLM2's decoders come with a SentencePiece model (tokenizer.model, extra `[sentencepiece]`), Qwen2's with
vocab.json and merges.txt; folders saved by fast tokenizers have tokenizer.json, which then wins.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from mix_core.errors import BadInputError
from mix_core.models.common.protobuf import fields
from mix_core.models.common.tokenizer import Tokenizer, add_missing, read_json, special_tokens_of

SENTENCEPIECE_FILE = "tokenizer.model"
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the folder's tokenizer. Raises BadInputError."""
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_folder(folder)
    if (folder / SENTENCEPIECE_FILE).is_file():
        return SentencePieceTokenizer.from_folder(folder)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _qwen2(folder)
    raise BadInputError(
        f"{folder} has no tokenizer.json, no {SENTENCEPIECE_FILE} and no vocab.json with merges.txt; "
        "a model folder needs one of them"
    )


def _qwen2(folder: Path) -> Tokenizer:
    """Qwen2's byte-level BPE from its two files, as transformers builds it."""
    config = read_json(folder / "tokenizer_config.json")
    try:
        backend = Backend(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    except Exception as error:  # the library raises no narrower type
        raise BadInputError(f"{folder}/vocab.json and merges.txt are no readable BPE: {error}") from error
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated", invert=False)
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    backend.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    backend.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    add_missing(backend, _added(folder, config), folder / "vocab.json")
    return Tokenizer(backend, config)


def _added(folder: Path, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Added tokens by id: `added_tokens_decoder` of tokenizer_config.json, else added_tokens.json."""
    listed = config.get("added_tokens_decoder")
    if listed:
        return listed
    return {
        str(number): {"content": text, "special": True}
        for text, number in read_json(folder / "added_tokens.json").items()
    }


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with added tokens, cut out of a text before the model sees the rest.

    As the published InternLM2 tokenizer does it; <s> goes first where tokenizer_config.json has
    add_bos_token (its class's default is true).
    """

    def __init__(self, model: bytes, config: dict[str, Any], added: dict[str, dict[str, Any]]) -> None:
        """`added`: tokens by id, as in tokenizer_config.json. Raises BadInputError."""
        try:
            import sentencepiece
        except ImportError:
            raise BadInputError(
                f"{SENTENCEPIECE_FILE} needs the SentencePiece library; pip install 'mix-core[sentencepiece]'"
            ) from None
        self.config = config
        self.special_tokens = special_tokens_of(config)
        self._model = model
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise BadInputError(f"{SENTENCEPIECE_FILE} is no SentencePiece model: {error}") from error
        self._id_of = {entry["content"]: int(number) for number, entry in added.items()}
        self._entry_of = {int(number): entry for number, entry in added.items()}
        longest_first = sorted(self._id_of, key=len, reverse=True)
        self._cut = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @classmethod
    def from_folder(cls, folder: Path) -> SentencePieceTokenizer:
        config = read_json(Path(folder) / "tokenizer_config.json")
        return cls((Path(folder) / SENTENCEPIECE_FILE).read_bytes(), config, _added(Path(folder), config))

    def encode(self, text: str) -> list[int]:
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        begin = self.special_tokens.get("bos_token")
        if begin and self.config.get("add_bos_token", True) and not text.startswith(begin):
            ids.append(self.token_id(begin))
            offsets.append((0, 0))
        done = 0
        for match in self._cut.finditer(text):
            entry = self._entry_of[self._id_of[match[0]]]
            start, end = match.span()
            if entry.get("lstrip"):
                start = done + len(text[done:start].rstrip())
            self._encode_piece(text, done, start, ids, offsets)
            if entry.get("rstrip"):
                end += len(text[end:]) - len(text[end:].lstrip())
            ids.append(self._id_of[match[0]])
            offsets.append((start, end))
            done = max(done, end)
        self._encode_piece(text, done, len(text), ids, offsets)
        return ids, offsets

    def _encode_piece(
        self, text: str, start: int, end: int, ids: list[int], offsets: list[tuple[int, int]]
    ) -> None:
        if start >= end:
            return
        part = text[start:end]
        encoded = np.frombuffer(part.encode("utf-8"), np.uint8)
        begins = (encoded & 0xC0) != 0x80  # of a character
        character = start + np.concatenate([[0], np.cumsum(begins)])
        spans = []
        for number, piece in fields(self._pieces.encode(part, out_type="serialized_proto")):
            if number != _PIECES:
                continue
            values = dict(fields(piece))
            ids.append(values.get(_ID, 0))
            ends = (values.get(_BEGIN, 0), values.get(_END, 0))
            spans.append((int(character[ends[0]]), int(character[ends[1]])))
        offsets += _filled(spans)

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        parts: list[str] = []
        for added, group in groupby((int(i) for i in ids), key=self._entry_of.__contains__):
            if not added:
                # ids beyond the model's pieces are rows that only fill up the embedding
                parts.append(self._pieces.decode([i for i in group if i < len(self._pieces)]))
                continue
            entries = [self._entry_of[i] for i in group]
            parts += [e["content"] for e in entries if not (skip_special_tokens and e.get("special"))]
        return "".join(parts)

    def token_id(self, token: str) -> int:
        if token in self._id_of:
            return self._id_of[token]
        found = self._pieces.piece_to_id(token)
        if self._pieces.id_to_piece(found) != token:
            raise BadInputError(f"the tokenizer has no token {token!r}")
        return found

    def __len__(self) -> int:
        return max([len(self._pieces), *(number + 1 for number in self._entry_of)])

    def save(self, folder: Path) -> None:
        """Write tokenizer.model and tokenizer_config.json with all added tokens."""
        (Path(folder) / SENTENCEPIECE_FILE).write_bytes(self._model)
        added = {str(number): entry for number, entry in sorted(self._entry_of.items())}
        self.save_config(folder, {**self.config, "added_tokens_decoder": added})


# The library's own offsets come in forms that changed between its releases; this message never did
# (sentencepiece.proto): pieces = 2 of the text; id = 2, begin = 4 and end = 5 of a piece, in bytes of UTF-8.
_PIECES, _ID, _BEGIN, _END = 2, 2, 4, 5


def _filled(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans with a character's own for each of its bytes; the library gives it to the last only."""
    filled = list(spans)
    for i in range(len(spans) - 2, -1, -1):
        start, end = filled[i]
        if start == end and filled[i + 1][0] <= start < filled[i + 1][1]:
            filled[i] = filled[i + 1]
    return filled
