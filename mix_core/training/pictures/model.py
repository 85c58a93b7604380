"""A text-to-image model as a run trains it: network, text encoders and, where it has one, the autoencoder.

Shapes: B samples, C channels, H and W of pictures, h and w of latents, S tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core.models.common.random import SampleRandom
from mix_core.models.prompt_encoders.model import Conditioning, PromptEncoder
from mix_core.models.unet.config import CLASS_NAME as UNET
from mix_core.schedulers import NoiseStream
from mix_core.training.pictures.latents import Encoder
from mix_core.training.pictures.objective import Objective, weighted_errors

NETWORKS = {UNET: "unet"}
"""Folder of a network by its class; any other lies in `transformer`."""


class StepRandom(SampleRandom):
    """What a step draws with, and for which samples: levels and noise, and what adapters drop."""

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.step = 0, 0
        self.samples: Sequence[int] = ()

    def start(self, *, seed: int, step: int, samples: np.ndarray) -> None:
        super().start(seed=seed, step=step, samples=samples)
        self.seed, self.step, self.samples = seed, step, [int(one) for one in samples]


class PictureModel(nn.Layer):
    """`loss` of a batch of pictures with prompts. Parameters bear the published names, behind their part's:
    `unet.` or `transformer.`, `text_encoder.`, `text_encoder_2.`"""

    def __init__(
        self,
        network: nn.Layer,
        prompts: PromptEncoder,
        vae: nn.Layer | None,
        objective: Objective,
        *,
        prior_weight: float = 1.0,
    ) -> None:
        """`vae`: None where the network makes pixels. `prior_weight`: of samples that keep a class as it was."""
        super().__init__()
        self.part = NETWORKS.get(network.network.class_name, "transformer")
        self.add_sublayer(self.part, network)
        self.prompts, self.vae = prompts, vae
        self.objective, self.prior_weight = objective, prior_weight
        self.encoder = Encoder(vae)
        self.random = StepRandom()
        self._told: dict[str, Conditioning] = {}
        """Of single prompts, while no text encoder learns."""
        self._tells = False

    @property
    def network(self) -> Any:
        return getattr(self, self.part)

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

    def text_encoders(self) -> dict[str, Any]:
        """By the folders that hold them."""
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        found = {name: getattr(self.prompts, name, None) for name in names}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    def settle(self) -> None:
        """To be called when it is decided what learns: prompts are told once where no encoder does."""
        self._tells = any(
            not one.stop_gradient for encoder in self.text_encoders().values() for one in encoder.parameters()
        )
        self._told.clear()

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, int]:
        """The sum of the samples' weighted mean squared errors, and how many samples count.

        batch: `pixels` (B, 3, H, W) float32 from -1 to 1, `prompts`, `sample_ids` (B,), `labels` (B,): -100
        for pictures of the class that is to be kept (Ruiz et al., "DreamBooth", 2022, equation 2), whose
        mean is weighed with `prior_weight`; with `time_ids` (B, 6) for SDXL, and `latent_keys` where the
        latents may be kept.
        """
        random = self.random
        clean = self.encoder(batch, random.seed, random.step)
        drawn = self.objective.noised(clean, random.seed, random.step, random.samples)
        output = self.predict(drawn.inputs, drawn.timesteps, self.told(batch["prompts"]), batch.get("time_ids"))
        return self._summed(weighted_errors(output, drawn.target, drawn.weights), batch["labels"])

    def _summed(self, errors_B: Tensor, labels_B: np.ndarray) -> tuple[Tensor, int]:
        own = labels_B != -100
        count = int(own.sum())
        if count == len(own):
            return paddle.sum(errors_B), count
        shares = np.where(own, 1.0, self.prior_weight * max(count, 1) / (~own).sum()).astype(np.float32)
        return paddle.sum(errors_B * paddle.to_tensor(shares)), count

    def predict(
        self, inputs: Tensor, timesteps: Any, told: Conditioning, time_ids: np.ndarray | None
    ) -> Tensor:
        """What the network says of noisy latents (B, C, h, w) at these time steps, in their shape."""
        if self.part == "transformer":
            return self.network(inputs, told.embeds, told.pooled, timesteps)
        if self.network.add_embedding is None:
            return self.network(inputs, timesteps, told.embeds)
        sizes = paddle.to_tensor(np.asarray(time_ids, np.float32))
        return self.network(inputs, timesteps, told.embeds, told.pooled, sizes)

    def told(self, prompts: Sequence[str]) -> Conditioning:
        """What the network is told of B prompts."""
        if self._tells:
            return self.prompts(self.prompts.tokens(prompts))
        with paddle.no_grad():
            new = [one for one in dict.fromkeys(prompts) if one not in self._told]
            if new:
                self._told |= dict(zip(new, _rows(self.prompts(self.prompts.tokens(new)))))
            return _joined([self._told[one] for one in prompts])


def _rows(told: Conditioning) -> list[Conditioning]:
    pooled = [None] * told.embeds.shape[0] if told.pooled is None else told.pooled.split(len(told.pooled))
    return [Conditioning(*pair) for pair in zip(told.embeds.split(told.embeds.shape[0]), pooled)]


def _joined(rows: Sequence[Conditioning]) -> Conditioning:
    pooled = [row.pooled for row in rows]
    return Conditioning(
        paddle.concat([row.embeds for row in rows]),
        None if pooled[0] is None else paddle.concat(pooled),
    )


def noise_of_samples(shape: Sequence[int], seed: int, step: int, samples: Sequence[int], place: int) -> np.ndarray:
    """Standard normal numbers (B, *shape) for one purpose of a step's samples."""
    return np.stack([NoiseStream(seed, step, int(one), place).normal(shape) for one in samples])


Predict = Callable[[Tensor, float], Tensor]
