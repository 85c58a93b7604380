"""The tokenizer of Qwen-VL: qwen.tiktoken, a byte-level vocabulary, and special tokens after it.

The library `tiktoken` does the merging; it is imported when a folder is read.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import BadInputError
from mix_core.models.common.tokenizer import read_json

VOCABULARY = "qwen.tiktoken"
CONFIG = "tokenizer_config.json"

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKS = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
"""Around names and places of things; part of an answer's text."""
IMAGE_START, IMAGE_END, IMAGE_PAD = "<img>", "</img>", "<imgpad>"
SPECIAL = (
    END_OF_TEXT,
    IM_START,
    IM_END,
    *(f"<|extra_{i}|>" for i in range(205)),
    *MARKS,
    IMAGE_START,
    IMAGE_END,
    IMAGE_PAD,
)
"""In the order of their ids, which follow those of the vocabulary (published: 151643 to 151859)."""

PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""How text is cut before merging: digits one by one, words with the sign or blank before them."""

_HEADER = re.compile(r"(?<=<\|im_start\|>)(?:system|user|assistant)\n")
"""The role of a turn and its newline, which the published code tokenises by themselves."""


class QwenTokenizer:
    """Text to token ids and back, with the interface of `common.tokenizer.Tokenizer`."""

    def __init__(self, vocabulary: bytes, config: dict[str, Any], *, origin: str = VOCABULARY) -> None:
        """``vocabulary``: the content of qwen.tiktoken; ``config``: that of tokenizer_config.json."""
        self.config = config
        self._vocabulary = vocabulary
        ranks = _ranks(vocabulary, origin)
        self.special_ids = {token: len(ranks) + i for i, token in enumerate(SPECIAL)}
        self.special_tokens = {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
        """Token of each role; the publisher names none in the folder."""
        kept = {self.special_ids[mark] for mark in MARKS}
        self._skipped = set(self.special_ids.values()) - kept
        self._encoding = _encoding(ranks, self.special_ids, origin)

    @classmethod
    def from_folder(cls, folder: Path) -> QwenTokenizer:
        """Read the folder's tokenizer. Raises BadInputError if it is missing or broken."""
        path = Path(folder) / VOCABULARY
        try:
            vocabulary = path.read_bytes()
        except FileNotFoundError:
            raise BadInputError(f"{folder} has no {VOCABULARY}; a Qwen-VL folder needs it") from None
        except OSError as error:
            raise BadInputError(f"{path} cannot be read: {error.strerror}") from None
        return cls(vocabulary, read_json(path.with_name(CONFIG)), origin=str(path))

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; special tokens written in it become their ids."""
        ids: list[int] = []
        done = 0
        for header in _HEADER.finditer(text):
            for end in (header.end() - 1, header.end()):
                ids += self._encoding.encode(text[done:end], allowed_special="all")
                done = end
        return ids + self._encoding.encode(text[done:], allowed_special="all")

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and for each the (start, end) of the characters of ``text`` that it has a byte of."""
        ids = self.encode(text)
        widths = [len(character.encode("utf-8", "surrogatepass")) for character in text]
        character_of_byte = np.repeat(np.arange(len(text)), widths)
        ends = np.cumsum([len(self._encoding.decode_single_token_bytes(i)) for i in ids], dtype=np.int64)
        starts = np.concatenate([[0], ends[:-1]]) if ids else ends
        first, last = character_of_byte[starts], character_of_byte[ends - 1] + 1
        return ids, list(zip(first.tolist(), last.tolist()))

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of ``ids``; bytes that form no character become U+FFFD.

        Skipped are tokens of control and pictures; <ref>, <box> and <quad> are part of an answer and stay.
        """
        known = (int(i) for i in ids if 0 <= i < len(self))
        return self._encoding.decode([i for i in known if not (skip_special_tokens and i in self._skipped)])

    def token_id(self, token: str) -> int:
        """Id of one token by its text. Raises BadInputError if the vocabulary lacks it."""
        try:
            return self._encoding.encode_single_token(token)
        except KeyError:
            raise BadInputError(f"the tokenizer has no token {token!r}") from None

    def role_id(self, role: str) -> int | None:
        """Id of the token with a role ("eos_token", ...), None for a role that the family does not have."""
        text = self.special_tokens.get(role)
        return None if text is None else self.special_ids[text]

    @property
    def eos_token_id(self) -> int:
        return self.special_ids[END_OF_TEXT]

    @property
    def pad_token_id(self) -> int:
        return self.special_ids[END_OF_TEXT]

    def __len__(self) -> int:
        return self._encoding.n_vocab

    def save(self, folder: Path) -> None:
        """Write qwen.tiktoken as it was read and tokenizer_config.json, without a chat template."""
        (Path(folder) / VOCABULARY).write_bytes(self._vocabulary)
        config = {key: value for key, value in self.config.items() if key != "chat_template"}
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (Path(folder) / CONFIG).write_text(text, encoding="utf-8")


def _ranks(vocabulary: bytes, origin: str) -> dict[bytes, int]:
    """Tokens by rank: a line is the token in base64 and its rank, which counts from 0."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(vocabulary.splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise BadInputError(
                f"{origin} line {number} is {line[:40]!r}, expected a token in base64 and its rank"
            ) from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise BadInputError(
            f"{origin} holds {len(ranks)} tokens whose ranks do not count from 0 without gaps"
        )
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise BadInputError(f"{origin} has no token for the byte {missing[0]}; it is cut off or another file")
    return ranks


def _encoding(ranks: dict[bytes, int], special: dict[str, int], origin: str) -> Any:
    try:
        import tiktoken
    except ImportError:
        raise BadInputError(
            f"{origin} needs the package tiktoken, which is not installed: pip install 'mix-core[tiktoken]'"
        ) from None
    return tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
