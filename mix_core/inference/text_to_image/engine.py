"""A text-to-image model and its device, as `mix_core.load` gives them. Importing this imports no paddle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.errors import BadInputError
from mix_core.inference.activating import activate_for, checked_dtype
from mix_core.inference.adapters import Adapters, named_folders
from mix_core.inference.text_to_image.model import PictureModel
from mix_core.inference.text_to_image.request import PictureRequest
from mix_core.inference.text_to_image.sampling import Callback, draw, generate
from mix_core.inference.text_to_image.sources import source_of
from mix_core.models.diffusion.adapter_files import read_picture_adapter

if TYPE_CHECKING:
    from PIL import Image

    from mix_core.device import Activation
    from mix_core.inference.text_to_image.adapters import PictureAdapters


class PictureEngine:
    """Made by `load_engine`, or `mix_core.load`."""

    def __init__(
        self,
        model: PictureModel,
        *,
        path: Path,
        activation: Activation,
        dtype: str,
        adapters: PictureAdapters | None = None,
    ) -> None:
        self.model = model
        self.path, self.activation, self.dtype = path, activation, dtype
        self._adapters = adapters

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters there are."""
        return [] if self._adapters is None else list(self._adapters.names)

    @property
    def adapter(self) -> str | None:
        """The adapter in use."""
        return None if self._adapters is None else self._adapters.used

    def set_adapter(self, name: str | None) -> None:
        """Use this adapter; None: the model alone. Raises BadInputError for a name that is not there."""
        if self._adapters is not None:
            self._adapters.use(name)
        elif name is not None:
            raise BadInputError(f"no adapter is called {name!r}: none was loaded; give lora to mix_core.load")

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        callback: Callback | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> list[Image.Image]:
        """Draw pictures: those of the first prompt, then those of the next.

        Args:
            options: `negative_prompt`, `num_images`, `steps`, `guidance`, `seed`, `width`, `height`,
                `init_image`, `mask`, `strength`, `latents`, `scheduler`, `tile` and what else
                `mix_core.inference.text_to_image.PictureRequest` documents.
            callback: called after each step with (steps done, steps in all, latents); what it returns, if it
                is not None, takes the latents' place.
            progress: whether a bar is shown on stderr; None: where that is a terminal.
        Raises:
            BadInputError: the model cannot have what is asked, or float16 overflows.
        """
        return generate(self.model, prompt, callback=callback, progress=progress, **options)

    def generate_for(self, request: PictureRequest, *, progress: bool | None = None) -> list[Image.Image]:
        """As `generate`, of a request."""
        return draw(self.model, request, progress=progress)


def load_engine(
    path: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    *,
    vae: str | Path | None = None,
    unet: str | Path | None = None,
    config: str | Path | None = None,
    lora: Adapters | None = None,
    request: PictureRequest | None = None,
    **how: Any,
) -> PictureEngine:
    """Load a text-to-image model; see `mix_core.load`.

    `request`: what will be asked, so that what does not fit is found before paddle is imported. `how`:
    keywords of `activate_for`.
    """
    dtype = checked_dtype(dtype)
    source = source_of(path, vae=vae, unet=unet, config=config)
    if request is not None:
        request.check(source.geometry)
    stored = {name: read_picture_adapter(folder) for name, folder in named_folders(lora).items()}
    activation = activate_for(source.family.name, dtype, device, task="generation", **how)
    model = source.load()
    adapters = None
    if stored:
        from mix_core.inference.text_to_image.adapters import PictureAdapters

        adapters = PictureAdapters(model)
        for name, adapter in stored.items():
            adapters.add(name, adapter)
        adapters.use(next(iter(stored)))
    if dtype != "float32":
        model.to(dtype)
    return PictureEngine(model, path=Path(path), activation=activation, dtype=dtype, adapters=adapters)
