"""Another chat template than the model folder's: a Jinja file, PaddleNLP's chat_template.json, or a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError, ConfigError
from mix_core.models.common.chat_template import ChatTemplate
from mix_core.models.common.paddlenlp_template import KEYS, jinja_source

NAMED: dict[str, dict[str, Any]] = {
    "chatml": {
        "system": "<|im_start|>system\n{{ system or 'You are a helpful assistant.' }}<|im_end|>\n",
        "conversation": [
            "<|im_start|>user\n{{user}}<|im_end|>\n<|im_start|>assistant\n",
            "{{bot}}<|im_end|>\n",
        ],
        "query": "<|im_start|>user\n{{query}}<|im_end|>\n<|im_start|>assistant\n",
    },
    "vicuna_v1": {
        "system": '{{ system or "A chat between a curious human and an artificial intelligence assistant. '
        "The assistant gives helpful, detailed, and polite answers to the human's questions.\" }}",
        "conversation": [" USER: {{user}} ASSISTANT:", " {{bot}}</s>"],
        "query": " USER: {{query}} ASSISTANT:",
    },
}
"""Templates that ship with mix-core, in PaddleNLP's form: pictures are written as the model folder does
it."""


def load_template(
    name: str, own: ChatTemplate | None, variables: dict[str, Any] | None = None
) -> ChatTemplate:
    """The template that the key `chat_template` means.

    A `.json` file holds PaddleNLP's form, or {"chat_template": Jinja} as transformers writes it; any other
    file is Jinja.

    Args:
        name: a file, or one of `NAMED`.
        own: the model folder's template, which says how pictures and videos are written.
        variables: the tokenizer's special tokens, which Jinja may use.
    Raises:
        ConfigError: there is no such file or name.
        BadInputError: the file cannot be read or used; the message names file and place.
    """
    path = Path(name)
    if name in NAMED:
        return _of_paddlenlp(NAMED[name], f"chat_template {name}", own, variables)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"chat_template {name} is no file and none of the names {', '.join(NAMED)}; give a Jinja file, "
            "or PaddleNLP's chat_template.json"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"chat_template {path} cannot be read: {error}") from None
    if path.suffix.lower() != ".json":
        return ChatTemplate(text, origin=str(path), variables=variables)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInputError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    if isinstance(content, dict) and isinstance(content.get("chat_template"), str):
        return ChatTemplate(content["chat_template"], origin=f"chat_template of {path}", variables=variables)
    if not isinstance(content, dict) or not content.keys() & set(KEYS):
        raise BadInputError(f"{path} is no chat template; expected an object with {', '.join(KEYS)}")
    return _of_paddlenlp(content, str(path), own, variables)


def _of_paddlenlp(
    content: dict[str, Any], origin: str, own: ChatTemplate | None, variables: dict[str, Any] | None
) -> ChatTemplate:
    source = jinja_source(content, origin, visual_words(own))
    return ChatTemplate(source, origin=origin, variables=variables, marks_answers=True)


def visual_words(template: ChatTemplate | None) -> dict[str, str]:
    """How a template writes a picture ("image") and a video ("video") that stand before a user's text.

    Found by rendering the same words with one and without; what cannot be told apart so is left out.
    """
    found: dict[str, str] = {}
    if template is None:
        return found
    mark = "words of the user"
    text = {"type": "text", "text": mark}
    for kind in ("image", "video"):
        try:
            bare, seen = (
                template.render([{"role": "user", "content": content}])
                for content in ([text], [{"type": kind, kind: ""}, text])
            )
        except BadInputError:
            continue
        before, with_visual = bare.partition(mark), seen.partition(mark)
        if with_visual[0].startswith(before[0]) and with_visual[1:] == before[1:] and before[1]:
            written = with_visual[0].removeprefix(before[0])
            found |= {kind: written} if written else {}
    return found
