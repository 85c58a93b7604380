"""OpenGVLab's conversation templates, by the name that config.json's `template` gives, and messages for them.

The published code writes its prompts by these and never by the tokenizer's chat_template, which differs (no
system text, a line break after each turn). Source: conversation.py of the published folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.common.chat_template import TEMPLATE_FILE, ChatTemplate

IMAGE = "<img><IMG_CONTEXT></img>"
"""Stands for a picture in a rendered text; <IMG_CONTEXT> is repeated once the tiles are counted."""
VIDEO = "<video>"
"""Stands for a video in a rendered text, until its frames are counted."""

_SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。"
)
_SYSTEM_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及"
    "多家合作单位联合开发的多模态大语言模型。"
)
_FORM = """\
{{%- if not messages or messages[0].role != 'system' -%}}
{{{{ '<|im_start|>system\\n{system}<|im_end|>{after}' }}}}
{{%- endif -%}}
{{%- for message in messages -%}}
{{{{ '<|im_start|>' + message.role + '\\n' + {content} + '<|im_end|>{after}' }}}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{ '<|im_start|>assistant\\n' }}}}{{%- endif -%}}
"""
TEMPLATES = {
    # its training code strips each turn; that of Hermes-2 does not
    "internlm2-chat": _FORM.format(system=_SYSTEM, after="", content="message.content | trim"),
    "Hermes-2": _FORM.format(system=_SYSTEM, after="", content="message.content"),
    "internvl2_5": _FORM.format(system=_SYSTEM_2_5, after="\\n", content="message.content"),
}
"""Jinja sources by name."""


def template_of(folder: Path, name: str, variables: dict[str, Any]) -> ChatTemplate:
    """The folder's own chat_template.jinja if it has one (no published folder has), else OpenGVLab's.

    Raises BadInputError for a name that is not built.
    """
    if (Path(folder) / TEMPLATE_FILE).is_file():
        return ChatTemplate.from_folder(folder, variables)
    if name not in TEMPLATES:
        raise BadInputError(
            f"config.json has template = {name!r}; built are {', '.join(TEMPLATES)}. For another one write "
            f"{folder}/{TEMPLATE_FILE}"
        )
    return named_template(name, variables)


def named_template(name: str, variables: dict[str, Any]) -> ChatTemplate:
    """OpenGVLab's template of this name, one of `TEMPLATES`."""
    return ChatTemplate(TEMPLATES[name], origin=f"the template {name}", variables=variables)


def as_text(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose content is one text, with IMAGE and VIDEO in the places of pictures and videos.

    A line break follows a picture unless the text after it begins with a blank: OpenGVLab's prompts have one.
    """
    return [{**message, "content": _joined(message.get("content"))} for message in messages]


def _joined(content: Any) -> str:
    if not isinstance(content, list):
        return content or ""
    pieces: list[str] = []
    after_visual = False
    for part in content:
        mark = _mark(part)
        text = mark or (part if isinstance(part, str) else part.get("text") or "")
        if after_visual and not mark and text and not text[0].isspace():
            pieces.append("\n")
        pieces.append(text)
        after_visual = bool(mark)
    return "".join(pieces)


def _mark(part: Any) -> str:
    if isinstance(part, dict):
        if part.get("type") == "video" or (part.get("type") is None and "video" in part):
            return VIDEO
        if part.get("type") in ("image", "image_url") or "image" in part or "image_url" in part:
            return IMAGE
    return ""


def frames_text(count: int) -> str:
    """What stands for a video of `count` frames: a numbered line each."""
    return "\n".join(f"Frame{i}: {IMAGE}" for i in range(1, count + 1))
