"""Names of weights: llava-hf's, transformers', the authors' and the model's own. Imports no paddle."""

from __future__ import annotations

_OURS = (
    ("model.vision_tower.vision_tower.", "vision_tower."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.image_newline", "image_newline"),
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
"""Beginnings of names in files, and what the model has instead."""


def our_name(name: str) -> str:
    """The model's name of a weight in a file of any of the three kinds."""
    for theirs, ours in _OURS:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def published_name(name: str) -> str:
    """llava-hf's name of one of the model's parameters."""
    return f"language_model.{name}" if name.startswith(("model.", "lm_head.")) else name


def stored_name(name: str) -> str:
    """llava-hf's name of a weight in a file of any of the three kinds."""
    return published_name(our_name(name))
