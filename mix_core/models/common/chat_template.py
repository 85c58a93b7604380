"""The chat template of a model folder: messages to the text that the model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from mix_core.errors import BadInputError, DataError
from mix_core.models.common.paddlenlp_template import jinja_source
from mix_core.models.common.template_sandbox import Sandbox, TemplateRefusal
from mix_core.models.common.tokenizer import read_json

TEMPLATE_FILE = "chat_template.jinja"
MARKS = ("\ue0f0", "\ue0f1")
"""Of Unicode's private use, which no text to learn has."""


class ChatTemplate:
    """A Jinja template and what it may use besides the messages."""

    def __init__(
        self,
        source: str,
        *,
        origin: str,
        variables: dict[str, Any] | None = None,
        marks_answers: bool = False,
    ) -> None:
        """Raises BadInputError if ``source`` is broken.

        ``origin``: what errors call it. ``variables``: eos_token and the like. ``marks_answers``: it writes
        the two texts of the variable `answer_marks` around each answer (`paddlenlp_template`).
        """
        self.source = source
        self.origin = origin
        self.variables = variables or {}
        self.marks_answers = marks_answers
        self._sandbox = Sandbox()
        try:
            self._sandbox.compiled(source)
        except TemplateSyntaxError as error:
            raise BadInputError(f"{origin}, line {error.lineno}: {error.message}") from error
        except (TemplateError, RecursionError) as error:
            raise BadInputError(f"{origin} cannot be used: {error}") from error

    @classmethod
    def from_folder(cls, folder: Path, variables: dict[str, Any] | None = None) -> ChatTemplate | None:
        """The folder's template, None if it has none. chat_template.jinja wins over the older places."""
        folder = Path(folder)
        path = folder / TEMPLATE_FILE
        if path.is_file():
            try:
                return cls(path.read_text(encoding="utf-8"), origin=str(path), variables=variables)
            except (OSError, UnicodeDecodeError) as error:
                raise BadInputError(f"{path} cannot be read: {error}") from error
        for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
            source = read_json(folder / name).get("chat_template")
            if isinstance(source, list):  # several named templates
                source = {entry.get("name"): entry.get("template") for entry in source}
            if isinstance(source, dict):
                source = source.get("default")
            if isinstance(source, str):
                return cls(source, origin=f"chat_template of {folder / name}", variables=variables)
        pieces = read_json(folder / "chat_template.json")
        if "conversation" in pieces:
            origin = str(folder / "chat_template.json")
            source = jinja_source(pieces, origin, {})
            return cls(source, origin=origin, variables=variables, marks_answers=True)
        return None

    def render(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = False, **more: Any
    ) -> str:
        """Text of ``messages`` (role and content, as in `qwen2_5_vl.processor`).

        ``more`` are further variables. Raises DataError if the template refuses the messages, fails or passes
        its limits.
        """
        variables = {
            **self.variables,
            "messages": _plain(messages),
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **more,
        }
        try:
            return self._sandbox.render(self.source, variables)
        except TemplateRefusal as error:
            raise DataError(f"{self.origin} refuses the messages: {error}") from error
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise DataError(f"{self.origin} fails: {error}") from error

    def answers(self, messages: list[dict[str, Any]]) -> tuple[str, list[tuple[int, int]]]:
        """Text of ``messages``, and (start, end) of each assistant's piece in it; only with `marks_answers`.

        Raises DataError as `render` does, and where the messages hold the marks' own characters.
        """
        text = self.render(messages, answer_marks=MARKS, is_training=True)
        begin, end = MARKS
        pieces = [piece.split(end) for piece in text.split(begin)]
        answered = sum(message.get("role") == "assistant" for message in messages)
        if len(pieces) != answered + 1 or [len(piece) for piece in pieces] != [1] + [2] * answered:
            raise DataError(f"the messages hold {begin!r} or {end!r}, which mark answers in {self.origin}")
        whole, spans = pieces[0][0], []
        for answer, rest in pieces[1:]:
            spans.append((len(whole), len(whole) + len(answer)))
            whole += answer + rest
        return whole, spans


def _plain(value: Any) -> Any:
    """A copy that holds nothing but text, numbers and containers.

    The template must not get an image or a path in hand: their methods write files.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return f"<{type(value).__name__}>"
