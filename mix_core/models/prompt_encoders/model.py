"""Prompts to conditioning, for Stable Diffusion 1.5, SDXL and SD3.

Each model joins its encoders in its own way; layers are named as the folders that hold them, so that names of
parameters are those of a published adapter.

Shapes: B prompts, S tokens, D width of the conditioning, P width of its pooled part.
Rombach et al., 2022 (arXiv 2112.10752); Podell et al., "SDXL", 2023 (arXiv 2307.01952), section 2; Esser et
al., 2024 (arXiv 2403.03206), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core.errors import BadInputError
from mix_core.models.clip_text.model import ClipTextModel, Encoded
from mix_core.models.common.prompts import PromptTokenizer
from mix_core.models.t5.model import T5Encoder

Prompts = Sequence[str]
Tokens = tuple[np.ndarray, ...]
"""Rows of ids (B, S) for each encoder."""


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told of B prompts."""

    embeds: Tensor
    """(B, S, D)"""
    pooled: Tensor | None = None
    """(B, P), where the model takes one."""

    def repeated(self, times: int) -> Conditioning:
        """Each row so many times, one after the other: several pictures of a prompt."""
        if times == 1:
            return self
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(times, axis=0)
        return Conditioning(self.embeds.repeat_interleave(times, axis=0), pooled)

    def zeros(self) -> Conditioning:
        pooled = None if self.pooled is None else paddle.zeros_like(self.pooled)
        return Conditioning(paddle.zeros_like(self.embeds), pooled)


class PromptEncoder(nn.Layer):
    """Base of the three: tokenizers, and how an empty negative prompt is told."""

    zeros_for_no_negative = False
    """Whether no negative prompt means zeros, in place of an empty prompt."""

    def __init__(self, tokenizers: Sequence[PromptTokenizer]) -> None:
        super().__init__()
        self.tokenizers = tuple(tokenizers)

    def tokens(self, prompts: Prompts, *others: Prompts | None) -> Tokens:
        """Ids for each encoder; `others` are prompts for the second and third, where they differ."""
        for other in others:
            if other is not None and len(other) != len(prompts):
                raise BadInputError(
                    f"{len(prompts)} prompts were given, and {len(other)} for another encoder"
                )
        given = [prompts, *others, *[None] * len(self.tokenizers)]
        return tuple(one(own or prompts) for one, own in zip(self.tokenizers, given))

    def forward(self, tokens: Tokens, clip_skip: int | None = None) -> Conditioning:
        """`clip_skip`: layers of CLIP that are left out at the end, besides those the model never uses."""
        raise TypeError(f"{type(self).__name__} must define forward")

    def pair(
        self,
        prompts: Prompts,
        negatives: Prompts | None = None,
        *,
        clip_skip: int | None = None,
        images: int = 1,
    ) -> tuple[Conditioning, Conditioning]:
        """Conditioning of the prompts and of what they are guided away from, `images` rows for each.

        `negatives`: one for each prompt, or one for all. Raises BadInputError. `clip_skip` counts for the
        prompts alone, as in the published pipelines.
        """
        found = self(self.tokens(prompts), clip_skip)
        if negatives is None and self.zeros_for_no_negative:
            away = found.zeros()
        else:
            away = self(self.tokens(_for_each(negatives, len(prompts))))
        return found.repeated(images), away.repeated(images)


def _for_each(negatives: Prompts | None, count: int) -> Prompts:
    given = [""] if negatives is None else list(negatives)
    if len(given) not in (1, count):
        raise BadInputError(
            f"{count} prompts were given and {len(given)} negative ones; give one, or one for each"
        )
    return given * count if len(given) == 1 else given


def _state(encoded: Encoded, from_end: int) -> Tensor:
    """The hidden state so many layers before the last."""
    if not 0 <= from_end < len(encoded.hidden_states):
        most = len(encoded.hidden_states) - 1
        raise BadInputError(f"clip_skip leaves out {from_end} layers in all, and the text encoder has {most}")
    return encoded.hidden_states[-1 - from_end]


class Sd15Prompts(PromptEncoder):
    """CLIP ViT-L's last hidden state, (B, 77, 768)."""

    def __init__(self, text_encoder: ClipTextModel, tokenizer: PromptTokenizer) -> None:
        super().__init__([tokenizer])
        self.text_encoder = text_encoder

    def forward(self, tokens: Tokens, clip_skip: int | None = None) -> Conditioning:
        encoded = self.text_encoder(tokens[0])
        if not clip_skip:
            return Conditioning(encoded.last)
        return Conditioning(self.text_encoder.normed(_state(encoded, clip_skip)))


class OneEncoderPrompts(PromptEncoder):
    """One CLIP encoder for a network that takes a pooled vector too: its last hidden state (B, S, D), and
    pooled (B, D), or (B, P) where it is projected. For small models of SD3's form."""

    def __init__(self, text_encoder: ClipTextModel, tokenizer: PromptTokenizer) -> None:
        super().__init__([tokenizer])
        self.text_encoder = text_encoder

    def forward(self, tokens: Tokens, clip_skip: int | None = None) -> Conditioning:
        encoded = self.text_encoder(tokens[0])
        if not clip_skip:
            return Conditioning(encoded.last, encoded.pooled)
        return Conditioning(self.text_encoder.normed(_state(encoded, clip_skip)), encoded.pooled)


class SdxlPrompts(PromptEncoder):
    """Of ViT-L and bigG the last hidden state but one, side by side, (B, 77, 2048); pooled of bigG (1280)."""

    def __init__(
        self,
        encoders: tuple[ClipTextModel, ClipTextModel],
        tokenizers: Sequence[PromptTokenizer],
        zeros_for_no_negative: bool = True,
    ) -> None:
        """`zeros_for_no_negative`: `force_zeros_for_empty_prompt` of model_index.json."""
        super().__init__(tokenizers)
        self.text_encoder, self.text_encoder_2 = encoders
        self.zeros_for_no_negative = zeros_for_no_negative

    def forward(self, tokens: Tokens, clip_skip: int | None = None) -> Conditioning:
        first, second = self.text_encoder(tokens[0]), self.text_encoder_2(tokens[1])
        states = [_state(one, 1 + (clip_skip or 0)) for one in (first, second)]
        return Conditioning(paddle.concat(states, axis=-1), second.pooled)


class Sd3Prompts(PromptEncoder):
    """ViT-L and bigG side by side and filled up with zeros, then T5 along the sequence, (B, 333, 4096).

    Both CLIP encoders are pooled and projected, (B, 2048). Without T5 its rows are zeros: a tenth of the
    memory, and the model was trained to do without.
    """

    def __init__(
        self,
        encoders: tuple[ClipTextModel, ClipTextModel],
        text_encoder_3: T5Encoder | None,
        tokenizers: Sequence[PromptTokenizer],
        width: int,
        t5_length: int = 256,
    ) -> None:
        """`width`: the denoiser's `joint_attention_dim`; `t5_length`: rows that T5 fills."""
        super().__init__(tokenizers)
        self.text_encoder, self.text_encoder_2 = encoders
        self.text_encoder_3 = text_encoder_3
        self.width, self.t5_length = width, t5_length
        if text_encoder_3 is not None:
            self.tokenizers[2].length = t5_length

    def forward(self, tokens: Tokens, clip_skip: int | None = None) -> Conditioning:
        first, second = self.text_encoder(tokens[0]), self.text_encoder_2(tokens[1])
        states = [_state(one, 1 + (clip_skip or 0)) for one in (first, second)]
        B, S, _ = states[0].shape
        dtype = states[0].dtype
        rest = self.width - sum(state.shape[2] for state in states)
        if rest < 0:
            raise BadInputError(
                f"the text encoders give {self.width - rest} numbers a token, the model takes {self.width}"
            )
        clip = paddle.concat([*states, paddle.zeros([B, S, rest], dtype)], axis=-1)
        if self.text_encoder_3 is None:
            t5 = paddle.zeros([B, self.t5_length, self.width], dtype)
        else:
            t5 = self.text_encoder_3(tokens[2]).astype(dtype)
        pooled = paddle.concat([first.pooled, second.pooled], axis=-1)
        return Conditioning(paddle.concat([clip, t5], axis=1), pooled)
