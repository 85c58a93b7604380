"""A sample that is too long, cut at its end."""

from __future__ import annotations

from typing import Any

import numpy as np

from mix_core.errors import DataError

IGNORED = -100
_ALONG_TOKENS = ("input_ids", "labels", "position_ids")
"""Arrays whose last axis is the tokens."""


def truncated(
    sample: dict[str, np.ndarray], max_length: int, processor: Any, describe: str
) -> dict[str, np.ndarray]:
    """The first `max_length` tokens of a sample; pictures stay whole.

    Raises DataError that begins with `describe`: a picture's tokens reach beyond max_length, or nothing that
    is learned would be left.
    """
    ids = sample["input_ids"]
    if len(ids) <= max_length:
        return sample
    head = f"{describe}: it has {len(ids)} tokens, max_length is {max_length}"
    if any(key not in _ALONG_TOKENS for key in sample):
        visual = getattr(processor, "visual_token_ids", None)
        if visual is None:
            raise DataError(
                f"{head}, and this model cannot cut rows with pictures; raise it or skip such rows"
            )
        reach = np.flatnonzero(np.isin(ids, visual))
        if len(reach) and reach[-1] >= max_length:
            raise DataError(
                f"{head}, and its pictures reach to token {reach[-1] + 1}, so that it cannot be cut; raise "
                "max_length, lower the pixel limits or skip such rows"
            )
    if (sample["labels"][:max_length] == IGNORED).all():
        raise DataError(f"{head}, and its answer begins beyond that; raise max_length or skip such rows")
    return {key: value[..., :max_length] if key in _ALONG_TOKENS else value for key, value in sample.items()}
