"""The parts of a text-to-image model in memory, and how a published folder is read into them.

Importing this module imports no paddle.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.inference.text_to_image.families import PictureFamily
from mix_core.inference.text_to_image.geometry import Geometry
from mix_core.schedulers import KINDS, check_fits, make_scheduler

if TYPE_CHECKING:
    from mix_core.models.prompt_encoders.model import PromptEncoder


@dataclass
class PictureModel:
    """What draws pictures. `load_pictures` makes one of a folder, training of what it has in memory."""

    family: PictureFamily
    network: Any
    """UNet2DConditionModel or SD3Transformer2DModel."""
    vae: Any
    """AutoencoderKL, or None where the network draws pixels."""
    prompts: PromptEncoder
    scheduler: Any
    """As `mix_core.schedulers` makes it."""
    scheduler_file: dict[str, Any] | None = None
    """scheduler_config.json, of which schedulers of other kinds read what they share; None: the scheduler's
    own keys."""

    def __post_init__(self) -> None:
        check_fits(self.scheduler, flow=self.family.flow, model=self.family.title)
        self.geometry = Geometry(self.network.config, None if self.vae is None else self.vae.config)

    @property
    def layers(self) -> dict[str, Any]:
        """The networks by the names of their sub-folders."""
        encoders = {name: layer for name, layer in self.prompts.named_children() if layer is not None}
        found = {self.family.part: self.network, "vae": self.vae, **encoders}
        return {name: layer for name, layer in found.items() if layer is not None}

    def scheduler_for(self, kind: str | None) -> Any:
        """The folder's own, or one of another kind over the same noise. Raises BadInputError."""
        if kind is None:
            return self.scheduler
        if type(self.scheduler) is KINDS.get(kind):
            return self.scheduler
        file = asdict(self.scheduler.config) if self.scheduler_file is None else self.scheduler_file
        other = make_scheduler(kind, file)
        check_fits(other, flow=self.family.flow, model=self.family.title)
        return other

    def to(self, dtype: str) -> None:
        """Bring the weights to a dtype; an autoencoder that overflows in float16 stays as it is."""
        for name, layer in self.layers.items():
            if name == "vae" and dtype == "float16" and self.vae.config.force_upcast:
                continue
            layer.to(dtype=dtype)

    @contextmanager
    def evaluating(self, tile: int | None = None) -> Iterator[None]:
        """All parts in evaluation mode, the autoencoder by tiles where asked for; then as before."""
        training = [layer for layer in self.layers.values() if layer.training]
        tiles = None if self.vae is None else self.vae.tiles
        for layer in training:
            layer.eval()
        if self.vae is not None and tile is not None:
            self.vae.use_tiles(tile)
        try:
            yield
        finally:
            for layer in training:
                layer.train()
            if self.vae is not None:
                self.vae.tiles = tiles


def load_pictures(
    path: str | Path,
    *,
    vae: str | Path | None = None,
    unet: str | Path | None = None,
    config: str | Path | None = None,
    dtype: str = "float32",
) -> PictureModel:
    """Read a model from diffusers' folder, or from one safetensors file with an SD 1.5 or SDXL.

    Args:
        vae, unet: folders whose autoencoder and network take the place of the model's own.
        config: for one file: a folder with what it lacks, the sub-folders `tokenizer` (and `tokenizer_2`).
        dtype: of the weights.
    Raises:
        BadInputError, WeightsError: a part cannot be read, or the parts do not fit each other.
    """
    from mix_core.inference.text_to_image.sources import source_of

    model = source_of(path, vae=vae, unet=unet, config=config).load()
    if dtype != "float32":
        model.to(dtype)
    return model
