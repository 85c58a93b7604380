"""Which characters of a rendered conversation a model learns, for any chat template.

A template does not say whose text is which, so a turn is found by rendering prefixes: it is what stands
between "the messages before it, ready for an answer" and "the messages up to it". Both are checked to be
prefixes of the whole text; a template that rewrites the past cannot be supervised this way and is an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mix_core.errors import ConfigError, DataError
from mix_core.models.common.chat_template import ChatTemplate

IGNORED = -100
"""Label of a token that is not learned."""

Span = tuple[int, int]


def learned_spans(
    template: ChatTemplate,
    messages: list[dict[str, Any]],
    *,
    stop_texts: tuple[str, ...],
    train_on_prompt: bool = False,
    mask_history: bool = False,
) -> tuple[str, list[Span]]:
    """Return the rendered text and the (start, end) spans of its characters that are learned.

    A span is an assistant's text with the stop token after it, without the blanks that follow; a template
    that marks its answers says itself where they are.
    ``mask_history`` keeps the last one only; ``train_on_prompt`` gives the whole text. Raises DataError where
    no assistant speaks or the template does not render prefixes, ConfigError where both options are on.
    """
    if train_on_prompt and mask_history:
        raise ConfigError("train_on_prompt and mask_history exclude each other; switch one of them off")
    text, answers = template.answers(messages) if template.marks_answers else (template.render(messages), [])
    if train_on_prompt:
        return text, [(0, len(text))]
    turns = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    if not turns:
        raise DataError("no message has the role assistant, so there is nothing to learn")
    if template.marks_answers:
        return text, answers[-1 if mask_history else 0 :]
    spans = [_turn_span(template, messages, i, text, stop_texts) for i in turns[-1 if mask_history else 0 :]]
    return text, spans


def _turn_span(
    template: ChatTemplate, messages: list[dict[str, Any]], turn: int, text: str, stop_texts: tuple[str, ...]
) -> Span:
    before = template.render(messages[:turn], add_generation_prompt=True)
    through = text if turn == len(messages) - 1 else template.render(messages[: turn + 1])
    if not (text.startswith(through) and through.startswith(before)):
        raise DataError(
            f"the chat template does not write message {turn + 1} (assistant) as a continuation of what "
            "stands before it, so its text cannot be found; the first message must not be the assistant's, "
            "and a template that rewrites earlier messages cannot be trained on"
        )
    end = len(through.rstrip())
    if end < len(before) or not through[:end].endswith(stop_texts):
        end = len(through)
    return len(before), end


def labels_of(
    input_ids_S: np.ndarray,
    offsets: list[Span],
    text: str,
    spans: list[Span],
    never_learned: tuple[int, ...],
) -> np.ndarray:
    """Labels (S,): the token's id where its characters lie within a span, else IGNORED.

    A token that also covers blanks before the span is learned (a prompt that ends with a blank may give it to
    the first word), one that covers other text of the prompt is not; tokens of ``never_learned`` (the places
    of pictures) never are.
    """
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    learned = np.zeros(len(input_ids_S), bool)
    for start, end in spans:
        after_prompt = len(text[:start].rstrip())
        learned |= (starts >= after_prompt) & (ends > start) & (ends <= end)
    for token in never_learned:
        learned &= input_ids_S != token
    return np.where(learned, input_ids_S, IGNORED)
