"""What the processor is made of, read from a folder of llava-hf or of LLaVA's authors. Imports no paddle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from mix_core.errors import BadInputError
from mix_core.models.common.chat_template import ChatTemplate
from mix_core.models.common.processor import GENERATION_CONFIG
from mix_core.models.common.tokenizer import Tokenizer, read_json
from mix_core.models.llava.config import LlavaConfig, config_from_dict
from mix_core.models.llava.image_processor import ImageProcessor
from mix_core.models.llava.original import MISTRAL, VICUNA
from mix_core.models.llava.tokenizer_model import FILE, read_tokenizer_model
from mix_core.models.registry import read_config

IMAGE_TOKEN = "<image>"
PAD_TOKEN = "<pad>"
IMAGE_CONFIG = "preprocessor_config.json"
PROCESSOR_CONFIG = "processor_config.json"


def read_processor_parts(folder: Path) -> dict[str, Any]:
    """Arguments of `Processor`. Raises BadInputError."""
    source = read_config(folder)
    config = config_from_dict(source)
    by_authors = "mm_vision_tower" in source
    tokenizer = _authors_tokenizer(folder, config) if by_authors else Tokenizer.from_folder(folder)
    template = ChatTemplate.from_folder(folder, tokenizer.special_tokens)
    if template is None and by_authors:
        text = MISTRAL if config.text.model_type == "mistral" else VICUNA
        origin = f"the built-in template of {source['model_type']}"
        template = ChatTemplate(text, origin=origin, variables=tokenizer.special_tokens)
    generation = read_json(folder / GENERATION_CONFIG)
    return {
        "tokenizer": tokenizer,
        "chat_template": template,
        "images": _images(folder, source, config),
        "config": config,
        "files": {GENERATION_CONFIG: generation} if generation else {},
    }


def _images(folder: Path, source: dict[str, Any], config: LlavaConfig) -> ImageProcessor:
    """Settings of pictures: processor_config.json's (transformers 5), else preprocessor_config.json's."""
    processor = read_json(folder / PROCESSOR_CONFIG)
    patch = processor.get("patch_size")
    if patch is not None and patch != config.vision.patch_size:
        raise BadInputError(
            f"{folder / PROCESSOR_CONFIG} has patch_size {patch}, config.json has {config.vision.patch_size}"
        )
    found = processor.get("image_processor") or read_json(folder / IMAGE_CONFIG)
    if found:
        return ImageProcessor.from_dict(found, anyres=config.anyres)
    if "mm_vision_tower" not in source:
        raise BadInputError(f"{folder} has no {IMAGE_CONFIG}; a LLaVA folder needs it")
    # the authors' code takes them from the tower's folder; those of the CLIP towers differ in size only
    aspect = source.get("image_aspect_ratio")
    side = config.vision.image_size
    return ImageProcessor(side=side, pinpoints=config.pinpoints, pad_to_square=aspect == "pad")


def _authors_tokenizer(folder: Path, config: LlavaConfig) -> Tokenizer:
    """The tokenizer with the picture's and the padding's token, which the authors' vocabulary lacks."""
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_folder(folder)
    elif (folder / FILE).is_file():
        settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        settings |= {"tokenizer_class": "LlamaTokenizer", **read_json(folder / "tokenizer_config.json")}
        tokenizer = Tokenizer(read_tokenizer_model(folder / FILE), settings)
    else:
        raise BadInputError(f"{folder} has neither tokenizer.json nor {FILE}; a model folder needs one")
    for token in (IMAGE_TOKEN, PAD_TOKEN):
        if tokenizer.backend.token_to_id(token) is None:
            tokenizer.backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    if "pad_token" not in tokenizer.special_tokens or tokenizer.special_tokens["pad_token"] == "<unk>":
        tokenizer.config["pad_token"] = tokenizer.special_tokens["pad_token"] = PAD_TOKEN
    return tokenizer
