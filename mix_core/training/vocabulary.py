"""More tokens than the published model has: rows of embedding and head for them (`resize_vocab`).

New rows start at the mean of the rows in use (Hewitt, "Initializing New Word Embeddings for Pretrained
Language Models", 2021): a token that nothing is known of then takes little from the others' probability.

Shapes: V rows, D model dim.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from mix_core.errors import ConfigError

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.models.common.layers import Embedding
    from mix_core.models.registry import ModelFamily

MULTIPLE = 64
"""Rows are padded to a multiple of this, as published models are: matrix products like it."""
_PLACES = ("text_config", "llm_config", "language_config")


def fit_vocabulary(
    family: ModelFamily,
    source: dict[str, Any],
    model: Any,
    tokenizer: Any,
    config: RunConfig,
) -> Any | None:
    """Give every token of the tokenizer a row; those of its `new_tokens` start at the mean.

    Args:
        source: the model folder's config.json.
    Returns:
        The family's configuration with the new number of rows; None where it stays.
    Raises:
        ConfigError: the rows are too few and resize_vocab is not set.
    """
    rows, tokens = model.head.weight.shape[0], len(tokenizer)
    known = tokens - len(getattr(tokenizer, "new_tokens", ()))
    if tokens <= rows:
        for layer in _layers(model):
            _to_mean(layer, known, tokens)
        return None
    if not config.resize_vocab:
        raise ConfigError(
            f"the tokenizer has {tokens} tokens and the model {rows} rows; give --resize_vocab true, "
            "or fewer new_special_tokens"
        )
    wanted = -(-tokens // MULTIPLE) * MULTIPLE
    resized = family.config_from_dict(with_rows(source, wanted))
    for layer in _layers(model):
        layer.grow(wanted)
        _to_mean(layer, min(known, rows), wanted)
    model.config = resized
    return resized


def with_rows(source: dict[str, Any], rows: int) -> dict[str, Any]:
    """A config.json with another vocab_size, wherever it stands."""
    changed = copy.deepcopy(source)
    places = [changed, *(changed[key] for key in _PLACES if isinstance(changed.get(key), dict))]
    named = [place for place in places if "vocab_size" in place]
    if not named:
        raise ConfigError("config.json names no vocab_size, so the vocabulary cannot be resized")
    for place in named:
        place["vocab_size"] = rows
    return changed


def _layers(model: Any) -> list[Embedding]:
    """Embedding and head; the one layer where they are tied."""
    return [model.model.embed_tokens] if model.lm_head is None else [model.model.embed_tokens, model.lm_head]


def _to_mean(layer: Embedding, known: int, end: int) -> None:
    """Set the rows from `known` to `end` to the mean of those before."""
    if known < end:
        values_VD = layer.weight.numpy()
        values_VD[known:end] = values_VD[:known].astype(np.float64).mean(axis=0)
        layer.weight.set_value(values_VD)
