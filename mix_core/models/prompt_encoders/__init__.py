"""What the text-to-image models are told of a prompt: their text encoders and tokenizers together.

Importing this package imports no paddle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.common.tokenizer import read_json

INDEX = "model_index.json"
SD15, SDXL, SD3 = "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"
PIPELINES = (SD15, SDXL, SD3)


def read_index(folder: Path) -> dict[str, Any]:
    """A folder's model_index.json. Raises BadInputError."""
    path = Path(folder) / INDEX
    if not path.is_file():
        raise BadInputError(f"{folder} has no {INDEX}; expected the folder of a text-to-image model")
    index = read_json(path)
    if not isinstance(index.get("_class_name"), str):
        raise BadInputError(f"{path} has no _class_name; expected a pipeline's")
    return index


def pipeline_of(class_name: str, folder: Path) -> str:
    """Which of `PIPELINES` a folder is of: those that begin from a picture are made of the same parts.

    Raises BadInputError for any other.
    """
    found = class_name.replace("Img2Img", "").replace("Inpaint", "")
    if found not in PIPELINES:
        raise BadInputError(f"{folder / INDEX} is of {class_name}; built are {', '.join(PIPELINES)}")
    return found
