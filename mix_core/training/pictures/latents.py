"""Pictures to what the network learns on: latents of an autoencoder, or the pixels themselves.

The autoencoder's distribution of a cut can be kept (`cache_latents`); what is sampled of it is drawn in every
step, and which cut of the picture is shown in every epoch.

Shapes: B samples, H and W of pictures, C channels, h and w of latents.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core.errors import RunFailedError
from mix_core.models.vae.model import Gaussian
from mix_core.ops.dtypes import products_in
from mix_core.schedulers import NoiseStream

_PLACE = 3
"""In a sample's noise stream."""


class Encoder:
    """Callable: a batch -> clean samples (B, C, h, w) float32."""

    def __init__(self, vae: nn.Layer | None, channels: int = 3) -> None:
        """`channels`: of the network's pixels, where there is no autoencoder: 1 is grey."""
        self.vae, self.channels = vae, channels
        self._kept: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}
        """Mean and logarithm of the variance, by what was cut."""

    @paddle.no_grad()
    def __call__(self, batch: dict[str, Any], seed: int, step: int) -> Tensor:
        pixels = batch["pixels"]
        if self.vae is None:
            return paddle.to_tensor(pixels.mean(1, keepdims=True) if self.channels == 1 else pixels)
        found = self._distribution(pixels, batch.get("latent_keys"))
        shape = found.mean.shape[1:]
        drawn = [NoiseStream(seed, step, int(one), _PLACE).normal(shape) for one in batch["sample_ids"]]
        return self.vae.to_network(found.sample(paddle.to_tensor(np.stack(drawn)))).astype(paddle.float32)

    def _distribution(self, pixels: np.ndarray, keys: Sequence[Hashable] | None) -> Gaussian:
        if keys is None:
            return self._encoded(pixels)
        new = [row for row, key in enumerate(keys) if key not in self._kept]
        if new:
            found = self._encoded(pixels[new])
            pair = found.mean.astype("float32").numpy(), found.log_variance.numpy()
            self._kept |= {keys[row]: (pair[0][i], pair[1][i]) for i, row in enumerate(new)}
        columns = zip(*(self._kept[key] for key in keys))
        return Gaussian(*(paddle.to_tensor(np.stack(column)) for column in columns))

    def _encoded(self, pixels: np.ndarray) -> Gaussian:
        with products_in(None) if self.vae.config.force_upcast else nullcontext():
            found = self.vae.encode(paddle.to_tensor(pixels))
        if not np.isfinite(found.mean.astype("float32").numpy()).all():
            raise RunFailedError(
                "the autoencoder's latents are not finite: its activations outgrow 16 bits; give an "
                "autoencoder made for them (pretrained_vae_model_name_or_path "
                "madebyollin/sdxl-vae-fp16-fix), or force_upcast in its config.json"
            )
        return found
