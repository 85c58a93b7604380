"""Prompts as rows of token ids, cut and filled up to a text encoder's length.

Shapes: B prompts, S tokens of a row.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from mix_core.errors import BadInputError
from mix_core.models.common.tokenizer import ROLES, read_json

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
)
"""What a published tokenizer folder may hold."""

log = logging.getLogger(__name__)


class PromptTokenizer:
    """Text to rows of ids, with the ids that transformers gives for the same folder."""

    def __init__(self, backend: Backend, folder: Path, *, pad_id: int, length: int, name: str) -> None:
        """`backend` adds begin and end tokens; `length`: tokens of a full row; `name`: for warnings."""
        backend.no_truncation()
        backend.no_padding()
        self.backend, self.folder = backend, Path(folder)
        self.pad_id, self.length, self.name = pad_id, length, name
        self.end_id: int = backend.encode("").ids[-1]
        self._cut: set[str] = set()
        """Prompts that a warning was given for: a caption comes again in every epoch."""

    def __call__(self, prompts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Rows of ids (B, S) int64, each with its end token, filled up with the pad token.

        S is `length`, or the tokenizer's. A prompt that is longer is cut; one warning names the words lost.
        """
        S = length or self.length
        ids_BS = np.full((len(prompts), S), self.pad_id, np.int64)
        for row, prompt in zip(ids_BS, prompts):
            ids = self.ids(prompt, S)
            row[: len(ids)] = ids
        return ids_BS

    def ids(self, prompt: str, length: int) -> list[int]:
        """At most `length` ids of a prompt, the end token last."""
        encoding = self.backend.encode(prompt)
        if len(encoding.ids) <= length:
            return encoding.ids
        if prompt not in self._cut:
            self._cut.add(prompt)
            lost = _from_word(prompt, encoding.offsets[length - 1][0])
            log.warning(
                "%s reads %d tokens, and the prompt has %d: it is cut, and these words are lost: %s",
                self.name,
                length,
                len(encoding.ids),
                lost,
            )
        return [*encoding.ids[: length - 1], encoding.ids[-1]]

    def save(self, folder: Path) -> None:
        """Copy the tokenizer's files."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, Path(folder) / name)


def _from_word(prompt: str, start: int) -> str:
    """The prompt's end, from the beginning of the word that holds character `start`."""
    while start > 0 and not prompt[start - 1].isspace():
        start -= 1
    return prompt[start:].strip()


def read_settings(folder: Path, defaults: Mapping[str, str]) -> dict[str, Any]:
    """tokenizer_config.json, with roles it lacks from special_tokens_map.json or `defaults`."""
    config = read_json(Path(folder) / "tokenizer_config.json")
    older = read_json(Path(folder) / "special_tokens_map.json")
    for role in ROLES:
        config[role] = config.get(role) or older.get(role) or defaults.get(role)
    return config


def role_text(config: Mapping[str, Any], role: str) -> str:
    """The token of a role; the file gives it as text or with its flags."""
    entry = config[role]
    return entry["content"] if isinstance(entry, dict) else entry


def add_special(backend: Backend, config: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Have the tokens that the settings list, and `more`, cut out of a text before all else.

    Raises BadInputError where the vocabulary gives one another id than listed.
    """
    tokens = []
    for listed, entry in sorted(
        (config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0])
    ):
        found = backend.token_to_id(entry["content"])
        if found is not None and found != int(listed):
            raise BadInputError(
                f"the vocabulary gives {entry['content']!r} the id {found}, tokenizer_config.json {listed}"
            )
        tokens.append(_added(entry, entry.get("special", False)))
    known = {token.content for token in tokens}
    for entry in [*(config.get(role) for role in ROLES), *more]:
        text = entry["content"] if isinstance(entry, dict) else entry
        if text is not None and text not in known:
            known.add(text)
            tokens.append(_added(entry, True) if isinstance(entry, dict) else AddedToken(text, special=True))
    backend.add_tokens(tokens)


def _added(entry: Mapping[str, Any], special: bool) -> AddedToken:
    flags = {key: entry[key] for key in ("lstrip", "rstrip", "normalized", "single_word") if key in entry}
    return AddedToken(entry["content"], special=special, **flags)
