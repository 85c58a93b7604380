"""A text-to-image model as a run trains it: network, text encoders and, where it has one, the autoencoder.

Shapes: B samples, C channels, H and W of pictures, h and w of latents, S tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core.inference.text_to_image import PictureModel
from mix_core.inference.text_to_image.families import Told
from mix_core.models.common.random import SampleRandom
from mix_core.models.prompt_encoders.model import Conditioning
from mix_core.training.pictures.average import Average
from mix_core.training.pictures.latents import Encoder
from mix_core.training.pictures.objective import Objective, weighted_errors


class StepRandom(SampleRandom):
    """What a step draws with, and for which samples: levels and noise, and what adapters drop."""

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.step = 0, 0
        self.samples: Sequence[int] = ()

    def start(self, *, seed: int, step: int, samples: np.ndarray) -> None:
        super().start(seed=seed, step=step, samples=samples)
        self.seed, self.step, self.samples = seed, step, [int(one) for one in samples]


class PictureLearner(nn.Layer):
    """`loss` of a batch of pictures with prompts. Parameters bear the published names, behind their part's:
    `unet.` or `transformer.`, `text_encoder.`, `text_encoder_2.`"""

    def __init__(self, pictures: PictureModel, objective: Objective, *, prior_weight: float = 1.0) -> None:
        """`prior_weight`: of samples that keep a class as it was."""
        super().__init__()
        self.pictures, self.family = pictures, pictures.family
        self.add_sublayer(self.family.part, pictures.network)
        self.prompts, self.vae = pictures.prompts, pictures.vae
        self.objective, self.prior_weight = objective, prior_weight
        self.encoder = Encoder(pictures.vae, pictures.geometry.channels)
        self.average: Average | None = None
        """Of what learns, where the run keeps one; published in its place."""
        self.random = StepRandom()
        self._told: dict[str, Conditioning] = {}
        """Of single prompts, while no text encoder learns."""
        self.encoders_learn = False
        self.text_tokens = 0
        """Of a prompt in the network, once it was told one."""

    @property
    def network(self) -> Any:
        return getattr(self, self.family.part)

    @property
    def recompute(self) -> bool:
        """Whether blocks of what learns are computed again going backward (`gradient_checkpointing`)."""
        return bool(self.network.recompute)

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.network.recompute = value
        for encoder in self.text_encoders().values():
            if hasattr(encoder, "recompute"):
                encoder.recompute = value

    def to(self, *, dtype: str) -> None:
        """Bring the weights to a dtype; an autoencoder whose activations outgrow float16 stays float32."""
        self.pictures.to(dtype)

    def text_encoders(self) -> dict[str, Any]:
        """By the folders that hold them."""
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        found = {name: getattr(self.prompts, name, None) for name in names}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    def published(self) -> AbstractContextManager[None]:
        """Within, the weights are those that checkpoints publish: the mean, where the run keeps one."""
        return nullcontext() if self.average is None else self.average.in_place()

    def settle(self) -> None:
        """To be called when it is decided what learns: prompts are told once where no encoder does."""
        self.encoders_learn = any(
            not one.stop_gradient for encoder in self.text_encoders().values() for one in encoder.parameters()
        )
        self._told.clear()

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, int]:
        """The sum of the samples' weighted mean squared errors, and how many samples count.

        batch: `pixels` (B, 3, H, W) float32 from -1 to 1, `prompts`, `sample_ids` (B,), `labels` (B,): -100
        for pictures of the class that is to be kept (Ruiz et al., "DreamBooth", 2022, equation 2), whose
        mean is weighed with `prior_weight`; `time_ids` (B, 6) float32; `latent_keys` where the latents may
        be kept.
        """
        random = self.random
        clean = self.encoder(batch, random.seed, random.step)
        drawn = self.objective.noised(clean, random.seed, random.step, random.samples)
        told = Told(self.told(batch["prompts"]), paddle.to_tensor(batch["time_ids"]))
        self.text_tokens = told.text.embeds.shape[1]
        output = self.family.call(self.network, drawn.inputs, drawn.timesteps, told)
        return self._summed(weighted_errors(output, drawn.target, drawn.weights), batch["labels"])

    def _summed(self, errors_B: Tensor, labels_B: np.ndarray) -> tuple[Tensor, int]:
        own = labels_B != -100
        count = int(own.sum())
        if count == len(own):
            return paddle.sum(errors_B), count
        shares = np.where(own, 1.0, self.prior_weight * max(count, 1) / (~own).sum()).astype(np.float32)
        return paddle.sum(errors_B * paddle.to_tensor(shares)), count

    def told(self, prompts: Sequence[str]) -> Conditioning:
        """What the network is told of B prompts."""
        if self.encoders_learn:
            return self.prompts(self.prompts.tokens(prompts))
        with paddle.no_grad():
            new = [one for one in dict.fromkeys(prompts) if one not in self._told]
            if new:
                self._told |= dict(zip(new, _rows(self.prompts(self.prompts.tokens(new)))))
            return _joined([self._told[one] for one in prompts])


def _rows(told: Conditioning) -> list[Conditioning]:
    count = told.embeds.shape[0]
    pooled = [None] * count if told.pooled is None else told.pooled.split(count)
    return [Conditioning(*pair) for pair in zip(told.embeds.split(count), pooled)]


def _joined(rows: Sequence[Conditioning]) -> Conditioning:
    pooled = [row.pooled for row in rows]
    return Conditioning(
        paddle.concat([row.embeds for row in rows]),
        None if pooled[0] is None else paddle.concat(pooled),
    )
