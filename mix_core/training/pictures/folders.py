"""The model of a run: read from its folder before training, written as such a folder in checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mix_core.errors import ConfigError
from mix_core.inference.text_to_image import PictureModel
from mix_core.inference.text_to_image.sources import FolderSource
from mix_core.models.common.weights import slots_of
from mix_core.models.diffusion.network import load_network, save_network
from mix_core.models.prompt_encoders import INDEX, read_index
from mix_core.models.prompt_encoders.weights import load_prompt_encoder, save_prompt_encoder
from mix_core.models.registry import ModelFamily
from mix_core.schedulers import save_scheduler
from mix_core.training.pictures.model import PictureLearner

IN_MODEL = "prompts."
"""What stands before a text encoder's parameters in the model, and not in files."""


def load_parts(source: FolderSource, seed: int | None) -> PictureModel:
    """The parts of a model. `seed`: draw the network's weights, and those of other parts without files.

    Raises BadInputError and WeightsError.
    """
    if seed is None:
        return source.load()
    vae = None
    if source.vae is not None:
        vae = load_network(source.vae, seed=None if has_weights(source.vae) else seed)
    prompts = load_prompt_encoder(source.folder, seed=seed)
    network = load_network(source.network, seed=seed)
    return PictureModel(source.family, network, vae, prompts, source.scheduler, source.scheduler_file)


def published_name(name: str) -> str:
    """A parameter's name behind its part's: `transformer.`, `unet.`, `text_encoder.`..."""
    return name.removeprefix(IN_MODEL)


def family_of(source: FolderSource) -> ModelFamily:
    """What the session asks a family for."""

    def load_weights(model: PictureLearner, folder: Path) -> None:
        raise ConfigError(f"going back to {folder} within a run is not built for text to image")

    return ModelFamily(
        name=source.family.title,
        model_types=(),
        config_from_dict=dict,
        build=_not_asked,
        init_weights=_not_asked,
        load_weights=load_weights,
        save_weights=lambda model, folder: save_parts(model, source, folder),
        write_config=lambda config, folder, dtype: None,
        load_processor=_not_asked,
        published_name=published_name,
        slots=learner_slots,
    )


def _not_asked(*arguments: Any, **options: Any) -> Any:
    raise TypeError("a text-to-image model is made of its parts, by load_parts")


def learner_slots(model: PictureLearner) -> dict[str, Any]:
    """Slots of the network and the text encoders by parameter."""
    found: dict[str, Any] = {
        f"{model.family.part}.{name}": slot for name, slot in slots_of(model.network).items()
    }
    for part, encoder in model.text_encoders().items():
        found |= {f"{IN_MODEL}{part}.{name}": slot for name, slot in slots_of(encoder).items()}
    return found


def has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def save_parts(model: PictureLearner, source: FolderSource, folder: Path) -> None:
    """Write what diffusers reads: model_index.json and a sub-folder for each part.

    What does not learn is linked, or copied where the file system cannot.
    """
    index = read_index(source.folder)
    scheduler = model.pictures.scheduler
    index["scheduler"] = ["diffusers", scheduler.class_name]
    text = json.dumps(index, indent=2)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")
    (folder / "scheduler").mkdir()
    save_scheduler(scheduler, folder / "scheduler")
    with model.published():
        save_network(model.network, folder / model.family.part)
        drawn = not all(has_weights(source.folder / part) for part in model.text_encoders())
        if model.encoders_learn or drawn:
            save_prompt_encoder(model.prompts, folder)
    if source.vae is not None and has_weights(source.vae):
        _link(source.vae, folder / "vae")
    elif model.vae is not None:
        save_network(model.vae, folder / "vae")
    for part in sorted(source.folder.iterdir()):
        if part.is_dir() and part.name in index and not (folder / part.name).exists():
            _link(part, folder / part.name)


def _link(source: Path, target: Path) -> None:
    """The files of one part, without what lies deeper."""
    target.mkdir()
    for file in sorted(source.iterdir()):
        if not file.is_file():
            continue
        try:
            os.link(file.resolve(), target / file.name)
        except OSError:
            shutil.copyfile(file, target / file.name)
