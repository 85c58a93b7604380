"""From a request to pictures: one loop for all families and for all ways to begin.

Importing this module imports no paddle. Shapes: B pictures, L channels of the latents, h and w their rows and
columns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mix_core.inference.text_to_image.model import PictureModel
from mix_core.inference.text_to_image.noise import Draws
from mix_core.inference.text_to_image.request import PictureRequest

if TYPE_CHECKING:
    from PIL import Image

Callback = Callable[[int, int, Any], Any]
"""(steps done, steps in all, latents (B, L, h, w)) -> None, or other latents to go on with."""


def generate(
    model: PictureModel,
    prompt: Any,
    *,
    callback: Callback | None = None,
    progress: bool | None = None,
    draws: Draws | None = None,
    **options: Any,
) -> list[Image.Image]:
    """Pictures of the prompts, `num_images` for each, in their order.

    Args:
        options: see `PictureRequest`.
        callback: called after each step.
        progress: whether a bar is shown on stderr; None: where that is a terminal.
        draws: what is drawn in place of the seed's numbers.
    Raises:
        BadInputError: the request does not fit the model, or a float16 overflows.
    """
    request = PictureRequest.of(prompt, **options)
    return draw(model, request, callback=callback, progress=progress, draws=draws)


def draw(
    model: PictureModel,
    request: PictureRequest,
    *,
    callback: Callback | None = None,
    progress: bool | None = None,
    draws: Draws | None = None,
) -> list[Image.Image]:
    """As `generate`, of a request."""
    from mix_core.inference.text_to_image.decoding import pictures_of
    from mix_core.inference.text_to_image.denoising import denoise

    request.check(model.geometry)
    with model.evaluating(request.tile), bar(progress) as advance:
        latents = denoise(model, request, draws or Draws(request.seed), _both(callback, advance))
        return pictures_of(model, latents)


def _both(callback: Callback | None, advance: Callable[[int, int], None]) -> Callback:
    def after(done: int, total: int, latents: Any) -> Any:
        advance(done, total)
        return None if callback is None else callback(done, total, latents)

    return after


@contextmanager
def bar(wanted: bool | None) -> Iterator[Callable[[int, int], None]]:
    """A function that shows how many of how many steps are done."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as shown:
        task = shown.add_task("steps", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
