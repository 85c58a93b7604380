"""The tokenizer of a published folder: tokenizer.json, and the roles that tokenizer_config.json gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from mix_core.errors import BadInputError

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} if there is no file. Raises BadInputError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


class Tokenizer:
    """Text to token ids and back, with the ids that transformers gives for the same folder."""

    def __init__(self, backend: Backend, config: dict[str, Any]) -> None:
        """``config``: the content of tokenizer_config.json."""
        self.backend = backend
        self.config = config
        backend.no_truncation()
        backend.no_padding()
        self.special_tokens: dict[str, str] = special_tokens_of(config)
        """Token of each role (bos_token, eos_token, ...) that the folder defines; templates may use them."""
        self.new_tokens: list[str] = []
        """Tokens added since the folder was read."""

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read the folder's tokenizer. Raises BadInputError if a file is missing or unreadable."""
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise BadInputError(f"{folder} has no tokenizer.json; a model folder needs it")
        config = read_json(path.with_name("tokenizer_config.json"))
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises no narrower type
            raise BadInputError(f"{path} is not a readable tokenizer: {error}") from error
        add_missing(backend, config.get("added_tokens_decoder") or {}, path)
        return cls(backend, config)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; special tokens written in it become their ids."""
        return self._encoding(text).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and for each the (start, end) of its characters in ``text``."""
        encoding = self._encoding(text)
        return encoding.ids, encoding.offsets

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of ``ids``; bytes that form no character become U+FFFD."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def token_id(self, token: str) -> int:
        """Id of one token by its text. Raises BadInputError if the vocabulary lacks it."""
        found = self.backend.token_to_id(token)
        if found is None:
            raise BadInputError(f"the tokenizer has no token {token!r}")
        return found

    def role_id(self, role: str) -> int | None:
        """Id of the token with a role ("eos_token", ...), None where the folder defines none."""
        text = self.special_tokens.get(role)
        return None if text is None else self.token_id(text)

    @property
    def eos_token_id(self) -> int | None:
        return self.role_id("eos_token")

    @property
    def pad_token_id(self) -> int:
        """Id that fills up short rows: the pad token's, else the end token's, else 0 (it is masked out)."""
        for role in ("pad_token", "eos_token"):
            if role in self.special_tokens:
                return self.token_id(self.special_tokens[role])
        return 0

    def add_special_tokens(self, tokens: list[str]) -> list[str]:
        """Add those of ``tokens`` that the vocabulary lacks, at its end, and return them. They are never
        split."""
        new = [token for token in dict.fromkeys(tokens) if self.backend.token_to_id(token) is None]
        self.backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in new])
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        listed = {str(self.token_id(token)): {"content": token, **flags} for token in new}
        decoder = {**(self.config.get("added_tokens_decoder") or {}), **listed}
        more = [*(self.config.get("additional_special_tokens") or []), *new]
        self.config = {**self.config, "added_tokens_decoder": decoder, "additional_special_tokens": more}
        self.new_tokens += new
        return new

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, without a chat template."""
        self.backend.save(str(Path(folder) / "tokenizer.json"))
        self.save_config(folder, self.config)

    def save_config(self, folder: Path, config: dict[str, Any]) -> None:
        """Write tokenizer_config.json, without a chat template."""
        config = {key: value for key, value in config.items() if key != "chat_template"}
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (Path(folder) / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def _encoding(self, text: str) -> Any:
        # A template may write the begin token itself; the tokenizer must not add a second one then.
        begin = self.special_tokens.get("bos_token")
        return self.backend.encode(text, add_special_tokens=not (begin and text.startswith(begin)))


def special_tokens_of(config: dict[str, Any]) -> dict[str, str]:
    """The token of each role that tokenizer_config.json's content names."""
    return {role: text for role in ROLES if (text := _token_text(config.get(role))) is not None}


def _token_text(entry: Any) -> str | None:
    """tokenizer_config.json gives a token as text, as {"content": ...} or as null."""
    return entry.get("content") if isinstance(entry, dict) else entry


def add_missing(backend: Backend, decoder: dict[str, dict[str, Any]], path: Path) -> None:
    """Add tokens that only tokenizer_config.json lists, and check that the ids come out as listed."""
    for listed, entry in sorted(decoder.items(), key=lambda item: int(item[0])):
        token = AddedToken(
            entry["content"],
            special=entry.get("special", False),
            normalized=entry.get("normalized", False),
            lstrip=entry.get("lstrip", False),
            rstrip=entry.get("rstrip", False),
            single_word=entry.get("single_word", False),
        )
        if backend.token_to_id(token.content) is None:
            (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        found = backend.token_to_id(token.content)
        if found != int(listed):
            raise BadInputError(
                f"{path} gives {token.content!r} the id {found}, tokenizer_config.json says {listed}"
            )
