"""DreamBooth's pictures of the class that a model is not to forget, made by the model before it learns.

Ruiz et al., "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation", 2022
(arXiv 2208.12242), section 3.2.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mix_core.data.captions import CaptionedPicture
from mix_core.inference.text_to_image import PictureModel, generate
from mix_core.training.parallel import Ranks
from mix_core.training.pictures.rows import PictureRows, class_pictures

if TYPE_CHECKING:
    from mix_core.config import RunConfig

BATCH = 4
"""Pictures that are made at once."""


def ensure_class_pictures(
    model: PictureModel, config: RunConfig, rows: PictureRows, ranks: Ranks, side: int
) -> list[CaptionedPicture]:
    """Pictures of the class, `num_class_images` of them; those that lack are made and written. [] without.

    The model must be as it was before training: an adapter that is new changes nothing.
    """
    folder, prompt = rows.kept_folder, config.class_prompt
    if folder is None or prompt is None:
        return []
    lacking = config.num_class_images - len(rows.kept)
    if lacking > 0 and ranks.leads:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"making {lacking} pictures of the class in {folder}", file=sys.stderr)
        for first in range(len(rows.kept), config.num_class_images, BATCH):
            count = min(BATCH, config.num_class_images - first)
            made = generate(
                model,
                prompt,
                num_images=count,
                steps=config.validation_steps,
                guidance=config.validation_guidance,
                seed=config.seed + first,
                width=side,
                height=side,
                progress=False,
            )
            for number, picture in enumerate(made, start=first):
                picture.save(folder / f"class-{number:05d}.png")
    ranks.wait()
    return class_pictures(folder, prompt)[: config.num_class_images]
