"""Where a model's parts come from: diffusers' folder, or one file under the authors' names.

A source reads configurations first, so that what does not fit is found before paddle is imported; `load` then
reads the weights. Importing this module imports no paddle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError
from mix_core.inference.text_to_image.families import FAMILIES, PictureFamily, family_of_pipeline
from mix_core.inference.text_to_image.geometry import Geometry
from mix_core.inference.text_to_image.model import PictureModel
from mix_core.models.common.hub import resolve_model_folder
from mix_core.models.common.tensor_files import read_header
from mix_core.models.common.tokenizer import read_json as read_if_there
from mix_core.models.diffusion.config_file import read_json
from mix_core.models.diffusion.network import load_network, network
from mix_core.models.diffusion.single_file import config_of_single_file, load_single_file, single_file_family
from mix_core.models.prompt_encoders import INDEX, pipeline_of, read_index
from mix_core.schedulers import check_fits, load_scheduler, make_scheduler
from mix_core.schedulers.config import read_config
from mix_core.schedulers.files import kind_of

VAE = "AutoencoderKL"
SUFFIX = ".safetensors"
_NOISE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
PUBLISHED_SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd15": {**_NOISE, "_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False},
    "sdxl": {**_NOISE, "_class_name": "EulerDiscreteScheduler"},
}
"""What the published folders have in scheduler_config.json, which a single file lacks."""


def is_picture_model(path: str | Path) -> bool:
    """Whether a folder or file on this machine holds a text-to-image model."""
    path = Path(path).expanduser()
    return (path / INDEX).is_file() or (path.is_file() and path.suffix == SUFFIX)


def source_of(
    path: str | Path,
    *,
    vae: str | Path | None = None,
    unet: str | Path | None = None,
    config: str | Path | None = None,
) -> FolderSource | FileSource:
    """The source at a path or hub name. Raises BadInputError."""
    file = Path(path).expanduser()
    made: FolderSource | FileSource
    if file.is_file() and file.suffix == SUFFIX:
        made = FileSource(file, config, vae=vae, unet=unet)
    else:
        if config is not None:
            raise BadInputError(
                f"config is given with the folder {path}; it is for a single file, leave it out"
            )
        made = FolderSource(resolve_model_folder(path), vae=vae, unet=unet)
    check_fits(made.scheduler, flow=made.family.flow, model=made.family.title)
    return made


def _part(path: str | Path, name: str) -> Path:
    """The folder of one part: the one given, or its sub-folder of that name."""
    folder = resolve_model_folder(path)
    return folder / name if (folder / name / "config.json").is_file() else folder


def _network_config(folder: Path, class_name: str, option: str) -> Any:
    source = read_json(folder)
    if source["_class_name"] != class_name:
        raise BadInputError(f"{option} {folder} holds a {source['_class_name']}, expected a {class_name}")
    return network(class_name).config_from_dict(source)


@dataclass
class _Replaced:
    """Folders that take the place of a model's own parts."""

    vae: Path | None
    network: Path | None


def _replaced(family: PictureFamily, vae: str | Path | None, unet: str | Path | None) -> _Replaced:
    return _Replaced(
        None if vae is None else _part(vae, "vae"), None if unet is None else _part(unet, family.part)
    )


class FolderSource:
    """diffusers' folder: model_index.json and a sub-folder for each part."""

    def __init__(
        self, folder: Path, *, vae: str | Path | None = None, unet: str | Path | None = None
    ) -> None:
        self.folder = folder
        index = read_index(folder)
        if index.get("requires_aesthetics_score"):
            raise BadInputError(f"{folder / INDEX} is of SDXL's refiner, which is not built; give SDXL base")
        self.family = family_of_pipeline(pipeline_of(index["_class_name"], folder))
        own = _replaced(self.family, vae, unet)
        has_vae = (index.get("vae") or [None])[0] is not None
        self.vae = own.vae or (folder / "vae" if has_vae else None)
        self.network = own.network or folder / self.family.part
        found = _network_config(self.network, self.family.network, "--unet")
        self.geometry = Geometry(found, self.vae and _network_config(self.vae, VAE, "--vae"))
        self.scheduler = load_scheduler(folder / "scheduler")
        self.scheduler_file = read_config(folder / "scheduler")

    def load(self) -> PictureModel:
        from mix_core.models.prompt_encoders.weights import load_prompt_encoder

        vae = None if self.vae is None else load_network(self.vae)
        prompts = load_prompt_encoder(self.folder)
        made = load_network(self.network)
        return PictureModel(self.family, made, vae, prompts, self.scheduler, self.scheduler_file)


class FileSource:
    """One safetensors file with a whole SD 1.5 or SDXL, and a folder with the tokenizers.

    The folder may also hold the configurations of parts that have no published size.
    """

    def __init__(
        self,
        path: Path,
        config: str | Path | None,
        *,
        vae: str | Path | None = None,
        unet: str | Path | None = None,
    ) -> None:
        self.path = path
        self.config = None if config is None else resolve_model_folder(config)
        stored = read_header(path)
        own_network = self._config("unet")
        name = _name_of(own_network) if own_network else single_file_family(stored, path)
        self.family = FAMILIES[name]
        self.replaced = _replaced(self.family, vae, unet)
        if self.config is None or not (self.config / "tokenizer").is_dir():
            raise BadInputError(
                f"{path} holds no tokenizer: give config, a folder with the sub-folder tokenizer (SDXL: and "
                "tokenizer_2), such as the model's diffusers folder"
            )
        self.geometry = Geometry(
            self._read(self.replaced.network, self.family.network, "--unet", own_network),
            self._read(self.replaced.vae, VAE, "--vae", self._config("vae")),
        )
        scheduler = self.config / "scheduler"
        self.scheduler_file = read_config(scheduler) if scheduler.is_dir() else PUBLISHED_SCHEDULERS[name]
        self.scheduler = make_scheduler(kind_of(self.scheduler_file["_class_name"]), self.scheduler_file)

    def _config(self, part: str) -> dict[str, Any] | None:
        """A part's own config.json, where the folder has one."""
        return (self.config and read_if_there(self.config / part / "config.json")) or None

    def _read(self, folder: Path | None, class_name: str, option: str, own: dict[str, Any] | None) -> Any:
        if folder is not None:
            return _network_config(folder, class_name, option)
        return network(class_name).config_from_dict(own or config_of_single_file(self.path, class_name))

    def load(self) -> PictureModel:
        from mix_core.models.prompt_encoders.weights import load_original_prompts

        assert self.config is not None
        made = {}
        for part, class_name, folder in (
            ("unet", self.family.network, self.replaced.network),
            ("vae", VAE, self.replaced.vae),
        ):
            if folder is not None:
                made[part] = load_network(folder)
            else:
                made[part] = load_single_file(self.path, class_name, config=self._config(part))
        prompts = load_original_prompts(self.path, self.config, sdxl=self.family.name == "sdxl")
        parts = (made["unet"], made["vae"], prompts)
        return PictureModel(self.family, *parts, self.scheduler, self.scheduler_file)


def _name_of(network_config: dict[str, Any]) -> str:
    """The family of a U-Net's config.json."""
    return "sdxl" if network_config.get("addition_embed_type") else "sd15"
