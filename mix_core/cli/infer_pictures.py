"""`mix-core infer` with a text-to-image model: its options, and what it does with them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mix_core.errors import BadInputError, ConfigError


def _option(kind: Any, *names: str, help: str) -> Any:
    return Annotated[kind, typer.Option(*names, help=help)]


Vae = _option(str | None, "--vae", help="Pictures: folder of another autoencoder.")
Unet = _option(str | None, "--unet", "--transformer", help="Pictures: folder of another network.")
Config = _option(str | None, "--config", help="Pictures: folder with the tokenizers of a single file.")
NegativePrompt = _option(str | None, "--negative_prompt", help="Pictures: what to lead away from.")
NumImages = _option(int, "--num_images", help="Pictures of the prompt; a.png becomes a-1.png, a-2.png...")
Steps = _option(int | None, "--steps", "--num_inference_steps", help="Pictures: steps of denoising.")
Guidance = _option(float | None, "--guidance", "--guidance_scale", help="Pictures: 1 is none.")
Width = _option(int | None, "--width", help="Pictures: pixels.")
Height = _option(int | None, "--height", help="Pictures: pixels.")
InitImage = _option(str | None, "--init_image", help="Pictures: one to begin from.")
Mask = _option(str | None, "--mask", help="Pictures: white where --init_image is drawn anew.")
Strength = _option(float | None, "--strength", help="Pictures: how much of --init_image is replaced, to 1.")
Scheduler = _option(str | None, "--scheduler", help="Pictures: ddim, pndm, euler, dpm++, ddpm; SD3: flow.")
Tile = _option(int | None, "--tile", help="Pictures: decode in tiles of so many pixels, to save memory.")

LOADING = ("vae", "unet", "config")
ASKING = ("negative_prompt", "num_images", "steps", "guidance", "width", "height", "init_image", "mask")
ASKING += ("strength", "scheduler", "tile")
NOTHING_ASKED = {"num_images": 1}
"""Values that ask for nothing, where that is not None."""
OF_ANSWERS: dict[str, Any] = {
    **dict.fromkeys(("image", "video", "fps", "batch", "draw", "draw_on", "output_dir", "visual"), None),
    **dict.fromkeys(("stop", "weights"), None),
    "batch_size": 8,
    "on_bad_sample": "error",
    "max_new_tokens": 512,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
}
"""Options that only a model that answers has, with the values that ask for nothing."""


def given_of(options: dict[str, Any]) -> list[str]:
    """The options of pictures that ask for something."""
    return [name for name in (*LOADING, *ASKING) if options[name] != NOTHING_ASKED.get(name)]


def draws_pictures(options: dict[str, Any]) -> bool:
    """Whether the model is one that draws. A hub name is fetched for it where the options speak for it.

    Raises ConfigError where they do and it does not.
    """
    from mix_core.inference.text_to_image.sources import is_picture_model
    from mix_core.models.common.hub import resolve_model_folder

    model = options["model"]
    given = given_of(options)
    spoken_for = given or (options["out"] is not None and options["batch"] is None)
    if not is_picture_model(model) and (spoken_for or Path(model).expanduser().is_dir()):
        model = str(resolve_model_folder(model))
    if is_picture_model(model):
        options["model"] = model
        return True
    if given:
        raise ConfigError(f"--{given[0]} is for models that draw, and {model} answers; leave it out")
    return False


def draw(options: dict[str, Any], loading: dict[str, Any], check_path: Callable[[str, str], None]) -> str:
    """Draw and write the pictures -> what the command prints."""
    from mix_core.inference.text_to_image.engine import load_engine
    from mix_core.inference.text_to_image.request import PictureRequest

    model = options["model"]
    for name, nothing in OF_ANSWERS.items():
        if options[name] not in (nothing, [], ()):
            raise ConfigError(
                f"--{name} is for models that answer, and {options['model']} draws; leave it out"
            )
    if options["prompt"] is None or options["out"] is None:
        raise ConfigError(f"{options['model']} draws pictures: give --prompt and --out, such as --out a.png")
    request = PictureRequest.of(
        options["prompt"], seed=options["seed"], **{name: options[name] for name in ASKING}
    )
    for path in (paths := numbered(options["out"], request.count)):
        check_path("--out", path)
    loading = {key: value for key, value in loading.items() if key != "weights"}
    parts = {name: options[name] for name in LOADING}
    engine = load_engine(model, **loading, **parts, request=request)
    started = time.perf_counter()
    pictures = engine.generate_for(request)
    seconds = time.perf_counter() - started
    for picture, path in zip(pictures, paths):
        try:
            picture.save(path)
        except (OSError, ValueError) as error:
            raise BadInputError(f"--out {path} cannot be written: {error}") from error
    if not options["as_json"]:
        return "\n".join(paths)
    report = {
        "pictures": paths,
        "seconds": round(seconds, 4),
        "device": engine.activation.place,
        "dtype": engine.dtype,
        "seed": request.seed,
    }
    return json.dumps(report, ensure_ascii=False)


def numbered(path: str, count: int) -> list[str]:
    """The file of each picture."""
    if count == 1:
        return [path]
    file = Path(path)
    return [str(file.with_name(f"{file.stem}-{i}{file.suffix}")) for i in range(1, count + 1)]
