"""PaddleNLP's chat_template.json, written anew as one Jinja template over messages.

    {"system": "<|im_start|>system\\nYou help.<|im_end|>",
     "conversation": ["\\n<|im_start|>user\\n{{user}}<|im_end|>\\n<|im_start|>assistant\\n",
                      "{{bot}}<|im_end|>"],
     "query": "\\n<|im_start|>user\\n{{query}}<|im_end|>\\n<|im_start|>assistant\\n"}

A text is the system piece, both pieces of `conversation` for each turn that is answered, and for a last
question without an answer the `query` piece, or the question itself where there is none (PaddleNLP's class
ChatTemplate). Pieces are Jinja and see `user`, `bot`, `index`, `is_first`, `is_last`, `length`,
`is_training`, and `query` in the last; `system` is the row's own system message, where it has one. What is
learned is the second piece.

As Jinja the template can be saved in a model folder, where transformers finds it too. The `+` in `+%}` and
`{%+` keeps blanks and line ends at a piece's edges, which the environment of chat templates would drop.
"""

from __future__ import annotations

import json
import re
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta

from mix_core.errors import BadInputError
from mix_core.models.common.template_sandbox import Sandbox

KEYS = ("system", "conversation", "query")
MARKS = "answer_marks"
"""Variable with two texts that are written around each answer, where it is given."""


def jinja_source(content: dict[str, Any], origin: str, visuals: dict[str, str]) -> str:
    """The Jinja template that renders what PaddleNLP renders.

    Args:
        content: of the file.
        visuals: how a picture ("image") and a video ("video") are written; a row with one that is missing is
            refused.
    Raises:
        BadInputError: a key is unknown or missing, or a piece is no Jinja; the message names it.
    """
    unknown = sorted(content.keys() - set(KEYS))
    if unknown:
        raise BadInputError(f'{origin}: unknown key "{unknown[0]}"; a chat template has {", ".join(KEYS)}')
    system, query = (_piece(content, key, origin) for key in ("system", "query"))
    asked, answered = _conversation(content.get("conversation"), origin)
    if content.get("query") is None:
        query = "{{ query }}"
    if "system" not in _variables(system):
        system = _REFUSE_SYSTEM + system
    parts = {"MARKS": MARKS, "SYSTEM": system, "ASKED": asked, "ANSWERED": answered, "QUERY": query}
    for kind in ("image", "video"):
        words = visuals.get(kind)
        refusal = _REFUSE_VISUAL.format(kind)
        parts[kind.upper()] = refusal if words is None else json.dumps(words, ensure_ascii=False)
    return re.sub(r"<<([A-Z]+)>>", lambda match: parts[match[1]], _PROGRAM)


def _conversation(pieces: Any, origin: str) -> tuple[str, str]:
    if pieces is None:
        refusal = "{{- raise_exception('the chat template has no conversation, so it writes no answers') -}}"
        return refusal, refusal
    if not (isinstance(pieces, list) and len(pieces) == 2 and all(isinstance(p, str) for p in pieces)):
        raise BadInputError(
            f"{origin}: conversation must be two texts, one with {{{{user}}}} and one with {{{{bot}}}}"
        )
    for place, piece in enumerate(pieces):
        _check(piece, f"{origin}, conversation[{place}]")
    if "bot" not in _variables(pieces[1]):
        raise BadInputError(
            f"{origin}, conversation[1]: it must hold {{{{bot}}}}, the answer that is learned"
        )
    return pieces[0], pieces[1]


def _piece(content: dict[str, Any], key: str, origin: str) -> str:
    piece = content.get(key)
    if piece is None:
        return ""
    if not isinstance(piece, str):
        raise BadInputError(f"{origin}: {key} must be a text")
    _check(piece, f"{origin}, {key}")
    return piece


def _check(piece: str, where: str) -> None:
    """A piece must be a template of its own: nothing that it opens may reach into the next."""
    try:
        Sandbox().compiled(piece)
    except TemplateSyntaxError as error:
        raise BadInputError(f"{where}, line {error.lineno}: {error.message}") from error
    except (TemplateError, RecursionError) as error:
        raise BadInputError(f"{where} cannot be used: {error}") from error


def _variables(piece: str) -> set[str]:
    return meta.find_undeclared_variables(Sandbox().parse(piece))


_REFUSE_SYSTEM = (
    "{%- if given -%}{{- raise_exception('the row has a system message, and the system piece of the chat "
    "template has no {{system}} for it') -}}{%- endif +%}"
)
_REFUSE_VISUAL = (
    "raise_exception('the model folder has no chat template that says how to write {}s; a Jinja template "
    "can say it')"
)
_PROGRAM = """\
{%- macro words(content) -%}
{%- if content is string -%}{{- content -}}{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' or part.type == 'image_url' or 'image' in part or 'image_url' in part -%}
{{- <<IMAGE>> -}}
{%- elif part.type == 'video' or 'video' in part -%}{{- <<VIDEO>> -}}
{%- elif 'text' in part -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- set given = messages and messages[0].role == 'system' -%}
{%- set system = words(messages[0].content) if given else '' -%}
{%- set turns = messages[1:] if given else messages -%}
{%- set length = (turns | length + 1) // 2 -%}
{%- if true +%}<<SYSTEM>>{%+ endif -%}
{%- for place in range(0, turns | length, 2) -%}
{%- set index = place // 2 -%}
{%- set is_first = index == 0 -%}
{%- set is_last = index == length - 1 -%}
{%- set answer = turns[place + 1] if place + 1 < turns | length else none -%}
{%- if turns[place].role != 'user' or (answer and answer.role != 'assistant') -%}
{{- raise_exception('after a system message, user and assistant must take turns, the user first') -}}
{%- endif -%}
{%- set user = words(turns[place].content) -%}
{%- set query = user -%}
{%- set bot = words(answer.content) if answer else '' -%}
{%- if not answer and add_generation_prompt +%}<<QUERY>>{%+ else +%}<<ASKED>>{%+ endif -%}
{%- if answer -%}
{{- <<MARKS>>[0] if <<MARKS>> else '' -}}
{%- if true +%}<<ANSWERED>>{%+ endif -%}
{{- <<MARKS>>[1] if <<MARKS>> else '' -}}
{%- endif -%}
{%- endfor -%}
"""
